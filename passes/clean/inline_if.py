"""If(true){then: A, else: B} = A;  If(false){then: A, else: B} = B.

The nodes and initialisers of the branch that is taken move to where the If stands; the branch's outputs take
the place of the If's. A branch's output that is an outer value, an input or an initialiser needs an Identity
where it becomes a graph output. Nested Ifs are met on the way. All versions of If (1, 11, 13, 16, 19, 21, 23,
24, 25).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import onnx_ir as ir

from graphopt.events import Site, Sites
from graphopt.ir import erase_if_dead, is_op, nodes, replace, where
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

from ._inlining import known_bool, spill


@dataclass(frozen=True)
class InlineIf(Pass):
    """Replaces an If by the branch it always takes.

    The condition must be a true constant (fold-shapes and fold-constants make it one); the default of a graph input
    is none.
    """

    name: ClassVar[str] = "inline-if"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    # keeps_shapes stays False: of a value that has a single origin more can be inferred

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per If."""
        for node in nodes(model):
            if not is_op(node, "If"):
                continue
            condition = known_bool(node.inputs[0])
            if condition is None:
                yield Site(where(node), "its condition is not known before the run")
                continue
            name = "then_branch" if condition else "else_branch"
            branch = node.attributes.get(name)
            if branch is None or branch.is_ref():
                yield Site(where(node), "its branch is a parameter of the function")
                continue
            text = f"its condition is always {'true' if condition else 'false'}, {name} inlined"
            yield Site(where(node), text, partial(_inline, node, branch.as_graph()))


def _inline(node: ir.Node, branch: ir.Graph) -> None:
    results = list(branch.outputs)
    spill(branch, node)
    for old, new in zip(node.outputs, results, strict=True):
        replace(old, new)
    erase_if_dead(node)
