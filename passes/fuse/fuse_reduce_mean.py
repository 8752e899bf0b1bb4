"""A sum divided by the number of its terms is a mean.

    ReduceSum(x) / n  ->  ReduceMean(x)        ReduceSum(x) * (1 / n)  ->  ReduceMean(x)

where n is the number of elements that are summed into one. Flax, tf2onnx and dynamo's var_mean write it. Source: ONNX
ReduceSum and ReduceMean, all versions (axes are an operand from version 13 of the one, 18 of the other).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Sites
from graphopt.pipeline import Context, Fidelity, Pass
from graphopt.rewrite import Match, Refused, Rewrite, RuleSet, Tape, floating, scalar

_ROUNDING = {ir.DataType.FLOAT16: 2.0**-11, ir.DataType.BFLOAT16: 2.0**-8, ir.DataType.DOUBLE: 2.0**-52}
_AXES_ARE_OPERANDS = 18


def _axes(match: Match) -> tuple[int, ...] | None:
    """The axes that are summed over, None for all."""
    given = match.get("a")
    found = match.attr("r.axes") if given is None else gir.known_ints(given)
    if given is not None and found is None:
        raise Refused("the axes are not constant")
    if found:
        return tuple(found)
    if match.attr("r.noop_with_empty_axes", 0):
        raise Refused("it sums nothing")
    return None


def _count(match: Match) -> int:
    """How many elements are summed into one."""
    shape, over = match.dims("x"), _axes(match)
    chosen = range(len(shape)) if over is None else {axis % len(shape) for axis in over}
    sizes = [size for axis in chosen if isinstance(size := shape[axis], int)]
    if len(sizes) != len(chosen) or 0 in sizes or not sizes:
        raise Refused("the number of terms is not known")
    return prod(sizes)


def _divides(match: Match, reciprocal: bool) -> str | None:
    count, number = _count(match), float(match.number("n"))
    wanted = 1 / count if reciprocal else float(count)
    if abs(number - wanted) <= _ROUNDING.get(match.dtype("x"), 2.0**-24) * wanted:
        return None
    return f"the sum of {count} terms is {'multiplied' if reciprocal else 'divided'} by {number:.7g}"


def _build(match: Match, tape: Tape) -> ir.Value:
    over, keeps = _axes(match), int(match.attr("r.keepdims", 1))
    if over is None:
        return tape.op("ReduceMean", match["x"], keepdims=keeps)
    if match.opset < _AXES_ARE_OPERANDS:
        return tape.op("ReduceMean", match["x"], axes=over, keepdims=keeps)
    return tape.op("ReduceMean", match["x"], tape.constant(list(over), "axes"), keepdims=keeps)


def _rule(pattern: str, reciprocal: bool) -> Rewrite:
    where = [floating("x"), scalar("n"), lambda match: _divides(match, reciprocal)]
    return Rewrite(pattern, build=_build, where=where, name="a mean")


RULES = RuleSet(
    [
        _rule("Div(ReduceSum{**r}(x, a?), n)", reciprocal=False),
        _rule("Mul(ReduceSum{**r}(x, a?), n)", reciprocal=True),
    ]
)


@dataclass(frozen=True)
class FuseReduceMean(Pass):
    """Replaces a sum that is divided by the number of its terms by ReduceMean.

    The number must be right up to the rounding of the element type. In float16 a sum overflows where a mean does not,
    if the runtime sums in float.

    Keeps it where the number of terms is not known before the run, for integers, whose mean is rounded, and where
    the sum is used elsewhere.
    """

    name: ClassVar[str] = "fuse-reduce-mean"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """The sites of the rules."""
        yield from RULES.sites(model)
