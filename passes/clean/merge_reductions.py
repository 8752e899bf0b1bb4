"""Unsqueeze(ReduceX(x, axes, keepdims=0), axes) = ReduceX(x, axes, keepdims=1).

A Reshape that puts the axes back likewise. For the ten Reduce operators, and for ArgMax and ArgMin (one axis).
Axes are attributes before version 13 (ReduceSum, Unsqueeze) or 18 (the others) and inputs from there on; left out,
they are all axes, or none with noop_with_empty_axes (from 13 or 18 on), which is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import onnx_ir as ir

from graphopt.events import Sites
from graphopt.ir import attribute, dims, erase_if_dead, is_op, rank, replace
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

from ._links import Link, Merge, Plan, parameter, sites

_REDUCTIONS = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
)
_ARGUMENTS = ("ArgMax", "ArgMin")


@dataclass(frozen=True)
class MergeReductions(Pass):
    """Lets a reduction keep the axes that the next node puts back.

    Kept: axes put back elsewhere, reductions whose result is used elsewhere too, and unknown axes or ranks.
    """

    name: ClassVar[str] = "merge-reductions"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per Unsqueeze or Reshape of a reduction."""
        return sites(model, _REDUCTIONS + _ARGUMENTS, ("Unsqueeze", "Reshape"), _plan)


def _plan(link: Link) -> Plan:
    if attribute(link.first, "keepdims", 1) != 0 or link.first.graph is not link.second.graph:
        return None
    axes = _reduced_axes(link)
    if axes is None:
        return "its axes or the rank of what it reduces are not known"
    if not axes:
        return "it reduces no axis"
    if not _puts_back(link, axes):
        return None if is_op(link.second, "Reshape") else "it puts back other axes than were reduced"
    if not link.is_private:
        return "the reduced tensor is used elsewhere"
    return Merge(f"{link.first.op_type} keeps the reduced axes instead", partial(_keep_axes, link))


def _reduced_axes(link: Link) -> tuple[int, ...] | None:
    """The axes counted from the front, in order."""
    size = rank(link.source)
    if is_op(link.first, *_ARGUMENTS):
        axes = (attribute(link.first, "axis", 0),)
    else:
        is_input = link.version >= (13 if is_op(link.first, "ReduceSum") else 18)
        given = parameter(link.first, "axes", 1, is_input=is_input)
        if not given and attribute(link.first, "noop_with_empty_axes", 0):
            return ()
        if not given and size is None:
            return None
        axes = given or tuple(range(size or 0))
    if any(axis < 0 for axis in axes):
        if size is None:
            return None
        axes = tuple(axis % size for axis in axes)
    return tuple(sorted(axes))


def _puts_back(link: Link, axes: tuple[int, ...]) -> bool:
    source = dims(link.source)
    if is_op(link.second, "Reshape"):
        if source is None or None in source:
            return False
        return dims(link.result) == tuple(1 if axis in axes else size for axis, size in enumerate(source))
    put_back = parameter(link.second, "axes", 1, is_input=link.version >= 13) or ()
    if any(axis < 0 for axis in put_back):
        if source is None:
            return False
        put_back = tuple(axis % len(source) for axis in put_back)
    return tuple(sorted(put_back)) == axes


def _keep_axes(link: Link) -> None:
    link.first.attributes["keepdims"] = ir.AttrInt64("keepdims", 1)
    link.middle.shape = link.result.shape
    replace(link.result, link.middle)
    erase_if_dead(link.second)
