"""Are two runs the same? Differences of outputs, and what may be forgiven.

Exactness: every NaN equals every NaN (ONNX defines no payloads) and nothing else; infinities equal
themselves; 0.0 equals -0.0, as in IEEE 754 (so removing ``x + 0`` is exact). Integers, booleans and strings
are compared exactly under every tolerance that does not set ``integers``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .tolerances import EXACT, RANGE, Tolerance, tolerance

__all__ = ["EXACT", "Difference", "Tolerance", "allowance", "compare", "difference", "tolerance"]


@dataclass(frozen=True, slots=True)
class Difference:
    """How one output of two runs differs.

    Attributes:
        name: the output.
        dtype, shape: of the expected value; ``sequence`` and its length for a list.
        ok: within the tolerance.
        max_abs: the largest absolute difference; NaN where the values cannot be subtracted.
        max_rel: the largest difference relative to the expected element, over elements that are not zero.
        sqnr_db: signal to error ratio, 10 log10(sum e**2 / sum (e - a)**2); infinite when equal.
        worst: index of the element furthest beyond (or nearest to) its tolerance; None when all are equal.
        allowed: the difference allowed there.
        reason: why it is not ok, else empty.
        tolerance: what was applied.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    ok: bool
    max_abs: float = 0.0
    max_rel: float = 0.0
    sqnr_db: float = math.inf
    worst: tuple[int, ...] | None = None
    allowed: float = 0.0
    reason: str = ""
    tolerance: Tolerance = EXACT

    def as_json(self) -> dict[str, Any]:
        """JSON-able: numbers that JSON lacks become None (an infinite sqnr_db means: equal)."""
        return {
            "name": self.name,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "ok": self.ok,
            "max_abs": _finite(self.max_abs),
            "max_rel": _finite(self.max_rel),
            "sqnr_db": _finite(self.sqnr_db),
            "worst": None if self.worst is None else list(self.worst),
            "tolerance": allowance(self.tolerance),
            "reason": self.reason,
        }


def allowance(given: Tolerance) -> str:
    """What a tolerance allows, in words: ``0.013 % of the largest value``, ``no difference``."""
    if given.sqnr_db is not None:
        return str(given)
    parts = [
        f"{_percent(given.scale)} of the largest value" if given.scale else "",
        f"{_percent(given.rtol)} of each value" if given.rtol else "",
        f"{given.atol:.2g}" if given.atol else "",
        f"{given.integers} in integers" if given.integers else "",
    ]
    return " + ".join(part for part in parts if part) or "no difference"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.99 else f"{100 * share:.0f} %"


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def compare(
    expected: Mapping[str, Any],
    actual: Mapping[str, Any],
    tolerances: Tolerance | Mapping[str, Tolerance] = EXACT,
) -> list[Difference]:
    """One Difference for each expected output, in order; one more for each output nobody expected.

    Args:
        expected: outputs of the run that is right by definition.
        actual: outputs of the other run.
        tolerances: one for all, or one by output name (EXACT where none is given).
    """
    found: list[Difference] = []
    for name, value in expected.items():
        allowed = tolerances if isinstance(tolerances, Tolerance) else tolerances.get(name, EXACT)
        if name not in actual:
            found.append(_failed(name, value, "the output is missing", allowed))
        else:
            found.append(difference(name, value, actual[name], allowed))
    found.extend(
        _failed(name, value, "nobody expects this output") for name, value in actual.items() if name not in expected
    )
    return found


def difference(name: str, expected: Any, actual: Any, allowed: Tolerance = EXACT) -> Difference:
    """How one value (array, sequence, empty optional) differs from another."""
    if expected is None or actual is None:
        same = expected is None and actual is None
        return (
            Difference(name, "optional", (), ok=True, tolerance=allowed)
            if same
            else _failed(name, expected, "one of the two is an empty optional", allowed)
        )
    if isinstance(expected, Mapping) or isinstance(actual, Mapping):
        same = expected == actual
        return (
            Difference(name, "map", (), ok=True, tolerance=allowed)
            if same
            else _failed(name, expected, "the maps differ", allowed)
        )
    if isinstance(expected, (list, tuple)) or isinstance(actual, (list, tuple)):
        return _sequence(name, expected, actual, allowed)
    return _arrays(name, np.asarray(expected), np.asarray(actual), allowed)


