"""LOSSY passes are held to their budget: a ratio of signal to error in every floating-point output."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from graphopt.calibrate.data import CalibrationData
from graphopt.errors import GraphoptError
from graphopt.events import Site, Sites
from graphopt.execute.compare import Tolerance, compare
from graphopt.execute.session import Session
from graphopt.execute.widened import widened
from graphopt.ir import array, infer, is_op, new_initializer, nodes, replace, where
from graphopt.pipeline import Context, Fidelity, Pass, PassManager, Recipe

TEXT = """<ir_version: 8, opset_import: ["": 17]> g (float[8] x) => (float[8] y, float[8] z, int64 i)
    <float k = {1}> { y = Mul(x, k) z = Neg(y) i = ArgMax<axis = 0, keepdims = 0>(y) }"""


@dataclass(frozen=True)
class Scale(Pass):
    """Multiplies a factor by 1 + error: the outputs' error is 20 log10(error) dB."""

    name: ClassVar[str] = "scale"
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    once: ClassVar[bool] = True
    error: float = 0.001
    budget: float = 40.0

    def budget_db(self) -> float:
        return self.budget

    def apply(self, model: ir.Model, context: Context) -> Sites:
        for node in list(nodes(model)):
            if is_op(node, "Mul"):
                yield Site(where(node), f"scaled by {1 + self.error}", lambda n=node: self._edit(n))

    def _edit(self, node: ir.Node) -> None:
        factor, value = array(node.inputs[1]), node.inputs[1]
        assert factor is not None and value is not None and node.graph is not None
        replace(value, new_initializer(node.graph, (factor * (1 + self.error)).astype(np.float32), "scaled"))


@dataclass(frozen=True)
class Flip(Scale):
    """Turns the sign, which moves the largest element."""

    name: ClassVar[str] = "flip"
    error: float = -2.0
    budget: float = -20.0


def run(*passes: Pass, context: Context | None = None, verify: str = "end"):
    return PassManager(Recipe(passes), verify=verify).run(ir.from_onnx_text(TEXT), context)  # type: ignore[arg-type]


def test_an_error_within_the_budget_is_accepted() -> None:
    _, outcomes = run(Scale())
    assert outcomes.verdict is not None and outcomes.verdict.ok
    assert not outcomes[0].left_out and outcomes[0].changed
    assert [item.sqnr_db for item in outcomes.verdict.outputs][:2] == [pytest.approx(60, abs=0.1)] * 2


@pytest.mark.parametrize("verify", ["end", "each"])
def test_an_error_beyond_the_budget_is_left_out(verify: str) -> None:
    _, outcomes = run(Scale(error=0.1), verify=verify)
    assert outcomes[0].left_out and "LOSSY" in outcomes[0].causes[0]
    assert "20.0 dB below it, not 40.0 dB" in outcomes[0].causes[0]
    assert outcomes.verdict is not None and outcomes.verdict.verdict == "equal"


def test_other_outputs_must_stay_equal() -> None:
    _, outcomes = run(Flip())
    assert outcomes[0].left_out and "output 'i'" in outcomes[0].causes[0]


def test_budgets_add_up() -> None:
    """Two errors of -26 dB in one direction are one of -20 dB, and two budgets of 23 dB allow one of -20 dB."""
    first, second = Scale(error=0.0499, budget=23.0), Scale(error=0.0450, budget=23.1)
    _, outcomes = run(first, second)
    assert (
        outcomes.verdict is not None and outcomes.verdict.ok and not outcomes[0].left_out and not outcomes[1].left_out
    )
    assert outcomes.verdict.outputs[0].tolerance.sqnr_db == pytest.approx(20.04, abs=0.01)


def test_the_tolerance_of_the_context_comes_first() -> None:
    _, outcomes = run(Scale(), context=Context(tolerance=Tolerance(scale=1e-6)))
    assert outcomes[0].left_out


def test_a_default_budget_is_a_tenth() -> None:
    assert Pass.budget_db(Scale()) == 20.0


def test_the_ratio_is_compared_and_infinities_are_not_forgiven() -> None:
    exact, noisy = np.array([3.0, 4.0], np.float32), np.array([3.0, 4.05], np.float32)
    (close,) = compare({"y": exact}, {"y": noisy}, Tolerance(sqnr_db=39.0))
    (far,) = compare({"y": exact}, {"y": noisy}, Tolerance(sqnr_db=41.0))
    assert close.ok and not far.ok and far.reason == "its error is 40.0 dB below it, not 41.0 dB"
    (broken,) = compare({"y": exact}, {"y": np.array([3.0, math.inf], np.float32)}, Tolerance(sqnr_db=-100.0))
    assert not broken.ok
    assert str(Tolerance(sqnr_db=40.0)) == "an error 40 dB below the output"


