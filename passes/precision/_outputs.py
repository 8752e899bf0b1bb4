"""What whole models give on a few samples, and how far apart two of them are."""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphopt.execute.compare import Tolerance, compare
from graphopt.execute.signature import Feeds
from graphopt.execute.staged import Program, Staged

TRY_FEEDS = 8
"""Samples for one run of a whole model, at most."""

_ANY_ERROR = Tolerance(sqnr_db=-math.inf)


def outputs(program: Program, feeds: Sequence[Feeds]) -> list[Feeds]:
    """What a program gives on each of the first feeds.

    Raises:
        GraphoptError: it does not run.
    """
    staged = Staged(program)
    return [dict(staged.run(feed)) for feed in feeds[:TRY_FEEDS]]


def worst_db(truth: Sequence[Feeds], found: Sequence[Feeds]) -> float | None:
    """The worst output's ratio of signal to error in dB; None when one differs by more than numbers."""
    worst = math.inf
    for expected, actual in zip(truth, found, strict=True):
        differences = compare(expected, actual, _ANY_ERROR)
        if not all(item.ok for item in differences):
            return None
        worst = min((worst, *(item.sqnr_db for item in differences)))
    return worst
