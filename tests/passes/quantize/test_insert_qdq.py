"""insert-qdq: where codes are put, which numbers they get, and what stays float."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.calibrate import CalibrationData
from graphopt.errors import GraphoptError
from graphopt.execute.session import Session
from graphopt.passes.quantize.insert_qdq import InsertQdq
from graphopt.pipeline import Context, Outcomes, PassManager, Recipe
from graphopt.target import targets

X86 = targets()["x86-64"]
RNG = np.random.default_rng(0)


def conv_net(*, opset: int = 17) -> ir.Model:
    """Two convolutions with a residual sum, a pool and a product of matrices."""
    text = f"""<ir_version: 8, opset_import: ["": {opset}]> g (float[n,3,8,8] x) => (float[n,5] y)
    {{ a = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w1, b1)
       r = Relu(a)
       c = Conv <kernel_shape=[3,3], pads=[1,1,1,1], group=4> (r, w2, b2)
       s = Add(c, r)
       m = GlobalAveragePool(s)
       f = Flatten(m)
       y = Gemm <transB=1> (f, w3, b3) }}"""
    model = ir.from_onnx_text(text)
    weights = {"w1": (4, 3, 3, 3), "b1": (4,), "w2": (4, 1, 3, 3), "b2": (4,), "w3": (5, 4), "b3": (5,)}
    return with_weights(model, weights)


def with_weights(model: ir.Model, shapes: dict[str, tuple[int, ...]], seed: int = 0) -> ir.Model:
    """The model with normal numbers for the values that nothing computes."""
    rng = np.random.default_rng(seed)
    used = {value.name: value for node in model.graph for value in node.inputs if value is not None}
    for name, shape in shapes.items():
        value = used[name]
        value.const_value = ir.tensor(rng.normal(size=shape).astype(np.float32), name=name)
        value.shape, value.type = ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
        model.graph.initializers.add(value)
    return model


def images(count: int = 4, shape: tuple[int, ...] = (2, 3, 8, 8)) -> CalibrationData:
    return CalibrationData.open([{"x": RNG.normal(size=shape).astype(np.float32)} for _ in range(count)])


def quantised(
    model: ir.Model, pass_: InsertQdq, data: CalibrationData, target: object = X86
) -> tuple[ir.Model, Outcomes]:
    context = Context(target=target, data=data.for_model(model))  # type: ignore[arg-type]
    return PassManager(Recipe((pass_,)), verify="end", strict=True).run(model, context)


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def sqnr_db(model: ir.Model, result: ir.Model, data: CalibrationData) -> float:
    left, right = Session(model, optimized=False), Session(result, optimized=False)
    signal = noise = 0.0
    for sample in data.for_model(model):
        truth, found = left.run(sample), right.run(sample)
        for name, array in truth.items():
            signal += float(np.sum(array.astype(np.float64) ** 2))
            noise += float(np.sum((array.astype(np.float64) - found[name]) ** 2))
    return 10 * np.log10(signal / noise)


def test_a_network_is_computed_on_integers_from_end_to_end():
    model, data = conv_net(), images()
    result, outcomes = quantised(model, InsertQdq(), data)
    found = operators(result)
    # x, r, c, s, m, f become codes: one Q each; ReLU is done by the ends of the codes
    assert (found["QuantizeLinear"], found["Relu"], found["Conv"], found["Gemm"]) == (6, 0, 2, 1)
    assert outcomes.verdict is not None and outcomes.verdict.ok
    assert sqnr_db(model, result, data) > 25
    stored = {value.const_value.dtype for value in result.graph.initializers.values() if value.const_value is not None}
    assert stored == {ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT32, ir.DataType.FLOAT}
    floats = [tensor for value in result.graph.initializers.values() if (tensor := value.const_value) is not None]
    assert max(tensor.size for tensor in floats if tensor.dtype is ir.DataType.FLOAT) == 5  # scales only


def test_each_consumer_has_a_dequantize_of_its_own():
    result, _ = quantised(conv_net(), InsertQdq(), images())
    for node in result.graph:
        if node.op_type == "DequantizeLinear":
            assert len(tuple(node.outputs[0].uses())) + node.outputs[0].is_graph_output() == 1


def test_a_moving_operator_keeps_the_scale():
    result, _ = quantised(conv_net(), InsertQdq(), images())
    by_name = {value.name: value for node in result.graph for value in node.outputs}
    flatten = next(node for node in result.graph if node.op_type == "Flatten")
    before, after = flatten.inputs[0].producer(), next(iter(flatten.outputs[0].uses())).node
    assert before.inputs[1].const_value.numpy() == after.inputs[1].const_value.numpy()
    assert before.inputs[2].const_value.numpy() == after.inputs[2].const_value.numpy()
    assert by_name


def test_weights_have_a_scale_for_each_channel_and_biases_that_of_the_sum():
    model, data = conv_net(), images()
    result, _ = quantised(model, InsertQdq(), data)
    conv = next(node for node in result.graph if node.op_type == "Conv")
    source, weight, bias = (value.producer() for value in conv.inputs)
    w = model.graph.initializers["w1"].const_value.numpy()
    scale = weight.inputs[1].const_value.numpy()
    np.testing.assert_allclose(scale, np.abs(w).max(axis=(1, 2, 3)) / 127, rtol=1e-6)
    np.testing.assert_array_equal(weight.inputs[0].const_value.numpy(), np.rint(w / scale.reshape(-1, 1, 1, 1)))
    np.testing.assert_allclose(bias.inputs[1].const_value.numpy(), scale * source.inputs[1].const_value.numpy())
    assert bias.inputs[0].const_value.dtype is ir.DataType.INT32


def test_one_scale_for_a_whole_weight_when_asked_for():
    result, _ = quantised(conv_net(), InsertQdq(per_channel=False), images())
    conv = next(node for node in result.graph if node.op_type == "Conv")
    assert conv.inputs[1].producer().inputs[1].const_value.numpy().shape == ()


def test_the_products_of_a_transformer_end_in_floats_and_its_sums_stay_float():
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[n,4,8] x) => (float[n,4,8] y)
    { h = MatMul(x, w1)  t = Tanh(h)  k = MatMul(t, w2)  s = Add(k, x)  y = LayerNormalization(s, g1) }"""
    model = with_weights(ir.from_onnx_text(text), {"w1": (8, 16), "w2": (16, 8), "g1": (8,)})
    data = images(shape=(2, 4, 8))
    result, _ = quantised(model, InsertQdq(), data)
    found = operators(result)
    assert found["QuantizeLinear"] == 2  # x and t
    add = next(node for node in result.graph if node.op_type == "Add")
    assert [value.producer() and value.producer().op_type for value in add.inputs] == ["MatMul", None]


