"""The passes of a run, arranged for reading: sites grouped by what was done to them, or why nothing was."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .reading import Run, SiteLine, Step

LIMIT = 2000
"""Places listed for one reason; the rest is in ``steps.jsonl``. A page of 100 MB helps nobody."""


@dataclass(frozen=True, slots=True)
class Group:
    """Sites that have one text, but for the names quoted in it.

    Attributes:
        text: what they have in common; names that differ are shown as ‘…’, shapes as […], counts as (…).
        places: where, and the text of its own where it differs.
        total: how many there are; ``places`` may hold fewer.
    """

    text: str
    places: tuple[tuple[str, str], ...]
    total: int

    @property
    def rest(self) -> int:
        """How many places are not listed."""
        return self.total - len(self.places)

    @property
    def uniform(self) -> bool:
        """True when all places have the very same text."""
        return all(not own for _, own in self.places)


@dataclass(frozen=True, slots=True)
class Row:
    """A pass in the table, with its sites by status."""

    step: Step
    index: int
    changed: int | None
    kept: int | None
    delta: int | None
    share: float
    changes: tuple[Group, ...]
    refusals: tuple[Group, ...]
    left_out: tuple[SiteLine, ...]

    @property
    def idle(self) -> bool:
        """True when the pass found nothing to change and nothing to speak of."""
        return not (self.changed or self.kept or self.left_out or self.step.error or self.delta)

    @property
    def rank(self) -> int:
        """The most telling first: what went wrong, what was kept and why, what changed the graph, what tidied it."""
        if self.left_out or self.step.error:
            return 0
        return 1 if self.refusals else 2 if self.delta else 3

    @property
    def opens(self) -> bool:
        """True when there is something to unfold."""
        return bool(self.changes or self.refusals or self.left_out or self.step.error)


@dataclass(frozen=True, slots=True)
class Totals:
    """The table's last line."""

    changed: int
    kept: int
    left_out: int
    seconds: float | None
    delta: int | None
    rounds: int


def rows(run: Run) -> list[Row]:
    """A row for each step, the most telling first, and in the order they ran among their like."""
    deltas = [step.delta for step in run.steps]
    top = max((abs(delta) for delta in deltas if delta), default=0)
    found: list[Row] = []
    for index, (step, delta) in enumerate(zip(run.steps, deltas, strict=True), start=1):
        changed = [site for site in step.sites if site.status == "changed"]
        left_out = [site for site in step.sites if site.status == "left-out"]
        kept = [site for site in step.sites if site.status not in ("changed", "left-out")]
        found.append(
            Row(
                step=step,
                index=index,
                changed=step.changed if step.changed is not None else len(changed) if step.sites else None,
                kept=step.kept if step.kept is not None else len(kept) if step.sites else None,
                delta=delta,
                share=abs(delta) / top if delta and top else 0.0,
                changes=tuple(grouped(changed)),
                refusals=tuple(grouped(kept)),
                left_out=tuple(left_out),
            )
        )
    return sorted(found, key=lambda row: row.rank)


def totals(found: list[Row]) -> Totals:
    """The sums over all rows."""
    times = [row.step.seconds for row in found if row.step.seconds is not None]
    deltas = [row.delta for row in found if row.delta is not None]
    return Totals(
        changed=sum(row.changed or 0 for row in found),
        kept=sum(row.kept or 0 for row in found),
        left_out=sum(len(row.left_out) for row in found),
        seconds=sum(times) if times else None,
        delta=sum(deltas) if deltas else None,
        rounds=max((row.step.round or 1 for row in found), default=0),
    )


def grouped(sites: Iterable[SiteLine]) -> list[Group]:
    """Sites by text, the most frequent first; texts that differ in quoted names, shapes or counts are one group."""
    by_text: dict[str, list[SiteLine]] = {}
    for site in sites:
        by_text.setdefault(_common(site.text), []).append(site)
    found: list[Group] = []
    for pattern, members in by_text.items():
        same = len({member.text for member in members}) == 1
        places = tuple((site.where, "" if same else site.text) for site in members[:LIMIT])
        found.append(Group(members[0].text if same else pattern, places, len(members)))
    return sorted(found, key=lambda group: -group.total)


def _common(text: str) -> str:
    """What is alike in the texts of many places: ``‘…’`` for names, ``[…]`` for shapes, ``(…)`` for counts."""
    return _COUNT.sub("(…)", _SHAPE.sub("[…]", _QUOTED.sub("‘…’", text)))


_QUOTED = re.compile(r"'[^']*'")
_SHAPE = re.compile(r"\[[^\[\]]*\]")
_COUNT = re.compile(r"\((?:\d[\d,]*|scalar)\)")
