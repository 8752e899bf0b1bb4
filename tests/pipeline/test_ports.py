"""A model whose inputs or outputs were permuted or retyped on request is still held against the original."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.errors import GraphoptError
from graphopt.events import Site, Sites
from graphopt.execute.session import Session
from graphopt.ir import insert_before, orders
from graphopt.pipeline import Context, Fidelity, Pass, PassManager
from graphopt.pipeline.ports import changes, in_orders_of, in_types_of

TEXT = """<ir_version: 8, opset_import: ["": 17]> g (float[2, N, 3] x, float[2, N, 3] z) => (float[2, N, 3] y)
    { a = Relu(x) y = Sub(a, z) }"""


@dataclass(frozen=True)
class TurnInput(Pass):
    """Takes x with its last axis first; it undoes that by ``undone``, which may be wrong."""

    name: ClassVar[str] = "turn-input"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    changes_interface: ClassVar[bool] = True
    once: ClassVar[bool] = True
    undone: tuple[int, ...] = (1, 2, 0)

    def apply(self, model: ir.Model, context: Context) -> Sites:
        def edit() -> None:
            value = model.graph.inputs[0]
            node = ir.node("Transpose", [], {"perm": list(self.undone)}, num_outputs=1)
            for user, index in tuple(value.uses()):
                user.replace_input_with(index, node.outputs[0])
            node.resize_inputs(1)
            node.replace_input_with(0, value)
            insert_before(model.graph[0], node)
            orders.record(model, "x", (2, 0, 1))

        yield Site("tensor 'x'", "turned", edit)


def test_the_shape_that_is_written_is_the_permuted_one():
    model, outcomes = PassManager((TurnInput(),), verify="each", strict=True).run(ir.from_onnx_text(TEXT))
    assert outcomes.verdict is not None and outcomes.verdict.verdict == "equal"
    assert [str(size) for size in model.graph.inputs[0].shape] == ["3", "2", "N"]
    assert [str(size) for size in model.graph.inputs[1].shape] == ["2", "N", "3"]
    assert [value.name for value in model.graph.inputs] == ["x", "z"]


def test_a_wrong_order_is_found_and_left_out():
    with pytest.raises(GraphoptError, match="turn-input"):
        PassManager((TurnInput((2, 1, 0)),), strict=True).run(ir.from_onnx_text(TEXT))
    model, outcomes = PassManager((TurnInput((2, 1, 0)),)).run(ir.from_onnx_text(TEXT))
    assert outcomes[0].left_out
    assert [str(size) for size in model.graph.inputs[0].shape] == ["2", "N", "3"]


def test_a_model_that_was_turned_before_is_the_original_of_the_next_run():
    turned, _ = PassManager((TurnInput(),)).run(ir.from_onnx_text(TEXT))
    again, outcomes = PassManager((TurnInput(),), strict=True).run(turned)
    assert outcomes.verdict is not None and outcomes.verdict.ok
    assert orders.read(again) == {"x": (1, 2, 0)}
    assert [str(size) for size in again.graph.inputs[0].shape] == ["N", "3", "2"]
    back, _ = PassManager((TurnInput(),), strict=True).run(again)
    assert orders.read(back) == {}


@pytest.mark.parametrize("text", ["", "no json", "[1]", '{"x": 3}', '{"x": [0, 0]}', '{"x": ["a"]}'])
def test_a_table_that_is_none_is_passed_over(text):
    model = ir.from_onnx_text(TEXT)
    model.metadata_props[orders.KEY] = text
    assert orders.read(model) == {}


WIDE = """<ir_version: 8, opset_import: ["": 17]> g (float[2] x, int64[2] i) => (float[2] y, float[2] x, int64[2] i)
    { y = Neg(x) }"""
NARROW = WIDE.replace("float[2]", "float16[2]")


def test_types_are_given_back_around_a_result():
    wide, narrow = ir.from_onnx_text(WIDE), ir.from_onnx_text(NARROW)
    assert changes(wide, narrow) == [
        "input 'x' is float16 instead of float: compared through a Cast",
        "output 'y' is float16 instead of float: compared through a Cast",
        "output 'x' is float16 instead of float: compared through a Cast",
    ]
    found = in_types_of(wide, narrow)
    assert [value.dtype for value in (*found.graph.inputs, *found.graph.outputs)] == [
        value.dtype for value in (*wide.graph.inputs, *wide.graph.outputs)
    ]
    feeds = {"x": np.array([1, 2], np.float32), "i": np.array([3, 4])}
    given = Session(found, optimized=False).run(feeds)
    np.testing.assert_array_equal(given["y"], [-1, -2])
    np.testing.assert_array_equal(given["x"], [1, 2])
    assert [value.dtype for value in narrow.graph.inputs] == [ir.DataType.FLOAT16, ir.DataType.INT64]


def test_a_result_with_the_same_ports_is_not_copied():
    wide, same = ir.from_onnx_text(WIDE), ir.from_onnx_text(WIDE)
    assert in_types_of(wide, same) is same and in_orders_of(wide, same) is same and changes(wide, same) == []


def test_an_output_that_is_an_input_has_the_order_of_both():
    wide, turned = (ir.from_onnx_text(WIDE.replace("float[2]", f"float[{sizes}]")) for sizes in ("2, 3", "3, 2"))
    orders.record(turned, "x", (1, 0))
    feeds = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "i": np.array([3, 4])}
    given = Session(in_orders_of(wide, turned), optimized=False).run(feeds)
    np.testing.assert_array_equal(given["x"], feeds["x"])
