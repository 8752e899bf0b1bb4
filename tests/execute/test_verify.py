"""Comparing models: verdicts, and the first tensor that differs."""

from __future__ import annotations

import json
import pickle

import numpy as np
import onnx_ir as ir
import pytest
from onnx import parser

from graphopt.errors import GraphoptError
from graphopt.execute import EXACT, Tolerance, first_divergence, taps, verify
from graphopt.execute.rounding import Rounding, depths
from graphopt.execute.session import Session


def model(text: str, opset: int = 17) -> ir.Model:
    return ir.from_proto(parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {text}'))


RELU = model("g (float[N] x) => (float[N] y) { y = Relu(x) }")
X = [{"x": np.asarray([-1.0, 0.3, 2.0], np.float32)}]


def test_a_model_equals_itself() -> None:
    verdict = verify(RELU, RELU, X)
    assert (verdict.ok, verdict.verdict, verdict.feeds) == (True, "equal", 1)


def test_without_feeds_random_ones_are_made() -> None:
    assert verify(RELU, RELU).feeds == 2
    other = model("g (float[N] x) => (float[N] y) { y = Neg(x) }")
    assert verify(RELU, other).verdict == "different"


def test_a_second_model_that_does_not_load_or_fails_does_not_run() -> None:
    for text in ("y = Strange(x)", "w = Constant<value_ints = [7, -1, 3]>() y = Reshape(x, w)"):
        verdict = verify(RELU, model(f"g (float[N] x) => (float[N] y) {{ {text} }}"), X)
        assert (verdict.ok, verdict.runs, verdict.verdict) == (False, False, "does not run")
        assert "the second model" in str(verdict)


def test_a_wrong_model_is_different_and_says_where() -> None:
    verdict = verify(RELU, model("g (float[N] x) => (float[N] y) { y = Abs(x) }"), X)
    assert (verdict.ok, verdict.verdict) == (False, "different")
    assert verdict.outputs[0].worst == (0,)
    assert "output 'y'" in str(verdict)


def test_rounding_is_forgiven_unless_exactness_is_asked_for() -> None:
    a = model("g (float[N] x) => (float[N] y) { t = Constant<value_float = 3.0>() y = Div(x, t) }")
    b = model("g (float[N] x) => (float[N] y) { t = Constant<value_float = 0.33333334>() y = Mul(x, t) }")
    feeds = [{"x": np.linspace(-3, 3, 500, dtype=np.float32)}]
    assert verify(a, b, feeds).verdict == "within tolerance"
    assert not verify(a, b, feeds, EXACT).ok
    assert verify(a, b, feeds, Tolerance(rtol=1e-6)).ok


def test_the_worst_of_all_feeds_counts() -> None:
    other = model("g (float[N] x) => (float[N] y) { top = Constant<value_float = 9.0>() r = Relu(x) y = Min(r, top) }")
    small, large = X[0], {"x": np.asarray([20.0], np.float32)}
    assert verify(RELU, other, [small]).ok
    verdict = verify(RELU, other, [small, large, small])
    assert not verdict.ok
    assert verdict.outputs[0].max_abs == 11.0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("g (float[N] z) => (float[N] y) { y = Relu(z) }", "input 'x' is missing"),
        ("g (float[N] x) => (float[N] z) { z = Relu(x) }", "output 'y' is missing"),
        ("g (float[N] x) => (float[N] y, float[N] z) { y = Relu(x) z = Relu(x) }", "output 'z' is new"),
        ("g (double[N] x) => (float[N] y) { r = Relu(x) y = Cast<to = 1>(r) }", "input 'x' is double instead of float"),
        (
            "g (float[N] x) => (double[N] y) { r = Relu(x) y = Cast<to = 11>(r) }",
            "output 'y' is double instead of float",
        ),
        ("g (float[N] x) => (float[N] y) { s = Constant<value_ints = [7]>() y = Reshape(x, s) }", "fails on feed 0"),
        ("g (float[N] x) => (float[N] y) { y = Nonsense(x) }", "does not load"),
    ],
)
def test_another_interface_or_a_failure_is_a_difference(text: str, problem: str) -> None:
    verdict = verify(RELU, model(text), X)
    assert not verdict.ok
    assert problem in "; ".join(verdict.problems)


def test_another_order_of_inputs_or_outputs_is_a_difference() -> None:
    a = model("g (float[N] x, float[N] z) => (float[N] y, float[N] w) { y = Relu(x) w = Relu(z) }")
    b = model("g (float[N] z, float[N] x) => (float[N] y, float[N] w) { y = Relu(x) w = Relu(z) }")
    c = model("g (float[N] x, float[N] z) => (float[N] w, float[N] y) { y = Relu(x) w = Relu(z) }")
    feeds = [{"x": X[0]["x"], "z": X[0]["x"]}]
    assert "inputs are in another order" in verify(a, b, feeds).problems[0]
    assert "outputs are in another order" in verify(a, c, feeds).problems[0]


