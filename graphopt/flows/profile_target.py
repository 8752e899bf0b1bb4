"""Measure which fused forms pay in a target's runtime on this machine, and keep it as the target's profile.

For every micro-benchmark and size two models are made, the plain one and the one with the form. Both run as a user
runs them: with the runtime's own optimisations and the target's session settings, in turns. So a form that the
runtime makes of the plain operators by itself has a ratio of 1. One model loaded twice can differ from itself by more
than its rounds do: so both are loaded several times, and the interval holds the median of each time. On the CPU with
one thread the thread's own time is taken, so that what else the machine does counts little.
"""

from __future__ import annotations

import datetime
import difflib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ..backends.onnxruntime import session_settings
from ..errors import GraphoptError
from ..events import Event, Events, silent
from ..execute.compare import compare
from ..execute.isolate import isolated
from ..execute.machine import machine
from ..execute.measure import STOP_SPINNING, alternate, paired_ratio
from ..execute.providers import CPU
from ..execute.rounding import Rounding
from ..execute.session import Session
from ..execute.verify import allowances
from ..ir.atomic import write_file
from ..profile import ELEMENTS, UNMEASURED, Point, Profile
from ..target import Target, find_target, host, profile_path
from .microbench import MICROS, Micro, Sizes, build
from .places import refuse_unwritable

SESSIONS = 4
_ROUNDS = 7
_CHILD_SECONDS = 120.0


class Unusable(Exception):
    """A form that has no kernel, or computes something else."""


@dataclass(frozen=True)
class Profiled:
    """What was measured, and where it is kept."""

    target: str
    profile: Profile
    path: Path

    def as_json(self) -> dict[str, Any]:
        """The ``result`` event of ``graphopt profile-target --json``."""
        return {"target": self.target, "path": str(self.path), **self.profile.as_json()}


def profile_target(
    target: str | None = None,
    forms: Sequence[str] = (),
    *,
    seconds: float = 1.0,
    output: Path | str | None = None,
    threads: int = 1,
    seed: int = 0,
    events: Events = silent,
) -> Profiled:
    """Measure forms and write the profile.

    Args:
        target: whose runtime and session settings to measure; this machine's without.
        forms: which to measure; all without. What the same file knows of other forms, measured on the same machine
            with the same versions and threads, stays.
        seconds: how long to measure each side of each point, at least.
        output: the file to write; by default the user's, which ``find_target`` reads from then on.
        threads: threads within an operator; 0 leaves the number to the runtime.
        seed: of inputs, weights, and of the order within the rounds.
        events: hears ``progress``: one when a form begins, one for each point, and one when a form is unusable.

    Raises:
        GraphoptError: no such target, form or provider; the file cannot be written.
    """
    place = find_target(target or host().name)
    micros = [MICROS[form] for form in _wanted(place, forms)]
    path = _path(place, output)
    settings = _settings(place)
    begun = _begun(place, path, threads) if forms else replace(UNMEASURED, machine=machine())
    points, absent, units = dict(begun.forms), dict(begun.absent), dict(begun.units)
    for number, micro in enumerate(micros):
        at = {"form": micro.form, "number": number + 1, "of": len(micros)}
        events(Event("progress", {"stage": "measuring", **at}))
        points.pop(micro.form, None)
        absent.pop(micro.form, None)
        found = _measured(micro, settings, seconds, threads, seed)
        if isinstance(found, str):
            absent[micro.form] = found
            events(Event("progress", {"stage": "unusable", **at, "reason": found}))
            continue
        points[micro.form] = tuple(found)
        if micro.unit != ELEMENTS:
            units[micro.form] = micro.unit
        for item in found:
            events(Event("progress", {"stage": "measured", **at, "unit": micro.unit, **asdict(item)}))
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    profile = Profile(begun.machine, points, units, absent, today, threads)
    write_file(path, profile.to_text().encode())
    return Profiled(place.name, profile, path)


def _wanted(target: Target, forms: Sequence[str]) -> list[str]:
    """The forms to measure, in the table's order; the target must take their operators."""
    taken = [form for form in MICROS if form.rpartition("::")[0] in target.domains]
    for form in forms:
        if form in taken:
            continue
        if form in MICROS:
            what, hint = f"the target {target.name} takes no operators of {form.rpartition('::')[0]}", ""
        else:
            near = difflib.get_close_matches(form, taken, n=1, cutoff=0.5)
            what = f"there is no micro-benchmark of '{form}'"
            hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(taken)}"
        raise GraphoptError(what, "--forms", hint, usage=True)
    return [form for form in taken if not forms or form in forms]


