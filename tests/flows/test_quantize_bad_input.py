"""Whatever is wrong with a model or its data: a clear error, or a correct result; the input file stays as it is."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphopt.calibrate import CalibrationData
from graphopt.errors import GraphoptError
from graphopt.events import Event
from graphopt.execute.session import Session
from graphopt.flows import quantize as flow
from graphopt.flows.quantize import Quantized, Request, quantize
from graphopt.ir import nodes

RNG = np.random.default_rng(0)
PLAIN = Request(target="x86-64", seconds=0.0, reuse=False)


def with_weights(
    text: str,
    shapes: dict[str, tuple[int, ...]],
    change: Callable[[str, np.ndarray], Any] | None = None,
    dtype: Any = np.float32,
) -> ir.Model:
    """A model with normal numbers for the values that nothing computes."""
    model = ir.from_onnx_text(text)
    rng = np.random.default_rng(0)
    used = {value.name: value for node in nodes(model) for value in node.inputs if value is not None}
    for name, shape in shapes.items():
        array = rng.normal(size=shape).astype(dtype)
        if change is not None:
            change(name, array)
        value = used[name]
        value.const_value = ir.tensor(array, name=name)
        value.shape, value.type = ir.Shape(shape), ir.TensorType(value.const_value.dtype)
        model.graph.initializers.add(value)
    return model


def net(opset: int = 17, change: Callable[[str, np.ndarray], Any] | None = None, batch: str = "n") -> ir.Model:
    text = f"""<ir_version: 8, opset_import: ["": {opset}]> g (float[{batch},3,h,w] x) => (float[{batch},5] y)
    {{ a = Conv <pads=[1,1,1,1]> (x, w1, b1)
       r = Relu(a)
       m = GlobalAveragePool(r)
       f = Flatten(m)
       y = Gemm <transB=1> (f, w3, b3) }}"""
    return with_weights(text, {"w1": (4, 3, 3, 3), "b1": (4,), "w3": (5, 4), "b3": (5,)}, change)


def images(count: int = 8, size: tuple[int, int] = (8, 8)) -> list[dict[str, Any]]:
    return [{"x": RNG.normal(size=(1, 3, *size)).astype(np.float32)} for _ in range(count)]


def done(model: ir.Model | Path, data: Any, **options: Any) -> tuple[Quantized, list[Event]]:
    events: list[Event] = []
    request = replace(PLAIN, data=CalibrationData.open(data) if data is not None else None, events=events.append)
    return quantize(model, None, replace(request, **options)), events


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in nodes(model))


def refused(model: ir.Model | Path, data: Any, **options: Any) -> GraphoptError:
    with pytest.raises(GraphoptError) as caught:
        done(model, data, **options)
    return caught.value


def test_no_data_is_an_error_that_names_the_way_out():
    error = refused(net(), None)
    assert error.usage
    assert "no data" in error.what
    assert "--data-free" in error.hint


def test_wrong_names_types_and_shapes_are_errors():
    assert "no input 'z'" in refused(net(), [{"z": np.zeros((1, 3, 8, 8), np.float32)}]).what
    assert "float" in refused(net(), [{"x": np.zeros((1, 3, 8, 8), np.int64)}]).what.lower()
    assert refused(net(), [{"x": np.zeros((1, 4, 8, 8), np.float32)}]).what
    late = [*images(8), {"x": np.zeros((1, 3, 8), np.float32)}]
    assert "sample 8" in refused(net(), late).where


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_data_that_are_not_finite_are_an_error(number: float):
    data = images(9)
    data[8]["x"][0, 0, 0, 0] = number
    error = refused(net(), data)
    assert "'x' holds" in error.what
    assert "sample 8" in error.where


def test_a_weight_that_is_not_finite_leaves_its_product_in_float():
    def spoil(name: str, array: np.ndarray) -> None:
        if name == "w3":
            array[0, 0] = np.nan

    result, _ = done(net(change=spoil), images())
    kept = [text for item in result.outcomes for _, text in item.kept]
    assert any("'w3' holds NaN" in text for text in kept)


def test_tensors_that_are_zero_get_a_scale_that_works():
    def silent(name: str, array: np.ndarray) -> None:
        if name in ("w1", "b1"):
            array[...] = -abs(array) if name == "b1" else 0

    result, events = done(net(change=silent), images())
    scales = [
        tensor.numpy()
        for name, value in result.model.graph.initializers.items()
        if "scale" in name and (tensor := value.const_value) is not None
    ]
    assert scales
    assert all((array > 0).all() and np.isfinite(array).all() for array in scales)
    assert any(event.data.get("doubt") == "constant tensors" for event in events)
    assert np.isfinite(Session(result.model, optimized=True).run(images(1)[0])["y"]).all()


def test_ranges_of_tensors_without_elements_do_no_harm():
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[n,3] x) => (float[n,5] y)
    { y = MatMul(x, w3) }"""
    model = with_weights(text, {"w3": (3, 5)})
    data = [{"x": RNG.normal(size=(2, 3)).astype(np.float32)} for _ in range(8)]
    assert "'x' is empty" in refused(model, [*data, {"x": np.zeros((0, 3), np.float32)}]).what
    result, _ = done(model, data)
    assert Session(result.model, optimized=True).run({"x": np.zeros((0, 3), np.float32)})["y"].shape == (0, 5)


