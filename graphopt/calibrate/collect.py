"""Running a model over data and observing its tensors, one sample after another.

Memory is bounded by what one sample's observed tensors weigh, cut into groups of at most ``memory_bytes`` (each group
goes over the data once), plus what the observers keep. Tensors of which only the range is wanted never leave the
runtime: ReduceMin, ReduceMax and ReduceSum (NaN and infinities show in the sum) are added to a copy of the graph.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.events import Event, Events, silent
from graphopt.execute.taps import Taps
from graphopt.ir import copy_model
from graphopt.ir.layout import slots
from graphopt.ir.serial import serialize

from .data import CalibrationData
from .observers import Observer, Range
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
        cache: a folder where statistics are kept and found again, by the digest of model, data and requests.
        events: hears of progress.

    Returns:
        the observers, filled.

    Raises:
        GraphoptError: a tensor is not there or is no float tensor, or the model does not run on a sample.
    """
    asked = {name: list(items) for name, items in requests.items() if items}
    digest = _digest(model, data, asked) if cache is not None else ""
    kept = cache / f"{digest}.npz" if cache is not None else None
    if kept is not None and kept.is_file():
        events(Event("note", {"text": f"statistics of an earlier run are used again: {kept}"}))
        return Statistics.load(kept)
    statistics = Statistics(asked, len(data), synthetic=data.synthetic, digest=digest)
    inputs = {str(value.name) for value in model.graph.inputs}
    fed = {name: items for name, items in asked.items() if name in inputs}
    run = _Run(model, {name: items for name, items in asked.items() if name not in inputs}, optimized, threads)
    groups = run.groups(data[0], memory_bytes)
    total, done = len(data) * max(len(groups), 1), 0
    for number, group in enumerate(groups or [[]]):
        session = run.session(group) if group else None
        for sample in data:
            if number == 0:
                for name, items in fed.items():
                    _see(items, name, sample.get(name))
            if session is not None:
                run.see(session.run(sample))
            done += 1
            events(Event("progress", {"stage": "calibrating", "done": done, "total": total}))
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        statistics.save(kept)
    return statistics


class _Run:
    """Sessions that give out what observers want."""

    def __init__(self, model: ir.Model, asked: dict[str, list[Observer]], optimized: bool, threads: int) -> None:
        self._asked = asked
        types = {str(value.name): value.dtype for node in model.graph for value in node.outputs}
        self._reduced = {
            name: [f"{name}#{operator}" for operator in _REDUCTIONS]
            for name, items in asked.items()
            if types.get(name) in _REDUCIBLE and all(isinstance(item, Range) for item in items)
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


def _digest(model: ir.Model, data: CalibrationData, asked: Mapping[str, list[Observer]]) -> str:
    """Of everything that decides what comes out."""
    total = hashlib.sha256(serialize(model, "")[0].SerializeToString(deterministic=True))
    for tensor, _ in slots(model):
        if isinstance(tensor, ir.ExternalTensor):  # the message holds its place only
            total.update(tensor.tobytes())
    total.update(data.digest.encode())
    for name in sorted(asked):
        total.update(repr((name, sorted(repr(item.key) for item in asked[name]))).encode())
    return total.hexdigest()
