"""Random graphs through the presets: the same numbers, the same interface, nothing left to do, no wrong shape.

Hypothesis makes the choices, so a graph that fails is made as small as it can be and printed. Some hundreds of graphs
for each way by default; ``make fuzz FUZZ=20000 FROM=7`` runs on for as many, from other seeds.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace

import hypothesis
import onnx
import pytest
from graphs import draw
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from judge import Unusable, judge

from graphopt.target import targets

_COUNT = int(os.environ.get("GRAPHOPT_FUZZ", "3200"))
_FROM = int(os.environ.get("GRAPHOPT_FUZZ_FROM", "0"))
_PARTS = 8  # so that -n spreads them


class _All(frozenset[str]):
    """A set that holds every string."""

    def __contains__(self, item: object) -> bool:
        return True


_WAYS = (
    ("clean", targets()["onnx"]),
    (targets()["onnx"].recipe, targets()["onnx"]),
    (targets()["x86-64"].recipe, targets()["x86-64"]),
    (targets()["x86-64"].recipe, replace(targets()["x86-64"], name="every form", forms=_All())),
)


@pytest.mark.timeout(0 if "GRAPHOPT_FUZZ" in os.environ else 600)
@pytest.mark.parametrize("part", range(_PARTS))
def test_random_graphs_keep_their_meaning(part: int) -> None:
    recipe, target = _WAYS[part % len(_WAYS)]
    seen = usable = 0

    @hypothesis.seed(_FROM + part)
    @settings(
        max_examples=max(_COUNT // _PARTS, 1),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
        print_blob=True,
    )
    @given(st.randoms(use_true_random=False))
    def holds(rng: random.Random) -> None:
        nonlocal seen, usable
        fuzzed = draw(rng)
        seen += 1
        note(onnx.printer.to_text(fuzzed.model))
        try:
            problems = judge(fuzzed, recipe, target)
        except Unusable:
            return
        usable += 1
        assert not problems, "\n".join(problems)

    holds()
    assert usable > 0.8 * seen or seen < 10, f"only {usable} of {seen} graphs run: the generator needs care"
