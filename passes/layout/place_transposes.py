"""As few transpositions as can be, where tensors are small, over whole graphs.

    f(Transpose(x)) = Transpose(f'(x))        f works in any order of axes; f' has its axes and constants moved

Every such operator may work in the order of axes it has or in the other; where two orders meet, a Transpose stands. The
choice with the fewest bytes to move is a minimum s-t cut (``_orders.py``), not a sinking of one Transpose after the
other: a Transpose may be copied into several branches, moved backwards or undone if that lets others go. All versions
of Transpose (1, 13, 21, 23, 24, 25); the operators are listed in ``_agnostic.py`` and ``_ends.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Site, Sites
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

from ._agnostic import agnostic
from ._ends import entry_form, exit_form, reduction
from ._form import Form, Order, View
from ._orders import Solution, solve
from ._placement import Look, Placement
from ._region import Pair, Region, permutation

_ROUNDS = 8  # a change of one region may let another one go on; rarely more than twice


@dataclass(frozen=True)
class PlaceTransposes(Pass):
    """Moves transpositions to where they cost least, over all operators that work in any order of axes.

    One site for each region that a permutation and its inverse tie together. A region is changed only if its cost,
    bytes moved plus 4096 for each node, falls and the transpositions become no more. Sizes that are not known count
    as 16. Inputs, outputs, inner graphs and operators of a fixed order keep theirs.

    A maximum over NaN may give another result: runtimes do not agree with themselves about it.

    Attributes:
        rounding: also move through operators of which the last bit depends on where an element stands: sums over axes
            (ReduceMean), linear Resize, and Log, Elu, Softplus and the like, of which ONNX Runtime computes the last
            few elements of a tensor in another way. The pass then promises equality up to rounding only.
    """

    name: ClassVar[str] = "place-transposes"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True
    rounding: bool = False

    def __post_init__(self) -> None:
        if self.rounding:
            object.__setattr__(self, "fidelity", Fidelity.NUMERIC)

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per region with a Transpose that has somewhere to go."""
        for body in gir.bodies(model):
            look = partial(_look, body, self.rounding)
            kept: list[Site] = []
            for _ in range(_ROUNDS):
                kept.clear()
                changed = False
                for site in _sites(body, look):
                    if site.edit is None:
                        kept.append(site)
                    else:
                        changed = (yield site) or changed
                if not changed:
                    break
            for site in kept:
                yield site


def _sites(body: gir.Body, look: Look) -> Iterator[Site]:
    """Once through all graphs, inner ones first: what they no longer transpose, the outer ones need not keep."""
    for graph in reversed(list(body.graphs())):
        starts: dict[Pair, list[ir.Node]] = {}
        for node in graph:
            order = permutation(node)
            if order is not None:
                starts.setdefault(Pair.of(order), []).append(node)
        for pair, nodes in starts.items():
            yield from _of_pair(pair, nodes, look)


def _of_pair(pair: Pair, starts: list[ir.Node], look: Look) -> Iterator[Site]:
    seen: set[ir.Node] = set()
    for start in starts:
        if start.graph is None or start in seen or permutation(start) is None:
            continue
        region = Region(start, pair, partial(_describe, look), (partial(_exit, look), partial(_entry, look)))
        seen.update(region.transposes)
        if not region.transposes:
            continue
        solution = _better(region)
        if solution is not None:
            edit = Placement(solution, look).write
            yield Site(gir.where(start), _text(region, solution), edit)
        elif len(region.transposes) > 1 and region.movable:
            yield Site(gir.where(start), f"its {len(region.transposes)} transposes are as few as can be")


def _look(body: gir.Body, rounding: bool, node: ir.Node, order: Order) -> View:
    return View(node, order, body.version(node.domain), rounding)


def _describe(look: Look, node: ir.Node, order: Order) -> Form | None:
    view = look(node, order)
    return agnostic(node, view) or reduction(node, view)


def _exit(look: Look, node: ir.Node, order: Order) -> Form | None:
    view = look(node, order)
    return exit_form(node, view) or reduction(node, view)


def _entry(look: Look, node: ir.Node, order: Order) -> Form | None:
    return entry_form(node, look(node, order))


def _better(region: Region) -> Solution | None:
    """The cheapest solution, or, where it has more transpositions than the graph, the one with the fewest."""
    cost, count = region.cost, len(region.transposes)
    cheapest = solve(region)
    if cheapest.cost >= cost:
        return None
    if len(cheapest.cuts) <= count:
        return cheapest
    fewest = solve(region, extra=1 + region.most)
    return fewest if fewest.cost < cost and len(fewest.cuts) <= count else None


def _text(region: Region, solution: Solution) -> str:
    before, after = len(region.transposes), len(solution.cuts)
    if after == before:
        return f"{before} transpose{'s move' if before > 1 else ' moves'} to where less has to be moved"
    if before == 1:
        return "its transpose is not needed"
    return f"{before} transposes become {after or 'none'}"
