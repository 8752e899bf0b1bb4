"""Driving one pass: apply its edits, leave some out, count."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field

import onnx_ir as ir

from ..ir import sweep, tidy
from .context import Context
from .pass_ import Pass

SiteKey = tuple[str, str]


class PassFailed(Exception):
    """A pass raised an exception.

    Attributes:
        failed: the pass.
        site: the site whose edit raised, or None when the pass itself did.
        after: the last place the pass spoke of.
    """

    def __init__(self, failed: Pass, site: SiteKey | None, after: str, error: Exception) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.failed = failed
        self.site = site
        self.after = after


@dataclass
class Drive:
    """What happened when a pass ran once."""

    changed: list[SiteKey] = field(default_factory=list)
    kept: list[SiteKey] = field(default_factory=list)
    left_out: list[SiteKey] = field(default_factory=list)
    seconds: float = 0.0


def drive(
    pass_: Pass, model: ir.Model, context: Context, *, left_out: Collection[SiteKey] = (), limit: int | None = None
) -> Drive:
    """Run a pass on a model, in place.

    Args:
        pass_: the pass.
        model: edited; the caller hands over a copy it can do without.
        context: for the pass.
        left_out: sites whose edit is not made.
        limit: make only the first so many edits (bisection).

    Raises:
        PassFailed: the pass or one of its edits raised; the model may be half edited.
    """
    done = Drive()
    start = time.perf_counter()
    after, editing = "", None
    try:
        sites = pass_.apply(model, context)
        answer: bool | None = None
        while True:
            try:
                site = next(sites) if answer is None else sites.send(answer)
            except StopIteration:
                break
            after, answer = site.where, False
            if site.edit is None:
                done.kept.append(site.key)
            elif site.key in left_out:
                done.left_out.append(site.key)
            elif limit is None or len(done.changed) < limit:
                editing = site.key
                site.edit()
                answer, editing = True, None
                done.changed.append(site.key)
        if done.changed:
            sweep(model)
            tidy(model)
    except Exception as error:  # any bug of any pass, a user's too: the manager goes on without it
        raise PassFailed(pass_, editing, after, error) from error
    done.seconds = time.perf_counter() - start
    return done
