"""The index of the one largest or smallest element, without a sort.

    _, i = TopK{axis}(x, 1)             ->  i = ArgMax{axis, keepdims=1}(x)
    _, i = TopK{axis, largest=0}(x, 1)  ->  i = ArgMin{axis, keepdims=1}(x)
    v, _ = TopK{axis}(x, 1)             ->  v = ReduceMax{axes=[axis], keepdims=1}(x)    for integers; ReduceMin

TopK: ONNX, versions 1, 10 and 11; "the element with the lower index will appear first" among equal ones. ArgMax,
ArgMin: ONNX, version 1; the first occurrence is the default from version 12 on, and what ONNX Runtime did before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Sites
from graphopt.pipeline import Context, Fidelity, Pass
from graphopt.rewrite import Match, Rewrite, RuleSet, Tape, of_type
from graphopt.target import Target, targets

from ._forms import elements
from ._per_target import per_target

_RUNNABLE = tuple(
    getattr(ir.DataType, name) for name in ("FLOAT", "FLOAT16", "DOUBLE", "INT32", "INT64", "INT8", "UINT8")
)
_WHOLE = (ir.DataType.INT32, ir.DataType.INT64)
_AXES_ARE_OPERANDS = 18


def _axis(match: Match) -> int:
    axis, rank = int(match.attr("a.axis", -1)), gir.rank(match["x"])
    return axis + rank if axis < 0 and rank is not None else axis


def _operator(match: Match) -> str:
    return "ArgMax" if match.attr("a.largest", 1) else "ArgMin"


def _is_one(match: Match) -> str | bool:
    operand = match.get("k")
    count = (match.attr("a.k"),) if operand is None else gir.known_ints(operand)
    if count is None:
        return "the number of elements is not known before the run"
    if count != (1,):
        return f"it gives the first {count[0]} elements" if count else False
    return "the rank of x is unknown" if match.opset < 11 and _axis(match) < 0 else True


def _write(match: Match, tape: Tape) -> ir.Value:
    return tape.op(_operator(match), match["x"], axis=_axis(match), keepdims=1)


def _reduction(match: Match) -> str:
    return "ReduceMax" if match.attr("a.largest", 1) else "ReduceMin"


def _write_value(match: Match, tape: Tape) -> ir.Value:
    axis, x = _axis(match), match["x"]
    if match.opset < _AXES_ARE_OPERANDS:
        return tape.op(_reduction(match), x, axes=[axis], keepdims=1)
    return tape.op(_reduction(match), x, tape.constant([axis], "axes"), keepdims=1)


@per_target
def rules(target: Target) -> RuleSet:
    """The rules for a target."""

    def welcome(match: Match) -> str | None:
        return target.objection(_operator(match), elements(match["x"]))

    def value_is_welcome(match: Match) -> str | None:
        return target.objection(_reduction(match), elements(match["x"]))

    index = [of_type("x", *_RUNNABLE), _is_one, welcome]
    value = [of_type("x", *_WHOLE), _is_one, value_is_welcome]
    return RuleSet(
        [
            Rewrite("_, i = TopK{**a}(x, k?)", where=index, build=_write, name="ArgMax"),
            Rewrite("v, _ = TopK{**a}(x, k?)", where=value, build=_write_value, name="ReduceMax"),
        ]
    )


RULES = rules(targets()["onnx"])
"""For all targets that have nothing against ArgMax and ArgMin, at any size."""


@dataclass(frozen=True)
class TopkToArgmax(Pass):
    """Replaces TopK of one element by ArgMax or ArgMin where only its index is used, else by ReduceMax or ReduceMin.

    Equal elements, NaN and infinity give the same index.

    Keeps it when both are used, or the value of a floating-point type (ReduceMax treats NaN in another way), when more
    elements are asked for, and for element types of which ONNX Runtime has no ArgMax. ArgMax(Softmax(x)) stays as well:
    Softmax rounds, which can make different elements equal, and then the index without it is another.
    """

    name: ClassVar[str] = "topk-to-argmax"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per TopK."""
        liked = all(context.target.objection(form) is None for form in ("ArgMax", "ArgMin"))
        yield from (RULES if liked else rules(context.target)).sites(model)
