"""quantize-dynamic: the form that runtimes fuse, what stays float and why, and how near the result is."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from graphopt.errors import GraphoptError
from graphopt.execute.feeds import random_feeds
from graphopt.execute.session import Session
from graphopt.ir import nodes, save
from graphopt.passes.quantize.quantize_dynamic import QuantizeDynamic
from graphopt.pipeline import Context, PassManager, Recipe
from graphopt.target import targets

X86 = targets()["x86-64"]
LSTMS = Context(target=replace(X86, forms=frozenset({"com.microsoft::DynamicQuantizeLSTM"})))
HEADER = '<ir_version: 8, opset_import: ["": 17]>'
SMALL = QuantizeDynamic(at_least=0)


def weighted(text: str, seed: int = 0, **shapes: tuple[int, ...]) -> ir.Model:
    """A model from text, with normal numbers for the initialisers of these shapes."""
    rng = np.random.default_rng(seed)
    model = ir.from_onnx_text(text if text.lstrip().startswith("<") else HEADER + text)
    used = {value.name: value for node in nodes(model) for value in node.inputs if value is not None}
    for name, shape in shapes.items():
        value = used[name]
        value.const_value = ir.tensor(rng.normal(size=shape).astype(np.float32), name=name)
        value.shape, value.type = ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
        model.graph.initializers.add(value)
    return model


def run(model: ir.Model, pass_: QuantizeDynamic = SMALL, context: Context | None = None) -> tuple[ir.Model, list[str]]:
    """The result, proven valid and near, and the reasons for what was kept."""
    result, outcomes = PassManager(Recipe((pass_,)), verify="end", strict=True).run(model, context or Context())
    assert outcomes.verdict is None or outcomes.verdict.ok
    return result, [text for outcome in outcomes for _, text in outcome.kept]


def decibels(model: ir.Model, result: ir.Model, seed: int = 0) -> float:
    left, right = Session(model, optimized=False), Session(result, optimized=False)
    signal = noise = 0.0
    for feed in random_feeds(model, seed=seed, count=3):
        for truth, found in zip(left.run(feed).values(), right.run(feed).values(), strict=True):
            signal += float(np.sum(np.asarray(truth, np.float64) ** 2))
            noise += float(np.sum((np.asarray(truth, np.float64) - found) ** 2))
    return 10 * np.log10(signal / noise)


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in nodes(model))


def run_by_ort(model: ir.Model, folder: object) -> Counter[str]:
    """The operators of the graph that ONNX Runtime really runs."""
    written = f"{folder}/optimised.onnx"
    save(model, f"{folder}/model.onnx")
    options = ort.SessionOptions()
    options.optimized_model_filepath = written
    options.log_severity_level = 3
    ort.InferenceSession(f"{folder}/model.onnx", options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(written).graph.node)


MATMUL = "g (float[n,s,16] x) => (float[n,s,8] y) { m = MatMul(x, w)  y = Add(m, b) }"


def test_a_product_becomes_integers_and_onnx_runtime_makes_one_kernel_of_it(tmp_path):
    model = weighted(MATMUL, w=(16, 8), b=(8,))
    result, kept = run(model)
    assert not kept
    assert operators(result) == Counter(DynamicQuantizeLinear=1, MatMulInteger=1, Cast=1, Mul=2, Add=1)
    assert decibels(model, result) > 35
    assert run_by_ort(result, tmp_path) == Counter(DynamicQuantizeMatMul=1)


def test_products_that_read_the_same_share_one_quantisation(tmp_path):
    text = "g (float[n,s,16] x) => (float[n,s,8] p, float[n,s,8] q) { p = MatMul(x, v)  q = MatMul(x, w) }"
    model = weighted(text, v=(16, 8), w=(16, 8))
    result, _ = run(model)
    assert operators(result)["DynamicQuantizeLinear"] == 1
    assert run_by_ort(result, tmp_path) == Counter(DynamicQuantizeLinear=1, MatMulIntegerToFloat=2)
    assert decibels(model, result) > 35


def test_the_codes_and_scales_of_each_column_are_those_of_the_formula():
    model = weighted(MATMUL, w=(16, 8), b=(8,))
    result, _ = run(model)
    w = model.graph.initializers["w"].const_value.numpy()
    scale = np.abs(w).max(axis=0) / 127
    stored = {value.name: value.const_value.numpy() for value in result.graph.initializers.values()}
    np.testing.assert_allclose(stored["w_scale"], scale, rtol=1e-6)
    np.testing.assert_array_equal(stored["w_quantized"], np.rint(w / scale))
    assert "w" not in stored


@pytest.mark.parametrize(
    "gemm", ["Gemm (x, w, b)", "Gemm <transB=1> (x, w, b)", "Gemm <alpha=0.5> (x, w, b)", "Gemm <transB=1> (x, w)"]
)
def test_gemm_in_its_variants(gemm):
    shape = (8, 16) if "transB" in gemm else (16, 8)
    shapes = {"w": shape} | ({"b": (8,)} if "b)" in gemm else {})
    model = weighted(f"g (float[n,16] x) => (float[n,8] y) {{ y = {gemm} }}", **shapes)
    result, kept = run(model)
    assert not kept and operators(result)["MatMulInteger"] == 1
    assert decibels(model, result) > 35


def test_a_bias_that_is_computed_is_added():
    model = weighted("g (float[n,16] x, float[8] b) => (float[n,8] y) { y = Gemm(x, w, b) }", w=(16, 8))
    result, _ = run(model)
    assert decibels(model, result) > 30


def test_convolutions_on_request_only():
    text = "g (float[1,3,8,8] x) => (float[1,4,8,8] y) { y = Conv <pads=[1,1,1,1]> (x, w, b) }"
    model = weighted(text, w=(4, 3, 3, 3), b=(4,))
    assert operators(run(model)[0]) == Counter(Conv=1)
    result, _ = run(model, replace(SMALL, operators=("Conv",)))
    assert operators(result)["ConvInteger"] == 1
    assert decibels(model, result) > 35


def test_weights_behind_identity_cast_and_transpose_are_seen():
    text = """g (float[n,16] x) => (float[n,8] y)
    { i = Identity(w)  t = Transpose <perm=[1,0]> (i)  c = Cast <to=1> (t)  y = MatMul(x, c) }"""
    model = weighted(text, w=(8, 16))
    result, kept = run(model)
    assert not kept and operators(result)["MatMulInteger"] == 1 and operators(result)["Transpose"] == 0
    assert decibels(model, result) > 35


def test_products_in_branches_and_functions():
    branch = """g (bool c, float[n,16] x) => (float[n,8] y)
    { y = If (c) <then_branch = a () => (float[n,8] p) { p = MatMul(x, w) },
                  else_branch = e () => (float[n,8] q) { q = MatMul(x, v) }> }"""
    model = weighted(branch, w=(16, 8), v=(16, 8))
    result, _ = run(model)
    assert operators(result)["MatMulInteger"] == 2 and decibels(model, result) > 35
    function = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
    g (float[n,2] x) => (float[n,2] y) { y = local.f(x) }
    <domain: "local", opset_import: ["": 17]> f (x) => (y)
    { w = Constant <value = float[2,2] {1, 2, 3, -4}> ()  y = MatMul(x, w) }"""
    model = ir.from_onnx_text(function)
    result, _ = run(model)
    assert operators(result)["MatMulInteger"] == 1 and decibels(model, result) > 35


