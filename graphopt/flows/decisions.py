"""Why fused operators were used or not: what the passes asked the target, and what it answered from its profile.

A pass asks before it writes a fused form (``Target.objection``, ``Target.likes``). The target given to the passes
here notes questions and answers; afterwards they are set beside what became of the model. Questions that a pass asks
of all forms at first, before it has found a place, are left out unless something came of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..pipeline import Outcome
from ..profile import ELEMENTS, Point, Profile, operator_of
from ..target import PROFILES, Target, is_faster, is_slower, profile_path
from .stats import ModelStats

USED, POSSIBLE, REFUSED = "used", "not used", "refused"
MEANINGS = {
    "Attention:heads": "Attention whose heads were split before it",
    "Conv1x1": "Conv of kernel 1 for a MatMul between Transposes",
    "Gelu:tanh": "the tanh approximation of Gelu",
    "MatMul": "MatMul for a Conv of kernel 1 between Transposes",
    "MergedConv": "several Convs of one tensor as one",
    "MergedMatMul": "several MatMuls of one tensor as one",
    "PaddedChannels": "channels padded to a multiple",
    "com.microsoft::QuickGelu:silu": "QuickGelu with alpha 1, which is SiLU",
}
"""What is meant by a form that is more or less than the operator of its name."""

_NEITHER = "nothing against it, but another form was written, or none"
_UNLIKED = " is not known to be faster on "
_LONGER = " times as long on "


@dataclass(frozen=True)
class Decision:
    """One form, and what came of it.

    Attributes:
        form: as in profiles.
        verdict: ``used``; ``refused``; or ``not used``: the target had nothing against it, the graph got another form
            or stayed as it was.
        why: in words.
        sizes: at which sizes it was asked for; empty where they are not known before the run.
        unit: what the sizes count.
        ratio: time of the form relative to what it stands for, the least and the greatest at these sizes (at all
            measured ones where none is known); None where it was not measured.
        origin: ``local`` when measured on this machine, ``packaged`` when it came with graphopt, else "".
        before, after: nodes of that operator.
        meaning: what that is in words, where it is not the operator of that name; else "".
    """

    form: str
    verdict: str
    why: str
    sizes: tuple[int, ...] = ()
    unit: str = ""
    ratio: tuple[float, float] | None = None
    origin: str = ""
    before: int = 0
    after: int = 0
    meaning: str = ""

    def measured(self) -> str:
        """The ratio in words; empty where it was not measured."""
        if self.ratio is None:
            return ""
        least, most = (f"{value:.2f}" for value in self.ratio)
        ratio = least if least == most else f"{least}..{most}"
        at = "at the measured sizes"
        if self.sizes:
            shown = f"{self.sizes[0]:,}" if len(self.sizes) == 1 else f"{self.sizes[0]:,}..{self.sizes[-1]:,}"
            at = f"at {shown} {self.unit}" if self.unit == ELEMENTS else f"at {self.unit} = {shown}"
        return f"{ratio} of the time of what it stands for, {at}"

    def as_json(self) -> dict[str, Any]:
        """A line of a run folder's ``decisions.jsonl``."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


@dataclass(frozen=True)
class AskedTarget(Target):
    """A target that remembers what it was asked: ``(form, size)`` and why not, None for a form it takes."""

    asked: dict[tuple[str, float | None], str | None] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, target: Target) -> AskedTarget:
        """The same target with an empty memory."""
        return cls(**{item.name: getattr(target, item.name) for item in fields(Target)})

    def objection(self, form: str, work: float | None = None) -> str | None:
        """As ``Target`` answers."""
        said = super().objection(form, work)
        self.asked[form, work] = said
        return said

    def likes(self, form: str, work: float | None = None) -> bool:
        """As ``Target`` answers."""
        liked = super().likes(form, work)
        self.asked[form, work] = None if liked else f"{form}{_UNLIKED}{self.name}"
        return liked


