"""The sum before a normalisation kept apart from it.

    LayerNormalization(Add(a, b), ...)  ->  LayerNormalization(Sum(a, b), ...)

ONNX Runtime fuses Add and LayerNormalization (RMSNormalization likewise) into SkipLayerNormalization when it loads a
model, whatever the processor; on its CPU provider that kernel takes several times as long as the two it replaces. It
leaves Sum alone, and Sum of two tensors is Add. Sum: ONNX operator, with broadcasting from version 8 on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Site, Sites
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

FUSED = {
    "LayerNormalization": "com.microsoft::SkipLayerNormalization",
    "RMSNormalization": "com.microsoft::SkipSimplifiedLayerNormalization",
}
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)
_FUSED_RANKS = (2, 3)


@dataclass(frozen=True)
class ShieldNorms(Pass):
    """Writes Sum for the Add of two equal shapes that a normalisation reads, where the target's fused form is slower.

    Only what the runtime would fuse is written anew: tensors of rank 2 or 3, of one shape in every run. Kept where the
    target has nothing against SkipLayerNormalization.
    """

    name: ClassVar[str] = "shield-norms"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per sum."""
        for body in gir.bodies(model):
            if body.version() < 8:
                continue
            for node in body.nodes():
                if not gir.is_op(node, *FUSED) or not node.inputs:
                    continue
                total = node.inputs[0]
                add = total.producer() if total is not None else None
                if add is None or not gir.is_op(add, "Add") or not _would_be_fused(add):
                    continue
                objection = context.target.objection(FUSED[node.op_type])
                if objection is None:
                    yield Site(gir.where(add), f"the target {context.target.name} likes {FUSED[node.op_type]}")
                else:
                    yield Site(gir.where(add), f"written as Sum: {objection}", lambda add=add: _as_sum(add))


def _would_be_fused(add: ir.Node) -> bool:
    left, right = add.inputs
    return (
        left is not None
        and (left.dtype or add.outputs[0].dtype) in _FLOATS
        and gir.rank(left) in _FUSED_RANKS
        and gir.same_shape(left, right)
    )


def _as_sum(add: ir.Node) -> None:
    new = ir.node("Sum", list(add.inputs), name=add.name)
    new.outputs[0].shape, new.outputs[0].type = add.outputs[0].shape, add.outputs[0].type
    gir.replace_node(add, [new], [new.outputs[0]])