def test_clip_goes_when_the_codes_end_where_it_does_and_stays_when_they_do_not():
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[n,3,8,8] x) => (float[n,4,8,8] y)
    <float lo = {0}, float hi = {6}>
    { a = Conv <kernel_shape=[1,1]> (x, w)  y = Clip(a, lo, hi) }"""
    model = with_weights(ir.from_onnx_text(text), {"w": (4, 3, 1, 1)})
    result, _ = quantised(model, InsertQdq(), images())
    assert "Clip" not in operators(result)
    symmetric, _ = quantised(model, InsertQdq(activations="int8", symmetric=True), images())
    assert "Clip" in operators(symmetric)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"keep": ("Conv",)}, "asked for"),
        ({"keep": ("r",)}, ""),
    ],
)
def test_what_is_asked_for_stays_float(change: dict[str, object], reason: str):
    result, outcomes = quantised(conv_net(), InsertQdq(**change), images())  # type: ignore[arg-type]
    kept = [text for _, text in outcomes[0].kept]
    assert all(reason in text for text in kept)
    assert bool(kept) == bool(reason)
    if reason:
        assert operators(result)["QuantizeLinear"] == 1  # before the Gemm


def test_numbers_that_are_not_finite_keep_a_product_float():
    model = conv_net()
    weight = model.graph.initializers["w1"].const_value.numpy().copy()
    weight[0] = np.inf
    model.graph.initializers["w1"].const_value = ir.tensor(weight, name="w1")
    found = list(InsertQdq().apply(ready(model), Context(target=X86, data=images().for_model(model))))
    texts = {site.where: site.text for site in found}
    assert any("holds NaN or infinities" in text for text in texts.values())


def ready(model: ir.Model) -> ir.Model:
    from graphopt.ir import copy_model, infer

    copy = copy_model(model)
    infer(copy)
    return copy


def test_an_opset_that_is_too_low_is_named():
    model = conv_net(opset=11)
    _, outcomes = quantised(model, InsertQdq(), images())
    assert "need opset 13, the model has 11" in outcomes[0].kept[0][1]
    _, outcomes = quantised(conv_net(), InsertQdq(weights="int4"), images())
    assert "need opset 21" in outcomes[0].kept[0][1]


def test_options_that_mean_nothing_are_refused():
    for options in ({"activations": "float"}, {"weights": "int3"}, {"calibrator": "best"}, {"percentile": 0.0}):
        with pytest.raises(GraphoptError):
            InsertQdq(**options)  # type: ignore[arg-type]


def test_without_data_it_says_that_ranges_are_made_up():
    model = conv_net()
    said: list[str] = []
    context = Context(target=X86, events=lambda event: said.append(str(event.data.get("text"))))
    PassManager(Recipe((InsertQdq(),))).run(model, context)
    assert any("not for accuracy" in text for text in said)


def test_a_second_run_changes_nothing():
    data = images()
    result, _ = quantised(conv_net(), InsertQdq(), data)
    _, outcomes = quantised(result, InsertQdq(), data)
    assert not outcomes[0].changed
    assert {text for _, text in outcomes[0].kept} <= {
        "kept float32: it is quantised already",
        "kept float32: its weight is not a float32 constant",
        "kept float32: both operands are activations",
    }


def test_weights_of_zero_and_a_constant_input_have_scales_that_work():
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[n,3,4,4] x) => (float[n,2,4,4] y)
    { y = Conv <kernel_shape=[1,1]> (x, w, b) }"""
    model = with_weights(ir.from_onnx_text(text), {"w": (2, 3, 1, 1), "b": (2,)})
    weight = model.graph.initializers["w"].const_value.numpy().copy()
    weight[1] = 0
    model.graph.initializers["w"].const_value = ir.tensor(weight, name="w")
    data = CalibrationData.open([{"x": np.zeros((1, 3, 4, 4), np.float32)}])
    result, _ = quantised(model, replace(InsertQdq(), min_sqnr_db=0.1), data)
    found = Session(result, optimized=False).run({"x": np.zeros((1, 3, 4, 4), np.float32)})["y"]
    bias = model.graph.initializers["b"].const_value.numpy()
    np.testing.assert_allclose(found[0, :, 0, 0], bias, atol=np.abs(bias).max() / 100)


def test_what_hands_its_result_to_floats_only_stays_float():
    result, _ = quantised(conv_net(), InsertQdq(keep=("Gemm",)), images())
    pool = next(node for node in result.graph if node.op_type == "GlobalAveragePool")
    add = next(node for node in result.graph if node.op_type == "Add")
    assert pool.inputs[0].producer() is add
    assert all(value.producer().op_type == "DequantizeLinear" for value in add.inputs)  # what the convolutions give
    assert operators(result)["QuantizeLinear"] == 3  # x, r and c
