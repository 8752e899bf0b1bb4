"""The flow: quality is judged on other data than was calibrated on, held by leaving sites in float, or refused."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.calibrate import CalibrationData
from graphopt.errors import GraphoptError
from graphopt.execute.session import Session
from graphopt.flows.fused import fused
from graphopt.flows.quality import find_metric, output_quality
from graphopt.flows.quantize import SCHEMES, Request, quantize
from graphopt.flows.sensitivity import Sensitivity, fewest_floats
from graphopt.ir import load, save
from graphopt.target import find_target

SHAPES = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 8, 3, 3), "b2": (8,), "w3": (10, 8), "b3": (10,)}


def net(*, wild: bool = False) -> ir.Model:
    """Two convolutions and a classifier; a wild one has channels of very different size in its first."""
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[n,3,8,8] x) => (float[n,10] y)
    { a = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w1, b1)
      r = Relu(a)
      c = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (r, w2, b2)
      s = Relu(c)
      m = GlobalAveragePool(s)
      f = Flatten(m)
      y = Gemm <transB=1> (f, w3, b3) }"""
    model = ir.from_onnx_text(text)
    rng = np.random.default_rng(0)
    used = {value.name: value for node in model.graph for value in node.inputs if value is not None}
    sizes = np.geomspace(1e-3, 1e3, 8).astype(np.float32)
    for name, shape in SHAPES.items():
        elements = rng.normal(size=shape).astype(np.float32)
        if wild and name == "w1":
            elements *= sizes.reshape(-1, 1, 1, 1)
        if wild and name == "b1":
            elements *= sizes
        if wild and name == "w2":
            elements /= sizes.reshape(1, -1, 1, 1)
        value = used[name]
        value.const_value = ir.tensor(elements, name=name)
        value.shape, value.type = ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
        model.graph.initializers.add(value)
    return model


def images(seed: int, count: int = 8) -> CalibrationData:
    rng = np.random.default_rng(seed)
    return CalibrationData.open([{"x": rng.normal(size=(1, 3, 8, 8)).astype(np.float32)} for _ in range(count)])


def request(**more: object) -> Request:
    return Request(data=images(0), evaluation=images(1), seconds=0, **more)  # type: ignore[arg-type]


def test_a_model_becomes_integer_and_is_judged_on_other_data(tmp_path: Path):
    save(net(), tmp_path / "m.onnx")
    before = (tmp_path / "m.onnx").read_bytes()
    found = quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", request(min_sqnr_db=20.0))
    assert (tmp_path / "m.onnx").read_bytes() == before
    assert found.quality.sqnr_db > 20
    assert found.kept == ()
    assert found.fused is not None
    assert found.fused.floats == 0
    assert {product.kernel for product in found.fused.products} == {"QLinearConv", "QGemm"}
    x = images(2)[0]
    left, right = (Session(tmp_path / name, optimized=True).run(x)["y"] for name in ("m.onnx", "q.onnx"))
    assert np.abs(left - right).max() < 0.1 * np.abs(left).max()
    assert "quantize" in load(tmp_path / "q.onnx").metadata_props["graphopt.history"]


def test_what_costs_the_quality_stays_in_floats_and_no_more_than_that():
    found = quantize(net(wild=True), None, request(recipe="insert-qdq{per_channel=false}"))
    # with one scale for all its channels the second convolution alone has collapsed, and the first nearly so
    assert [site.name for site in found.sites] == ["c", "a", "y"]
    assert found.kept == ("c", "a")
    assert found.quality.sqnr_db > 30
    assert 'keep=["c", "a"]' in str(found.recipe)


def test_a_quality_that_cannot_be_had_is_an_error_that_says_the_best():
    with pytest.raises(GraphoptError, match=r"asked for 300 dB, the best found is [0-9.]+ dB"):
        quantize(net(), None, request(min_sqnr_db=300.0))


def test_nothing_is_written_when_the_quality_is_not_reached(tmp_path: Path):
    with pytest.raises(GraphoptError):
        quantize(net(), tmp_path / "q.onnx", request(min_sqnr_db=300.0))
    assert not list(tmp_path.iterdir())


