"""Conditions on what a pattern has caught, each with the reason it gives when it does not hold.

A rule takes them as ``where=[near("r", 2 ** 0.5), same_shape("x", "y")]``. A plain function of the match will
do as well: it returns None or True when all is well, a reason (or False) when not, or raises ``Refused``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import onnx_ir as ir

from graphopt.ir import facts

from .constants import NEAR, is_near, shape_objection
from .match import Match, Refused

Test: TypeAlias = Callable[[Match], "str | bool | None"]

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16)


@dataclass(frozen=True, eq=False)
class Condition:
    """Something that must hold for a match to be rewritten.

    Attributes:
        test: gives a reason why not, or None.
        names: the variables it is about; it is asked as soon as these are caught, which keeps the search
            short. Empty: asked once the whole pattern fits.
        sample: for the fuzz test, constants that fulfil it, by variable.
    """

    test: Test
    names: tuple[str, ...] = ()
    sample: Mapping[str, Any] = field(default_factory=dict)

    def objection(self, match: Match) -> str | None:
        """Why the match must not be rewritten, or None; holds for an optional operand that is left out."""
        if any(match.values.get(name, match) is None for name in self.names):
            return None
        try:
            answer = self.test(match)
        except Refused as refused:
            return refused.reason
        if answer is None or answer is True:
            return None
        if answer is False:
            name = getattr(self.test, "__name__", "<lambda>").replace("_", " ").strip()
            return "a condition of the rule does not hold" if name == "<lambda>" else f"'{name}' does not hold"
        return str(answer)


def as_condition(test: Condition | Test) -> Condition:
    """A plain function as a condition."""
    return test if isinstance(test, Condition) else Condition(test)


def that(reason: str, test: Callable[[Match], object], *names: str) -> Condition:
    """A condition of one's own: ``that("axis is not the last", lambda m: m.attr("axis") == -1)``.

    Args:
        reason: what to say when the test gives something false.
        test: asked with the match.
        names: the variables it is about, if it can be asked as soon as these are caught.
    """
    return Condition(lambda match: None if test(match) else reason, names)


def near(name: str, number: float, rtol: float = NEAR) -> Condition:
    """The variable is a constant of one element near a number, and acts like a bare number in its place.

    Integers must be equal; floats may differ by ``rtol`` or by the rounding of their type.
    """

    def test(match: Match) -> str | None:
        value = match[name]
        tensor = facts.constant(value)
        found = facts.scalar(value)
        if tensor is None or found is None:
            return f"{name} is not a constant" if tensor is None else f"{name} has more than one element"
        if not isinstance(found, (int, float)) or not is_near(found, number, tensor.dtype, rtol):
            return f"{name} is {found:.7g}, not {number:.7g}"
        return shape_objection(value, *match.places[name])

    return Condition(test, (name,), {name: number})


def constant(*names: str) -> Condition:
    """The variables are constants (a graph input with a default is none)."""

    def test(match: Match) -> str | None:
        for name in names:
            if facts.constant(match[name]) is None:
                return f"{name} is not a constant"
        return None

    return Condition(test, names, dict.fromkeys(names))


def scalar(name: str) -> Condition:
    """The variable is a constant of one element that acts like a bare number in its place."""

    def test(match: Match) -> str | None:
        if facts.scalar(match[name]) is None:
            return f"{name} is not a constant of one element"
        return shape_objection(match[name], *match.places[name])

    return Condition(test, (name,), {name: None})


def of_type(name: str, *types: ir.DataType) -> Condition:
    """The element type of the variable is known and one of these."""

    def test(match: Match) -> str | None:
        found = match.dtype(name)
        return None if found in types else f"{name} has element type {found.name.lower()}"

    return Condition(test, (name,))


def floating(*names: str) -> Condition:
    """The variables are known to have a floating-point type."""

    def test(match: Match) -> str | None:
        for name in names:
            if (found := match.dtype(name)) not in FLOATS:
                return f"{name} has element type {found.name.lower()}"
        return None

    return Condition(test, names)


def rank(name: str, *ranks: int) -> Condition:
    """The rank of the variable is known and one of these."""

    def test(match: Match) -> str | None:
        found = len(match.dims(name))
        return None if found in ranks else f"{name} has rank {found}"

    return Condition(test, (name,))


def static(*names: str) -> Condition:
    """All dimensions of the variables are known numbers."""

    def test(match: Match) -> str | None:
        for name in names:
            if facts.static_dims(match[name]) is None:
                return f"the shape of {name} is not fixed"
        return None

    return Condition(test, names)


def same_shape(first: str, second: str) -> Condition:
    """Both variables have the same shape in every run."""

    def test(match: Match) -> str | None:
        known = facts.same_shape(match[first], match[second])
        return None if known else f"{first} and {second} are not known to have the same shape"

    return Condition(test, (first, second))


def broadcasts_into(small: str, large: str) -> Condition:
    """Broadcasting the two variables together gives the shape of ``large`` in every run."""

    def test(match: Match) -> str | None:
        inner, outer = match.dims(small), match.dims(large)
        fits = len(inner) <= len(outer) and all(
            dim == 1 or (dim is not None and dim == other)
            for dim, other in zip(reversed(inner), reversed(outer), strict=False)
        )
        return None if fits else f"{small} is not known to broadcast into the shape of {large}"

    return Condition(test, (small, large))
