"""Statistics of earlier runs, found again by what decided them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.events import Event, Events
from graphopt.ir.layout import slots
from graphopt.ir.serial import serialize

from .data import CalibrationData
from .observers import Observer
from .statistics import Statistics

KEPT = 32
"""Files of statistics that a cache holds at most."""


def known(path: Path | None, digest: str, events: Events) -> Statistics | None:
    """What an earlier run kept; None without, or when the file is damaged."""
    if path is None or not path.is_file():
        return None
    try:
        found = Statistics.load(path)
    except GraphoptError as error:
        events(
            Event(
                "warning", {"text": f"statistics of an earlier run are not usable and are collected anew: {error.what}"}
            )
        )
        return None
    if found.digest != digest:
        return None
    with suppress(OSError):
        os.utime(path)
    events(Event("note", {"text": f"statistics of an earlier run are used again: {path}"}))
    return found


def keep(statistics: Statistics, path: Path, events: Events) -> None:
    """Write the file, and remove the oldest ones; a cache that cannot be written is no reason to fail."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        statistics.save(path)
        files = sorted(path.parent.glob("*.npz"), key=lambda file: file.stat().st_mtime, reverse=True)
        for old in files[KEPT:]:
            old.unlink(missing_ok=True)
    except (OSError, GraphoptError) as error:
        events(Event("warning", {"text": f"the statistics could not be kept for another time: {error}"}))


def digest_of(model: ir.Model, data: CalibrationData, asked: Mapping[str, list[Observer]], optimized: bool) -> str:
    """Of everything that decides what comes out."""
    import onnxruntime

    total = hashlib.sha256(f"onnxruntime {onnxruntime.__version__} {optimized} {data.synthetic}".encode())
    total.update(serialize(model, "")[0].SerializeToString(deterministic=True))
    for tensor, _ in slots(model):
        if isinstance(tensor, ir.ExternalTensor):  # the message holds its place only
            total.update(tensor.tobytes())
    total.update(data.digest.encode())
    for name in sorted(asked):
        total.update(repr((name, sorted(repr(item.key) for item in asked[name]))).encode())
    return total.hexdigest()
