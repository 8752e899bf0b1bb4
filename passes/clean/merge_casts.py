"""Cast(Cast(x: A, B), C) = Cast(x, C) when every number of type A is one of type B; x alone when C is A.

Lossless are bool to any number, integers to wider ones that hold their range, integers to floating-point
types with enough significant bits, float16 and bfloat16 to float32, any of these to float64. A narrowing step
in between is kept: it rounds or wraps. All versions of Cast from 6 on (before, the type was a string).
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

_BOOL = ir.DataType.BOOL
_SIGNED = {ir.DataType.INT8: 8, ir.DataType.INT16: 16, ir.DataType.INT32: 32, ir.DataType.INT64: 64}
_UNSIGNED = {ir.DataType.UINT8: 8, ir.DataType.UINT16: 16, ir.DataType.UINT32: 32, ir.DataType.UINT64: 64}
_INTEGERS = _SIGNED | _UNSIGNED
# type -> significant bits, and bits of the exponent
_FLOATS = {
    ir.DataType.BFLOAT16: (8, 8),
    ir.DataType.FLOAT16: (11, 5),
    ir.DataType.FLOAT: (24, 8),
    ir.DataType.DOUBLE: (53, 11),
}
_PLAIN = {_BOOL, *_INTEGERS, *_FLOATS}
_HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass(frozen=True)
class MergeCasts(Pass):
    """Makes one Cast, or none, of two in a row of which the first loses nothing.

    Kept: conversions from or to strings and types narrower than 8 bits or of 8-bit floating point,
    conversions to a half-precision type for which a runtime may round on the way, and numbers out of the
    integers' range.
    """

    name: ClassVar[str] = "merge-casts"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per Cast of a Cast."""
        return sites(model, ("Cast",), ("Cast",), _plan)


def _plan(link: Link) -> Plan:
    if link.version < 6:
        return "a Cast before version 6 names its type in its own way"
    source = link.source.dtype
    if source is None:
        return "the type of what is cast is not known"
    middle = ir.DataType(attribute(link.first, "to"))
    target = ir.DataType(attribute(link.second, "to"))
    reason = _reason_against(source, middle, target)
    if reason:
        return reason
    if source == target:
        return Merge(f"{middle.name} and back loses nothing, removed", partial(bypass, link))
    return Merge(f"one Cast from {source.name} to {target.name}", partial(skip_first, link))


def _reason_against(source: ir.DataType, middle: ir.DataType, target: ir.DataType) -> str:
    if not {source, middle, target} <= _PLAIN:
        return f"{source.name} to {middle.name} to {target.name} is no plain conversion of numbers"
    if not _is_lossless(source, middle):
        return f"{source.name} to {middle.name} loses something"
    if source in _FLOATS and target in _INTEGERS and middle == ir.DataType.DOUBLE != source:
        return "numbers out of range may convert in another way without the step in between"
    if source in _INTEGERS and target in _HALVES and not _is_lossless(source, ir.DataType.FLOAT):
        return "a runtime may round twice without the step in between"
    return ""


def _is_lossless(source: ir.DataType, target: ir.DataType) -> bool:
    """True when every value of one type is a value of the other."""
    if source in (target, _BOOL):
        return True
    if target == _BOOL:
        return False
    if source in _FLOATS:
        return target in _FLOATS and all(a <= b for a, b in zip(_FLOATS[source], _FLOATS[target], strict=True))
    if target in _FLOATS:
        bits = _INTEGERS[source] - (source in _SIGNED)
        significant, exponent = _FLOATS[target]
        return bits <= significant and bits < 2 ** (exponent - 1)
    if source in _SIGNED:
        return target in _SIGNED and _SIGNED[source] <= _SIGNED[target]
    return _UNSIGNED[source] <= _UNSIGNED.get(target, _INTEGERS[target] - 1)
