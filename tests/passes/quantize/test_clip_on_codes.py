"""clip-on-codes: a Min between codes is computed on codes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.calibrate import CalibrationData
from graphopt.execute.session import Session
from graphopt.passes.quantize.clip_on_codes import ClipOnCodes
from graphopt.pipeline import Context, PassManager, Recipe
from graphopt.target import targets

NET = """<ir_version: 8, opset_import: ["": 17]> g (float[n,3,8,8] x) => (float[n,4,8,8] y)
<float[4,1,1] c = {2.0, 6.0, 100.0, 0.5}>
{ a = Conv <kernel_shape=[1,1]> (x, w1)  r = Relu(a)  m = Min(r, c)  y = Conv <kernel_shape=[1,1]> (m, w2) }"""


def model_of(text: str = NET) -> ir.Model:
    model = ir.from_onnx_text(text)
    rng = np.random.default_rng(0)
    used = {value.name: value for node in model.graph for value in node.inputs if value is not None}
    for name, shape in {"w1": (4, 3, 1, 1), "w2": (4, 4, 1, 1)}.items():
        value = used[name]
        value.const_value = ir.tensor(rng.normal(size=shape).astype(np.float32), name=name)
        value.shape, value.type = ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
        model.graph.initializers.add(value)
    return model


def data() -> CalibrationData:
    rng = np.random.default_rng(1)
    return CalibrationData.open([{"x": 3 * rng.normal(size=(2, 3, 8, 8)).astype(np.float32)} for _ in range(4)])


def run(model: ir.Model, recipe: str) -> ir.Model:
    context = Context(target=targets()["x86-64"], data=data().for_model(model))
    return PassManager(recipe, verify="off").run(model, context)[0]


def sqnr_db(model: ir.Model, result: ir.Model) -> float:
    feeds = data()[0]
    truth, found = (Session(item, optimized=False).run(feeds)["y"].astype(np.float64) for item in (model, result))
    return 10 * np.log10((truth**2).sum() / ((truth - found) ** 2).sum())


def test_the_min_is_computed_on_codes():
    model = model_of()
    plain = run(model, "insert-qdq")
    result = run(model, "insert-qdq, clip-on-codes")
    least = next(node for node in result.graph if node.op_type == "Min")
    assert {value.dtype for value in least.inputs} == {ir.DataType.UINT8}
    assert Counter(node.op_type for node in result.graph)["QuantizeLinear"] == 3  # x, m and y
    assert Counter(node.op_type for node in plain.graph)["QuantizeLinear"] == 4
    assert sqnr_db(model, result) >= sqnr_db(model, plain) - 0.5
    assert sqnr_db(model, result) > 30


def test_the_codes_are_those_of_the_float_min():
    result = run(model_of(), "insert-qdq, clip-on-codes")
    least = next(node for node in result.graph if node.op_type == "Min")
    quantise = least.inputs[0].producer()
    scale, ends = quantise.inputs[1].const_value.numpy(), least.inputs[1].const_value.numpy().reshape(-1)
    np.testing.assert_array_equal(ends, np.clip(np.rint(np.array([2, 6, 100, 0.5], np.float32) / scale), 0, 255))


def test_a_second_time_nothing_changes():
    result = run(model_of(), "insert-qdq, clip-on-codes")
    context = Context(target=targets()["x86-64"], data=data().for_model(result))
    _, outcomes = PassManager(Recipe((ClipOnCodes(),)), verify="off").run(result, context)
    assert not outcomes[0].changed


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("=> (float[n,4,8,8] y)", "=> (float[n,4,8,8] y, float[n,4,8,8] r)"),
        ("m = Min(r, c)", "z = Tanh(r) m = Min(z, c)"),
    ],
)
def test_what_is_used_elsewhere_stays(old: str, new: str):
    result = run(model_of(NET.replace(old, new)), "insert-qdq, clip-on-codes")
    least = next(node for node in result.graph if node.op_type == "Min")
    assert least.inputs[0].dtype is ir.DataType.FLOAT


def test_equalised_clips_end_in_integers():
    text = NET.replace("r = Relu(a)  m = Min(r, c)", "m = Clip(a, lo, hi)").replace(
        "float[4,1,1] c = {2.0, 6.0, 100.0, 0.5}", "float lo = {0}, float hi = {6}"
    )
    model = model_of(text)
    chain = "equalize-weights{clip_reach=4.0}, insert-qdq{per_channel=false}, clip-on-codes"
    result = run(model, chain)
    assert Counter(node.op_type for node in result.graph)["Clip"] == 0
    least = next(node for node in result.graph if node.op_type == "Min")
    assert least.outputs[0].dtype is ir.DataType.UINT8
    assert sqnr_db(model, result) > 25