def test_bfloat16_is_simulated_with_the_same_numbers() -> None:
    """The GRU leaves out its first output, which has no name."""
    text = """<ir_version: 10, opset_import: ["": 22]> g (float[2,1,3] x) => (float[1,1,2] y)
        <bfloat16[1,6,3] w = {16256, 16200, 16100, 16256, 1, 2, 15000, 16256, 3, 16000, 16001, 16002, 0, 0, 0, 0, 0, 1},
         bfloat16[1,6,2] r = {16256, 16200, 16100, 16256, 1, 2, 15000, 16256, 3, 16000, 16001, 16002}> {
        a = Cast<to = 16>(x) b = Tanh(a) , c = GRU<hidden_size = 2>(b, w, r) y = Cast<to = 1>(c) }"""
    model = ir.from_onnx_text(text.replace(" , c", " _, c"))
    model.graph[2].outputs[0].name = ""
    infer(model)
    simulated = widened(model)
    assert simulated is not model
    assert not any(value.dtype is ir.DataType.BFLOAT16 for value in simulated.graph.initializers.values())
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 1, 3)).astype(np.float32)}
    truth = Session(model, optimized=False, evaluator="onnx.reference").run(feeds)["y"]
    found = Session(simulated, optimized=False, evaluator="onnxruntime").run(feeds)["y"]
    np.testing.assert_allclose(found, truth, rtol=2**-5, atol=2**-8)


def test_a_simulated_model_keeps_its_interface() -> None:
    text = """<ir_version: 10, opset_import: ["": 22]> g (bfloat16[3] x, float[3] u) => (bfloat16[3] y, float[3] z)
        { a = Relu(x) y = Identity(a) z = CastLike(a, u) }"""
    model = ir.from_onnx_text(text)
    infer(model)
    simulated = widened(model)
    ports = (*simulated.graph.inputs, *simulated.graph.outputs)
    assert [(value.name, value.dtype.name) for value in ports if value.dtype is not None] == [
        ("x", "BFLOAT16"),
        ("u", "FLOAT"),
        ("y", "BFLOAT16"),
        ("z", "FLOAT"),
    ]
    x = np.array([-1, 2, 3], ml_dtypes.bfloat16)
    found = Session(simulated, optimized=False, evaluator="onnxruntime").run({"x": x, "u": np.zeros(3, np.float32)})
    np.testing.assert_array_equal(found["y"].astype(np.float32), [0, 2, 3])
    np.testing.assert_array_equal(found["z"], [0, 2, 3])


HALF = """<ir_version: 10, opset_import: ["": 22]> g (float[3] x) => (float[3] y)
    { a = Cast<to = 10>(x) b = Mul(a, a) c = Tanh(b) d = Mul(b, c) y = Cast<to = 1>(d) }"""


def test_float16_is_simulated_as_the_runtime_does_not_round_it() -> None:
    """Its CPU provider wraps nodes in casts and drops pairs of them: 300 * 300 is beyond float16, and it says 90000."""
    model = ir.from_onnx_text(HALF)
    infer(model)
    x = np.array([0.30001, 1.0, 300.0], np.float32)
    half = x.astype(np.float16)
    with np.errstate(over="ignore"):
        square = half * half
        truth = square * np.tanh(square.astype(np.float32)).astype(np.float16)
    found = Session(widened(model), optimized=False).run({"x": x})["y"]
    np.testing.assert_array_equal(found, truth.astype(np.float32))
    assert Session(model, optimized=False).run({"x": x})["y"][2] == 90000.0


@dataclass(frozen=True)
class Halve(Scale):
    """Computes in float16, whatever the range."""

    name: ClassVar[str] = "halve"

    def apply(self, model: ir.Model, context: Context) -> Sites:
        result = ir.from_onnx_text(HALF)

        def edit() -> None:
            model.graph.remove(list(model.graph), safe=False)
            known = {"x": model.graph.inputs[0]}
            for node in result.graph:
                inputs = [known[str(value.name)] for value in node.inputs if value is not None]
                made = ir.node(node.op_type, inputs, node.attributes)
                known[str(node.outputs[0].name)] = made.outputs[0]
                model.graph.append(made)
            made.outputs[0].name = "y"
            model.graph.outputs[0] = made.outputs[0]

        yield Site("graph 'g'", "float16", edit)


def test_an_overflow_in_float16_that_the_runtime_hides_breaks_the_promise() -> None:
    source = ir.from_onnx_text(
        HALF.replace("a = Cast<to = 10>(x)", "a = Identity(x)").replace("Cast<to = 1>", "Identity")
    )
    for x, ok in ((2.0, True), (300.0, False)):
        context = Context(data=CalibrationData.open([{"x": np.full(3, x, np.float32)}]))
        _, outcomes = PassManager(Recipe((Halve(),))).run(source, context)
        assert bool(outcomes[0].changed) is ok, outcomes


def test_a_model_without_bfloat16_is_not_copied() -> None:
    model = ir.from_onnx_text(TEXT)
    assert widened(model) is model


def test_a_lossy_pass_that_fails_is_an_error_when_strict() -> None:
    with pytest.raises(GraphoptError, match="broke its promise LOSSY"):
        PassManager(Recipe((Scale(error=0.1),)), strict=True).run(ir.from_onnx_text(TEXT))
