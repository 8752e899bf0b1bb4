"""The steps that were applied to a model travel inside it."""

from __future__ import annotations

import json

import onnx_ir as ir
import pytest

from graphopt.ir import history
from graphopt.ir.files import load, save


def model():
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([2]))
    node = ir.node("Neg", [x])
    node.outputs[0].name = "y"
    node.outputs[0].type, node.outputs[0].shape = x.type, x.shape
    graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 17}, name="g")
    return ir.Model(graph, ir_version=8)


def test_a_model_that_was_never_touched_has_no_history():
    assert history.read(model()) == []


def test_steps_are_read_back_in_order_after_saving(tmp_path):
    one = model()
    history.record(one, "clean")
    history.record(one, "quantize{scheme=qdq, ä}")
    save(one, tmp_path / "m.onnx")
    assert history.read(load(tmp_path / "m.onnx")) == ["clean", "quantize{scheme=qdq, ä}"]
    assert json.loads(one.metadata_props["graphopt.history"])[0] == "clean"


def test_a_clone_has_a_history_of_its_own():
    one = model()
    history.record(one, "clean")
    copy = one.clone()
    history.record(copy, "fuse")
    assert (history.read(one), history.read(copy)) == (["clean"], ["clean", "fuse"])


@pytest.mark.parametrize("text", ["made by hand", '{"a": 1}', "[1, 2]", "[" * 100_000])
def test_what_another_tool_wrote_there_is_kept_as_the_first_step(text):
    one = model()
    one.metadata_props["graphopt.history"] = text
    history.record(one, "clean")
    assert history.read(one) == [text, "clean"]
