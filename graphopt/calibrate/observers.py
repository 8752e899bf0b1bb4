"""What is kept of a tensor that is never kept itself: numbers that can be added up, over batches, shards and processes.

Every observer sees arrays one after another and merges with another of its kind. All but ``MovingRange`` and
``SampleMeans`` come to the same state in whatever order and grouping the arrays are seen (sums up to the rounding of
float64).
"""

from __future__ import annotations

import abc
import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

BINS = 4096
"""How many bins a ``Histogram`` has at most; between half of them and all are used."""


@dataclass
class Observer(abc.ABC):
    """Something that is learnt of one tensor.

    Attributes:
        elements: how many numbers were seen.
        broken: how many of them were NaN or infinite; they count for nothing else.
    """

    kind: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()
    elements: int = field(default=0, kw_only=True)
    broken: int = field(default=0, kw_only=True)

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for two observers that learn the same: the kind and the options."""
        return (self.kind, *(getattr(self, name) for name in self.options))

    def see(self, array: np.ndarray) -> None:
        """Learn from one value of the tensor, of any shape and float type."""
        array = np.asarray(array)
        self.elements += array.size
        if not array.size:
            return
        finite = np.isfinite(array)
        if not finite.all():
            self.broken += int(array.size - np.count_nonzero(finite))
            array = np.where(finite, array, 0).astype(array.dtype)
        self._see(array)

    def merge(self, other: Self) -> None:
        """Learn what another observer with the same options has learnt."""
        if other.key != self.key:
            raise ValueError(f"{other.key} cannot be merged into {self.key}")
        self.elements += other.elements
        self.broken += other.broken
        self._merge(other)

    def state(self) -> dict[str, np.ndarray]:
        """Everything learnt, as arrays; ``restore`` takes it back."""
        return {
            item.name: np.asarray(getattr(self, item.name))
            for item in dataclasses.fields(self)
            if item.name not in self.options and getattr(self, item.name) is not None
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Take back what ``state`` gave."""
        for name, array in state.items():
            setattr(self, name, array.item() if array.ndim == 0 else array)

    @abc.abstractmethod
    def _see(self, array: np.ndarray) -> None: ...

    @abc.abstractmethod
    def _merge(self, other: Any) -> None: ...


@dataclass
class Range(Observer):
    """The smallest and the largest number, in the whole tensor."""

    kind: ClassVar[str] = "range"
    low: float = np.inf
    high: float = -np.inf

    def _see(self, array: np.ndarray) -> None:
        self.low = min(self.low, float(array.min()))
        self.high = max(self.high, float(array.max()))

    def _merge(self, other: Self) -> None:
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)


@dataclass
class MovingRange(Observer):
    """The ends of the range of each value, smoothed: ``end = momentum * end + (1 - momentum) * new``.

    Outliers of single samples count less. Depends on the order; of two, merged, each counts by its number of values.
    """

    kind: ClassVar[str] = "moving-range"
    options: ClassVar[tuple[str, ...]] = ("momentum",)
    momentum: float = 0.9
    low: float = 0.0
    high: float = 0.0
    values: int = 0

    def _see(self, array: np.ndarray) -> None:
        low, high = float(array.min()), float(array.max())
        kept = self.momentum if self.values else 0.0
        self.low, self.high = kept * self.low + (1 - kept) * low, kept * self.high + (1 - kept) * high
        self.values += 1

    def _merge(self, other: Self) -> None:
        total = self.values + other.values
        if total:
            share = other.values / total
            self.low += share * (other.low - self.low)
            self.high += share * (other.high - self.high)
        self.values = total


@dataclass
class ChannelRange(Observer):
    """The smallest and the largest number of each channel.

    Attributes:
        axis: the axis of the channels; negative ones count from the end.
        low, high: float64 [channels]; None before anything was seen.
    """

    kind: ClassVar[str] = "channel-range"
    options: ClassVar[tuple[str, ...]] = ("axis",)
    axis: int
    low: np.ndarray | None = None
    high: np.ndarray | None = None

    def _see(self, array: np.ndarray) -> None:
        rows = channel_rows(array, self.axis)
        self._widen(rows.min(axis=1).astype(np.float64), rows.max(axis=1).astype(np.float64))

    def _merge(self, other: Self) -> None:
        if other.low is not None and other.high is not None:
            self._widen(other.low, other.high)

    def _widen(self, low: np.ndarray, high: np.ndarray) -> None:
        self.low = low if self.low is None else np.minimum(self.low, low)
        self.high = high if self.high is None else np.maximum(self.high, high)


