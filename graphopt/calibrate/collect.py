"""Running a model over data and observing its tensors, one sample after another.

Memory is bounded by what one sample's observed tensors weigh, cut into groups of at most ``memory_bytes`` (each group
goes over the data once), plus what the observers keep. Tensors of which only the range is wanted never leave the
runtime: ReduceMin, ReduceMax and ReduceSum (NaN and infinities show in the sum) are added to a copy of the graph.

Several processes share the samples, each a run of them; what they observed is merged (``shards``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.events import Event, Events, silent
from graphopt.execute.taps import Taps
from graphopt.ir import copy_model

from .data import CalibrationData
from .kept import digest_of, keep, known
from .observers import Histogram, MovingRange, Observer, Range
from .statistics import Statistics

_REDUCIBLE = frozenset((ir.DataType.FLOAT, ir.DataType.DOUBLE))
_REDUCTIONS = ("ReduceMin", "ReduceMax", "ReduceSum")

Requests = Mapping[str, Iterable[Observer]]


def collect(
    model: ir.Model,
    data: CalibrationData,
    requests: Requests,
    *,
    memory_bytes: int = 256 << 20,
    optimized: bool = True,
    threads: int = 0,
    processes: int = 1,
    cache: Path | None = None,
    events: Events = silent,
) -> Statistics:
    """Observe tensors of a model on data.

    Args:
        model: not changed.
        data: fitted to the model (``CalibrationData.for_model``).
        requests: new observers by the name of a tensor: an input, or the output of a node of the main graph.
        memory_bytes: what the observed tensors of one run should stay below.
        optimized: with the runtime's optimisations: quicker, and its rounding differs a little.
        threads: threads within an operator; 0 leaves the number to the runtime.
        processes: so many children share the samples; the memory is per child. Data that cannot be sent to another
            process (a lambda in ``data.map``) are observed in this one.
        cache: a folder where statistics are kept and found again, by the digest of model, data, requests and the
            version of the runtime; the latest ``KEPT`` of them.
        events: hears of progress.

    Returns:
        the observers, filled.

    Raises:
        GraphoptError: a tensor is not there or is no float tensor, or the model does not run on a sample.
    """
    asked = {name: list(items) for name, items in requests.items() if items}
    digest = digest_of(model, data, asked, optimized) if cache is not None else ""
    kept = cache / f"{digest}.npz" if cache is not None else None
    earlier = known(kept, digest, events)
    if earlier is not None:
        return earlier
    if processes > 1 and len(data) > 1:
        from .shards import collect_in_shards

        options = {"memory_bytes": memory_bytes, "optimized": optimized, "threads": threads}
        found = collect_in_shards(model, data, asked, min(processes, len(data)), options, events)
    else:
        found = _observe(model, data, asked, memory_bytes, optimized, threads, events)
    found.digest = digest
    if kept is not None:
        keep(found, kept, events)
    return found


def _observe(
    model: ir.Model,
    data: CalibrationData,
    asked: dict[str, list[Observer]],
    memory_bytes: int,
    optimized: bool,
    threads: int,
    events: Events,
) -> Statistics:
    inputs = {str(value.name) for value in model.graph.inputs}
    fed = {name: items for name, items in asked.items() if name in inputs}
    run = _Run(model, {name: items for name, items in asked.items() if name not in inputs}, optimized, threads)
    groups = run.groups(data[0], memory_bytes)
    total, done = len(data) * max(len(groups), 1), 0
    late = len(data) - len(data) // 4 if len(data) >= 4 else len(data)
    growth: dict[str, float] = {}
    for number, group in enumerate(groups or [[]]):
        session = run.session(group) if group else None
        of_group = run.observers(group) | (fed if number == 0 else {})
        before: dict[str, tuple[float, float]] = {}
        for index, sample in enumerate(data):
            if index == late:
                before = {name: ends for name, items in of_group.items() if (ends := _ends(items)) is not None}
            if number == 0:
                for name, items in fed.items():
                    _see(items, name, sample.get(name))
            if session is not None:
                run.see(session.run(sample))
            done += 1
            events(Event("progress", {"stage": "calibrating", "done": done, "total": total}))
        growth |= {name: widened(ends, _ends(of_group[name]) or ends) for name, ends in before.items()}
    return Statistics(asked, len(data), synthetic=data.synthetic, growth=growth)


def widened(before: tuple[float, float], after: tuple[float, float]) -> float:
    """By how much a range grew, as a share of what it was."""
    if before[0] > before[1] or after == before:
        return 0.0
    more, had = (after[1] - after[0]) - (before[1] - before[0]), before[1] - before[0]
    return more / had if had > 0 else float("inf")


def _ends(items: Iterable[Observer]) -> tuple[float, float] | None:
    return next(((item.low, item.high) for item in items if isinstance(item, (Range, Histogram))), None)


class _Run:
    """Sessions that give out what observers want."""

    def __init__(self, model: ir.Model, asked: dict[str, list[Observer]], optimized: bool, threads: int) -> None:
        self._asked = asked
        types = {str(value.name): value.dtype for node in model.graph for value in node.outputs}
        self._reduced = {
            name: [f"{name}#{operator}" for operator in _REDUCTIONS]
            for name, items in asked.items()
            if types.get(name) in _REDUCIBLE and all(isinstance(item, (Range, MovingRange)) for item in items)
        }
        self._names = {label: name for name, labels in self._reduced.items() for label in labels}
        self._taps = Taps(_with_reductions(model, self._reduced), optimized=optimized, threads=threads)
        self._sizes: dict[str, int] = {}

    def groups(self, sample: Mapping[str, Any], memory_bytes: int) -> list[list[str]]:
        """The names to tap together, each group within the memory as far as one sample shows."""
        whole = [name for name in self._asked if name not in self._reduced]
        wanted = [*self._names, *whole]
        groups: list[list[str]] = []
        room = 0
        for name, value in self._taps.values(sample, wanted, memory_bytes):
            weight = value.nbytes if isinstance(value, np.ndarray) else 0
            if not groups or weight > room:
                groups.append([])
                room = memory_bytes
            groups[-1].append(name)
            room -= weight
        return groups

    def session(self, names: list[str]) -> Any:
        return self._taps.session(names)

    def observers(self, names: Iterable[str]) -> dict[str, list[Observer]]:
        """Of the tensors behind names to tap."""
        tensors = dict.fromkeys(self._names.get(name, name) for name in names)
        return {name: self._asked[name] for name in tensors}

    def see(self, found: Mapping[str, Any]) -> None:
        """Hand the values of one run to the observers."""
        for name, value in found.items():
            if name not in self._names:
                _see(self._asked[name], name, value)
        for name, labels in self._reduced.items():
            if labels[0] in found:
                low, high, total = (np.asarray(found[label]) for label in labels)
                ends = np.stack([low, high]) if np.isfinite(total) else np.stack([low, high, total])
                _see(self._asked[name], name, ends)


def _see(observers: Iterable[Observer], name: str, value: Any) -> None:
    if value is None:
        return  # an input with a default value
    if not isinstance(value, np.ndarray) or (value.dtype.kind != "f" and value.dtype.name != "bfloat16"):
        kind = value.dtype.name if isinstance(value, np.ndarray) else type(value).__name__
        raise GraphoptError(f"'{name}' is {kind}: only float tensors are observed", "calibration", "leave it out")
    for observer in observers:
        observer.see(value if value.dtype.kind == "f" else value.astype(np.float32))


def _with_reductions(model: ir.Model, reduced: Mapping[str, list[str]]) -> ir.Model:
    """A copy whose main graph computes the three reductions of tensors."""
    if not reduced:
        return model
    copy = copy_model(model)
    by_name = {str(value.name): value for node in copy.graph for value in node.outputs}
    for name, labels in reduced.items():
        for operator, label in zip(_REDUCTIONS, labels, strict=True):
            node = ir.node(operator, [by_name[name]], {"keepdims": 0})
            node.outputs[0].name = label
            copy.graph.append(node)
    return copy
