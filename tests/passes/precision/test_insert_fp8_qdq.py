"""insert-fp8-qdq: the form, the scales, and where it is not made."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from graphopt.calibrate.data import CalibrationData
from graphopt.errors import GraphoptError
from graphopt.execute.session import Session
from graphopt.passes.precision.insert_fp8_qdq import InsertFp8Qdq
from graphopt.pipeline import Context, PassManager, Recipe
from graphopt.target import targets

W = "float[4,3] w = {1, -2, 3, 0.5, 4, 5, 6, -7, 8, 9, 1, 2}"
LIKES = replace(targets()["cuda"], forms=frozenset({"Float8"}))


def model(
    body: str, *, constants: str = W, inputs: str = "float[2,4] x", outputs: str = "float[2,3] y", opset: int = 19
):
    text = f'<ir_version: 9, opset_import: ["": {opset}]> g ({inputs}) => ({outputs}) <{constants}> {{ {body} }}'
    return ir.from_onnx_text(text)


def optimised(source: ir.Model, pass_: InsertFp8Qdq, context: Context | None = None):
    return PassManager(Recipe((pass_,)), verify="each", strict=True).run(source, context or Context(target=LIKES))


def operators(found: ir.Model) -> list[str]:
    return [node.op_type for node in found.graph]


def test_both_operands_are_rounded_and_the_weight_is_stored_in_eight_bits():
    result, outcomes = optimised(model("y = MatMul(x, w)"), InsertFp8Qdq())
    assert sorted(operators(result)) == ["DequantizeLinear", "DequantizeLinear", "MatMul", "QuantizeLinear"]
    stored = [value.const_value for value in result.graph.initializers.values()]
    weight = next(tensor for tensor in stored if tensor is not None and tensor.size == 12)
    assert weight.dtype is ir.DataType.FLOAT8E4M3FN
    assert float(np.abs(weight.numpy().astype(np.float32)).max()) == 448.0
    assert outcomes.verdict is not None and outcomes.verdict.ok


def test_the_scale_of_an_activation_is_its_largest_magnitude_on_the_data():
    x = np.array([[0, 1, -8.96, 2], [3, 4, 5, 6]], np.float32)
    data = CalibrationData.open([{"x": x}])
    result, outcomes = optimised(model("y = MatMul(x, w)"), InsertFp8Qdq(), Context(target=LIKES, data=data))
    quantise = next(node for node in result.graph if node.op_type == "QuantizeLinear")
    assert quantise.inputs[1].const_value.numpy() == np.float32(8.96 / 448)
    assert "activations up to 8.96" in outcomes[0].changed[0][1]
    rounded = (x / np.float32(0.02)).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * np.float32(0.02)
    w = np.array([1, -2, 3, 0.5, 4, 5, 6, -7, 8, 9, 1, 2], np.float32).reshape(4, 3)
    step = np.float32(9 / 448)
    expected = rounded @ ((w / step).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * step)
    for evaluator in ("onnxruntime", "onnx.reference"):
        found = Session(result, optimized=False, evaluator=evaluator).run({"x": x})["y"]
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_tensor_and_a_weight_that_two_operators_use_are_rounded_once():
    source = model("a = MatMul(x, w) b = MatMul(x, w) y = Add(a, b)")
    result, _ = optimised(source, InsertFp8Qdq())
    assert operators(result).count("QuantizeLinear") == 1
    assert operators(result).count("DequantizeLinear") == 2


@pytest.mark.parametrize(
    ("body", "constants", "shapes", "axis"),
    [
        ("y = MatMul(x, w)", W, ("float[2,4] x", "float[2,3] y"), 1),
        ("y = Gemm(x, w)", W, ("float[2,4] x", "float[2,3] y"), 1),
        ("y = Gemm<transB = 1>(x, w)", W, ("float[2,3] x", "float[2,4] y"), 0),
        ("y = Conv(x, w)", W.replace("[4,3]", "[4,3,1,1]"), ("float[1,3,5,5] x", "float[1,4,5,5] y"), 0),
    ],
)
def test_scales_per_channel_lie_along_the_outputs(body, constants, shapes, axis):
    source = model(body, constants=constants, inputs=shapes[0], outputs=shapes[1])
    result, outcomes = optimised(source, InsertFp8Qdq(per_channel=True))
    back = next(node for node in result.graph if node.op_type == "DequantizeLinear" and "axis" in node.attributes)
    assert back.attributes["axis"].as_int() == axis
    assert back.inputs[1].const_value.size == back.inputs[0].const_value.shape[axis]
    assert outcomes.verdict is not None and outcomes.verdict.ok


def test_e5m2_has_its_own_range():
    result, _ = optimised(model("y = MatMul(x, w)"), InsertFp8Qdq(format="e5m2", min_sqnr_db=10.0))
    kinds = {value.const_value.dtype for value in result.graph.initializers.values()}
    assert ir.DataType.FLOAT8E5M2 in kinds


def test_a_channel_of_zeros_has_a_scale():
    source = model("y = MatMul(x, w)", constants="float[4,3] w = {0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2}")
    _, outcomes = optimised(source, InsertFp8Qdq(per_channel=True))
    assert outcomes.verdict is not None and outcomes.verdict.ok and outcomes[0].changed


def test_a_target_that_does_not_like_it_gets_none_unless_forced(keeps):
    keeps(InsertFp8Qdq(), model("y = MatMul(x, w)"), reason="the target onnx is not known to compute in float8")
    _, outcomes = optimised(model("y = MatMul(x, w)"), InsertFp8Qdq(force=True), Context())
    assert outcomes[0].changed


def test_a_second_application_changes_nothing(keeps):
    result, _ = optimised(model("y = MatMul(x, w)"), InsertFp8Qdq())
    keeps(InsertFp8Qdq(force=True), result)


def test_old_opsets_are_left(keeps):
    keeps(
        InsertFp8Qdq(force=True), model("y = MatMul(x, w)", opset=18), reason="float8 needs opset 19, the model has 18"
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("z = Sub(x, x) y = MatMul(z, w)", "'z' reaches 0 on the feeds"),
        ("h = Cast<to = 11>(x) v = Cast<to = 11>(w) m = MatMul(h, v) y = Cast<to = 1>(m)", ""),
    ],
)
def test_what_has_no_range_or_another_type_stays(keeps, body, reason):
    keeps(InsertFp8Qdq(force=True), model(body), reason=reason)


def test_nodes_in_branches_are_not_measured(keeps):
    source = model(
        "y = If (c) <then_branch = t () => (float[2,3] p) { p = MatMul(x, w) }, else_branch = e () => (float[2,3] q) { q = MatMul(x, w) }>",
        inputs="bool c, float[2,4] x",
    )
    keeps(InsertFp8Qdq(force=True), source, reason="nothing is measured inside subgraphs")


def test_weights_that_are_no_numbers_stay(keeps):
    source = model("y = MatMul(x, w)")
    elements = np.full((4, 3), np.inf, np.float32)
    source.graph.initializers["w"].const_value = ir.tensor(elements, name="w")
    keeps(InsertFp8Qdq(force=True), source, reason="the weight 'w' holds NaN or infinities", runs=False)


@pytest.mark.parametrize("options", [{"format": "e3m4"}, {"min_sqnr_db": 0.0}])
def test_options_that_mean_nothing_are_refused(options):
    with pytest.raises(GraphoptError):
        InsertFp8Qdq(**options)
