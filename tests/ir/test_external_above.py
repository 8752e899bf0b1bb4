"""save(external_above=...): weights above a size go to the data file, on request."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from graphopt.errors import GraphoptError
from graphopt.ir import load, save, serial


def model() -> ir.Model:
    found = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["": 17]> g (float[2,4] x, float[4,600] w, float[600] b, float e) => (float[2,600] y)
        { a = MatMul(x, w) c = Add(a, b) y = Mul(c, e) }"""
    )
    for value in found.graph.inputs[1:]:
        assert value.shape is not None
        value.const_value = ir.tensor(np.full(value.shape.numpy(), 2, np.float32), name=value.name)
        found.graph.initializers.add(value)
    del found.graph.inputs[1:]
    return found


def outside(path: Path) -> set[str]:
    found = onnx.load(str(path), load_external_data=False)
    return {item.name for item in found.graph.initializer if item.data_location == onnx.TensorProto.EXTERNAL}


@pytest.mark.parametrize(("above", "expected"), [(0, {"w", "b"}), (4, {"w", "b"}), (2400, {"w"}), (9600, set())])
def test_what_is_larger_goes_outside(tmp_path: Path, above: int, expected: set[str]) -> None:
    source, path = model(), tmp_path / "m.onnx"
    save(source, path, external_above=above)
    assert outside(path) == expected
    assert (tmp_path / "m.onnx.data").exists() == bool(expected)
    again = load(path)
    for name, value in source.graph.initializers.items():
        assert value.const_value is not None
        found = again.graph.initializers[name].const_value
        assert found is not None
        np.testing.assert_array_equal(found.numpy(), value.const_value.numpy())


@pytest.mark.parametrize("above", [0, 8, None])
def test_what_gives_sizes_stays_inside_or_nobody_could_infer_shapes(
    tmp_path: Path, above: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime refuses a model whose Reshape has its shape outside: "Cannot parse data from external tensors"."""
    monkeypatch.setattr(serial, "INLINE_LIMIT", 0)
    many = ", ".join(f"s{number}" for number in range(200))
    source = ir.from_onnx_text(
        f"""<ir_version: 8, opset_import: ["": 17]> g (float[N,1,2,200] x, bool q) => (float[M] y)
        <float[4] scales = {{1, 1, 2, 1}}, int64[200] sizes = {{{", ".join("1" * 200)}}}, int64[1] minus = {{-1}},
         float[800] w = {{{", ".join("2" * 800)}}}> {{
        k = Constant<value = int64[4] {{-1, 1, 2, 200}}>() a = Reshape(x, k) b = Resize(a, , scales)
        c = If (q) <then_branch = t () => (float[M] p) <int64[1] e = {{-1}}> {{ p = Reshape(b, e) }},
                    else_branch = f () => (float[M] r) <int64[1] h = {{-1}}> {{ r = Reshape(b, h) }}>
        {many} = Split<axis = 3>(a, sizes) d = Mul(c, w) v = Reshape(s7, minus) u = ReduceMax<keepdims = 0>(v)
        y = Add(d, u) }}"""
    )
    save(source, tmp_path / "m.onnx", external_above=above)
    assert outside(tmp_path / "m.onnx") == {"w"}
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"x": np.full((1, 1, 2, 200), 3, np.float32), "q": np.array(True)})
    np.testing.assert_array_equal(result, np.full(800, 9, np.float32))


def test_by_default_a_small_model_stays_in_one_file(tmp_path: Path) -> None:
    save(model(), tmp_path / "m.onnx")
    assert [item.name for item in tmp_path.iterdir()] == ["m.onnx"]


def test_external_weights_below_the_size_come_back_inside(tmp_path: Path) -> None:
    save(model(), tmp_path / "a.onnx", external_above=0)
    save(load(tmp_path / "a.onnx"), tmp_path / "b.onnx", external_above=5000)
    assert outside(tmp_path / "b.onnx") == {"w"}
    onnx.checker.check_model(str(tmp_path / "b.onnx"))


def test_more_than_a_file_can_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serial, "INLINE_LIMIT", 5000)
    with pytest.raises(GraphoptError, match="too large for one file"):
        save(model(), tmp_path / "m.onnx", external_above=20_000)
    assert not list(tmp_path.iterdir())
    save(model(), tmp_path / "m.onnx", external_above=3000)
