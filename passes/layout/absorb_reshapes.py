"""A Reshape that only moves axes of size 1 is a Transpose, and merges with the one beside it.

    Reshape(Transpose(x, p))  =  Transpose(x, p[q])      Transpose(Reshape(x), p)  =  Transpose(x, q[p])

Between shapes (N, 1, L, C) and (N, L, C, 1) the elements keep their places in memory, so the Reshape is the Transpose
by q = (0, 2, 3, 1). tf2onnx leaves such pairs behind 1-D convolutions, which it writes as 2-D ones; without the Reshape
``place-transposes`` can go on. Transpose: all versions; Reshape: from version 5 on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Site, Sites
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

from ._form import Order
from ._region import permutation


@dataclass(frozen=True)
class AbsorbReshapes(Pass):
    """Makes one Transpose, or none, of a Transpose and a Reshape that only moves axes of size 1.

    Kept, with the reason: a pair whose tensor in between is read elsewhere. Shapes have to be known but for sizes that
    bear the same name on both sides.
    """

    name: ClassVar[str] = "absorb-reshapes"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per pair."""
        for body in gir.bodies(model):
            if body.version() < 5:
                continue
            for node in body.nodes():
                first = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
                if first is None or first.graph is not node.graph:
                    continue
                if not (gir.is_op(node, "Reshape") or gir.is_op(first, "Reshape")):
                    continue
                before, after = _movement(first), _movement(node)
                if before is None or after is None or len(before) != len(after):
                    continue
                if not (gir.is_op(node, "Transpose") or gir.is_op(first, "Transpose")):
                    continue
                between = first.outputs[0]
                if len(between.uses()) > 1 or between.is_graph_output():
                    yield Site(gir.where(node), f"what {gir.where(first)} gives is read elsewhere too")
                    continue
                order = tuple(before[axis] for axis in after)
                yield Site(
                    gir.where(node), f"one transpose with {gir.where(first)}", partial(_merge, first, node, order)
                )


def _movement(node: ir.Node) -> Order | None:
    """What a Transpose, or a Reshape that is one, does to the axes."""
    if not gir.is_op(node, "Reshape"):
        return permutation(node)
    before, after = gir.dims(node.inputs[0]), gir.dims(node.outputs[0])
    if before is None or after is None or len(before) != len(after) or None in before:
        return None
    kept = [axis for axis, size in enumerate(before) if size != 1]
    given = [axis for axis, size in enumerate(after) if size != 1]
    if [before[axis] for axis in kept] != [after[axis] for axis in given] or kept == given:
        return None
    ones = [axis for axis, size in enumerate(before) if size == 1]
    free = [axis for axis, size in enumerate(after) if size == 1]
    source = dict(zip([*given, *free], [*kept, *ones], strict=True))
    return tuple(source[axis] for axis in range(len(after)))


def _merge(first: ir.Node, second: ir.Node, order: Order) -> None:
    source, result = first.inputs[0], second.outputs[0]
    assert source is not None
    if list(order) == sorted(order):
        gir.replace(result, source)
        gir.erase_if_dead(second)
        return
    new = ir.node("Transpose", [source], {"perm": list(order)}, name=second.name)
    new.outputs[0].type, new.outputs[0].shape = result.type or source.type, result.shape
    gir.replace_node(second, [new], [new.outputs[0]])
