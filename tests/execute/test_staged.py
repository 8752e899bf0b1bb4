"""A model run in stages gives what it gives in one piece, whatever crosses the cuts."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.errors import GraphoptError
from graphopt.execute.session import Session
from graphopt.execute.staged import Program, Staged
from graphopt.ir import infer, load, save
from graphopt.models import builders

HEAD = '<ir_version: 8, opset_import: ["": 17, "local": 1]>'
X = {"x": np.array([-1.0, 2.0], np.float32)}
BODIES = {
    "a branch takes values of earlier stages, and of its own node's": """{
        a = Neg(x) b = Exp(x) s = ReduceSum<keepdims = 0>(a) yes = Cast<to = 9>(s)
        y = If(yes) <
            then_branch = t () => (float[N] p) { one = Constant<value_float = 1.0>() q = Add(a, one) p = Mul(q, b) },
            else_branch = e () => (float[N] r) { r = Identity(b) }
        > }""",
    "a sequence is never cut": """{
        a = Neg(x) s = SequenceConstruct(a, x) b = Exp(x) c = Add(b, a) i = Constant<value_int = 1>()
        d = SequenceAt(s, i) y = Add(d, c) }""",
    "a constant is used in two stages": "<float[2] w = {1, 2}> { a = Add(x, w) b = Neg(a) c = Exp(b) y = Mul(c, w) }",
    "integers, booleans and an empty tensor cross": """{
        a = Shape(x) b = Greater(x, x) c = Compress<axis = 0>(x, b) d = Cast<to = 1>(a) e = Not(b)
        f = Where(e, x, x) g = Concat<axis = 0>(c, f) h = Add(g, d) y = Neg(h) }""",
    "nobody needs the first node": "{ a = Exp(x) b = Neg(x) y = Abs(b) }",
}


def parsed(text: str) -> ir.Model:
    model = ir.from_onnx_text(text)
    infer(model)
    return model


def staged(model: ir.Model, feeds: dict[str, np.ndarray], size: int, *taps: str) -> dict[str, np.ndarray]:
    return dict(Staged(Program.of(model), taps, stage_nodes=size).run(feeds))


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize("body", BODIES.values(), ids=list(BODIES))
def test_stages_give_what_the_whole_gives(body, size):
    model = parsed(f"{HEAD} g (float[N] x) => (float[N] y) {body}")
    expected = Session(model, optimized=False).run(X)
    found = staged(model, X, size)
    assert found.keys() == expected.keys()
    np.testing.assert_array_equal(found["y"], expected["y"])


@pytest.mark.parametrize("size", [1, 2])
def test_local_functions_and_loops_run_in_stages(size):
    for model in (builders.function_model(), builders.loop_model(), builders.scan_model()):
        infer(model)
        from graphopt.execute.feeds import random_feeds

        feeds = random_feeds(model)[0]
        expected = Session(model, optimized=False).run(feeds)
        found = staged(model, feeds, size)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)


def test_taps_come_in_the_order_of_the_nodes_and_once():
    model = parsed(f"{HEAD} g (float[N] x) => (float[N] y) {{ a = Neg(x) b = Exp(a) y = Add(a, b) }}")
    names = [name for name, _ in Staged(Program.of(model), ("b", "a", "y"), stage_nodes=2).run(X)]
    assert names == ["a", "b", "y"]


def test_a_second_run_may_have_other_sizes():
    model = parsed(f"{HEAD} g (float[N] x) => (float[N] y) {{ a = Neg(x) b = Exp(a) y = Add(a, b) }}")
    runner = Staged(Program.of(model), stage_nodes=1)
    for size in (2, 5):
        assert dict(runner.run({"x": np.ones(size, np.float32)}))["y"].shape == (size,)


def test_an_output_that_is_an_input_comes_too():
    model = parsed(f"{HEAD} g (float[N] x) => (float[N] x, float[N] y) {{ y = Neg(x) }}")
    assert set(staged(model, X, 1)) == {"x", "y"}


def test_a_default_of_an_input_is_used_and_overridden():
    model = builders.overridable_defaults()
    infer(model)
    from graphopt.execute.feeds import random_feeds

    feeds = random_feeds(model)[0]
    for given in (feeds, {**feeds, **{name: 2 * value.const_value.numpy() for name, value in _defaults(model)}}):
        expected = Session(model, optimized=False).run(given)
        for name, value in staged(model, given, 1).items():
            np.testing.assert_array_equal(value, expected[name])


def _defaults(model: ir.Model):
    return [(value.name, value) for value in model.graph.inputs if value.is_initializer()]


def test_external_weights_stay_where_they_are(tmp_path):
    model = parsed(f"{HEAD} g (float[N] x) => (float[N] y) <float[2] w = {{1, 2}}> {{ a = Neg(x) y = Add(a, w) }}")
    save(model, tmp_path / "m.onnx", external_above=1)
    loaded = load(tmp_path / "m.onnx")
    np.testing.assert_array_equal(staged(loaded, X, 1)["y"], [2.0, 0.0])


def test_a_model_that_fails_says_so():
    model = parsed(f"{HEAD} g (float[N] x) => (float[M] y) <int64[1] s = {{7}}> {{ a = Neg(x) y = Reshape(a, s) }}")
    with pytest.raises(GraphoptError):
        staged(model, X, 1)


def test_bfloat16_crosses_a_cut():
    model = parsed(f"{HEAD} g (float[N] x) => (float[N] y) {{ a = Cast<to = 16>(x) b = Cast<to = 1>(a) y = Neg(b) }}")
    np.testing.assert_array_equal(staged(model, X, 1)["y"], -X["x"])


def test_a_stage_ends_before_its_weights_are_too_many_for_a_message(monkeypatch):
    body = "<float[2] w = {1, 2}, float[2] v = {3, 4}> { a = Add(x, w) b = Mul(a, v) c = Mul(b, v) y = Add(c, w) }"
    model = parsed(f"{HEAD} g (float[N] x) => (float[N] y) {body}")
    expected = Session(model, optimized=False).run(X)["y"]
    monkeypatch.setattr("graphopt.execute.staged.STAGE_WEIGHTS", 1)
    runner = Staged(Program.of(model))
    np.testing.assert_array_equal(dict(runner.run(X))["y"], expected)
    assert len(runner._stages) == 4