@pytest.mark.parametrize("opset", [9, 11, 12])
def test_an_opset_too_old_for_codes_is_raised_first(opset: int):
    result, _ = done(net(opset), images())
    assert result.model.opset_imports[""] >= 13
    assert operators(result.model)["QuantizeLinear"] >= 2
    assert result.quality.sqnr_db > 15


def test_codes_of_four_bits_raise_the_opset_further():
    result, _ = done(net(13), images(), recipe="insert-qdq{weights=int4}")
    assert result.model.opset_imports[""] >= 21


def test_a_model_that_is_quantised_already_is_refused():
    first, _ = done(net(), images())
    error = refused(first.model, images())
    assert "nothing could be quantised" in error.what
    assert "quantised already" in error.where


def test_long_sums_stay_in_float():
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[n,70000] x) => (float[n,2] y)
    { h = MatMul(x, w1) y = MatMul(h, w3) }"""
    model = with_weights(text, {"w1": (70000, 2), "w3": (2, 2)})
    data = [{"x": RNG.normal(size=(1, 70000)).astype(np.float32)} for _ in range(8)]
    result, _ = done(model, data)
    kept = [text for item in result.outcomes for _, text in item.kept]
    assert any("70,000 products may overflow" in text for text in kept)
    assert operators(result.model)["QuantizeLinear"] == 1


@pytest.mark.parametrize(("isa", "most"), [({"avx2", "fma"}, 63), ({"avx2", "avx_vnni"}, 127), (set(), 127)])
def test_weights_are_narrower_where_products_saturate(isa: set[str], most: int, monkeypatch: pytest.MonkeyPatch):
    find = flow.find_target
    monkeypatch.setattr(flow, "find_target", lambda name: replace(find(name), isa=frozenset(isa)))
    result, _ = done(net(), images())
    codes = [
        value.const_value.numpy()
        for value in result.model.graph.initializers.values()
        if value.const_value is not None and value.const_value.dtype == ir.DataType.INT8 and value.const_value.size > 9
    ]
    assert codes
    assert max(abs(array.astype(int)).max() for array in codes) == most


def test_samples_of_several_sizes_are_taken_together():
    data = [*images(4), *images(4, (5, 11)), *images(1, (16, 16))]
    result, _ = done(net(), data)
    assert result.quality.sqnr_db > 15
    for sample in data[::4]:
        assert Session(result.model, optimized=True).run(sample)["y"].shape == (1, 5)


def test_a_model_with_branches_is_quantised_around_them_and_says_what_it_left():
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[n,4] x, bool c) => (float[n,4] y)
    { h = MatMul(x, w1)
      k = If (c) <then_branch = t () => (float[n,4] p) { p = MatMul(h, w2) },
                  else_branch = e () => (float[n,4] q) { q = Relu(h) }>
      y = MatMul(k, w3) }"""
    model = with_weights(text, {"w1": (4, 4), "w3": (4, 4), "w2": (4, 4)})
    data = [{"x": RNG.normal(size=(2, 4)).astype(np.float32), "c": np.array(at % 2 == 0)} for at in range(8)]
    result, _ = done(model, data)
    kept = [text for item in result.outcomes for _, text in item.kept]
    assert sum("in a subgraph" in text for text in kept) == 1
    assert operators(result.model)["QuantizeLinear"] >= 2
    assert result.quality.sqnr_db > 15


def test_a_local_function_is_quantised_around():
    text = """<ir_version: 9, opset_import: ["": 17, "own": 1]> g (float[n,4] x) => (float[n,m] y)
    { h = MatMul(x, w1) y = own.twice(h) }
    <domain: "own", opset_import: ["": 17]> twice (a) => (b)
    { w = Constant <value = float[1,1] {2.0}> () r = Relu(a) b = MatMul(r, w) }"""
    model = with_weights(text, {"w1": (4, 1)})
    data = [{"x": RNG.normal(size=(2, 4)).astype(np.float32)} for _ in range(8)]
    events: list[Event] = []
    request = replace(PLAIN, data=CalibrationData.open(data), recipe="insert-qdq", events=events.append)
    result = quantize(model, None, request)
    assert result.quality.sqnr_db > 15


