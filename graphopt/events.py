"""What happens while graphopt works, as data: sites, progress, notes.

The library never prints. It reports to an ``Events`` callable in the context; the command line draws a
live table from it, ``--json`` writes one line per event, and a test can collect them in a list.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Site:
    """One place in a model that a pass considered: an edit it proposes, or the reason it keeps the place as it is.

    A pass never edits by itself. It yields the site; whoever drives the pass applies ``edit`` or leaves it
    out, and sends back whether it was applied. That is what makes dry runs, bisection to a guilty site,
    counting and cancellation one mechanism.

    Attributes:
        where: the node or tensor, as ``Conv 'conv1'`` (``graphopt.ir.where`` writes it).
        text: what the edit does (``folded into Conv 'conv1'``), or why there is none
            (``its scale is not a constant``); lower case, no full stop.
        edit: makes the change, or None when the place is kept.
    """

    where: str
    text: str
    edit: Callable[[], object] | None = field(default=None, compare=False, repr=False)

    @property
    def key(self) -> tuple[str, str]:
        """Identifies the site across re-runs of the same pass on the same model."""
        return (self.where, self.text)


Sites: TypeAlias = Generator[Site, bool, None]
"""What ``Pass.apply`` returns: yields sites, and receives for each whether its edit was applied."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes:
        kind: ``pass-started``, ``pass-finished``, ``verify``, ``progress``, ``note``, ``warning`` or ``result``.
        data: JSON-able facts of that kind of event.
    """

    kind: str
    data: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """A flat JSON object, ``kind`` first."""
        return {"event": self.kind, **asdict(self)["data"]}


Events: TypeAlias = Callable[[Event], None]


def silent(event: Event) -> None:
    """Hears every event and does nothing."""