@pytest.mark.parametrize(
    ("text", "shapes", "reason"),
    [
        ("g (double[n,4] x) => (double[n,4] y) { y = MatMul(x, w) }", None, "its element type is DOUBLE"),
        ("g (float[n,4] x) => (float[n,4] y) { y = Gemm <transA=1> (x, w) }", (4, 4), "transposed"),
        ("g (float[n,4] x) => (float[n,4] y) { y = Gemm <beta=2.0> (x, w, b) }", (4, 4), "beta is not 1"),
        ("g (float[4] x) => (float[4] y) { y = MatMul(x, w) }", (4, 4), "may be a vector"),
        ("g (float[2,n,4] x) => (float[2,n,4] y) { y = MatMul(x, w) }", (2, 4, 4), "has the shape [2, 4, 4]"),
        ("g (float[n,70000] x) => (float[n,2] y) { y = MatMul(x, w) }", (70000, 2), "may overflow 32 bits"),
        (
            '<ir_version: 5, opset_import: ["": 10]> g (float[n,4] x) => (float[n,4] y) { y = MatMul(x, w) }',
            (4, 4),
            "11",
        ),
    ],
)
def test_what_stays_float_has_a_reason(text, shapes, reason):
    shapes = {"w": shapes} if shapes else {}
    if "x, w, b" in text:
        shapes["b"] = (4,)
    model = weighted(text, **shapes)
    if not shapes:
        value = next(value for node in model.graph for value in node.inputs if value.name == "w")
        value.const_value = ir.tensor(np.eye(4), name="w")
        model.graph.initializers.add(value)
    result, kept = run(model)
    assert any(reason in text for text in kept), kept
    assert operators(result)["MatMulInteger"] == 0


