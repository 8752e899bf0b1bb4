"""inspect(memory=True): the plan of a file's memory for the sizes that are inspected, also where shapes must be folded."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest

import graphopt as go
from graphopt.flows import memory
from graphopt.flows.inspect import inspect
from graphopt.models.builders import BUILDERS, small_cnn

FOLDED = """<ir_version: 8, opset_import: ["": 17]> g (float[N,16] x) => (float y) {
    s = Shape(x) z = ConstantOfShape(s) n = NonZero(z) k = Constant<value = int64[1] {1}>()
    q = Constant<value = bool {1}>() a = Softmax(x) b = If (q) <
        then_branch = t () => (float p) { p = Softmax(a) }, else_branch = e () => (float o) { o = Concat<axis = 0>(a, a) }>
    y = Softmax(b) }"""


def test_a_plan_is_made_for_the_sizes_that_are_inspected(tmp_path: Path) -> None:
    go.save(small_cnn(), tmp_path / "m.onnx")
    name = inspect(tmp_path / "m.onnx").open_dims[0].name
    one, four = (inspect(tmp_path / "m.onnx", {name: size}, memory=True).memory for size in (1, 4))
    assert one is not None and four is not None
    assert not one.assumed and not one.guessed
    assert 3 * one.arena < four.arena <= 4 * one.arena
    assert one == go.plan_memory(tmp_path / "m.onnx", {name: 1})
    assert inspect(tmp_path / "m.onnx").memory is None
    assert "places" not in str(inspect(tmp_path / "m.onnx").as_json())


def test_where_sizes_are_known_only_once_shapes_are_folded_the_clean_model_is_planned(tmp_path: Path) -> None:
    go.save(ir.from_onnx_text(FOLDED), tmp_path / "m.onnx")
    found = inspect(tmp_path / "m.onnx", {"N": 4}, memory=True)
    assert any("after the recipe clean" in note for note in found.notes)
    assert found.memory is not None
    assert (found.memory.guessed, found.memory.arena) == (0, 512)


def test_guessed_sizes_are_said_to_be(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[16] x) => (float y) { a = NonZero(x) b = Gather(x, a) y = Relu(b) }'
    go.save(ir.from_onnx_text(text), tmp_path / "m.onnx")
    assert any("their sizes are guessed" in note for note in inspect(tmp_path / "m.onnx", memory=True).notes)


def test_a_plan_that_cannot_be_made_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go.save(small_cnn(), tmp_path / "m.onnx")

    def fails(*_: object, **__: object) -> None:
        raise go.GraphoptError("it took too long", "planning")

    monkeypatch.setattr(memory, "isolated", fails)
    found = inspect(tmp_path / "m.onnx", memory=True)
    assert found.memory is None
    assert "no memory plan was made: it took too long" in found.notes


@pytest.mark.parametrize("name", sorted(BUILDERS)[:3])
def test_builders_are_planned_with_external_data_too(name: str, tmp_path: Path) -> None:
    go.save(BUILDERS[name](), tmp_path / "m.onnx", external_above=0)
    found = inspect(tmp_path / "m.onnx", memory=True)
    assert found.memory is not None and found.memory.arena >= found.memory.bound > 0