def _failed(name: str, value: Any, reason: str, allowed: Tolerance = EXACT) -> Difference:
    dtype, shape = (str(value.dtype), value.shape) if isinstance(value, np.ndarray) else (type(value).__name__, ())
    return Difference(name, dtype, shape, False, math.nan, math.nan, math.nan, reason=reason, tolerance=allowed)


def _sequence(name: str, expected: Any, actual: Any, allowed: Tolerance) -> Difference:
    if not isinstance(expected, (list, tuple)) or not isinstance(actual, (list, tuple)):
        return _failed(name, expected, "one of the two is a sequence", allowed)
    if len(expected) != len(actual):
        return _failed(name, expected, f"the sequence has {len(actual)} elements instead of {len(expected)}", allowed)
    parts = [difference(f"{name}[{i}]", *pair, allowed) for i, pair in enumerate(zip(expected, actual, strict=True))]
    if not parts:
        return Difference(name, "sequence", (0,), True, tolerance=allowed)
    worst = next((part for part in parts if not part.ok), max(parts, key=lambda part: part.max_abs))
    reason = "" if worst.ok else f"element {parts.index(worst)}: {worst.reason}"
    return Difference(
        name,
        "sequence",
        (len(parts),),
        worst.ok,
        worst.max_abs,
        worst.max_rel,
        min(part.sqnr_db for part in parts),
        worst.worst,
        worst.allowed,
        reason,
        allowed,
    )


def _arrays(name: str, expected: np.ndarray, actual: np.ndarray, allowed: Tolerance) -> Difference:
    if expected.dtype != actual.dtype and not (expected.dtype.kind in "OUST" and actual.dtype.kind in "OUST"):
        return _failed(name, expected, f"the type is {actual.dtype} instead of {expected.dtype}", allowed)
    if expected.shape != actual.shape:
        return _failed(name, expected, f"the shape is {list(actual.shape)} instead of {list(expected.shape)}", allowed)
    label = "string" if expected.dtype.kind in "OUST" else str(expected.dtype)
    if expected.size == 0:
        return Difference(name, label, expected.shape, True, tolerance=allowed)
    if expected.dtype.kind in "OUSTb":
        return _exactly(name, label, expected, actual, allowed)
    if expected.dtype.kind in "iu" or "int" in expected.dtype.name:
        return _integers(name, expected, actual, allowed)
    return _floats(name, expected, actual, allowed)


def _exactly(name: str, label: str, expected: np.ndarray, actual: np.ndarray, allowed: Tolerance) -> Difference:
    wrong = np.asarray(expected != actual, dtype=bool)
    count = int(wrong.sum())
    if not count:
        return Difference(name, label, expected.shape, True, tolerance=allowed)
    at = _index(int(np.argmax(wrong)), expected.shape)
    reason = f"{count} of {wrong.size} elements differ, first {expected[at]!r} became {actual[at]!r}"
    return Difference(name, label, expected.shape, False, 1.0, math.nan, math.nan, at, 0.0, reason, allowed)


