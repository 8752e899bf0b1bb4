"""What speaks against trusting a calibration: each doubt with its numbers.

few samples        fewer than ``FEW``: ranges are those of these samples
repeated samples   they teach nothing that was not known
constant input     an input, or a channel of it, is one number in all samples: a part that was never fed?
constant tensors   tensors of the model that are one number on all samples: their scale means nothing
not settled        ranges that still widened over the last quarter of the samples: more would widen them further
synthetic          the samples were made up
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError

from .data import CalibrationData, sample_digest
from .observers import Histogram, Range
from .statistics import Statistics

FEW = 8
"""Samples from which on nobody is warned of their number."""
WIDENED = 0.1
"""From this share on, a range that the last quarter of the samples widened is not settled."""
_LISTED = 5


@dataclass(frozen=True)
class Doubt:
    """Something that speaks against a calibration.

    Attributes:
        kind: ``few samples`` and so on, as above.
        text: in words, with numbers.
        number: how many samples, tensors or channels it is about.
        tensors: their names.
    """

    kind: str
    text: str
    number: int = 0
    tensors: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For a ``warning`` event."""
        return {"doubt": self.kind, "text": self.text, "number": self.number, "tensors": list(self.tensors)}


@dataclass
class _Channels:
    """The ends of each channel of an input, while its samples have equally many."""

    axis: int
    low: np.ndarray
    high: np.ndarray

    def see(self, low: np.ndarray, high: np.ndarray) -> None:
        if low.shape == self.low.shape:
            self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)


@dataclass
class Survey:
    """What one walk through some data shows.

    Attributes:
        where: the data, in words.
        samples: how many there are.
        repeated: how many equal an earlier one.
        synthetic: they were made up.
    """

    where: str
    samples: int = 0
    repeated: int = 0
    synthetic: bool = False
    channels: dict[str, _Channels] = field(default_factory=dict)

    def doubts(self) -> list[Doubt]:
        """What speaks against calibrating on them."""
        found: list[Doubt] = []
        if self.synthetic:
            text = f"calibrated on {self.where}, which is not for accuracy: give real data"
            found.append(Doubt("synthetic", text, self.samples))
        if self.samples < FEW:
            count = f"{self.samples} sample{'s' if self.samples != 1 else ''}"
            text = f"{count} to calibrate on: ranges are likely too narrow, give at least {FEW}"
            found.append(Doubt("few samples", text, self.samples))
        if self.repeated:
            what = "all samples are the same" if self.repeated == self.samples - 1 else "samples repeat earlier ones"
            found.append(Doubt("repeated samples", f"{what}: {self.repeated} of {self.samples}", self.repeated))
        for name, channels in self.channels.items():
            still = np.flatnonzero(channels.low == channels.high)
            if not len(still):
                continue
            if len(still) == len(channels.low):
                if np.ptp(channels.low) == 0:
                    text = f"the input '{name}' is {channels.low[0]:.6g} everywhere in all samples"
                    found.append(Doubt("constant input", text, len(still), (name,)))
                continue  # the samples are equal, which is said already
            listed = ", ".join(map(str, still[:_LISTED])) + (", ..." if len(still) > _LISTED else "")
            text = f"{len(still)} of {len(channels.low)} channels of the input '{name}' never change: {listed}"
            found.append(Doubt("constant input", text, len(still), (name,)))
        return found


def survey(data: CalibrationData) -> Survey:
    """Walk through data once.

    Args:
        data: fitted to a model.

    Raises:
        GraphoptError: there are no samples; or an input holds NaN, infinities, or nothing at all; or a sample does not
            fit the model.
    """
    found = Survey(data.where, len(data), synthetic=data.synthetic)
    if not len(data):
        raise GraphoptError("there are no samples", data.where, "give at least one sample")
    seen: set[bytes] = set()
    for index, sample in enumerate(data):
        digest = sample_digest(sample)
        found.repeated += digest in seen
        seen.add(digest)
        for name, value in sample.items():
            for part in value if isinstance(value, (list, tuple)) else (value,):
                _look(found, name, part, f"{data.where}, sample {index}")
    return found


def _look(found: Survey, name: str, value: Any, where: str) -> None:
    if not isinstance(value, np.ndarray) or (value.dtype.kind != "f" and value.dtype.name != "bfloat16"):
        return
    if not value.size:
        hint = "leave the sample out"
        raise GraphoptError(f"the input '{name}' is empty: its shape is {list(value.shape)}", where, hint)
    numbers = value if value.dtype.kind == "f" else value.astype(np.float32)
    broken = numbers.size - int(np.count_nonzero(np.isfinite(numbers)))
    if broken:
        nan = int(np.count_nonzero(np.isnan(numbers)))
        said = (
            f"{nan:,} NaN and {broken - nan:,} infinities" if nan and broken > nan else "NaN" if nan else "infinities"
        )
        raise GraphoptError(
            f"the input '{name}' holds {said}: no range holds that",
            where,
            "take them out of the data, or leave the sample out",
        )
    axis = 1 if numbers.ndim >= 3 else numbers.ndim - 1
    others = tuple(other for other in range(numbers.ndim) if other != axis)
    low, high = np.atleast_1d(numbers.min(axis=others)), np.atleast_1d(numbers.max(axis=others))
    known = found.channels.get(name)
    if known is None:
        found.channels[name] = _Channels(axis, low, high)
    else:
        known.see(low, high)


def doubts(statistics: Statistics) -> list[Doubt]:
    """What speaks against ranges that were observed."""
    found: list[Doubt] = []
    still = [name for name in statistics if _is_constant(statistics.of(name))]
    if still:
        text = f"{_tensors(len(still))} one and the same number on all samples: {_listed(still)}"
        found.append(Doubt("constant tensors", text, len(still), tuple(still)))
    wider = sorted(
        (name for name, share in statistics.growth.items() if share > WIDENED and name not in still),
        key=lambda name: -statistics.growth[name],
    )
    if wider:
        said = [f"{name} by {min(statistics.growth[name], 99):.0%}" for name in wider]
        kept = len(statistics.growth)
        text = f"not settled: the last quarter of the samples widened {len(wider)} of {kept} ranges: {_listed(said)}"
        found.append(Doubt("not settled", text, len(wider), tuple(wider)))
    return found


def _is_constant(observers: Iterable[Any]) -> bool:
    ends = [item for item in observers if isinstance(item, (Range, Histogram))]
    return bool(ends) and all(item.elements > 1 and not item.broken and item.low == item.high for item in ends)


def _tensors(count: int) -> str:
    return "1 tensor is" if count == 1 else f"{count} tensors are"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
