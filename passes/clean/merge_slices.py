"""Slice(Slice(x, first), second) = Slice(x, both).

On different axes the two stand side by side. On the same axis, with steps of 1, x[a:b][c:d] = x[a+c : min(b,
a+d)] for bounds that are not negative; others are resolved where the size of the axis is known. Starts, ends
and axes are attributes before version 10, and inputs, steps among them, from there on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import onnx_ir as ir

from graphopt.events import Sites
from graphopt.ir import dims
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

from ._links import Link, Merge, Plan, UnknownParameterError, parameter, set_parameter, sites, skip_first

_INPUTS_FROM = 10
_LARGEST = 2**63 - 1

Cut = tuple[int, int, int]
"""Start, end and step on one axis."""


@dataclass(frozen=True)
class MergeSlices(Pass):
    """Makes one Slice of two in a row.

    Kept: bounds that are computed, two cuts of one axis in steps, or counted from an end whose place is
    unknown, and a first slice whose result is used elsewhere.
    """

    name: ClassVar[str] = "merge-slices"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per Slice of a Slice."""
        return sites(model, ("Slice",), ("Slice",), _plan)


def _plan(link: Link) -> Plan:
    if not link.is_private:
        return "the tensor in between is used elsewhere"
    shape = dims(link.source)
    merged = _cuts(link.first, link.version, shape)
    for axis, cut in _cuts(link.second, link.version, shape).items():
        if axis not in merged:
            merged[axis] = cut
            continue
        size = shape[axis] if shape is not None else None
        both = _cut_twice(merged[axis], cut, size if isinstance(size, int) else None)
        if both is None:
            return f"both cut axis {axis} in a way that one slice cannot express"
        merged[axis] = both
    return Merge("one slice of two", partial(_slice, link, merged))


def _cuts(node: ir.Node, version: int, shape: tuple[int | str | None, ...] | None) -> dict[int, Cut]:
    """What a Slice cuts, by axis from the front."""
    is_input = version >= _INPUTS_FROM
    starts = parameter(node, "starts", 1, is_input=is_input) or ()
    ends = parameter(node, "ends", 2, is_input=is_input) or ()
    axes = parameter(node, "axes", 3, is_input=is_input)
    steps = parameter(node, "steps", 4, is_input=True) if is_input else None
    axes = tuple(range(len(starts))) if axes is None else axes
    if any(axis < 0 for axis in axes):
        if shape is None:
            raise UnknownParameterError("its axes count from the last one of an unknown rank")
        axes = tuple(axis % len(shape) for axis in axes)
    if len(set(axes)) < len(axes):
        raise UnknownParameterError("it names an axis twice")
    steps = (1,) * len(starts) if steps is None else steps
    return dict(zip(axes, zip(starts, ends, steps, strict=True), strict=True))


def _cut_twice(first: Cut, second: Cut, size: int | None) -> Cut | None:
    (start, end, step), (inner_start, inner_end, inner_step) = first, second
    if step != 1 or inner_step != 1:
        return None
    if size is not None:
        start, end, _ = slice(start, end).indices(size)
        end = max(start, end)
        inner_start, inner_end, _ = slice(inner_start, inner_end).indices(end - start)
    if min(start, end, inner_start, inner_end) < 0:
        return None
    return min(start + inner_start, _LARGEST), min(end, start + inner_end), 1


def _slice(link: Link, merged: dict[int, Cut]) -> None:
    is_input = link.version >= _INPUTS_FROM
    axes = sorted(merged)
    columns = {
        "starts": [merged[axis][0] for axis in axes],
        "ends": [merged[axis][1] for axis in axes],
        "axes": axes,
    }
    if is_input:
        columns["steps"] = [merged[axis][2] for axis in axes]
    for position, (name, integers) in enumerate(columns.items(), start=1):
        set_parameter(link.second, name, position, integers, is_input=is_input)
    skip_first(link)
