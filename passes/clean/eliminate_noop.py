"""f(x) = x for operators that move, shape, convert or join data, when their parameters make them do nothing.

| operator | does nothing when |
|---|---|
| Cast, CastLike | x has the type already |
| Reshape, Flatten, Squeeze, Unsqueeze, Expand, Tile, Split | the result has x's shape (the data order is the same) |
| Transpose | perm is 0, 1, 2, ... |
| Slice | every step is 1 and the result has x's shape |
| Pad | all pads are 0 |
| Dropout | in inference (always before opset 12, unless training_mode is true), and its mask is unused |
| Concat, Sum, Max, Min, Mean | there is one input |

Shapes are those inference proved, never those the file declares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.events import Site, Sites
from graphopt.ir import (
    Body,
    array,
    attribute,
    bodies,
    can_hand_over,
    dims,
    has_reference,
    is_op,
    known_ints,
    rank,
    replace,
    same_shape,
    scalar,
    where,
)
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

_SHAPE_ONLY = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile", "Split")
_OF_ONE = ("Concat", "Sum", "Max", "Min", "Mean")
_CANDIDATES = ("Cast", "CastLike", "Transpose", "Slice", "Pad", "Dropout", *_SHAPE_ONLY, *_OF_ONE)


@dataclass(frozen=True)
class EliminateNoop(Pass):
    """Removes data movement that does nothing.

    Kept: what is not proven to do nothing, and what names a graph output that its input cannot stand for.
    """

    name: ClassVar[str] = "eliminate-noop"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per node that does nothing."""
        for body in bodies(model):
            for node in body.nodes():
                if not is_op(node, *_CANDIDATES) or not node.inputs or node.inputs[0] is None:
                    continue
                if has_reference(node) or not _does_nothing(node, body):
                    continue
                source, result = node.inputs[0], node.outputs[0]
                if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
                    yield Site(where(node), "it does nothing, but its second output is used")
                elif can_hand_over(result, source):
                    yield Site(where(node), "does nothing, removed", lambda r=result, s=source: replace(r, s))
                elif not is_op(node, "Cast", "Reshape"):
                    yield Site(where(node), "it names a graph output")


def _does_nothing(node: ir.Node, body: Body) -> bool:
    source, result = node.inputs[0], node.outputs[0]
    assert source is not None
    match node.op_type:
        case "Cast":
            return source.dtype is not None and source.dtype == attribute(node, "to")
        case "CastLike":
            like = node.inputs[1]
            return like is not None and source.dtype is not None and source.dtype == like.dtype
        case "Transpose":
            size = rank(source)
            perm = attribute(node, "perm") or (tuple(reversed(range(size))) if size is not None else None)
            return perm is not None and tuple(perm) == tuple(range(len(perm)))
        case "Slice":
            return same_shape(source, result) and _steps_are_one(node)
        case "Pad":
            return _pads_are_zero(node, body)
        case "Dropout":
            return _is_inference(node, body)
        case "Concat" | "Sum" | "Max" | "Min" | "Mean":
            return len(node.inputs) == 1
        case _:
            # without a single unknown size: two symbols that look alike are equal, two unknowns are not
            return len(node.outputs) == 1 and dims(source) is not None and same_shape(source, result)


def _steps_are_one(node: ir.Node) -> bool:
    if len(node.inputs) < 5 or node.inputs[4] is None:
        return True
    steps = known_ints(node.inputs[4])
    return steps is not None and set(steps) <= {1}


def _pads_are_zero(node: ir.Node, body: Body) -> bool:
    if body.version() >= 11:
        pads = array(node.inputs[1]) if len(node.inputs) > 1 else None
        return pads is not None and not pads.any()
    pads = attribute(node, "pads", attribute(node, "paddings"))
    return pads is not None and not any(pads)


def _is_inference(node: ir.Node, body: Body) -> bool:
    version = body.version()
    if version < 7:
        return bool(attribute(node, "is_test", 0))
    if version < 12 or len(node.inputs) < 3 or node.inputs[2] is None:
        return True
    return scalar(node.inputs[2]) is False
