"""Identity(x) = x.

An Identity stays where ONNX needs it: a graph output must have a name of its own and be produced in its graph, so
the Identity that makes an input, an initialiser, an outer value or a second output out of a value is kept. (Peers
that removed it turned a Scan body's outputs [c, s] into [s, s], and ONNX Runtime returned uninitialised memory.)
Identity: ONNX operator, versions 1, 13, 14, 16, 19, 21, 23, 24, 25; all are the same function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.events import Site, Sites
from graphopt.ir import can_hand_over, is_op, nodes, replace, where
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass


@dataclass(frozen=True)
class EliminateIdentity(Pass):
    """Removes Identity nodes.

    Kept: an Identity that gives a graph output its name where the value cannot take it over.
    """

    name: ClassVar[str] = "eliminate-identity"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per Identity."""
        for node in nodes(model):
            if not is_op(node, "Identity") or node.inputs[0] is None:
                continue
            source, result = node.inputs[0], node.outputs[0]
            if can_hand_over(result, source):
                yield Site(where(node), "removed", lambda r=result, s=source: replace(r, s))
            else:
                yield Site(where(node), "it names a graph output")
