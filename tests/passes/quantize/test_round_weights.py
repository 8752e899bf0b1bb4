"""round-weights: the pass behind insert-qdq, and weights stored in 4 bits."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.calibrate import CalibrationData
from graphopt.errors import GraphoptError
from graphopt.execute.session import Session
from graphopt.ir import copy_model, save
from graphopt.passes.quantize.insert_qdq import InsertQdq
from graphopt.passes.quantize.round_weights import RoundWeights
from graphopt.pipeline import Context, Outcomes, Pass, PassManager, Recipe
from graphopt.target import targets

X86 = targets()["x86-64"]

NET = """<ir_version: 10, opset_import: ["": 21]> g (float[n,3,12,12] x) => (float[n,5] y)
{ a = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w1, b1)
  r = Relu(a)
  c = Conv <kernel_shape=[3,3], pads=[1,1,1,1], group=8> (r, w2, b2)
  d = Relu(c)
  e = Conv <kernel_shape=[1,1]> (d, w3)
  m = GlobalAveragePool(e)
  f = Flatten(m)
  y = Gemm <transB=1> (f, w4, b4) }"""

SHAPES = {
    "w1": (8, 3, 3, 3),
    "b1": (8,),
    "w2": (8, 1, 3, 3),
    "b2": (8,),
    "w3": (6, 8, 1, 1),
    "w4": (5, 6),
    "b4": (5,),
}

MLP = """<ir_version: 10, opset_import: ["": 21]> g (float[n,4,16] x) => (float[n,4,8] y)
{ h = MatMul(x, w1)  s = Add(h, b1)  t = Tanh(s)  y = MatMul(t, w2) }"""

MLP_SHAPES = {"w1": (16, 24), "b1": (24,), "w2": (24, 8)}


def model_of(text: str, shapes: dict[str, tuple[int, ...]], seed: int = 0) -> ir.Model:
    rng = np.random.default_rng(seed)
    model = ir.from_onnx_text(text)
    used = {value.name: value for node in model.graph for value in node.inputs if value is not None}
    for name, shape in shapes.items():
        value = used[name]
        value.const_value = ir.tensor(rng.standard_t(4, size=shape).astype(np.float32) * 0.3, name=name)
        value.shape, value.type = ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
        model.graph.initializers.add(value)
    return model


def net() -> ir.Model:
    return model_of(NET, SHAPES)


def mlp() -> ir.Model:
    return model_of(MLP, MLP_SHAPES)


def samples(shape: tuple[int, ...], count: int = 12, seed: int = 1) -> CalibrationData:
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(0).normal(size=(shape[-1], shape[-1])).astype(np.float32)
    return CalibrationData.open([{"x": (rng.normal(size=shape) @ mix).astype(np.float32)} for _ in range(count)])


def images(count: int = 12, seed: int = 1) -> CalibrationData:
    return samples((2, 3, 12, 12), count, seed)


def run(model: ir.Model, *passes: Pass, data: CalibrationData | None) -> tuple[ir.Model, Outcomes]:
    given = data.for_model(model) if data is not None else None
    return PassManager(Recipe(passes), verify="off", strict=True).run(model, Context(target=X86, data=given))


def error(model: ir.Model, result: ir.Model, data: CalibrationData) -> float:
    """Of the outputs, as a share of their power."""
    left, right = Session(model, optimized=False), Session(result, optimized=False)
    signal = noise = 0.0
    for sample in data.for_model(model):
        for truth, found in zip(left.run(sample).values(), right.run(sample).values(), strict=True):
            signal += float(np.sum(truth.astype(np.float64) ** 2))
            noise += float(np.sum((truth.astype(np.float64) - found) ** 2))
    return noise / signal


@pytest.mark.parametrize("weights", ["int4", "int8"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_outputs_on_other_data_come_nearer(weights: str, per_channel: bool):
    model, data, other = net(), images(24), images(seed=2)
    insert = InsertQdq(weights=weights, per_channel=per_channel, min_sqnr_db=0.1)
    plain, _ = run(model, insert, data=data)
    rounded, outcomes = run(model, insert, RoundWeights(min_sqnr_db=0.1), data=data)
    assert len(outcomes[1].changed) >= 3
    factor = 0.5 if weights == "int4" else 1.0  # in 8 bits the activations make most of the error
    assert error(model, rounded, other) < factor * error(model, plain, other)


def test_matrix_products_come_nearer_too():
    data = samples((2, 4, 16), 40)
    plain, _ = run(mlp(), InsertQdq(weights="int4"), data=data)
    rounded, outcomes = run(mlp(), InsertQdq(weights="int4"), RoundWeights(), data=data)
    assert len(outcomes[1].changed) == 2
    other = samples((2, 4, 16), seed=2)
    assert error(mlp(), rounded, other) < 0.7 * error(mlp(), plain, other)


def test_no_node_is_added_and_types_stay():
    plain, _ = run(net(), InsertQdq(), data=images())
    rounded, _ = run(net(), InsertQdq(), RoundWeights(), data=images())
    assert [node.op_type for node in rounded.graph] == [node.op_type for node in plain.graph]
    kinds = [Counter(value.dtype for value in one.graph.initializers.values()) for one in (plain, rounded)]
    assert kinds[0] == kinds[1]


def test_the_bias_makes_good_what_is_constant():
    data = images(24)
    rounded, _ = run(net(), InsertQdq(weights="int4"), RoundWeights(), data=data)
    total = 0.0
    for one in (net(), rounded):
        session = Session(one, optimized=False)
        found = np.concatenate([session.run(sample)["y"] for sample in data.for_model(one)])
        total = found.mean(axis=0) - total
    plain, _ = run(net(), InsertQdq(weights="int4"), data=data)
    session = Session(plain, optimized=False)
    shifted = np.concatenate([session.run(sample)["y"] for sample in data.for_model(plain)]).mean(axis=0)
    original = Session(net(), optimized=False)
    truth = np.concatenate([original.run(sample)["y"] for sample in data.for_model(net())]).mean(axis=0)
    assert np.abs(total).max() < 0.5 * np.abs(shifted - truth).max()


def test_codes_of_4_bits_are_stored_as_such_and_computed_on_integers(tmp_path):
    result, _ = run(net(), InsertQdq(weights="int4"), RoundWeights(), data=images())
    weights = [node for node in result.graph if node.op_type == "Cast"]
    assert len(weights) == 4
    for node in weights:
        stored = node.inputs[0].const_value
        assert stored.dtype is ir.DataType.INT4
        assert len(stored.tobytes()) == (stored.size + 1) // 2
    save(result, tmp_path / "small.onnx")
    assert operators_that_run(tmp_path) == {"QLinearConv": 3, "QGemm": 1}


def operators_that_run(folder) -> dict[str, int]:
    """Products in the graph that ONNX Runtime makes of ``small.onnx``, and what is not integer of them."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(str(folder / "small.onnx"), options)
    found = Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)
    products = ("QLinearConv", "QGemm", "Conv", "FusedConv", "Gemm", "MatMul", "Cast", "MatMulIntegerToFloat")
    return {name: found[name] for name in products if found[name]}


