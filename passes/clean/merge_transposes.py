"""Transpose(Transpose(x, p), q) = Transpose(x, p[q]), and x alone when p[q] is 0, 1, 2, ...

Axis i of the result is axis q[i] of the tensor in between, hence axis p[q[i]] of x. A missing perm reverses
the axes; two of them cancel whatever the rank. All versions of Transpose (1, 13, 21, 23, 24, 25).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import onnx_ir as ir

from graphopt.events import Sites
from graphopt.ir import attribute
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

from ._links import Link, Merge, Plan, bypass, sites, skip_first


@dataclass(frozen=True)
class MergeTransposes(Pass):
    """Makes one Transpose, or none, of two in a row.

    The first stays while something else reads it; the second then no longer waits for it.
    """

    name: ClassVar[str] = "merge-transposes"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per Transpose of a Transpose."""
        return sites(model, ("Transpose",), ("Transpose",), _plan)


def _plan(link: Link) -> Plan:
    first, second = attribute(link.first, "perm"), attribute(link.second, "perm")
    if first is None and second is None:
        return Merge("both reverse the axes, removed", partial(bypass, link))
    rank = len(first or second or ())
    backwards = tuple(reversed(range(rank)))
    first, second = first or backwards, second or backwards
    if len(first) != len(second):
        return "the two permutations have different lengths"
    merged = [first[axis] for axis in second]
    if merged == list(range(rank)):
        return Merge("undoes the transposition before, removed", partial(bypass, link))
    return Merge("one transposition of two", partial(_permute, link, merged))


def _permute(link: Link, permutation: list[int]) -> None:
    link.second.attributes["perm"] = ir.AttrInt64s("perm", permutation)
    skip_first(link)
