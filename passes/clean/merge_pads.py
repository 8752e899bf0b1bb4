"""Pad(Pad(x, p, v), q, v) = Pad(x, p + q, v)  in mode constant.

All pads must be 0 or more: what a negative pad cuts away, the other Pad cannot put back. Pads and value are
attributes before version 11 and inputs from there on; axes exist from version 18 on. All versions from 2 on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.events import Sites
from graphopt.ir import array, attribute, rank
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

from ._links import Link, Merge, Plan, UnknownParameterError, parameter, set_parameter, sites, skip_first

_INPUTS_FROM = 11
_AXES_FROM = 18


@dataclass(frozen=True)
class MergePads(Pass):
    """Makes one Pad of two in a row that add the same value.

    Kept: other modes (they repeat what the first one added), different values, computed or negative pads, and
    a first Pad whose result is used elsewhere.
    """

    name: ClassVar[str] = "merge-pads"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per Pad of a Pad."""
        return sites(model, ("Pad",), ("Pad",), _plan)


def _plan(link: Link) -> Plan:
    if link.version < 2:
        return "a Pad before version 2 names its pads in its own way"
    if any(attribute(node, "mode", "constant") != "constant" for node in (link.first, link.second)):
        return "not both are in mode constant"
    if not link.is_private:
        return "the tensor in between is used elsewhere"
    if not _same_value(link):
        return "not known to add the same value"
    first, second = _pads(link.first, link), _pads(link.second, link)
    if any(amount < 0 for pads in (first, second) for pair in pads.values() for amount in pair):
        return "a negative pad cuts something away"
    merged = dict(first)
    for axis, (begin, end) in second.items():
        before = merged.get(axis, (0, 0))
        merged[axis] = (before[0] + begin, before[1] + end)
    return Merge("one Pad of two", partial(_pad, link, merged))


def _pads(node: ir.Node, link: Link) -> dict[int, tuple[int, int]]:
    """Begin and end by axis; without an axes input the pads list all axes."""
    pads = parameter(node, "pads", 1, is_input=link.version >= _INPUTS_FROM) or ()
    axes = parameter(node, "axes", 3, is_input=True) if link.version >= _AXES_FROM else None
    half = len(pads) // 2
    if axes is None:
        axes = tuple(range(half))
    elif any(axis < 0 for axis in axes):
        size = rank(link.source)
        if size is None:
            raise UnknownParameterError("its axes count from the last one of an unknown rank")
        axes = tuple(axis % size for axis in axes)
    if len(set(axes)) < len(axes):
        raise UnknownParameterError("it names an axis twice")
    return dict(zip(axes, zip(pads[:half], pads[half:], strict=True), strict=True))


def _same_value(link: Link) -> bool:
    """True when both add the same bits; without a value that is 0."""
    if link.version < _INPUTS_FROM:
        values = [np.float32(attribute(node, "value", 0.0)).tobytes() for node in (link.first, link.second)]
        return values[0] == values[1]
    given = [node.inputs[2] if len(node.inputs) > 2 else None for node in (link.first, link.second)]
    if given[0] is given[1]:
        return True
    arrays = [None if value is None else array(value, max_elements=1) for value in given]
    if any(value is not None and elements is None for value, elements in zip(given, arrays, strict=True)):
        return False
    contents = [b"" if elements is None else elements.tobytes().rstrip(b"\0") for elements in arrays]
    return contents[0] == contents[1]


def _pad(link: Link, merged: dict[int, tuple[int, int]]) -> None:
    axes = sorted(merged)
    pads = [merged[axis][0] for axis in axes] + [merged[axis][1] for axis in axes]
    set_parameter(link.second, "pads", 1, pads, is_input=link.version >= _INPUTS_FROM)
    if len(link.second.inputs) > 3 and link.second.inputs[3] is not None:  # otherwise it pads every axis anyway
        set_parameter(link.second, "axes", 3, axes, is_input=True)
    skip_first(link)