def _integers(name: str, expected: np.ndarray, actual: np.ndarray, allowed: Tolerance) -> Difference:
    unequal = np.asarray(expected != actual, dtype=bool)
    if not unequal.any():
        return Difference(name, str(expected.dtype), expected.shape, True, tolerance=allowed)
    # int64 holds every type but uint64, where a subtraction of the larger and the smaller cannot wrap
    wide = np.uint64 if expected.dtype == np.uint64 else np.int64
    left, right = expected.astype(wide), actual.astype(wide)
    apart = (np.maximum(left, right) - np.minimum(left, right)).view(np.uint64)
    at = _index(int(np.argmax(apart)), expected.shape)
    largest = int(apart[at])
    ok = largest <= allowed.integers
    nonzero = unequal & (left != 0)
    relative = float(np.max(apart[nonzero] / np.abs(left[nonzero].astype(np.float64)), initial=0.0))
    reason = (
        "" if ok else f"{int(unequal.sum())} of {unequal.size} differ, the most: {expected[at]} became {actual[at]}"
    )
    power, noise = _energy(left.astype(np.float64)), _energy(apart.astype(np.float64))
    return Difference(
        name,
        str(expected.dtype),
        expected.shape,
        ok,
        float(largest),
        relative,
        _decibels(power, noise),
        at,
        float(allowed.integers),
        reason,
        allowed,
    )


def _floats(name: str, expected: np.ndarray, actual: np.ndarray, allowed: Tolerance) -> Difference:
    label, shape = str(expected.dtype), expected.shape
    if np.array_equal(expected, actual):
        return Difference(name, label, shape, True, tolerance=allowed)
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    left, right = expected.astype(wide), actual.astype(wide)
    finite = np.isfinite(left) & np.isfinite(right)
    strange = ~finite & ~((left == right) | (np.isnan(left) & np.isnan(right)))
    error, size = np.zeros(shape), np.zeros(shape)
    np.abs(np.where(finite, left - np.where(finite, right, 0), 0), out=error, where=finite)
    np.abs(np.where(finite, left, 0), out=size)
    limit = allowed.atol + allowed.rtol * size + allowed.scale * np.maximum(size, _magnitude(size))
    nonzero = finite & (size > 0)
    relative = float(np.max(error[nonzero] / size[nonzero], initial=0.0))
    sqnr = _decibels(_energy(size), _energy(error))
    if strange.any():
        at = _index(int(np.argmax(strange)), shape)
        reason = f"{int(strange.sum())} of {strange.size} elements: {expected[at]} became {actual[at]}"
        return Difference(name, label, shape, False, math.inf, math.inf, -math.inf, at, 0.0, reason, allowed)
    beyond = error - limit
    at = _index(int(np.argmax(np.where(error > 0, beyond, -math.inf))), shape)
    largest = float(error.max())
    if allowed.sqnr_db is not None:
        reason = "" if sqnr >= allowed.sqnr_db else f"its error is {sqnr:.1f} dB below it, not {allowed.sqnr_db:.1f} dB"
        at = _index(int(np.argmax(error)), shape)
        return Difference(name, label, shape, not reason, largest, relative, sqnr, at, 0.0, reason, allowed)
    ok = bool(np.all(error <= limit))
    limit_there = float(limit[at])
    reason = (
        ""
        if ok
        else (
            f"{int(np.sum(error > limit))} of {error.size} elements are beyond the tolerance, "
            f"{expected[at]} became {actual[at]} (allowed: {limit_there:.3g})"
        )
    )
    return Difference(
        name, label, shape, ok, largest, relative, sqnr, at if largest else None, limit_there, reason, allowed
    )


def _magnitude(size: np.ndarray) -> float:
    """S of ``Tolerance``."""
    nonzero = size[size > 0]
    if not nonzero.size:
        return 0.0
    tenth = float(np.partition(nonzero, nonzero.size // 10)[nonzero.size // 10])
    return float(nonzero[nonzero <= RANGE * tenth].max())


def _energy(numbers: np.ndarray) -> float:
    with np.errstate(over="ignore"):
        return float(np.sum(np.square(numbers)))


def _decibels(power: float, noise: float) -> float:
    if noise == 0.0:
        return math.inf
    return 10.0 * math.log10(power / noise) if power > 0.0 else -math.inf


def _index(flat: int, shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(part) for part in np.unravel_index(flat, shape))