def test_matrix_products_with_codes_of_4_bits_are_computed_on_integers(tmp_path):
    result, _ = run(mlp(), InsertQdq(weights="int4"), RoundWeights(), data=samples((2, 4, 16)))
    save(result, tmp_path / "small.onnx")
    assert operators_that_run(tmp_path) == {"MatMulIntegerToFloat": 2}


def test_codes_of_4_bits_use_all_sixteen():
    result, _ = run(net(), InsertQdq(weights="int4"), RoundWeights(), data=images())
    codes = [node.inputs[0].const_value.numpy().astype(int) for node in result.graph if node.op_type == "Cast"]
    assert min(array.min() for array in codes) == -8
    assert max(array.max() for array in codes) == 7


def test_weights_of_7_bits_stay_within_them():
    result, _ = run(net(), InsertQdq(reduce_range=True), RoundWeights(), data=images())
    for value in result.graph.initializers.values():
        if value.dtype is ir.DataType.INT8 and value.const_value.size > 8:
            assert np.abs(value.const_value.numpy().astype(int)).max() <= 63


def test_the_same_data_give_the_same_model():
    first, _ = run(net(), InsertQdq(weights="int4"), RoundWeights(), data=images())
    second, _ = run(net(), InsertQdq(weights="int4"), RoundWeights(), data=images())
    assert ir.to_proto(first).SerializeToString() == ir.to_proto(second).SerializeToString()


def test_a_second_run_changes_nothing():
    data = images()
    result, _ = run(net(), InsertQdq(), RoundWeights(), data=data)
    for again in (result, copy_model(result), ir.from_proto(ir.to_proto(result))):
        _, outcomes = run(again, RoundWeights(), data=data)
        assert not outcomes[0].changed
        assert "what it was in float32 is not known" in outcomes[0].kept[0][1]


def test_without_data_it_is_left_alone_with_the_reason():
    _, outcomes = run(net(), InsertQdq(), RoundWeights(), data=None)
    assert not outcomes[1].changed
    assert "give data" in outcomes[1].kept[0][1]


def test_a_float_model_has_no_places():
    _, outcomes = run(net(), RoundWeights(), data=images())
    assert not outcomes[0].changed
    assert not outcomes[0].kept


def test_weights_that_may_not_follow_the_data_stay_near():
    data = images(24)
    rounded, outcomes = run(net(), InsertQdq(weights="int4"), RoundWeights(refit=False), data=data)
    plain, _ = run(net(), InsertQdq(weights="int4"), data=data)
    assert outcomes[1].changed
    assert error(net(), rounded, images(seed=2)) < error(net(), plain, images(seed=2))


def test_one_sample_is_enough_to_round():
    data = images(1)
    rounded, outcomes = run(net(), InsertQdq(weights="int4"), RoundWeights(), data=data)
    plain, _ = run(net(), InsertQdq(weights="int4"), data=data)
    assert outcomes[1].changed
    assert error(net(), rounded, data) < error(net(), plain, data)


def test_products_in_float_and_in_branches_are_no_places():
    _, outcomes = run(net(), InsertQdq(keep=("a", "y")), RoundWeights(), data=images())
    assert {place for place, _ in outcomes[1].changed} == {"Conv 'c'", "Conv 'e'"}


def test_options_that_mean_nothing_are_refused():
    with pytest.raises(GraphoptError):
        RoundWeights(samples=0)
