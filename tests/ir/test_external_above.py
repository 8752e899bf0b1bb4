"""save(external_above=...): weights above a size go to the data file, on request."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
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


@pytest.mark.parametrize(("above", "expected"), [(0, {"w", "b", "e"}), (4, {"w", "b"}), (2400, {"w"}), (9600, set())])
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
