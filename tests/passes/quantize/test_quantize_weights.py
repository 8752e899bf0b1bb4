"""quantize-weights: codes of 8, 4 and 2 bits in both forms, and the order of the ways to round them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.calibrate import CalibrationData
from graphopt.errors import GraphoptError
from graphopt.execute.session import Session
from graphopt.passes.quantize._blocks import Inputs, Layout, encode, feed_back
from graphopt.passes.quantize._stored import packed
from graphopt.passes.quantize.quantize_weights import QuantizeWeights
from graphopt.pipeline import Context, PassManager, Recipe
from graphopt.target import targets

X86 = targets()["x86-64"]
NBITS = Context(target=replace(X86, forms=frozenset({"com.microsoft::MatMulNBits"})))


def product(inputs: int = 48, outputs: int = 6, opset: int = 21, text: str = "y = MatMul(x, w)") -> ir.Model:
    model = ir.from_onnx_text(
        f'<ir_version: 10, opset_import: ["": {opset}]> g (float[n,{inputs}] x) => (float[n,{outputs}] y) {{ {text} }}'
    )
    rng = np.random.default_rng(1)
    shape = (outputs, inputs) if "transB" in text else (inputs, outputs)
    used = {value.name: value for node in model.graph for value in node.inputs if value is not None}
    for name, array in (("w", rng.standard_t(5, size=shape) + 0.1), ("b", rng.normal(size=outputs))):
        if name in used:
            used[name].const_value = ir.tensor(array.astype(np.float32), name=name)
            model.graph.initializers.add(used[name])
    return model


def run(model: ir.Model, pass_: QuantizeWeights, context: Context | None = None) -> tuple[ir.Model, list[str]]:
    result, outcomes = PassManager(Recipe((pass_,)), verify="end", strict=True).run(model, context or Context())
    assert outcomes.verdict is None or outcomes.verdict.ok
    return result, [text for _, text in outcomes[0].kept]


def outputs_of(model: ir.Model) -> np.ndarray:
    shape = model.graph.inputs[0].shape
    assert shape is not None
    x = np.random.default_rng(2).normal(size=(64, int(shape[1]))).astype(np.float32)
    return Session(model, optimized=False).run({"x": x})["y"].astype(np.float64)


def decibels(model: ir.Model, result: ir.Model) -> float:
    truth, found = outputs_of(model), outputs_of(result)
    return 10 * np.log10(np.sum(truth**2) / max(np.sum((truth - found) ** 2), 1e-30))


@pytest.mark.parametrize("gemm", ["y = MatMul(x, w)", "y = Gemm(x, w, b)", "y = Gemm <transB=1> (x, w, b)"])
@pytest.mark.parametrize("inputs", [48, 96, 40, 20])  # blocks of 32: an odd number of them, one cut off, one alone
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "least"), [(8, 38), (4, 15), (2, 1.5)])
@pytest.mark.parametrize("context", [Context(), NBITS], ids=["DequantizeLinear", "MatMulNBits"])
def test_every_layout_stands_for_the_same_weight_in_both_forms(gemm, inputs, symmetric, bits, least, context):
    if context is not NBITS and bits == 2:
        pytest.skip("opset 25")
    model = product(inputs, text=gemm)
    pass_ = QuantizeWeights(bits=bits, block=32, symmetric=symmetric, at_least=0, min_sqnr_db=0.0)
    result, kept = run(model, pass_, context)
    assert not kept
    weight = model.graph.initializers["w"].const_value.numpy()
    rows = weight if "transB" in gemm else weight.T
    stored = encode(rows, Layout(bits, 32, symmetric), "mse").weight
    restored = model.clone()
    array = (stored if "transB" in gemm else stored.T).astype(np.float32)
    restored.graph.initializers["w"].const_value = ir.tensor(array, name="w")
    same = 120 if context is not NBITS else 35  # MatMulNBits rounds the activations to 8 bits
    assert decibels(restored, result) > same
    assert decibels(model, result) > least
    operators = [node.op_type for node in result.graph]
    assert ("MatMulNBits" in operators) == (context is NBITS)
    assert "w" not in result.graph.initializers


def test_two_bits_need_opset_25_and_four_21():
    model = product(opset=17)
    assert "need opset 21" in run(model, QuantizeWeights(bits=4, block=32, at_least=0))[1][0]
    assert "need opset 21" in run(model, QuantizeWeights(bits=8, block=32, at_least=0))[1][0]
    assert "need opset 25" in run(model, QuantizeWeights(bits=2, block=32, at_least=0))[1][0]
    assert not run(model, QuantizeWeights(at_least=0))[1]


def test_a_convolution_and_recurrent_cells_have_a_scale_for_each_channel():
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[1,4,9] x) => (float[1,6,7] y) { y = Conv(x, w) }'
    model = ir.from_onnx_text(text)
    rng = np.random.default_rng(0)
    value = model.graph[0].inputs[1]
    value.const_value = ir.tensor(rng.normal(size=(6, 4, 3)).astype(np.float32), name="w")
    model.graph.initializers.add(value)
    result, _ = run(model, QuantizeWeights(operators=("Conv",), block=32, at_least=0))
    scale = result.graph.initializers["w_scale"].const_value.numpy()
    assert scale.shape == (6,)
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[s,n,4] x) => (float[s,2,n,5] y)\n'
    model = ir.from_onnx_text(text + '{ y = GRU <hidden_size=5, direction="bidirectional"> (x, w, r) }')
    for index, shape in ((1, (2, 15, 4)), (2, (2, 15, 5))):
        value = model.graph[0].inputs[index]
        value.const_value = ir.tensor(rng.normal(size=shape).astype(np.float32), name=value.name)
        model.graph.initializers.add(value)
    result, _ = run(model, replace(QuantizeWeights(), operators=("GRU",), at_least=0, min_sqnr_db=25.0))
    assert [node.op_type for node in result.graph] == ["DequantizeLinear", "DequantizeLinear", "GRU"]


def test_the_ways_to_round_are_ordered_as_in_the_papers():
    rng = np.random.default_rng(3)
    weight = rng.standard_t(5, size=(64, 128)) * 0.05
    mixing = np.eye(128) + 0.2 * rng.normal(size=(128, 128))
    inputs = rng.normal(size=(2000, 128)) * np.exp(rng.normal(size=128)) @ mixing
    gram = inputs.T @ inputs

    def error(rounding: str, bits: int = 4) -> float:
        difference = encode(weight, Layout(bits, 32, False), rounding, Inputs(gram)).weight - weight  # type: ignore[arg-type]
        return float(np.sum((difference @ gram) * difference) / np.sum((weight @ gram) * weight))

    assert error("gptq") < 0.5 * error("mse")
    assert error("gptq", 2) < 0.7 * error("mse", 2) < 0.7 * error("nearest", 2)
    assert error("mse") < 1.02 * error("nearest")
    assert error("hqq") < 1.1 * error("nearest")


def test_feedback_without_correlations_is_rounding_to_nearest():
    weight = np.random.default_rng(4).normal(size=(5, 64))
    start = encode(weight, Layout(4, 32, True), "mse")
    np.testing.assert_array_equal(feed_back(weight, start, Inputs(np.eye(64))), start.codes)


def test_gptq_reads_the_data():
    model = product(64, text="h = Relu(x)  y = MatMul(h, w)")
    rng = np.random.default_rng(5)
    mixing = rng.normal(size=(8, 64))
    samples = [{"x": (rng.normal(size=(40, 8)) @ mixing).astype(np.float32)} for _ in range(6)]
    context = Context(data=CalibrationData.open(samples).for_model(model))

    def error(rounding: str) -> float:
        result, _ = run(model, QuantizeWeights(bits=4, block=32, rounding=rounding, at_least=0), context)
        left, right = Session(model, optimized=False), Session(result, optimized=False)
        return sum(float(np.sum((left.run(sample)["y"] - right.run(sample)["y"]) ** 2)) for sample in samples)

    assert error("gptq") < 0.6 * error("mse")


def test_codes_are_packed_row_by_row_the_first_in_the_lowest_bits():
    np.testing.assert_array_equal(packed(np.array([[1, 2, 3], [15, 0, 7]]), 4), [[0x21, 0x03], [0x0F, 0x07]])
    np.testing.assert_array_equal(packed(np.array([[3, 2, 1, 0, 1]]), 2), [[0b00_01_10_11, 1]])


def test_what_stays_float_has_a_reason():
    model = product()
    assert "too few to pay" in run(model, QuantizeWeights())[1][0]
    assert "asked for" in run(model, QuantizeWeights(at_least=0, keep=("y",)))[1][0]
    model.graph.initializers["w"].const_value = ir.tensor(np.full((48, 6), np.inf, np.float32), name="w")
    _, outcomes = PassManager(Recipe((QuantizeWeights(at_least=0),)), verify="off").run(model)
    assert "NaN or infinities" in outcomes[0].kept[0][1]


@pytest.mark.parametrize(
    "options",
    [{"bits": 3}, {"block": 24}, {"rounding": "up"}, {"rounding": "hqq"}, {"form": "Q"}, {"operators": ("Add",)}],
)
def test_options_that_mean_nothing_are_refused(options):
    with pytest.raises(GraphoptError):
        QuantizeWeights(**options)


def test_a_second_run_changes_nothing():
    for context in (Context(), NBITS):
        result, _ = run(product(), QuantizeWeights(bits=4, block=32, at_least=0), context)
        _, outcomes = PassManager(Recipe((QuantizeWeights(bits=4, block=32, at_least=0),)), verify="off").run(
            result, context
        )
        assert not outcomes[0].changed
