"""Softmax and LogSoftmax written out, as one operator. With e = Exp(x - ReduceMax(x)), all along one axis:

    e / ReduceSum(e)                            ->  Softmax{axis}(x)
    Exp(x) / ReduceSum(Exp(x))                  ->  Softmax{axis}(x)
    (x - ReduceMax(x)) - Log(ReduceSum(e))      ->  LogSoftmax{axis}(x)
    x - (ReduceMax(x) + Log(ReduceSum(e)))      ->  LogSoftmax{axis}(x)
    x - Log(ReduceSum(Exp(x)))                  ->  LogSoftmax{axis}(x)
    x - ReduceLogSumExp(x)                      ->  LogSoftmax{axis}(x)
    Log(Softmax{axis}(x))                       ->  LogSoftmax{axis}(x)
    Exp(LogSoftmax{axis}(x))                    ->  Softmax{axis}(x)
    Exp(x - ReduceLogSumExp(x))                 ->  Softmax{axis}(x)
    Transpose(Softmax{axis}(Transpose(x)))      ->  Softmax{axis of x}(x)      where the Transposes cancel

Softmax, LogSoftmax: ONNX, version 13, along one axis; versions 1 and 11 flatten the axes from there on, which is the
same for the last axis only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Sites
from graphopt.pipeline import Context, Fidelity, Pass
from graphopt.rewrite import Condition, Match, Refused, Rewrite, RuleSet, floating
from graphopt.target import Target, targets

from ._forms import welcome
from ._per_target import per_target

_FORMS = ("Softmax", "LogSoftmax")
_MAXIMUM = "m = ReduceMax{**a}(x, p?); d = Reshape|Unsqueeze?{**r}(Max?(m, floor), u?)"
_SUM = "t = ReduceSum{**b}(e, q?); s = Reshape|Unsqueeze?{**w}(t, v?)"


def _axis(match: Match) -> int:
    """The axis, counted from the front where the rank is known.

    Raises:
        Refused: it is not known, there are several, or the reductions have different ones.
    """
    rank = gir.rank(match["x"])
    found = {
        _reduced(match, rest, operand, rank)
        for rest, operand in (("a", "p"), ("b", "q"))
        if rest in match.pattern.rests
    }
    if len(found) != 1:
        raise Refused("the maximum and the sum are of different axes")
    axis = found.pop()
    for rest, whole, part in (("a", "d", "m"), ("b", "s", "t")):
        if whole in match.pattern.names:
            _check_shape(match, match[whole], match[part], axis, bool(match.attr(f"{rest}.keepdims", 1)))
        elif rest in match.pattern.rests and not match.attr(f"{rest}.keepdims", 1):
            raise Refused("the reduction does not keep the axis")
    return axis


def _reduced(match: Match, rest: str, operand: str, rank: int | None) -> int:
    given = match.get(operand)
    axes = match.attr(f"{rest}.axes") if given is None else gir.known_ints(given)
    if axes is None and (given is not None or rank != 1 or match.attr(f"{rest}.noop_with_empty_axes", 0)):
        raise Refused("the axes of a reduction are not known" if given is not None else "it is along all axes")
    if axes is not None and len(axes) != 1:
        raise Refused(f"it is along {len(axes)} axes")
    axis = 0 if axes is None else int(axes[0])
    return axis + rank if axis < 0 and rank is not None else axis


def _check_shape(match: Match, whole: ir.Value, part: ir.Value, axis: int, kept: bool) -> None:
    """The reduced tensor, however it got its axis back, broadcasts along that axis and no other."""
    last = whole.producer()
    if kept and (whole is part or gir.is_op(last, "Max")):
        return
    shape = gir.dims(match["x"])
    if shape is not None and gir.is_op(last, "Unsqueeze") and last is not None and not kept:
        given = gir.attribute(last, "axes") if len(last.inputs) == 1 else gir.known_ints(last.inputs[1])
        if given is not None and [int(item) % len(shape) for item in given] == [axis % len(shape)]:
            return
    if shape is None or not 0 <= axis < len(shape):
        raise Refused("the rank of x is unknown")
    wanted = (*shape[:axis], 1, *shape[axis + 1 :])
    if gir.dims(whole) != wanted or None in wanted:
        raise Refused("what is reduced is not proven to get back the axis that it lost")


def _one_axis(match: Match) -> str | None:
    axis, rank = _axis(match), gir.rank(match["x"])
    floor = match.values.get("floor")
    if floor is not None and gir.scalar(floor) != float("-inf"):
        return "the maximum is limited to a number"
    if floor is not None and (gir.rank(floor) or 0) > (rank or 0):
        return "the number that the maximum is compared with adds a dimension"
    return _flattening(axis, rank, match.opset)


def _flattening(axis: int, rank: int | None, opset: int) -> str | None:
    if opset >= 13:
        return None
    if rank is None:
        return "the rank of x is unknown"
    return None if axis == rank - 1 else f"in opset {opset} it would flatten the axes behind axis {axis}"


def _perms(match: Match) -> tuple[list[int], list[int]]:
    rank = len(match.dims("x"))
    reverse = list(range(rank))[::-1]
    return list(match.attr("p") or reverse), list(match.attr("q") or reverse)


def _axis_before(match: Match) -> int:
    first, _ = _perms(match)
    return first[int(match.attr("a.axis", -1)) % len(first)]


def _cancels(match: Match) -> str | None:
    first, second = _perms(match)
    if [first[axis] for axis in second] != list(range(len(first))):
        return "the Transposes around it do not cancel"
    if match.opset < 13 and int(match.attr("a.axis", 1)) % len(first) != len(first) - 1:
        return f"in opset {match.opset} it flattens several axes"
    return _flattening(_axis_before(match), len(first), match.opset)


@per_target
def rules(target: Target) -> RuleSet:
    """The rules for a target."""

    def rule(pattern: str, form: str, test: Callable[[Match], str | None] = _one_axis) -> Rewrite:
        axis = _axis_before if test is _cancels else _axis
        return Rewrite(
            pattern,
            f"{form}{{axis=k}}(x)",
            where=[floating("x"), Condition(test), welcome(target, form)],
            let={"k": axis},
            matches=(7, 1 << 30),
        )

    return RuleSet(
        [
            rule(f"{_MAXIMUM}; e = Exp(Sub(x, d)); {_SUM}; y = Div(e, s)", "Softmax"),
            rule(f"{_MAXIMUM}; e = Exp(Sub(x, d)); {_SUM}; y = Mul(e, Reciprocal(s))", "Softmax"),
            rule(f"e = Exp(x); {_SUM}; y = Div(e, s)", "Softmax"),
            rule(f"e = Exp(x); {_SUM}; y = Mul(e, Reciprocal(s))", "Softmax"),
            rule(f"{_MAXIMUM}; z = Sub(x, d); e = Exp(z); {_SUM}; y = Sub(z, Log(s))", "LogSoftmax"),
            rule(f"{_MAXIMUM}; e = Exp(Sub(x, d)); {_SUM}; y = Sub(x, Add(d, Log(s)))", "LogSoftmax"),
            rule(f"e = Exp(x); {_SUM}; y = Sub(x, Log(s))", "LogSoftmax"),
            rule("y = Sub(x, ReduceLogSumExp{**a}(x, p?))", "LogSoftmax"),
            rule("y = Exp(Sub(x, ReduceLogSumExp{**a}(x, p?)))", "Softmax"),
            Rewrite("Exp(LogSoftmax{**a}(x))", "Softmax{**a}(x)", where=[floating("x"), welcome(target, "Softmax")]),
            Rewrite("Log(Softmax{**a}(x))", "LogSoftmax{**a}(x)", where=[floating("x"), welcome(target, "LogSoftmax")]),
            *(rule(f"Transpose{{perm=q?}}({form}{{**a}}(Transpose{{perm=p?}}(x)))", form, _cancels) for form in _FORMS),
        ]
    )


RULES = rules(targets()["onnx"])
"""For all targets that have nothing against Softmax and LogSoftmax, at any size."""


@dataclass(frozen=True)
class FuseSoftmax(Pass):
    """Replaces softmax and its logarithm, written out, by Softmax and LogSoftmax.

    The operators subtract the maximum before they exponentiate, so they are as exact as any of these forms and more
    exact than most. Where the graph itself overflows or underflows they differ from it: Exp(x) / ReduceSum(Exp(x)) is
    inf / inf for a large x and 0 / 0 for small ones where Softmax is a number, and Log(Softmax(x)) is -inf where
    LogSoftmax is a number.

    Keeps it below opset 13 unless it is along the last axis; when axes or the shape of what is reduced are not
    proven; when it is along several axes; and when a result in between is used elsewhere.
    """

    name: ClassVar[str] = "fuse-softmax"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per softmax."""
        liked = all(context.target.objection(form) is None for form in _FORMS)
        yield from (RULES if liked else rules(context.target)).sites(model)
