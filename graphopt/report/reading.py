"""A run folder's files, as types that hold whatever is there; what is missing or malformed is None or empty.

A report is wanted most when a run went wrong, so nothing in these files may stop it: a torn last line (the
run was killed), a missing file (it never got that far), a number where a text belongs (another tool made it).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import GraphoptError
from .values import as_dict, as_list, number, positive, size, text, texts, whole

JSON_FILES = ("run.json", "stats.json", "verify.json")
LINE_FILES = ("steps.jsonl", "measurements.jsonl", "decisions.jsonl")
KNOWN_FILES = (*JSON_FILES, *LINE_FILES, "recipe.toml", "model.onnx")


@dataclass(frozen=True, slots=True)
class SiteLine:
    """One place a pass considered; ``status`` is changed, kept or left-out."""

    where: str
    text: str
    status: str


@dataclass(frozen=True, slots=True)
class Step:
    """One pass's line: ``options`` stands in braces after its name, ``delta`` is the change in nodes."""

    name: str
    family: str
    options: str
    round: int | None
    fidelity: str
    changed: int | None
    kept: int | None
    seconds: float | None
    delta: int | None
    sites: tuple[SiteLine, ...]
    error: str


@dataclass(frozen=True, slots=True)
class Stats:
    """A model in numbers; ``peak`` is the most bytes of activations alive at once."""

    nodes: int | None
    initializers: int | None
    parameters: int | None
    bytes: int | None
    operators: dict[str, int]
    opset: int | None
    flops: int | None = None
    activations: int | None = None
    peak: int | None = None
    cost_notes: tuple[str, ...] = ()

    def of(self, operator: str) -> int | None:
        """Nodes of one operator; None where operators were not counted."""
        return self.operators.get(operator, 0) if self.operators or self.nodes == 0 else None


@dataclass(frozen=True, slots=True)
class Output:
    """The differences of one output."""

    name: str
    dtype: str
    shape: str
    max_abs: float | None
    max_rel: float | None
    sqnr_db: float | None
    tolerance: str
    ok: bool | None
    reason: str


@dataclass(frozen=True, slots=True)
class Verify:
    """The verdict on the result."""

    verdict: str
    feeds: int | None
    outputs: tuple[Output, ...]
    problems: tuple[str, ...]
    not_comparable: tuple[str, ...]
    notes: tuple[str, ...]
    unverified: str


@dataclass(frozen=True, slots=True)
class Measurement:
    """One candidate's timing; ratios are relative to the first candidate, and below 1 is faster."""

    name: str
    median_ms: float | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    runs: int | None
    load_s: float | None
    peak_bytes: int | None
    file_bytes: int | None
    threads: str
    provider: str


@dataclass(frozen=True, slots=True)
class Decision:
    """A fused form that passes asked the target for; ``ratio`` is its time relative to what it stands for."""

    form: str
    verdict: str
    why: str
    sizes: tuple[int, ...]
    unit: str
    ratio: tuple[float, float] | None
    origin: str
    before: int | None
    after: int | None
    meaning: str


@dataclass(frozen=True, slots=True)
class Run:
    """Everything a run folder says.

    Attributes:
        facts: ``run.json`` as it is.
        sizes: of open dimensions, for which the costs were counted, in words.
        torn: for each file that could only be read in part, what is wrong with it.
        result_bytes: the size of ``model.onnx``.
    """

    name: str
    facts: dict[str, Any]
    steps: tuple[Step, ...]
    before: Stats | None
    after: Stats | None
    verify: Verify | None
    measurements: tuple[Measurement, ...]
    decisions: tuple[Decision, ...]
    sizes: str
    recipe: str
    torn: tuple[str, ...]
    result_bytes: int | None

    def fact(self, *path: str) -> object:
        """A value in ``run.json`` by its keys, or None."""
        value: object = self.facts
        for key in path:
            value = as_dict(value).get(key)
        return value


def read(folder: Path) -> Run:
    """Reads a run folder.

    Raises:
        GraphoptError: there is no such folder, or nothing in it is a run's.
    """
    if not any((folder / name).is_file() for name in KNOWN_FILES):
        found = "the folder holds no run" if folder.is_dir() else "there is no such run folder"
        raise GraphoptError(found, str(folder), "name a folder below runs/ that a graphopt command made", usage=True)
    torn: list[str] = []
    facts, stats, verify = (as_dict(_json(folder / name, torn)) for name in JSON_FILES)
    steps, measurements, decided = (_lines(folder / name, torn) for name in LINE_FILES)
    recipe = _text(folder / "recipe.toml", torn)
    model = folder / "model.onnx"
    return Run(
        name=folder.resolve().name,
        facts=facts,
        steps=tuple(map(_step, steps)),
        before=_stats(stats.get("before")),
        after=_stats(stats.get("after")),
        verify=_verify(verify) if verify else None,
        measurements=tuple(map(_measurement, measurements)),
        decisions=tuple(map(_decision, decided)),
        sizes=text(stats.get("sizes")),
        recipe=recipe or "",
        torn=tuple(torn),
        result_bytes=model.stat().st_size if model.is_file() else None,
    )


def _text(path: Path, torn: list[str]) -> str | None:
    try:
        return path.read_text("utf-8", "replace")
    except FileNotFoundError:
        return None
    except OSError as problem:
        torn.append(f"{path.name} cannot be read: {problem.strerror}")
        return None