def test_a_model_in_half_precision_is_refused_with_the_reason():
    model = with_weights(
        """<ir_version: 8, opset_import: ["": 17]> g (float16[n,2] x) => (float16[n,2] y) { y = MatMul(x, w) }""",
        {"w": (2, 2)},
        dtype=np.float16,
    )
    error = refused(model, [{"x": RNG.normal(size=(2, 2)).astype(np.float16)} for _ in range(8)])
    assert "nothing could be quantised" in error.what
    assert "FLOAT16" in error.where


def test_a_model_whose_inputs_are_integers_only_is_quantised():
    text = """<ir_version: 8, opset_import: ["": 17]> g (int64[n,k] x) => (float[n,k,5] y)
    { e = Gather(w1, x) h = MatMul(e, w2) r = Relu(h) y = MatMul(r, w3) }"""
    model = with_weights(text, {"w1": (11, 4), "w2": (4, 6), "w3": (6, 5)})
    data = [{"x": RNG.integers(0, 11, (2, 3))} for _ in range(8)]
    result, _ = done(model, data)
    assert operators(result.model)["QuantizeLinear"] >= 2
    assert result.quality.sqnr_db > 15


def test_a_model_without_products_is_refused():
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["": 17]> g (float[n,3,h,w] x) => (float[n,3,h,w] y) { y = Relu(x) }'
    )
    assert "nothing could be quantised" in refused(model, images()).what


def test_files_with_external_data_stay_as_they_are(tmp_path: Path):
    path = tmp_path / "model.onnx"
    proto = ir.to_proto(net())
    onnx.save(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    before = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in tmp_path.iterdir()}
    assert len(before) == 2
    data = CalibrationData.open(images())
    result = quantize(path, tmp_path / "small.onnx", replace(PLAIN, data=data))
    assert result.quality.sqnr_db > 15
    after = {name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in before}
    assert after == before
    with pytest.raises(GraphoptError):
        quantize(path, path, replace(PLAIN, data=data))


@pytest.mark.parametrize("opset", [9, 17])
def test_data_free_is_made_from_normalisations_and_marked(opset: int):
    text = f"""<ir_version: 8, opset_import: ["": {opset}]> g (float[n,3,8,8] x) => (float[n,5] y)
    {{ a = Conv <pads=[1,1,1,1]> (x, w1, b1)
      b = BatchNormalization(a, s, o, mu, var)
      r = Relu(b)
      m = GlobalAveragePool(r)
      f = Flatten(m)
      y = Gemm <transB=1> (f, w3, b3) }}"""

    def positive(name: str, array: np.ndarray) -> None:
        if name in ("s", "var"):
            array[...] = abs(array) + 1

    shapes = {"w1": (4, 3, 3, 3), "b1": (4,), "w3": (5, 4), "b3": (5,)} | dict.fromkeys(("s", "o", "mu", "var"), (4,))
    result, events = done(with_weights(text, shapes, positive), None, data_free=True)
    warned = {event.data.get("doubt") for event in events if event.kind == "warning"}
    assert "synthetic" in warned
    assert "random" not in warned
    assert "BatchNormalization" in result.judged_on


def test_data_free_without_normalisations_is_random_and_says_so():
    _, events = done(net(), None, data_free=True)
    warned = {event.data.get("doubt") for event in events if event.kind == "warning"}
    assert {"synthetic", "random"} <= warned


def test_statistics_are_used_again_unless_that_is_turned_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    data = images()

    def used_again(**options: Any) -> bool:
        _, events = done(net(), data, **options)
        return any("used again" in event.data.get("text", "") for event in events)

    assert not used_again(reuse=False)
    assert not list(tmp_path.rglob("*.npz"))
    assert not used_again(reuse=True)
    assert used_again(reuse=True)
    assert not used_again(reuse=False)


def test_a_moving_average_is_a_calibrator_too():
    result, _ = done(net(), images(16), recipe="insert-qdq{calibrator=moving-average}")
    assert result.quality.sqnr_db > 10


def test_doubts_are_told():
    _, events = done(net(), images(2))
    assert "few samples" in {event.data.get("doubt") for event in events if event.kind == "warning"}
    stages = [event.data for event in events if event.kind == "progress" and event.data.get("stage") == "calibrating"]
    assert stages
    assert stages[-1]["done"] == stages[-1]["total"]