def test_a_lost_default_value_is_a_difference() -> None:
    a = model("g (float[1] x, float[1] w = {2.0}) => (float[1] y) { y = Mul(x, w) }")
    b = model("g (float[1] x) => (float[1] y) <float[1] w = {2.0}> { y = Mul(x, w) }")
    assert "input 'w' is missing" in verify(a, b, [{"x": np.ones(1, np.float32)}]).problems[0]


def test_random_outputs_are_not_comparable_and_do_not_fail() -> None:
    text = "g (float[N] x) => (float[N] y, float[N] r) { r = RandomNormalLike(x) y = %s(x) }"
    verdict = verify(model(text % "Relu"), model(text % "Relu"), X)
    assert verdict.ok
    assert verdict.not_comparable == ("r",)
    assert [item.name for item in verdict.outputs] == ["y"]
    assert "'r' differs from run to run" in str(verdict)
    assert not verify(model(text % "Relu"), model(text % "Abs"), X).ok


def test_outputs_that_are_all_nan_are_noted() -> None:
    log = model("g (float[N] x) => (float[N] y) { y = Log(x) }")
    verdict = verify(log, log, [{"x": -np.ones(3, np.float32)}])
    assert verdict.ok
    assert verdict.notes == ("output 'y' is NaN in every element",)
    assert verify(log, log, X).notes == ()


def test_both_models_are_run_by_the_same_evaluator() -> None:
    a = model("g (bfloat16[N] x) => (bfloat16[N] y) { y = Relu(x) }")
    feeds = [{"x": np.asarray([-1, 2]).astype(ir.DataType.BFLOAT16.numpy())}]
    verdict = verify(a, a, feeds)
    assert (verdict.ok, verdict.evaluator) == (True, "onnx.reference")
    runs = model("g (bfloat16[N] x) => (bfloat16[N] y) { f = Cast<to = 1>(x) r = Relu(f) y = Cast<to = 16>(r) }")
    assert verify(a, runs, feeds).ok
    refused = verify(runs, a, feeds)
    assert not refused.ok
    assert "does not load" in refused.problems[0]


def test_no_feeds_and_feeds_that_do_not_fit_are_errors() -> None:
    with pytest.raises(GraphoptError, match="no feeds"):
        verify(RELU, RELU, [])
    with pytest.raises(GraphoptError, match="'x' is not fed"):
        verify(RELU, RELU, [{}])


def test_a_verdict_is_json_and_crosses_processes() -> None:
    verdict = verify(RELU, model("g (float[N] x) => (float[N] y) { y = Log(x) }"), X)
    assert json.loads(json.dumps(verdict.as_json(), allow_nan=False))["verdict"] == "different"
    assert pickle.loads(pickle.dumps(verdict)) == verdict


def test_depth_counts_operators_that_compute_along_the_longest_path() -> None:
    graph = model(
        "g (float[N, M] x) => (float[M, N] y)"
        " { a = Relu(x) b = Abs(a) t = Transpose(b) u = Transpose(x) y = Add(t, u) }"
    )
    assert depths(graph) == {"a": 1, "b": 2, "t": 2, "u": 0, "y": 3}


def test_the_coarsest_type_inside_sets_the_tolerance() -> None:
    plain = Rounding(RELU).tolerance("y", np.dtype(np.float32))
    half = model("g (float[N] x) => (float[N] y) { h = Cast<to = 10>(x) r = Relu(h) y = Cast<to = 1>(r) }")
    assert Rounding(half).tolerance("y", np.dtype(np.float32)).scale > 1000 * plain.scale
    stored = model(
        "g (float[N] x) => (float[N] y) { v = Cast<to = 1>(w) y = Mul(x, v) }".replace(
            "{ v", "<float[1] w = {1.0}> { v"
        )
    )
    stored.graph.initializers["w"].const_value = ir.tensor(np.ones(1, np.float16), name="w")
    stored.graph.initializers["w"].dtype = ir.DataType.FLOAT16
    assert Rounding(stored).tolerance("y", np.dtype(np.float32)).scale < 1e-4
    assert Rounding(RELU).tolerance("y", np.dtype(np.int64)) == EXACT


def test_quantised_numbers_may_be_a_step_apart() -> None:
    quantised = model(
        "g (float[N] x) => (uint8[N] y) <float s = {0.1}, uint8 z = {0}> { r = Relu(x) y = QuantizeLinear(r, s, z) }"
    )
    assert Rounding(quantised).tolerance("y", np.dtype(np.uint8)).integers == 1