def _json(path: Path, torn: list[str]) -> object:
    content = _text(path, torn)
    if content is None:
        return None
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        torn.append(f"{path.name} is not valid JSON and was left out")
        return None


def _lines(path: Path, torn: list[str]) -> list[dict[str, Any]]:
    """The objects of a JSONL file; lines that are none are counted, not read."""
    found: list[dict[str, Any]] = []
    bad: list[int] = []
    lines = (_text(path, torn) or "").split("\n")
    for index, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict):
            found.append(as_dict(record))
        else:
            bad.append(index)
    if bad == [len(lines)]:
        torn.append(f"the last line of {path.name} is torn: the run was interrupted while writing it")
    elif bad:
        torn.append(f"{path.name} has {len(bad)} unreadable line{'s' * (len(bad) > 1)}, the first is line {bad[0]}")
    return found


def _step(record: dict[str, Any]) -> Step:
    sites = tuple(_sites(record.get("sites")))
    name, _, options = text(record.get("pass")).partition("{")
    before, after = size(record.get("nodes_before")), size(record.get("nodes_after"))
    return Step(
        name=name or "(unnamed)",
        family=text(record.get("family")),
        options=options.removesuffix("}"),
        round=whole(record.get("round")),
        fidelity=text(record.get("fidelity")).lower(),
        changed=size(record.get("changed")),
        kept=size(record.get("kept")),
        seconds=positive(record.get("seconds")),
        delta=after - before if before is not None and after is not None else whole(record.get("node_delta")),
        sites=sites,
        error=text(record.get("error")),
    )


def _sites(value: object) -> Iterator[SiteLine]:
    for item in as_list(value):
        site = as_dict(item)
        if site:
            status = text(site.get("status")).lower().replace("_", "-") or "kept"
            yield SiteLine(text(site.get("where")) or "(somewhere)", text(site.get("text")), status)


def _stats(value: object) -> Stats | None:
    record = as_dict(value)
    if not record:
        return None
    operators = {name: size(count) for name, count in as_dict(record.get("operators")).items()}
    return Stats(
        nodes=size(record.get("nodes")),
        initializers=size(record.get("initializers")),
        parameters=size(record.get("parameters")),
        bytes=size(record.get("bytes")),
        operators={name: count for name, count in operators.items() if count},
        opset=whole(record.get("opset")),
        flops=size(record.get("flops")),
        activations=size(record.get("activations")),
        peak=size(record.get("peak")),
        cost_notes=texts(record.get("cost_notes")),
    )


def _verify(record: dict[str, Any]) -> Verify:
    feeds = record.get("feeds")
    feeds = len(as_list(feeds)) if isinstance(feeds, list) else feeds
    outputs = tuple(_output(as_dict(item)) for item in as_list(record.get("outputs")))
    return Verify(
        verdict=text(record.get("verdict")),
        feeds=size(feeds),
        outputs=outputs,
        problems=texts(record.get("problems")),
        not_comparable=texts(record.get("not_comparable")),
        notes=texts(record.get("notes")),
        unverified=text(record.get("why")),
    )


def _output(record: dict[str, Any]) -> Output:
    shape = record.get("shape")
    dims = " × ".join(text(dim) or "?" for dim in as_list(shape)) if isinstance(shape, list) else text(shape)
    ok = record.get("ok")
    return Output(
        name=text(record.get("name")) or "(unnamed)",
        dtype=text(record.get("dtype")).lower(),
        shape="scalar" if shape == [] else dims,
        max_abs=number(record.get("max_abs")),
        max_rel=number(record.get("max_rel")),
        sqnr_db=number(record.get("sqnr_db")),
        tolerance=_tolerance(record.get("tolerance")),
        ok=ok if isinstance(ok, bool) else None,
        reason=text(record.get("reason")),
    )


def _tolerance(value: object) -> str:
    """``rtol 1e-4, atol 1e-5``, whether it comes as an object, a number or words."""
    if isinstance(value, dict):
        parts = [
            f"{key} {text(item) if isinstance(item, dict) else _tolerance(item)}"
            for key, item in as_dict(value).items()
            if item is not None
        ]
        return ", ".join(parts[:4])
    if isinstance(value, (int, float)):
        return f"{value:g}".replace("e-0", "e-").replace("-", "−")
    return text(value)


def _measurement(record: dict[str, Any]) -> Measurement:
    return Measurement(
        name=text(record.get("name")) or "(unnamed)",
        median_ms=positive(record.get("median_ms")),
        ratio=positive(record.get("ratio")),
        ratio_low=positive(record.get("ratio_low")),
        ratio_high=positive(record.get("ratio_high")),
        runs=size(record.get("runs")),
        load_s=positive(record.get("load_s")),
        peak_bytes=size(record.get("peak_bytes")),
        file_bytes=size(record.get("file_bytes")),
        threads=text(record.get("threads")),
        provider=text(record.get("provider")),
    )


def _decision(record: dict[str, Any]) -> Decision:
    ratios = [found for found in map(positive, as_list(record.get("ratio"))) if found is not None]
    return Decision(
        form=text(record.get("form")) or "(unnamed)",
        verdict=text(record.get("verdict")).lower(),
        why=text(record.get("why")),
        sizes=tuple(found for found in map(size, as_list(record.get("sizes"))) if found is not None),
        unit=text(record.get("unit")),
        ratio=(min(ratios), max(ratios)) if ratios else None,
        origin=text(record.get("origin")),
        before=size(record.get("before")),
        after=size(record.get("after")),
        meaning=text(record.get("meaning")),
    )
