"""A model whose inputs or outputs were permuted on request is still held against the original."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
import pytest

from graphopt.errors import GraphoptError
from graphopt.events import Site, Sites
from graphopt.ir import insert_before, orders
from graphopt.pipeline import Context, Fidelity, Pass, PassManager

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