@dataclass
class ChannelMean(Observer):
    """Sums of the numbers of each channel and of their squares: mean and variance.

    Attributes:
        axis: the axis of the channels; negative ones count from the end.
        total, squares: float64 [channels]; None before anything was seen.
        count: numbers seen per channel.
    """

    kind: ClassVar[str] = "channel-mean"
    options: ClassVar[tuple[str, ...]] = ("axis",)
    axis: int
    total: np.ndarray | None = None
    squares: np.ndarray | None = None
    count: int = 0

    @property
    def mean(self) -> np.ndarray:
        """float64 [channels]."""
        assert self.total is not None, "nothing was seen"
        return self.total / self.count

    @property
    def variance(self) -> np.ndarray:
        """float64 [channels], of the population."""
        assert self.squares is not None, "nothing was seen"
        return np.maximum(self.squares / self.count - self.mean**2, 0.0)

    def _see(self, array: np.ndarray) -> None:
        rows = channel_rows(array, self.axis)
        self._add(
            rows.sum(axis=1, dtype=np.float64), np.einsum("ij,ij->i", rows, rows, dtype=np.float64), rows.shape[1]
        )

    def _merge(self, other: Self) -> None:
        if other.total is not None and other.squares is not None:
            self._add(other.total, other.squares, other.count)

    def _add(self, total: np.ndarray, squares: np.ndarray, count: int) -> None:
        self.total = total if self.total is None else self.total + total
        self.squares = squares if self.squares is None else self.squares + squares
        self.count += count


@dataclass
class SampleMeans(Observer):
    """The mean of each channel in each value seen, one row after another: how far samples differ can be told from it.

    Attributes:
        axis: the axis of the channels; negative ones count from the end.
        rows: float64 [values, channels]; None before anything was seen. In the order seen.
    """

    kind: ClassVar[str] = "sample-means"
    options: ClassVar[tuple[str, ...]] = ("axis",)
    axis: int
    rows: np.ndarray | None = None

    def _see(self, array: np.ndarray) -> None:
        self._append(channel_rows(array, self.axis).mean(axis=1, dtype=np.float64)[None])

    def _merge(self, other: Self) -> None:
        if other.rows is not None:
            self._append(other.rows)

    def _append(self, rows: np.ndarray) -> None:
        self.rows = rows if self.rows is None else np.concatenate([self.rows, rows])


