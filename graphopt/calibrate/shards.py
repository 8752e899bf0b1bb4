"""Observing in several processes: each its run of the samples, merged in their order.

Children, not threads: counting into bins holds the interpreter's lock.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import onnx_ir as ir

from graphopt.events import Event, Events
from graphopt.execute.isolate import isolated
from graphopt.ir import load, save

from .data import CalibrationData
from .observers import KINDS, Histogram, Observer, Range
from .statistics import Statistics

_HOURS = 6 * 3600.0


def collect_in_shards(
    model: ir.Model,
    data: CalibrationData,
    asked: Mapping[str, list[Observer]],
    processes: int,
    options: Mapping[str, Any],
    events: Events,
) -> Statistics:
    """What ``collect`` observes with these options, in child processes.

    Args:
        model: the model.
        data: the samples; in this process after all where they cannot be sent to another.
        asked: new observers by tensor; not filled.
        processes: how many, at most as many as samples.
        options: keyword arguments of ``collect``.
        events: hears of each shard.
    """
    from .collect import collect, widened

    keys = {name: [item.key for item in items] for name, items in asked.items()}
    try:
        pickle.dumps(data)
    except Exception:  # noqa: BLE001  pickle raises what it likes
        events(Event("note", {"text": "the data cannot be sent to other processes: calibrating in this one"}))
        return collect(model, data, asked, **options, events=events)
    options = dict(options)
    options["threads"] = options["threads"] or max((os.cpu_count() or 1) // processes, 1)
    bounds = [len(data) * number // processes for number in range(processes + 1)]
    parts = [data.part(start, stop) for start, stop in pairwise(bounds)]
    with tempfile.TemporaryDirectory(prefix="graphopt-shards-") as folder:
        path = Path(folder, "model.onnx")
        save(model, path)

        def run(number: int) -> Statistics:
            stage = f"calibrating on samples {bounds[number]} to {bounds[number + 1] - 1}"
            return isolated(shard, str(path), parts[number], keys, options, timeout=_HOURS, stage=stage)

        total: Statistics | None = None
        ends: dict[str, tuple[float, float]] = {}
        with ThreadPoolExecutor(processes) as pool:
            for number, found in enumerate(pool.map(run, range(processes))):
                if total is None:
                    total = found
                else:
                    ends = _ends(total)
                    total.merge(found)
                event = {"stage": "calibrating", "done": bounds[number + 1], "total": len(data)}
                events(Event("progress", event))
    assert total is not None
    whole = _ends(total)
    total.growth = {name: widened(before, whole[name]) for name, before in ends.items()}
    return total


def shard(
    path: str, data: CalibrationData, keys: Mapping[str, list[tuple[Any, ...]]], options: dict[str, Any]
) -> Statistics:
    """In the child."""
    from .collect import collect

    asked = {name: [KINDS[key[0]](*key[1:]) for key in items] for name, items in keys.items()}
    return collect(load(path), data, asked, **options)


def _ends(statistics: Statistics) -> dict[str, tuple[float, float]]:
    found: dict[str, tuple[float, float]] = {}
    for name in statistics:
        for item in statistics.of(name):
            if isinstance(item, (Range, Histogram)):
                found[name] = item.low, item.high
    return found
