"""Makes the page: run folder in, ``report.html`` out, the same bytes for the same files.

The page needs nothing but itself: style, drawings and script are inside, and its content security policy
allows the one style sheet and the one script by their digests and no connection at all. So even if a hostile
name from a model slipped through the escaping, a browser would neither run nor fetch it.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from ..ir.atomic import write_file
from . import charts, formats, passes, provenance, summary
from .reading import Decision, Output, Run, read

SHOWN_OPERATORS = 24
"""Operators drawn at once; those that came or went are always drawn."""

SHOWN_OUTPUTS = 6
"""Outputs drawn in the accuracy chart, the worst first; the table has all."""

NOISE_TOP = 160.0
"""Decibels at the end of the accuracy chart: float32 rounding lies near 140."""

NOISE_TICKS = (40.0, 80.0, 120.0)


@dataclass(frozen=True, slots=True)
class Fused:
    """A line of the table of fused operators."""

    form: str
    meaning: str
    verdict: str
    kind: str
    nodes: str
    ratio: str
    sizes: str
    why: str


@dataclass(frozen=True, slots=True)
class Bars:
    """A line of the summary or of the operator histogram."""

    label: str
    before: str
    after: str
    change: str
    kind: str
    drawing: Markup


def render(run_folder: Path) -> Path:
    """Writes a run folder's ``report.html``.

    The page is a pure function of the folder's files: no clock, no network, no look at this machine. What is
    missing from the folder is shown as not measured.

    Args:
        run_folder: a folder as ``graphopt.flows.run_folder.RunFolder`` writes it, finished or not.

    Returns:
        The page's path.

    Raises:
        GraphoptError: there is no run in that folder, or the page cannot be written.
    """
    folder = Path(run_folder)
    path = folder / "report.html"
    write_file(path, page(read(folder)).encode("utf-8", "replace"))
    return path


def page(run: Run) -> str:
    """The page of a run, as HTML."""
    rows = passes.rows(run)
    operators = _operators(run)
    style, script = _source("style.css"), _source("script.js")
    return (
        _environment()
        .get_template("report.html.jinja", globals=_SHARED)
        .render(
            run=run,
            model=summary.model_name(run),
            badge=summary.badge(run),
            tiles=summary.tiles(run),
            latency=summary.latency(run),
            notes=summary.notes(run),
            rows=[row for row in rows if not row.idle],
            idle=sorted((row for row in rows if row.idle), key=lambda row: row.index),
            totals=passes.totals(rows),
            left_out=[(row.step.name, site) for row in rows for site in row.left_out],
            failures=[(row.step.name, row.step.error) for row in rows if row.step.error],
            sizes=_sizes(run),
            cost_notes=summary.cost_notes(run),
            fused=[_fused(item) for item in run.decisions],
            profiles=provenance.profiles(run),
            ratio_top=charts.ratio_top(_ratios(run)),
            operators=[bars for bars, shown in operators if shown],
            more_operators=[bars for bars, shown in operators if not shown],
            outputs=_worst_outputs(run),
            noise_top=NOISE_TOP,
            noise_ticks=NOISE_TICKS,
            commands=provenance.commands(run),
            machine=provenance.machine(run),
            versions=provenance.versions(run),
            provenance=provenance.origin(run),
            style=Markup(style),
            script=Markup(script),
            style_digest=_digest(style),
            script_digest=_digest(script),
        )
    )


_SHARED = {"charts": charts, "change": formats.change, "NOTHING": formats.NOTHING}


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("graphopt.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., Any]] = {
        name: getattr(formats, name)
        for name in (
            "count",
            "size",
            "seconds",
            "milliseconds",
            "ratio",
            "interval",
            "small",
            "decibels",
            "moment",
            "plural",
        )
    }
    environment.filters |= filters | {"toml": _toml, "camel": _camel, "signed": _signed}
    return environment


def _finalize(value: object) -> object:
    """Every printed value passes here before it is escaped."""
    return formats.clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _source(name: str) -> str:
    loader = _environment().loader
    assert loader is not None
    return loader.get_source(_environment(), name)[0].strip()


def _digest(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _signed(value: int | None) -> str:
    return formats.delta(0, value) if value is not None else formats.NOTHING


def _camel(name: str) -> Markup:
    """An operator's name that may break before its capitals."""
    return Markup("<wbr>").join(re.split(r"(?<=[a-z0-9])(?=[A-Z])", formats.clean(name)))


def _toml(source: str) -> Markup:
    """A recipe with its tables, keys and comments marked; a comment after a value stays plain."""
    lines: list[Markup] = []
    for line in formats.clean(source).rstrip().split("\n"):
        kind = next((kind for kind, pattern in _TOML if pattern.match(line)), "")
        if kind == "key":
            key, rest = line.split("=", 1)
            lines.append(Markup('<span class="key">{}</span>={}').format(key, rest))
        elif kind:
            lines.append(Markup('<span class="{}">{}</span>').format(kind, line))
        else:
            lines.append(escape(line))
    return Markup("\n").join(lines)


