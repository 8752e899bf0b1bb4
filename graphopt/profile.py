"""What was measured of a runtime: which operator forms are faster there than what they stand for, and at which sizes.

``graphopt profile-target`` measures it by micro-benchmarks; a target carries it, and passes ask the target.

A form is an operator (``Gelu``, ``com.microsoft::QuickGelu``), or a variant of one (``Gelu:tanh``): where a
variant was not measured, its operator answers for it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from .errors import GraphoptError

ELEMENTS = "elements"


@dataclass(frozen=True, slots=True)
class Point:
    """One micro-benchmark.

    Attributes:
        work: the size, in the form's unit (``Profile.units``).
        ratio: time of the form divided by the time of the plain operators it stands for; below 1 it is faster.
        low, high: the interval that holds the true ratio with 95 %.
    """

    work: int
    ratio: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not (self.work >= 1 and 0 < self.low <= self.ratio <= self.high < math.inf):
            raise ValueError(f"a ratio of {self.ratio} in {self.low}..{self.high} at {self.work} cannot be")


@dataclass(frozen=True)
class Profile:
    """Measured preferences of one runtime on one machine.

    Attributes:
        machine: what it was measured on (``graphopt.execute.machine``); empty for a profile nobody measured.
        forms: the points of each form, by rising size. Forms of other domains are called ``domain::Operator``.
        units: what the size of a form counts, where that is not ``elements``.
        absent: forms that cannot be used there, and why: no kernel, or wrong results.
        measured: the day, as ``2026-11-22``.
        threads: of the runtime, within an operator.
        base: a profile of another machine, asked for forms that this one does not have. Not part of the file.
    """

    machine: Mapping[str, Any] = field(default_factory=dict)
    forms: Mapping[str, tuple[Point, ...]] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    measured: str = ""
    threads: int = 1
    base: Profile | None = None

    def __bool__(self) -> bool:
        """True when anything was measured."""
        return bool(self.forms or self.absent or self.base)

    def source(self, form: str) -> Profile | None:
        """The profile that knows this very form: this one, or the one below; None when neither does."""
        if form in self.forms or form in self.absent:
            return self
        return None if self.base is None else self.base.source(form)

    def points(self, form: str, work: float | None = None) -> tuple[Point, ...]:
        """What is known of a form at a size: one point, between measured sizes on a line over log(size).

        Args:
            form: the operator form.
            work: the size; None asks for all measured ones.

        Returns:
            nothing for a form that was not measured.
        """
        source, name = self._find(form)
        points = () if source is None else source.forms.get(name, ())
        return points if work is None or not points else (_between(points, work),)

    def ratio(self, form: str, work: float | None = None) -> float | None:
        """The ratio at a size; of all measured sizes the worst when the size is None.

        Returns:
            None for a form that was not measured.
        """
        return max((point.ratio for point in self.points(form, work)), default=None)

    def unit(self, form: str) -> str:
        """What the size of a form counts."""
        source, name = self._find(form)
        return ELEMENTS if source is None else source.units.get(name, ELEMENTS)

    def lack(self, form: str) -> str:
        """Why a form cannot be used at all; "" when it can, or nobody tried."""
        source, name = self._find(form)
        return "" if source is None else source.absent.get(name, "")

    def names(self) -> list[str]:
        """Every form that was tried, here or in the profile below."""
        below = set[str]() if self.base is None else set(self.base.names())
        return sorted(below.union(self.forms, self.absent))

    def _find(self, form: str) -> tuple[Profile | None, str]:
        for name in dict.fromkeys((form, operator_of(form))):
            source = self.source(name)
            if source is not None:
                return source, name
        return None, form

    def as_json(self) -> dict[str, Any]:
        """What a profile's file holds."""
        return {
            "machine": dict(self.machine),
            "measured": self.measured,
            "threads": self.threads,
            "units": dict(sorted(self.units.items())),
            "absent": dict(sorted(self.absent.items())),
            "forms": {form: [asdict(point) for point in points] for form, points in sorted(self.forms.items())},
        }

    def to_text(self) -> str:
        """The file's text, one line for each point."""
        return "\n".join(_lines(self.as_json())) + "\n"

    @classmethod
    def from_text(cls, text: str, place: str) -> Profile:
        """Read a profile's file.

        Raises:
            GraphoptError: it is no profile; says where.
        """
        try:
            found = json.loads(text)
            machine = dict(found["machine"])
            if "versions" in machine:
                machine["versions"] = dict(machine["versions"])
            forms = {str(form): _points(points) for form, points in found["forms"].items()}
            return cls(
                machine,
                forms,
                dict(found["units"]),
                {str(form): str(reason) for form, reason in found.get("absent", {}).items()},
                str(found.get("measured", "")),
                int(found.get("threads", 1)),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            said = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else str(error)
            hint = "`graphopt profile-target` writes one"
            raise GraphoptError(f"it is no target profile: {said}", place, hint) from None


UNMEASURED = Profile()


def operator_of(form: str) -> str:
    """A form without its variant: ``Gelu`` of ``Gelu:tanh``."""
    domain, mark, name = form.rpartition("::")
    return domain + mark + name.partition(":")[0]


def _points(found: list[dict[str, Any]]) -> tuple[Point, ...]:
    made = (
        Point(int(point["work"]), float(point["ratio"]), float(point["low"]), float(point["high"])) for point in found
    )
    return tuple(sorted(made, key=lambda point: point.work))


def _between(points: tuple[Point, ...], work: float) -> Point:
    if work <= points[0].work:
        return points[0]
    for left, right in pairwise(points):
        if work <= right.work:
            share = math.log(work / left.work) / math.log(right.work / left.work)

            def mixed(a: float, b: float, share: float = share) -> float:
                return a + share * (b - a)

            low, high = mixed(left.low, right.low), mixed(left.high, right.high)
            ratio = min(max(mixed(left.ratio, right.ratio), low), high)  # rounding must not carry it outside
            return Point(max(int(work), 1), ratio, low, high)
    return points[-1]


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    """JSON in which an object of plain values is one line."""
    last = len(found) - 1
    yield "{"
    for index, (key, value) in enumerate(found.items()):
        comma = "," if index < last else ""
        if key != "forms" or not value:
            yield f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}{comma}"
            continue
        yield f" {json.dumps(key)}: {{"
        for place, (form, points) in enumerate(value.items()):
            rows = ",\n".join(f"   {json.dumps(point)}" for point in points)
            yield f"  {json.dumps(form)}: [\n{rows}\n  ]{',' if place < len(value) - 1 else ''}"
        yield f" }}{comma}"
    yield "}"