def test_a_sigmoid_rounds_relative_to_one() -> None:
    sigmoid = model("g (float[N] x) => (float[N] y) { y = Sigmoid(x) }")
    allowed = Rounding(sigmoid).tolerance("y", np.dtype(np.float32))
    assert 1e-6 < allowed.atol < 1e-4
    assert Rounding(RELU).tolerance("y", np.dtype(np.float32)).atol == 0.0


CHAIN = 200


def chain(wrong: int | None = None) -> ir.Model:
    nodes = " ".join(f"t{i} = {'Abs' if i == wrong else 'Neg'}(t{i - 1})" for i in range(1, CHAIN))
    return model(f"g (float[N] x) => (float[N] t{CHAIN - 1}) {{ t0 = Identity(x) {nodes} }}")


@pytest.mark.parametrize("wrong", [1, 2, 57, 120, CHAIN - 1])
def test_the_first_wrong_node_of_a_chain_is_found_in_few_runs(wrong: int) -> None:
    found = first_divergence(chain(), chain(wrong), X)
    assert found is not None
    assert found.tensor == f"t{wrong}"
    assert found.where == f"Abs 't{wrong}'"
    assert found.agreed == (f"t{wrong - 1}",)
    assert found.runs <= 6


def test_models_that_agree_have_no_divergence() -> None:
    assert first_divergence(chain(), chain(), X) is None


def test_only_the_branch_that_reaches_the_output_is_searched() -> None:
    text = (
        "g (float[N] x) => (float[N] y, float[N] z) { a = Sin(x) b = %s(a) c = Sin(b)"
        " p = Relu(x) q = Abs(p) y = Add(c, q) z = Exp(q) }"
    )
    found = first_divergence(model(text % "Neg"), model(text % "Abs"), X)
    assert found is not None
    assert (found.tensor, found.output) == ("b", "y")
    assert set(found.agreed) == {"a"}


def test_a_difference_that_does_not_reach_the_output_is_passed_over() -> None:
    """b differs, and Relu hides it again; the culprit is d, on the other branch."""
    text = "g (float[N] x) => (float[N] y) { a = Abs(x) b = %s(a) n = Mul(b, b) c = Relu(n) d = %s(a) y = Add(c, d) }"
    found = first_divergence(model(text % ("Neg", "Sin")), model(text % ("Identity", "Cos")), X)
    assert found is not None
    assert found.tensor == "d"


def test_a_name_with_another_meaning_behind_an_agreeing_tensor_does_not_mislead() -> None:
    a = model(
        "g (float[N] x) => (float[N] y) { two = Constant<value_float = 2.0>() c = Sin(x) s = Mul(c, two) y = Neg(s) }"
    )
    b = model(
        "g (float[N] x) => (float[N] y) { two = Constant<value_float = 2.0>() h = Sin(x) c = Mul(h, two)"
        " s = Identity(c) y = Abs(s) }"
    )
    found = first_divergence(a, b, X)
    assert found is not None
    assert found.tensor == "y"


def test_captures_of_subgraphs_are_on_the_path() -> None:
    text = (
        "g (float[N] x, bool c) => (float[N] y) { a = %s(x) y = If(c)"
        " <then_branch = t () => (float[N] u) { u = Sin(a) }, else_branch = e () => (float[N] v) { v = Cos(a) }> }"
    )
    feeds = [{**X[0], "c": np.asarray(True)}]
    found = first_divergence(model(text % "Neg"), model(text % "Exp"), feeds)
    assert found is not None
    assert found.tensor == "a"


def test_the_feed_that_shows_the_difference_is_named() -> None:
    other = model("g (float[N] x) => (float[N] y) { top = Constant<value_float = 9.0>() r = Relu(x) y = Min(r, top) }")
    found = first_divergence(RELU, other, [X[0], {"x": np.asarray([20.0], np.float32)}])
    assert found is not None
    assert found.feed == 1


def test_taps_give_any_tensor_of_the_main_graph_in_batches() -> None:
    tapped = taps.Taps(chain())
    assert tapped.names == tuple(f"t{i}" for i in range(CHAIN))
    values = dict(tapped.values(X[0], memory_bytes=100))
    assert list(values) == list(tapped.names)
    np.testing.assert_array_equal(values["t1"], -X[0]["x"])
    with pytest.raises(GraphoptError, match="no tensor 'nothing'"):
        tapped.session(["nothing"])


def test_taps_stay_below_the_memory_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    original = taps.Taps.session

    def counted(self: taps.Taps, names: list[str]) -> Session:
        sizes.append(len(names))
        return original(self, names)

    monkeypatch.setattr(taps.Taps, "session", counted)
    feeds = {"x": np.zeros(1000, np.float32)}
    list(taps.Taps(chain()).values(feeds, memory_bytes=80_000))
    assert max(sizes[1:]) * 4000 <= 80_000
    assert max(sizes[1:]) > 4
