"""The models of the simplify benchmark, each with the feeds its results are judged and timed on."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graphopt import models
from graphopt.calibrate import CalibrationData
from graphopt.errors import GraphoptError
from graphopt.execute import random_feeds

Feeds = dict[str, Any]

REAL_FEEDS = 3
RANDOM_FEEDS = 3


@dataclass(frozen=True)
class Subject:
    """A model to optimise.

    Attributes:
        name: for the table.
        path: the file.
        real: feeds that resemble real ones; random ones are added to judge by, and are all there is without.
    """

    name: str
    path: Path
    real: tuple[Feeds, ...] = field(default=(), repr=False)


def subjects(exports: Path, wanted: Sequence[str] = ()) -> tuple[list[Subject], list[str]]:
    """The catalogue models and the exports.

    Args:
        exports: the folder that exports.py writes to; what is missing there is made, where torch is installed.
        wanted: names (``bert`` stands for both of its exports); all without.

    Returns:
        the models, and a line for each that cannot be had.
    """
    found: list[Subject] = []
    missing: list[str] = []
    for entry in models.models():
        if wanted and entry.id not in wanted:
            continue
        try:
            path = models.fetch(entry.id)
        except GraphoptError as error:
            missing.append(f"{entry.id}: {error.what}")
            continue
        found.append(Subject(entry.id, path, tuple(_catalogue_feeds(entry.id))))
    others = [name for name in wanted if name not in {entry.id for entry in models.models()}]
    if wanted and not others:
        return found, missing
    if problem := _make_exports(exports, others):
        missing.append(problem)
    exported = [subject for subject in _exported(exports) if not others or _stands_for(subject.name, others)]
    for name in others:
        if not any(_stands_for(subject.name, [name]) for subject in exported):
            missing.append(f"{name}: neither in the catalogue nor among the exports in {exports}")
    return found + exported, missing


def judging_feeds(subject: Subject, seed: int = 0) -> tuple[list[Feeds], str]:
    """Real feeds, then random ones of varied sizes; and why there are no random ones, if so.

    Runs the model: meant for a child process.
    """
    feeds = list(subject.real[:REAL_FEEDS])
    try:
        return feeds + random_feeds(subject.path, seed, RANDOM_FEEDS, vary=True), ""
    except GraphoptError as error:
        return feeds, f"no random feeds: {error.what}"


def _catalogue_feeds(name: str) -> Iterator[Feeds]:
    from graphopt.models.samples import samples

    try:
        yield from samples(name)[:REAL_FEEDS]
    except GraphoptError:
        return


def _exported(folder: Path) -> Iterator[Subject]:
    for path in sorted(folder.glob("*.*.onnx")):
        data = path.with_suffix(".npz")
        feeds = tuple(dict(feed) for feed in CalibrationData.open(data)) if data.exists() else ()
        yield Subject(path.stem, path, tuple({k: np.asarray(v) for k, v in feed.items()} for feed in feeds))


def _stands_for(name: str, wanted: Sequence[str]) -> bool:
    return name in wanted or name.split(".")[0] in wanted


def _make_exports(folder: Path, wanted: Sequence[str]) -> str:
    """Run exports.py for what is not there yet; returns what went wrong."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
        there = len(list(folder.glob("*.*.onnx")))
        return "" if there else f"exports: none in {folder}, and torch and transformers, which make them, are missing"
    command = [sys.executable, str(Path(__file__).with_name("exports.py")), "--out", str(folder)]
    if wanted:
        command += ["--only", ",".join(dict.fromkeys(name.split(".")[0] for name in wanted))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
    return f"exports.py ended with {done.returncode}: {last}"