_TOML = (
    ("comment", re.compile(r"\s*#")),
    ("table", re.compile(r"\s*\[\[?[^=]*\]\s*$")),
    ("key", re.compile(r"\s*[\w.\-\"]+\s*=")),
)


def _ratios(run: Run) -> list[float]:
    found = [value for item in run.measurements for value in (item.ratio, item.ratio_high) if value is not None]
    return [value for value in found if math.isfinite(value)]


def _sizes(run: Run) -> list[Bars]:
    """The summary's lines, each with its own scale."""
    before, after = run.before, run.after
    first, found = summary.baseline(run), summary.result(run)
    files = summary.file_sizes(run)
    lines: list[tuple[str, float | None, float | None, Callable[[Any], str]]] = [
        ("Nodes", before and before.nodes, after and after.nodes, formats.count),
        ("Transposes", before and before.of("Transpose"), after and after.of("Transpose"), formats.count),
        ("Casts", before and before.of("Cast"), after and after.of("Cast"), formats.count),
        ("FLOPs", before and before.flops, after and after.flops, formats.large),
        ("Peak of activations", before and before.peak, after and after.peak, formats.size),
        ("Initialisers", before and before.initializers, after and after.initializers, formats.count),
        ("Parameters", before and before.parameters, after and after.parameters, formats.large),
        ("Weights", before and before.bytes, after and after.bytes, formats.size),
        ("File", *files, formats.size),
        ("Memory of the process", first and first.peak_bytes, found and found.peak_bytes, formats.size),
        ("Load time", first and first.load_s, found and found.load_s, formats.seconds),
    ]
    drawn = [_bars(*line) for line in lines if line[1] is not None or line[2] is not None]
    notes = [note for stats in (before, after) if stats is not None for note in stats.cost_notes]
    partly = {
        "FLOPs": any("not counted" in note for note in notes),
        "Peak of activations": any("outputs are not counted" in note for note in notes),
    }
    return [replace(bars, change="partly counted") if partly.get(bars.label) else bars for bars in drawn]


def _bars(label: str, before: float | None, after: float | None, show: Callable[[Any], str], top: float = 0) -> Bars:
    kind = ""
    if before is not None and after is not None and (before or after):
        kind = (
            "gone"
            if not after
            else "new"
            if not before
            else "less"
            if after < before
            else "more"
            if after > before
            else ""
        )
    return Bars(
        label=label,
        before=show(before),
        after=show(after),
        change=formats.change(before, after) if kind not in ("gone", "new") else kind,
        kind=kind,
        drawing=charts.pair(before, after, top or max(before or 0, after or 0) or 1),
    )


def _fused(item: Decision) -> Fused:
    """A decision as a line: used in green, refused in the colour of a warning."""
    ratio = ""
    if item.ratio is not None:
        least, most = (formats.ratio(value) for value in item.ratio)
        ratio = least if least == most else f"{least.removesuffix('×')}–{most}"
    shown = [formats.count(number) for number in (item.sizes[:1] + item.sizes[1:][-1:])]
    at = "–".join(shown) or ("all measured sizes" if item.ratio is not None else formats.NOTHING)
    unit = f" {item.unit}" if shown and item.unit else ""
    grown = item.after is not None and item.before is not None and item.after > item.before
    return Fused(
        form=item.form,
        meaning=item.meaning,
        verdict=item.verdict,
        kind={"used": "ok", "refused": "warn"}.get(item.verdict, ""),
        nodes=f"{formats.count(item.before)} → {formats.count(item.after)}" if grown else formats.NOTHING,
        ratio=ratio or formats.NOTHING,
        sizes=f"{at}{unit}",
        why=item.why,
    )


def _operators(run: Run) -> list[tuple[Bars, bool]]:
    """The histogram's lines, the most frequent first, each with whether it is drawn at once."""
    before = run.before.operators if run.before else None
    after = run.after.operators if run.after else None
    counts = {
        name: (
            before.get(name, 0) if before is not None else None,
            after.get(name, 0) if after is not None else None,
        )
        for name in sorted({**(before or {}), **(after or {})})
    }
    order = sorted(counts, key=lambda name: -max(count or 0 for count in counts[name]))
    top = max((count or 0 for pair in counts.values() for count in pair), default=1)
    found: list[tuple[Bars, bool]] = []
    for place, name in enumerate(order):
        bars = _bars(name, *counts[name], formats.count, top)
        found.append((bars, place < SHOWN_OPERATORS or bars.kind in ("gone", "new")))
    return found


def _worst_outputs(run: Run) -> list[tuple[Output, float | None]]:
    """The outputs of the accuracy chart, each with its level in decibels: the top of the axis when exact."""

    def noise(output: Output) -> float | None:
        if output.sqnr_db is None or math.isnan(output.sqnr_db):
            return NOISE_TOP if output.max_abs == 0 else None
        return output.sqnr_db

    found = [(output, noise(output)) for output in (run.verify.outputs if run.verify else ())]
    found.sort(key=lambda item: (item[0].ok is not False, -math.inf if item[1] is None else item[1]))
    return found[:SHOWN_OUTPUTS]