@dataclass
class Histogram(Observer):
    """How often which numbers occur, in bins of one width.

    The width is a power of two and the bins are ``[k * width, (k + 1) * width)``: a wider range makes bins of twice
    the width, each of two old ones exactly, so the state does not depend on the order and merges without loss. At
    most ``BINS`` bins span the range. Numbers that are exactly 0 are counted apart too: after a ReLU they are a peak
    that a bin hides.

    Attributes:
        counts: int64 [bins].
        first: the number k of the first bin.
        exponent: the width is ``2 ** exponent``; None before anything was seen.
        zeros: how many numbers are 0.
        low, high: the smallest and the largest number.
    """

    kind: ClassVar[str] = "histogram"
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    first: int = 0
    exponent: int | None = None
    zeros: int = 0
    low: float = np.inf
    high: float = -np.inf

    @property
    def width(self) -> float:
        """Of one bin."""
        return 2.0 ** (self.exponent or 0)

    @property
    def centres(self) -> np.ndarray:
        """float64 [bins]: the middle of each bin."""
        return (self.first + np.arange(len(self.counts)) + 0.5) * self.width

    def _see(self, array: np.ndarray) -> None:
        flat = array.reshape(-1)
        low, high = float(flat.min()), float(flat.max())
        self.zeros += int(flat.size - np.count_nonzero(flat))
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen(_exponent(self.low, self.high))
        scale = 2.0 ** -(self.exponent or 0)
        first = int(np.floor(low * scale))
        numbers = np.multiply(flat, scale, dtype=np.float64 if array.dtype == np.float64 else np.float32)
        np.floor(numbers, out=numbers)
        numbers -= first
        found = np.bincount(numbers.astype(np.int32), minlength=1)
        self._add(first, found)

    def _merge(self, other: Self) -> None:
        if other.exponent is None:
            return
        self.zeros += other.zeros
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self._widen(max(_exponent(self.low, self.high), other.exponent))
        assert self.exponent is not None
        first, counts = _coarser(other.first, other.counts, self.exponent - other.exponent)
        self._add(first, counts)

    def _widen(self, exponent: int) -> None:
        if self.exponent is None:
            self.exponent = exponent
        elif exponent > self.exponent:
            self.first, self.counts = _coarser(self.first, self.counts, exponent - self.exponent)
            self.exponent = exponent

    def _add(self, first: int, counts: np.ndarray) -> None:
        if not len(self.counts):
            self.first, self.counts = first, counts.astype(np.int64)
            return
        start = min(self.first, first)
        end = max(self.first + len(self.counts), first + len(counts))
        total = np.zeros(end - start, np.int64)
        total[self.first - start : self.first - start + len(self.counts)] = self.counts
        total[first - start : first - start + len(counts)] += counts
        self.first, self.counts = start, total


@dataclass
class Gram(Observer):
    """H = X^T X over the rows X of a tensor: what every layer-wise method needs of the input of a product.

    For an edit D of the weights, the squared error of the outputs, summed over all rows, is tr(D H D^T).

    Attributes:
        axis: the axis of the features; negative ones count from the end.
        matrix: float64 [features, features]; None before anything was seen.
        total: float64 [features], the sum of the rows.
        rows: how many rows were seen.
    """

    kind: ClassVar[str] = "gram"
    options: ClassVar[tuple[str, ...]] = ("axis",)
    axis: int = -1
    matrix: np.ndarray | None = None
    total: np.ndarray | None = None
    rows: int = 0

    def _see(self, array: np.ndarray) -> None:
        columns = channel_rows(array, self.axis)
        # products in float32 of one batch, sums of batches in float64
        self._add((columns @ columns.T).astype(np.float64), columns.sum(axis=1, dtype=np.float64), columns.shape[1])

    def _merge(self, other: Self) -> None:
        if other.matrix is not None and other.total is not None:
            self._add(other.matrix, other.total, other.rows)

    def _add(self, matrix: np.ndarray, total: np.ndarray, rows: int) -> None:
        self.matrix = matrix if self.matrix is None else self.matrix + matrix
        self.total = total if self.total is None else self.total + total
        self.rows += rows


def channel_rows(array: np.ndarray, axis: int) -> np.ndarray:
    """[channels, everything else], as a view where possible."""
    return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)


def _exponent(low: float, high: float) -> int:
    """Of the smallest width with which ``BINS`` bins span the range; the same for every order of ever wider ranges."""
    largest = max(abs(low), abs(high))
    if largest == 0:
        return -126
    span = max(high - low, largest * 2.0**-20)  # float32 has no finer numbers there worth telling apart
    exponent = max(int(np.floor(np.log2(span / BINS))), -126)
    while np.floor(high / 2.0**exponent) - np.floor(low / 2.0**exponent) + 1 > BINS:
        exponent += 1
    return exponent


def _coarser(first: int, counts: np.ndarray, doublings: int) -> tuple[int, np.ndarray]:
    """The same counts in bins ``2 ** doublings`` times as wide."""
    if not doublings or not len(counts):
        return first, counts
    bins = (first + np.arange(len(counts))) >> doublings
    start = int(bins[0])
    return start, np.bincount(bins - start, weights=counts).astype(np.int64)


KINDS: dict[str, type[Observer]] = {
    kind.kind: kind for kind in (Range, MovingRange, ChannelRange, ChannelMean, SampleMeans, Histogram, Gram)
}
"""Observers by the word that names them in files."""
