"""The dialects in which exporters write a normalisation, and what must hold of one.

    c = mean(x);  d = x - c;  v = mean(d d) + eps;  y = d / sqrt(v)

The square is Pow(d, 2) or Mul(d, d); the division Div by Sqrt, or Mul by Reciprocal(Sqrt), by 1 / Sqrt, or by
Pow(v, -0.5); and mean and difference may be written twice. Without the mean, x stands for d.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.rewrite import Condition, Match, Refused, Rewrite, Tape, scalar, that
from graphopt.target import Target

from ._forms import welcome

HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
TYPES = (ir.DataType.FLOAT, *HALVES)
"""Element types that normalisation operators compute at least as exactly as their parts do."""

SQUARES = ("Pow({d}, 2)", "Mul({d}, {d})")
INVERSES = ("Reciprocal(Sqrt({u}))", "Div(1, Sqrt({u}))", "Pow({u}, -0.5)")
QUOTIENTS = ("Div({d}, Sqrt({u}))", "Div({d}, Pow({u}, 0.5))", *(f"Mul({{d}}, {inverse})" for inverse in INVERSES))

_CENTRED = "c = ReduceMean{{**m}}(x, a?); d = Sub(x, c); "
_VARIANCE = "Add(ReduceMean{{**v}}({square}, b?), eps)"


def _variance(square: str, d: str) -> str:
    return _VARIANCE.format(square=square.format(d=d))


def centred() -> Iterator[str]:
    """``(x - mean) / sqrt(variance + eps)`` in every dialect."""
    for quotient in QUOTIENTS:
        for square in SQUARES:
            # Where these are one node, it is found for both names.
            twice = _CENTRED.format() + "f = ReduceMean{**w}(x, k?); e = Sub(x, f); "
            yield twice + quotient.format(d="d", u=_variance(square, "e"))


def scaled() -> Iterator[str]:
    """Keras and Flax: the scale g is multiplied to the inverse first, and the mean is taken off before or after."""
    for square in SQUARES:
        for inverse in INVERSES:
            variance = _variance(square, "d")
            start = _CENTRED.format() + f"i = Mul({inverse.format(u=variance)}, g); "
            yield start + "Mul(d, i)"
            yield start + "Add(Mul(x, i), Sub(h, Mul(c, i)))"
        plain = _CENTRED.format() + f"i = {INVERSES[0].format(u=_variance(square, 'd'))}; "
        yield plain + "Add(Mul(x, i), Sub(h, Mul(c, i)))"


def fast() -> Iterator[str]:
    """Flax: the variance is the mean square less the square of the mean; axes are dropped and put back."""
    start = """c = ReduceMean{**m}(x, a?); k = Reshape|Unsqueeze?{**o}(c, t)
        u = Reshape|Unsqueeze?{**p}(Max(0, Sub(ReduceMean{**v}(Mul(x, x), b?), Mul(c, c))), z)
        """
    inverse = INVERSES[0].format(u="Add(u, eps)")
    yield f"{start}Mul(Sub(x, k), Mul({inverse}, g))"
    yield f"{start}Mul(Sub(x, k), {inverse})"


def uncentred() -> Iterator[str]:
    """``x / sqrt(mean(x x) + eps)`` in every dialect."""
    for quotient in QUOTIENTS:
        for square in SQUARES:
            yield quotient.format(d="x", u=_variance(square, "x"))


def axes(match: Match, rest: str, operand: str, kept: bool = True) -> tuple[int, ...]:
    """The axes of a mean over x, counted from the front and sorted; ``kept`` asks for them as dimensions of 1."""
    rank = len(match.dims("x"))
    given = match.get(operand)
    found = match.attr(f"{rest}.axes") if given is None else gir.known_ints(given)
    if given is not None and found is None:
        raise Refused("the axes of a mean are not constant")
    if kept and not match.attr(f"{rest}.keepdims", 1):
        raise Refused("a mean does not keep its axes as dimensions of 1")
    if not found:
        if match.attr(f"{rest}.noop_with_empty_axes", 0):
            raise Refused("a mean has no axes, and does nothing")
        return tuple(range(rank))
    return tuple(sorted({int(axis) % rank for axis in found}))


def common_axes(match: Match) -> tuple[int, ...]:
    """The axes of all means."""
    dropped = [name for name in ("k", "u") if name in match.pattern.names]
    over = axes(match, "v", "b", not dropped)
    for rest, operand in (("m", "a"), ("w", "k")):
        if rest in match.pattern.rests and axes(match, rest, operand, not dropped) != over:
            raise Refused("its two means are over different axes")
    wanted = tuple(1 if axis in over else size for axis, size in enumerate(match.dims("x")))
    if any(match.dims(name) != wanted or None in wanted for name in dropped):
        raise Refused("its mean is not proven to get its axes back as dimensions of 1")
    return over


def trailing(match: Match) -> tuple[int, ...]:
    """The sizes of the normalised axes, which are the last ones of x and known."""
    shape, over = match.dims("x"), common_axes(match)
    if not over or over != tuple(range(len(shape) - len(over), len(shape))):
        raise Refused(f"it normalises axes {list(over)} of {len(shape)}, which are not the last ones")
    sizes = tuple(size for size in shape[over[0] :] if isinstance(size, int) and size > 0)
    if len(sizes) != len(over):
        raise Refused("the size of what it normalises is not known")
    return sizes


def epsilon(match: Match) -> float:
    """The number that is added to the mean square."""
    number = float(match.number("eps"))
    if not 0 < number < float("inf"):
        raise Refused(f"its epsilon is {number:g}")
    return number


def spread(elements: np.ndarray, shape: tuple[int, ...], what: str = "its constant") -> np.ndarray:
    """A constant broadcast to the shape of a scale, in float64; refuses one that would make the result larger."""
    inner = elements.shape[max(0, elements.ndim - len(shape)) :]
    outer = elements.shape[: elements.ndim - len(inner)]
    if any(size != 1 for size in outer) or any(
        size not in (1, whole) for size, whole in zip(reversed(inner), reversed(shape), strict=False)
    ):
        raise Refused(f"{what} has shape {list(elements.shape)}, which is not that of the scale, {list(shape)}")
    return np.broadcast_to(elements.astype(np.float64).reshape(inner), shape)


def rules(
    texts: Iterable[str],
    target: Target,
    form: str,
    opset: int,
    check: Callable[[Match], object],
    build: Callable[[Match, Tape], ir.Value],
) -> list[Rewrite]:
    """One rule for each dialect; ``check`` raises ``Refused``."""
    double = that(f"{form} computes in float, less exactly than double", lambda match: match.dtype("x") in TYPES, "x")
    where = [double, scalar("eps"), Condition(lambda match: bool(epsilon(match))), Condition(_always(check))]
    return [Rewrite(text, build=build, where=[*where, welcome(target, form)], opset=opset, name=form) for text in texts]


def _always(check: Callable[[Match], object]) -> Callable[[Match], None]:
    def test(match: Match) -> None:
        check(match)

    return test
