"""Random graphs through the presets: the same numbers, the same interface, nothing left to do, no wrong shape.

A few hundred fixed seeds by default. ``make fuzz`` runs on for ``GRAPHOPT_FUZZ`` graphs from ``GRAPHOPT_FUZZ_FROM`` on.
A failing seed is a reproduction: ``make fuzz FUZZ=1 FROM=<seed>``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from graphs import make
from judge import Unusable, judge

_COUNT = int(os.environ.get("GRAPHOPT_FUZZ", "200"))
_FROM = int(os.environ.get("GRAPHOPT_FUZZ_FROM", "0"))
_PARTS = 8  # so that -n spreads them
_RECIPES = ("clean", "clean, fuse")


@pytest.mark.timeout(0 if "GRAPHOPT_FUZZ" in os.environ else 300)
@pytest.mark.parametrize("part", range(min(_PARTS, _COUNT)))
def test_random_graphs_keep_their_meaning(part: int, tmp_path: Path) -> None:
    wrong: list[str] = []
    usable = seen = 0
    for seed in range(_FROM + part, _FROM + _COUNT, _PARTS):
        seen += 1
        try:
            problems = judge(make(seed), tmp_path, _RECIPES[seed // _PARTS % 2])
            usable += 1
        except Unusable:
            continue
        except Exception as error:  # noqa: BLE001  whatever it is, the seed has to be named
            problems = [f"{type(error).__name__}: {error}"]
        wrong += [f"seed {seed}: {problem}" for problem in problems]
    assert not wrong, "\n".join(wrong)
    assert usable > 0.8 * seen or seen < 10, f"only {usable} of {seen} graphs run: the generator needs care"


def test_a_seed_gives_the_same_graph_each_time() -> None:
    assert make(7).model.SerializeToString() == make(7).model.SerializeToString()