def _path(target: Target, output: Path | str | None) -> Path:
    """Where the profile goes; that it can be written is found out before the measurement."""
    if output is not None:
        refuse_unwritable(Path(output))
        return Path(output)
    path = profile_path(target.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        hint = "set GRAPHOPT_PROFILES to a folder you may write to, or give --output"
        raise GraphoptError(f"the folder cannot be made: {error.strerror}", str(path.parent), hint) from None
    refuse_unwritable(path)
    return path


def _settings(target: Target) -> dict[str, Any]:
    """The session settings; a runtime that is not here is an error before anything is measured."""
    settings = session_settings(target)
    micro = next(iter(MICROS.values()))
    Session(build(micro, "plain", micro.sizes[0]), optimized=True, **settings)
    return settings


def _begun(target: Target, path: Path, threads: int) -> Profile:
    """What the file holds already, where it is of this machine, and these versions and threads."""
    here = machine()
    try:
        found = Profile.from_text(path.read_text("utf-8"), str(path))
    except (OSError, UnicodeDecodeError, GraphoptError):
        return replace(UNMEASURED, machine=here)
    same = found.threads == threads and all(found.machine.get(key) == here[key] for key in ("cpu", "versions"))
    return found if same else replace(UNMEASURED, machine=here)


def _measured(micro: Micro, settings: dict[str, Any], seconds: float, threads: int, seed: int) -> list[Point] | str:
    """The points of a form, or why it cannot be used; in a child, since a kernel may crash."""
    timeout = _CHILD_SECONDS + 20 * len(micro.sizes) * SESSIONS * max(1.0, seconds)
    try:
        return isolated(
            _points, micro.form, settings, seconds, threads, seed, timeout=timeout, stage=f"measuring {micro.form}"
        )
    except GraphoptError as error:
        return error.what


def _points(form: str, settings: dict[str, Any], seconds: float, threads: int, seed: int) -> list[Point] | str:
    """In the child."""
    micro = MICROS[form]
    try:
        return [point(micro, sizes, settings, seconds, threads, seed) for sizes in micro.sizes]
    except Unusable as reason:
        return str(reason)


def point(
    micro: Micro, sizes: Sizes, settings: Mapping[str, Any], seconds: float, threads: int = 1, seed: int = 0
) -> Point:
    """Check and measure a form at one size, in this process.

    Args:
        micro: the form's benchmark.
        sizes: one of its sizes.
        settings: options of the sessions.
        seconds: how long to measure each side, at least.
        threads: threads within an operator.
        seed: of inputs, weights, and of the order within the rounds.

    Raises:
        Unusable: the form does not run, or computes something else.
    """
    feeds = micro.feeds(sizes, seed)

    def opened(which: str, copies: int = 0) -> Session:
        model = build(micro, which, sizes, seed, copies=copies)
        return Session(model, optimized=True, threads=threads, config=STOP_SPINNING, **settings)

    _agree(build(micro, "plain", sizes, seed, copies=1), lambda: opened("fused", 1), feeds)
    alone = threads == 1 and settings["provider"] == CPU  # all work is done in this thread
    clock = time.thread_time if alone else time.perf_counter
    times: list[float] = []
    bases: list[float] = []
    medians: list[float] = []
    for session in range(SESSIONS):
        if session % 2:  # what is loaded second may lie better
            second, first = opened("fused"), opened("plain")
        else:
            first, second = opened("plain"), opened("fused")
        base, own = alternate(
            [first, second],
            [feeds],
            min_seconds=seconds / SESSIONS,
            rounds=_ROUNDS,
            seed=seed + session,
            warm_seconds=min(0.2, seconds / SESSIONS),
            clock=clock,
        )
        bases += base
        times += own
        medians.append(paired_ratio(own, base)[0])
    ratio, low, high = paired_ratio(times, bases)
    low, high = min(low, *medians), max(high, *medians)
    return Point(micro.size(sizes), round(ratio, 4), round(low, 4), round(high, 4))


def _agree(plain: ir.Model, fused: Callable[[], Session], feeds: Mapping[str, Any]) -> None:
    """Raise ``Unusable`` where the form does not run, or gives something else than the plain operators."""
    try:
        expected = Session(plain, optimized=False).run(feeds)
    except GraphoptError as error:
        raise Unusable(f"the plain operators do not run: {error.what}") from None
    try:
        actual = fused().run(feeds)
    except GraphoptError as error:
        raise Unusable(error.what) from None
    for found in compare(expected, actual, allowances(expected, None, Rounding(plain))):
        if not found.ok:
            raise Unusable(f"its results are wrong: {found.reason}")