def test_a_metric_of_the_users_holds_the_drop():
    seen: list[int] = []

    def score(outputs, data) -> float:
        seen.append(len(outputs))
        assert len(data) == len(outputs)
        return float(np.mean([item["y"].argmax(-1) == item["y"].argmax(-1) for item in outputs]))

    found = quantize(net(), None, request(metric=score, max_drop=0.01))
    assert (found.quality.metric, found.quality.original, found.quality.drop) == (1.0, 1.0, 0.0)
    assert set(seen) == {8}
    with pytest.raises(GraphoptError, match="there is no metric"):
        quantize(net(), None, request(max_drop=0.01))


def test_no_data_and_unknown_schemes_are_usage_errors():
    with pytest.raises(GraphoptError, match="no data to calibrate on"):
        quantize(net(), None, Request())
    with pytest.raises(GraphoptError, match="no scheme 'w1a1'"):
        quantize(net(), None, request(scheme="w1a1"))


def test_quality_sees_collapse():
    truth = [np.array([[1.0, 2.0, 3.0]]), np.array([[3.0, 2.0, 1.0]])]
    good = output_quality("y", truth, [item + 0.01 for item in truth])
    assert not good.collapsed
    assert good.agreement == 1
    assert good.sqnr_db == pytest.approx(10 * math.log10(28 / (6 * 1e-4)), abs=0.01)
    assert "same number" in output_quality("y", truth, [item * 0 for item in truth]).collapsed
    assert "NaN" in output_quality("y", truth, [truth[0], truth[1] * np.nan]).collapsed
    assert "no signal" in output_quality("y", truth, [truth[1], truth[0]]).collapsed
    assert output_quality("y", truth, truth).sqnr_db == math.inf


@pytest.mark.parametrize("needed", [0, 1, 3, 4])
def test_the_fewest_floats_are_found(needed: int):
    order = [Sensitivity(str(index), "", 10.0, 0.25) for index in range(4)]
    assert fewest_floats(order, lambda names: len(names) >= needed) == tuple("0123"[:needed])
    assert fewest_floats(order, lambda names: False) is None


def test_a_metric_is_named_by_module_and_function():
    assert find_metric("math:fsum") is math.fsum
    for text in ("math", "math:nothing", "no_such_module:f"):
        with pytest.raises(GraphoptError):
            find_metric(text)


def test_the_runtime_s_graph_tells_which_products_stayed_float():
    result = quantize(net(), None, request(recipe='insert-qdq{keep=["Gemm"]}'))
    report = fused(result.model, find_target("x86-64"))
    assert [(product.kernel, product.integer) for product in report.products] == [
        ("QLinearConv", True),
        ("QLinearConv", True),
        ("Gemm", False),
    ]
    assert report.products[2].reason == "its operand is no code"
    assert report.floats == 1
    assert report.integers >= 2


def encoder() -> ir.Model:
    """Looks rows up in a table and multiplies them twice."""
    text = """<ir_version: 8, opset_import: ["": 17]> g (int64[n,s] ids) => (float[n,s,64] y)
    { e = Gather(table, ids)  h = MatMul(e, w1)  t = Tanh(h)  k = MatMul(t, w2)  y = Add(k, e) }"""
    model = ir.from_onnx_text(text)
    rng = np.random.default_rng(0)
    used = {value.name: value for node in model.graph for value in node.inputs if value is not None}
    for name, shape in {"table": (4000, 64), "w1": (64, 512), "w2": (512, 64)}.items():
        value = used[name]
        value.const_value = ir.tensor((rng.normal(size=shape) / 8).astype(np.float32), name=name)
        value.shape, value.type = ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
        model.graph.initializers.add(value)
    return model


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_makes_the_model_smaller_and_keeps_its_meaning(scheme: str):
    rng = np.random.default_rng(0)
    data = CalibrationData.open([{"ids": rng.integers(0, 4000, (2, 7))} for _ in range(8)])
    found = quantize(encoder(), None, Request(scheme=scheme, data=data, seconds=0, min_sqnr_db=15.0))
    assert found.after.bytes < 0.5 * found.before.bytes
    assert found.quality.sqnr_db > 15
    assert found.kept == ()
