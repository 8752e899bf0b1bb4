"""If(p){a}{b} -> If(true){a}{b}, when b cannot be part of any run that succeeds.

torch writes ``x.squeeze(d)`` as If(size of d = 1){Squeeze(x)}{x}: the two branches differ in rank, and what comes after
accepts one rank only (an LSTM wants three dimensions). So for each If whose branches differ in rank:

1. On a copy, set the condition to true, then to false, and fold everything that becomes known by it.
2. If the graph then holds an operator whose input has a rank its specification excludes, that branch always ends
   in an error.
3. If exactly one branch survives, the condition becomes that constant; inline-if does the rest.

Ranks that a specification fixes: LSTM, GRU, RNN (X, initial_h, initial_c: 3; W, R: 3), Gemm (A, B: 2), Conv and
ConvTranspose (the ranks of X and W are equal), all ONNX operators in all their versions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.events import Site, Sites, silent
from graphopt.ir import constant, copy_model, infer, is_op, new_initializer, rank, subgraphs, where
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass
from graphopt.pipeline.recipe import Recipe
from graphopt.pipeline.trial import Exclusions, run_trial

from .fold_constants import FoldConstants
from .fold_shapes import FoldShapes
from .inline_if import InlineIf

_FIXED_RANKS = {
    "LSTM": {0: 3, 1: 3, 2: 3, 5: 3, 6: 3},
    "GRU": {0: 3, 1: 3, 2: 3, 5: 3},
    "RNN": {0: 3, 1: 3, 2: 3, 5: 3},
    "Gemm": {0: 2, 1: 2},
}
_EQUAL_RANKS = ("Conv", "ConvTranspose")
_CONSEQUENCES = Recipe((FoldShapes(), FoldConstants(), InlineIf()))


@dataclass(frozen=True)
class ResolveIf(Pass):
    """Decides an If whose one branch leads to an error in every run.

    On inputs for which the original runs, the result is the same bit for bit. Looks at the main graph's own nodes only.

    Kept: both branches are possible, or there are more candidates than ``max_candidates``.

    Attributes:
        max_candidates: each candidate costs two copies of the model.
    """

    name: ClassVar[str] = "resolve-if"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True
    max_candidates: int = 4

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site for each If whose branches differ in rank."""
        candidates = [index for index, node in enumerate(model.graph) if _differs_in_rank(node)]
        for index in candidates[: self.max_candidates]:
            node = model.graph[index]
            possible = [truth for truth in (True, False) if self._is_possible(model, index, truth, context)]
            if len(possible) == 1:
                (truth,) = possible
                text = f"the {'else' if truth else 'then'} branch always ends in an error"
                yield Site(where(node), text, lambda n=node, t=truth: _decide(n, t))
            else:
                yield Site(where(node), "both branches are possible")
        for index in candidates[self.max_candidates :]:
            yield Site(where(model.graph[index]), f"more than {self.max_candidates} candidates; this one was not tried")

    @staticmethod
    def _is_possible(model: ir.Model, index: int, truth: bool, context: Context) -> bool:
        copy = copy_model(model)
        _decide(copy.graph[index], truth)
        quiet = replace(context, events=silent)
        consequences = run_trial(copy, _CONSEQUENCES, quiet, Exclusions(), max_rounds=8).model
        infer(consequences)
        return not any(_is_impossible(node) for node in consequences.graph)


def _differs_in_rank(node: ir.Node) -> bool:
    if not is_op(node, "If") or constant(node.inputs[0]) is not None:
        return False
    return any(
        rank(first) is not None and rank(second) is not None and rank(first) != rank(second)
        for first, second in zip(*_outputs(node), strict=True)
    )


def _outputs(node: ir.Node) -> Iterator[list[ir.Value]]:
    for graph in subgraphs(node):
        yield list(graph.outputs)


def _decide(node: ir.Node, truth: bool) -> None:
    assert node.graph is not None
    node.replace_input_with(0, new_initializer(node.graph, np.array(truth), f"{node.name or 'If'}_condition"))


def _is_impossible(node: ir.Node) -> bool:
    """True when an input has a rank that the operator's specification excludes."""
    if is_op(node, *_FIXED_RANKS):
        wanted = _FIXED_RANKS[node.op_type]
        found = {index: rank(value) for index, value in enumerate(node.inputs) if index in wanted}
        return any(size is not None and size != wanted[index] for index, size in found.items())
    if is_op(node, *_EQUAL_RANKS):
        data, weight = rank(node.inputs[0]), rank(node.inputs[1])
        return data is not None and weight is not None and data != weight
    return False
