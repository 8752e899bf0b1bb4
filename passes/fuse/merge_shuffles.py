"""Reshape, Transpose and Reshape in a row are often one Transpose:

    Reshape(Transpose(Reshape(x, r), p), s)  =  Transpose(x, q)      when the Reshapes only join and cut whole axes
    Reshape(Transpose(Reshape(x, r), p), s)  =  x                    when, besides, nothing moves

as in the keys of an exported attention: batch x heads joined, (0, 2, 1), cut again is (0, 1, 3, 2). What r and s do is
read from the proven shapes, so they may be computed in the model, and a Flatten, Squeeze or Unsqueeze is a Reshape
too. All versions of the operators.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Site, Sites
from graphopt.pipeline import Context, Fidelity, Pass
from graphopt.rewrite.uses import use_count

from ._atoms import moved

_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class MergeShuffles(Pass):
    """Makes one Transpose, or none, of a Transpose between two operators that only change the shape.

    Elements are moved once and to the same places. Sizes are compared as products of numbers and symbols; a shape with
    a size that has no name, or with a 0, is kept, as is a Transpose whose result is also used elsewhere.
    """

    name: ClassVar[str] = "merge-shuffles"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site for each such row of three."""
        for first, transpose, last in _rows(model):
            site = _site(first, transpose, last)
            if site is not None:
                yield site


def _rows(model: ir.Model) -> Iterator[tuple[ir.Node, ir.Node, ir.Node]]:
    for last in gir.nodes(model):
        transpose = _before(last, _RESHAPES)
        first = (
            None if transpose is None or not gir.is_op(transpose, "Transpose") else _before(transpose, ("Transpose",))
        )
        if transpose is not None and first is not None and gir.is_op(first, *_RESHAPES):
            yield first, transpose, last


def _before(node: ir.Node, kinds: tuple[str, ...]) -> ir.Node | None:
    """The producer of the data that a node of these kinds reads."""
    if not gir.is_op(node, *kinds) or not node.inputs or node.inputs[0] is None:
        return None
    return node.inputs[0].producer()


def _site(first: ir.Node, transpose: ir.Node, last: ir.Node) -> Site | None:
    source, between, result = first.inputs[0], transpose.outputs[0], last.outputs[0]
    before, middle, after = gir.dims(source), gir.dims(first.outputs[0]), gir.dims(result)
    if source is None or gir.has_reference(transpose):
        return None
    if before is None or middle is None or after is None:
        return None
    perm = tuple(gir.attribute(transpose, "perm", tuple(reversed(range(len(middle))))))
    if sorted(perm) != list(range(len(middle))):
        return None
    order = moved(before, middle, perm, after)
    if order is None:
        return None
    place = gir.where(last)
    if order == sorted(order):

        def drop() -> None:
            gir.replace(result, source)
            gir.erase_if_dead(last)

        return Site(place, f"moves nothing, like {gir.where(first)} and {gir.where(transpose)} before it", drop)
    if use_count(between) != 1 or between.is_graph_output():
        return Site(place, f"the result of {gir.where(transpose)} is also used elsewhere")

    def edit() -> None:
        new = ir.Node("", "Transpose", [source], [ir.AttrInt64s("perm", order)], num_outputs=1, name=transpose.name)
        gir.replace_node(last, [new], [new.outputs[0]])

    return Site(place, f"one Transpose with {gir.where(first)} and {gir.where(transpose)} before it", edit)
