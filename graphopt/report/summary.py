"""What a run comes to: the verdict, the headline numbers, what a reader must not overlook."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath, PureWindowsPath

from graphopt.execute.measure import NOISE

from . import formats
from .reading import Measurement, Run, Stats
from .values import size, text

EXACT = frozenset(("equal", "exact", "identical"))
GOOD = EXACT | {"same", "within tolerance", "equivalent", "close", "ok", "pass", "passed"}
BAD = frozenset(("different", "differs", "differ", "wrong", "mismatch", "fail", "failed", "broken", "error"))
RESULTS = frozenset(("after", "optimized", "optimised", "result"))


@dataclass(frozen=True, slots=True)
class Badge:
    """The verdict in a word: ``kind`` is ok, bad or unknown."""

    kind: str
    label: str
    detail: str


@dataclass(frozen=True, slots=True)
class Tile:
    """A headline number."""

    label: str
    value: str
    detail: str
    measured: bool = True


def model_name(run: Run) -> str:
    """The source file's name without ``.onnx``, or the run's id."""
    path = text(run.fact("source", "path"))
    name = (PureWindowsPath(path) if "\\" in path else PurePath(path)).name
    return name.removesuffix(".onnx") or text(run.fact("id")) or run.name


def badge(run: Run) -> Badge:
    """What verification says. One output that is not ok, or one problem, outweighs any word."""
    verify = run.verify
    if verify is None:
        return Badge("unknown", "Not verified", "The results were not compared.")
    word = verify.verdict.strip().lower().replace("_", " ").replace("-", " ")
    total = len(verify.outputs)
    samples = size(run.fact("samples"))
    on = f" on {formats.plural(verify.feeds, 'feed')}" if verify.feeds else ""
    if verify.feeds and samples and verify.feeds < samples:
        on = f" on {verify.feeds} of {formats.plural(samples, 'feed')}"
    failed = sum(output.ok is False for output in verify.outputs)
    if failed:
        are = "is" if failed == 1 else "are"
        detail = f"{failed} of {formats.plural(total, 'output')} {are} beyond tolerance{on}."
        return Badge("bad", "Results differ", detail)
    if word in BAD or verify.problems:
        return Badge("bad", "Results differ", f"The comparison failed{on}.")
    if word in GOOD or (total and all(output.ok for output in verify.outputs)):
        exact = word in EXACT or (total > 0 and all(output.max_abs == 0 for output in verify.outputs))
        all_of = {0: "The results are", 1: "The output is", 2: "Both outputs are"}
        which = all_of.get(total, f"All {formats.count(total)} outputs are")
        how = "the same bit for bit" if exact else "within tolerance"
        return Badge("ok", "Exact" if exact else "Verified", f"{which} {how}{on}.")
    label = word.capitalize() if word and not verify.unverified else "Not verified"
    why = f": {verify.unverified}" if verify.unverified else ""
    return Badge("unknown", label, f"The results were not compared{why}.")


def baseline(run: Run) -> Measurement | None:
    """The candidate that ratios are relative to."""
    return run.measurements[0] if run.measurements else None


def result(run: Run) -> Measurement | None:
    """The candidate the headline is about: the one named as the result, else the fastest."""
    others = run.measurements[1:]
    named = [item for item in others if item.name.lower() in RESULTS]
    rated = [item for item in others if item.ratio is not None]
    if named:
        return named[-1]
    return min(rated, key=lambda item: item.ratio or 0.0) if rated else None


def latency(run: Run) -> str:
    """One clause on speed that claims no more than the interval allows; empty without a measurement."""
    found = result(run)
    if found is None or found.ratio is None:
        return ""
    if found.ratio_low is None or found.ratio_high is None:
        return f"it takes {formats.ratio(found.ratio)} the time it took"
    spread = formats.interval(found.ratio_low, found.ratio_high)
    shown = f"{formats.ratio(found.ratio)} the time, 95{formats.SPACE}% interval {spread}"
    if found.ratio_low <= 1 <= found.ratio_high:
        return f"no difference in speed could be measured ({shown})"
    if abs(1 - found.ratio) < NOISE:
        within = f"{100 * NOISE:.0f}{formats.SPACE}%"
        return f"the times are within {within}, which this measurement cannot tell apart ({shown})"
    if found.ratio > 1:
        return f"it is slower ({shown})"
    return f"it is {formats.ratio(1 / found.ratio)} as fast ({shown})" if found.ratio else f"it is faster ({shown})"


def tiles(run: Run) -> list[Tile]:
    """Nodes, weights, latency, accuracy: what was, what is."""
    before, after = run.before, run.after
    found, first = result(run), baseline(run)
    made = [
        _pair("Nodes", before and before.nodes, after and after.nodes, formats.count),
        _pair("Weights", before and before.bytes, after and after.bytes, formats.size),
    ]
    if found is not None and found.ratio is not None:
        times = ""
        if first is not None and first.median_ms is not None and found.median_ms is not None:
            times = f"{formats.milliseconds(first.median_ms)} → {formats.milliseconds(found.median_ms)}"
        spread = formats.interval(found.ratio_low, found.ratio_high)
        made.append(Tile("Latency", formats.ratio(found.ratio), " · ".join(part for part in (spread, times) if part)))
    else:
        made.append(Tile("Latency", "not measured", "", measured=False))
    return [*made, _accuracy(run)]


def _pair(label: str, before: int | None, after: int | None, show: Callable[[int | None], str]) -> Tile:
    if after is None:
        known = before is not None
        return Tile(label, show(before) if known else "not measured", "before" if known else "", measured=known)
    if before is None:
        return Tile(label, show(after), "after")
    if before == after:
        return Tile(label, show(after), "as before")
    return Tile(label, show(after), f"from {show(before)} · {formats.change(before, after) or 'new'}")


def _accuracy(run: Run) -> Tile:
    outputs = run.verify.outputs if run.verify else ()
    errors = [output.max_abs for output in outputs if output.max_abs is not None]
    if any(output.ok is False and output.max_abs is None for output in outputs):
        return Tile("Largest difference", "not finite", "see Outputs")
    if not errors:
        return Tile("Largest difference", "not measured", "", measured=False)
    worst = max(errors, key=lambda error: float("inf") if error != error else error)
    levels = [output.sqnr_db for output in outputs if output.sqnr_db is not None]
    noise = f"SQNR {formats.decibels(min(levels))}" if levels and worst else "no output changed" if worst == 0 else ""
    return Tile("Largest difference", formats.small(worst), noise)


def cost_notes(run: Run) -> list[str]:
    """What operations and activations were counted for, and what limits them."""
    stats = [(word, stats) for word, stats in (("before", run.before), ("after", run.after)) if stats is not None]
    found: list[str] = []
    if run.sizes and any(one.peak is not None for _, one in stats):
        found.append(f"FLOPs and activations are counted for {run.sizes}")
    by_note: dict[str, list[str]] = {}
    for word, one in stats:
        for note in one.cost_notes:
            by_note.setdefault(note, []).append(word)
    found += [f"{' and '.join(words)}: {note}" for note, words in by_note.items()]
    return [_sentence(note) for note in found]


def file_sizes(run: Run) -> tuple[int | None, int | None]:
    """The model's file before and after; None where its weights lie in other files, which would mislead."""
    first, found = baseline(run), result(run)
    before = first.file_bytes if first and found and found.file_bytes is not None else None
    after = found.file_bytes if found else None
    if before is None or after is None:
        before, after = size(run.fact("source", "bytes")), run.result_bytes
    return _whole_file(before, run.before), _whole_file(after, run.after)


def _whole_file(bytes_: int | None, stats: Stats | None) -> int | None:
    inside = bytes_ is not None and (stats is None or stats.bytes is None or bytes_ >= stats.bytes)
    return bytes_ if inside else None


def notes(run: Run) -> list[str]:
    """What limits the report: an error, an interruption, files that could only be read in part."""
    found: list[str] = []
    if text(run.fact("error")):
        found.append(f"The run failed: {text(run.fact('error'))}")
    elif "finished" in run.facts and run.fact("finished") is None:
        found.append("The run did not finish: this page shows what it had written by then.")
    if not run.facts:
        found.append("there is no readable run.json: command, machine and versions are unknown")
    if run.verify is not None:
        verify = run.verify
        found += [
            f"“{name}” gives another result in each run of the same model, so it was not compared"
            for name in verify.not_comparable
        ]
        found += verify.notes
    return [_sentence(note) for note in (*found, *run.torn)]


def _sentence(note: str) -> str:
    return f"{note[:1].upper()}{note[1:].removesuffix('.')}."