def decisions(
    target: AskedTarget, outcomes: Iterable[Outcome], before: ModelStats, after: ModelStats
) -> tuple[Decision, ...]:
    """What came of the questions: forms that were used first, then those refused.

    Args:
        target: the one that the passes asked.
        outcomes: of the passes; what they say of their places tells which answers mattered.
        before: the model in numbers.
        after: the result in numbers.
    """
    said = "\n".join({text for step in outcomes for _, text in (*step.changed, *step.kept)})
    groups: dict[tuple[str, bool], list[tuple[float | None, str | None]]] = {}
    for (form, work), answer in target.asked.items():
        groups.setdefault((form, answer is None), []).append((work, answer))
    found: list[Decision] = []
    for (form, taken), asked in groups.items():
        name = operator_of(form)
        counts = before.operators.get(name, 0), after.operators.get(name, 0)
        sizes = tuple(sorted({int(work) for work, _ in asked if work is not None}))
        answers = [answer for _, answer in asked if answer is not None]
        grown = counts[1] > counts[0]
        if not sizes and not (grown if taken else any(answer in said for answer in answers)):
            continue
        points = _points(target.profile, form, sizes)
        if not taken:
            verdict, why = REFUSED, _refused(points, sizes, answers[0])
        else:
            verdict, why = (USED, _taken(target, form, points)) if grown else (POSSIBLE, _NEITHER)
        found.append(
            Decision(
                form,
                verdict,
                why,
                sizes,
                target.profile.unit(form) if points else "",
                (min(point.ratio for point in points), max(point.ratio for point in points)) if points else None,
                origin(target.profile, form) if points else "",
                *counts,
                MEANINGS.get(form, ""),
            )
        )
    order = (USED, REFUSED, POSSIBLE)
    return tuple(sorted(found, key=lambda item: (order.index(item.verdict), item.form)))


def _points(profile: Profile, form: str, sizes: Iterable[int]) -> list[Point]:
    """What was measured, at these sizes or, without any, at all."""
    return [point for size in sizes for point in profile.points(form, size)] or list(profile.points(form))


def _taken(target: Target, form: str, points: list[Point]) -> str:
    if not points:
        if not target.forms.isdisjoint((form, operator_of(form))):
            return "not measured; known to be faster there"
        return "not measured; a standard operator, and fewer nodes"
    return "measured as faster" if all(map(is_faster, points)) else "measured as no slower, and fewer nodes"


def _refused(points: list[Point], sizes: Sequence[int], answer: str) -> str:
    """What the measurement says; the target's own words where it was none that decided."""
    if not points or (_UNLIKED not in answer and _LONGER not in answer):
        return answer
    if not any(map(is_slower, points)):
        return "measured as no faster"
    if all(map(is_slower, points)):
        return "measured as slower"
    return "measured as slower at some sizes" + ("" if sizes else ", and sizes are open before the run")


def origin(profile: Profile, form: str) -> str:
    """``local`` for what was measured on this machine, ``packaged`` for what came with graphopt."""
    source = profile.source(form) or profile.source(operator_of(form))
    return "local" if source is profile and profile.base is not None else "packaged"


def profiles(target: Target) -> list[dict[str, Any]]:
    """The measured profiles a target answers from, first the one it asks first; empty where nothing was measured."""
    own, packaged = profile_path(target.name), PROFILES / f"{target.name}.json"
    local = target.profile.base is not None
    layers = [("local", own, target.profile)] if local else []
    base = target.profile.base if target.profile.base is not None else target.profile
    layers.append(("packaged", packaged, base))
    return [_facts(origin, path, profile) for origin, path, profile in layers if profile.forms or profile.absent]


def _facts(origin: str, path: Path, profile: Profile) -> dict[str, Any]:
    machine: Mapping[str, Any] = profile.machine
    return {
        "origin": origin,
        "path": str(path) if origin == "local" else f"graphopt/profiles/{path.name}",
        "sha256": hashlib.sha256(profile.to_text().encode()).hexdigest(),
        "measured": profile.measured,
        "cpu": machine.get("cpu", ""),
        "onnxruntime": machine.get("versions", {}).get("onnxruntime", ""),
        "threads": profile.threads,
        "forms": len(profile.forms),
    }
