"""What came of a pass, and of a whole run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from ..execute.verify import Verdict
from .pass_ import Pass


@dataclass
class Outcome:
    """One pass of the recipe, over all rounds.

    Attributes:
        applied: the pass.
        changed: ``(where, text)`` of each edit made.
        kept: ``(where, reason)`` of each place considered and kept, as of the last round.
        left_out: ``(where, text)`` of edits that failed or broke the pass's promise when they were tried.
        causes: for each of them, what happened.
        seconds: time spent in the pass.
        node_delta: change in the number of nodes.
        failed: the error that made the manager do without this pass.
    """

    applied: Pass
    changed: list[tuple[str, str]] = field(default_factory=list)
    kept: list[tuple[str, str]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    causes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    node_delta: int = 0
    failed: str = ""

    @property
    def name(self) -> str:
        """The pass's name."""
        return self.applied.name

    def reasons(self) -> Counter[str]:
        """How often each reason for keeping a place was given."""
        return Counter(reason for _, reason in self.kept)

    def as_json(self) -> dict[str, Any]:
        """One line of ``steps.jsonl``."""
        dropped = [(place, f"{text}; {cause}") for (place, text), cause in zip(self.left_out, self.causes, strict=True)]
        sites = [("changed", self.changed), ("kept", self.kept), ("left-out", dropped)]
        return {
            "pass": str(self.applied),
            "family": self.applied.family(),
            "fidelity": self.applied.fidelity.name,
            "changed": len(self.changed),
            "kept": len(self.kept),
            "left_out": len(self.left_out),
            "seconds": round(self.seconds, 6),
            "node_delta": self.node_delta,
            "error": self.failed,
            "sites": [
                {"where": where, "text": text, "status": status} for status, items in sites for where, text in items
            ],
        }


@dataclass
class Outcomes(Sequence[Outcome]):
    """The outcomes of a run in recipe order, and what verification said.

    Attributes:
        steps: one outcome per pass of the recipe.
        verdict: the comparison with the original; None when there was none.
        unverified: why there was none.
        rounds: how often the recipe was gone through until nothing changed.
    """

    steps: list[Outcome]
    verdict: Verdict | None = None
    unverified: str = ""
    rounds: int = 0

    @overload
    def __getitem__(self, index: int) -> Outcome: ...
    @overload
    def __getitem__(self, index: slice) -> list[Outcome]: ...
    def __getitem__(self, index: int | slice) -> Outcome | list[Outcome]:
        return self.steps[index]

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Outcome]:
        return iter(self.steps)

    @property
    def changed(self) -> int:
        """Edits made by all passes together."""
        return sum(len(step.changed) for step in self.steps)