def test_small_weights_those_asked_for_and_bad_numbers_stay():
    model = weighted(MATMUL, w=(16, 8), b=(8,))
    assert "too few for integers to pay" in run(model, QuantizeDynamic())[1][0]
    assert "asked for" in run(model, replace(SMALL, keep=("m",)))[1][0]
    assert not run(model, replace(SMALL, keep=("",)))[1]
    model.graph.initializers["w"].const_value = ir.tensor(np.full((16, 8), np.nan, np.float32), name="w")
    result, outcomes = PassManager(Recipe((SMALL,)), verify="off").run(model)
    assert "holds NaN" in outcomes[0].kept[0][1] and operators(result)["MatMul"] == 1


def test_products_of_two_activations_are_no_sites():
    model = ir.from_onnx_text(HEADER + "g (float[n,4,4] x) => (float[n,4,4] y) { y = MatMul(x, x) }")
    result, kept = run(model)
    assert operators(result) == Counter(MatMul=1) and not kept


def test_empty_and_zero_operands():
    model = weighted(MATMUL, w=(16, 8), b=(8,))
    result, _ = run(model)
    session = Session(result, optimized=False)
    assert session.run({"x": np.zeros((0, 3, 16), np.float32)})["y"].shape == (0, 3, 8)
    bias = model.graph.initializers["b"].const_value.numpy()
    np.testing.assert_array_equal(session.run({"x": np.zeros((1, 1, 16), np.float32)})["y"][0, 0], bias)


LSTM = """g (float[s,n,6] x) => (float[s,d,n,5] y, float[d,n,5] h)
{ y, h = LSTM <hidden_size=5, direction="%s"> (x, w, r, b) }"""


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_an_lstm_where_the_target_has_one_on_integers(direction):
    count = 2 if direction == "bidirectional" else 1
    text = (LSTM % direction).replace("[s,d", f"[s,{count}").replace("[d,n", f"[{count},n")
    model = weighted(text, w=(count, 20, 6), r=(count, 20, 5), b=(count, 40))
    result, kept = run(model, context=LSTMS)
    assert not kept and operators(result) == Counter(DynamicQuantizeLSTM=1)
    assert decibels(model, result) > 25
    assert "has not been measured" in run(model, context=Context(target=X86))[1][0]
    assert "takes no operators of com.microsoft" in run(model)[1][0]


def test_a_gru_and_an_lstm_of_another_layout_stay():
    gru = weighted(
        "g (float[s,n,6] x) => (float[s,1,n,5] y) { y = GRU <hidden_size=5> (x, w, r) }", w=(1, 15, 6), r=(1, 15, 5)
    )
    assert "no runtime has a GRU on integers" in run(gru, replace(SMALL, operators=("GRU",)), LSTMS)[1][0]
    text = "g (float[n,s,6] x) => (float[n,s,1,5] y) { y = LSTM <hidden_size=5, layout=1> (x, w, r) }"
    model = weighted(text, w=(1, 20, 6), r=(1, 20, 5))
    _, outcomes = PassManager(Recipe((SMALL,)), verify="off").run(model, LSTMS)
    assert "batch is the first axis" in outcomes[0].kept[0][1]


def test_7_bits_for_processors_that_saturate():
    result, _ = run(weighted(MATMUL, w=(16, 8), b=(8,)), replace(SMALL, reduce_range=True))
    assert np.abs(result.graph.initializers["w_quantized"].const_value.numpy()).max() == 63


def test_unknown_operators_are_refused():
    with pytest.raises(GraphoptError, match="Einsum"):
        QuantizeDynamic(operators=("Einsum",))


def test_a_second_run_changes_nothing():
    result, _ = run(weighted(MATMUL, w=(16, 8), b=(8,)))
    _, outcomes = PassManager(Recipe((SMALL,)), verify="off").run(result)
    assert not outcomes[0].changed
