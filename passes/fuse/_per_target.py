"""Rules that depend on the target are read once for a run, not once for a round: patterns take time to parse."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from graphopt.rewrite import RuleSet
from graphopt.target import Target


def per_target(make: Callable[[Target], RuleSet]) -> Callable[[Target], RuleSet]:
    """Let a function that makes rules give again what it has made for the same target last."""
    last: tuple[Target, RuleSet] | None = None

    @wraps(make)
    def rules(target: Target) -> RuleSet:
        nonlocal last
        if last is None or last[0] is not target:  # a target holds mappings, which have no hash
            last = target, make(target)
        return last[1]

    return rules
