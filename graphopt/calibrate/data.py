"""Calibration data: what a model is fed with to learn about its numbers, or to compare it with another.

Named feeds that can be gone through again and again, one sample at a time, with a digest that says which
data it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.events import Events, silent
from graphopt.execute.feeds import random_feeds
from graphopt.execute.signature import Port, checked, signature
from graphopt.ir import load

from .sources import (
    ArchiveFolder,
    KeyedArchive,
    Memory,
    Sample,
    Source,
    StackedArchive,
    TestSets,
    keyed,
    open_archive,
)

Change = Callable[[Sample], Sample]


class CalibrationData:
    """Samples: each a mapping from input names to arrays.

    Made by ``open`` (files, folders, iterables), ``synthesize`` or ``random``. ``for_model`` fits it to a model and is
    what passes get.

    Attributes:
        synthetic: made up; good for running and comparing, **not for accuracy**.
        where: what it is, for messages.
    """

    def __init__(self, source: Source, *, synthetic: bool = False, changes: tuple[Change, ...] = ()) -> None:
        self._source = source
        self._changes = changes
        self.synthetic = synthetic
        self.where = source.where

    @classmethod
    def open(cls, origin: str | Path | Iterable[Mapping[str, Any]] | CalibrationData) -> CalibrationData:
        """Data from a place.

        Args:
            origin: one of

                - a folder of ``.npz`` files, one sample each, keys are input names;
                - a folder of ``test_data_set_*`` folders (or one such folder) with ``input_<k>.pb``;
                - an ``.npz`` with keys ``<i>|<input>``, where other keys (labels) are ignored;
                - an ``.npz`` with one array per input, whose first axis counts the samples. Each sample
                  keeps that axis with size 1 if the model's input has as many axes, and loses it if the
                  input has one less;
                - any iterable of mappings; a generator is read to its end, anything else kept as it is.

        Raises:
            GraphoptError: nothing there, or in none of these forms.
        """
        if isinstance(origin, CalibrationData):
            return origin
        if isinstance(origin, (str, Path)):
            data = cls(_from_path(Path(origin)))
        else:
            samples = origin if hasattr(origin, "__len__") and hasattr(origin, "__getitem__") else list(origin)
            data = cls(Memory(samples, "the given samples"))  # type: ignore[arg-type]
        if len(data) == 0:
            raise GraphoptError("there are no samples", data.where, "give at least one sample")
        return data

    @classmethod
    def random(
        cls,
        model: ir.Model | str | Path,
        seed: int = 0,
        count: int = 4,
        *,
        dims: Mapping[str, int] | None = None,
        vary: bool = False,
    ) -> CalibrationData:
        """Made-up feeds that the model runs on (``graphopt.execute.random_feeds``); not for accuracy."""
        samples = random_feeds(model, seed, count, dims=dims, vary=vary)
        return cls(Memory(samples, f"random feeds, seed {seed}"), synthetic=True)

    @classmethod
    def synthesize(
        cls,
        model: ir.Model | str | Path,
        count: int = 8,
        seed: int = 0,
        *,
        steps: int | None = None,
        dims: Mapping[str, int] | None = None,
        threads: int = 0,
        events: Events = silent,
    ) -> CalibrationData:
        """Feeds made from the model alone: its BatchNormalizations see the means and variances of its training.

        Better than random, worse than real ones (``graphopt.calibrate.synthesize``).

        Args:
            model: as trained, its BatchNormalizations not folded.
            count: how many samples.
            seed: of the noise that they are made of.
            steps: of the descent.
            dims: sizes, as for ``random``.
            threads: of the runtime; 0 leaves it the choice.
            events: hears of progress.

        Raises:
            GraphoptError: the model has no BatchNormalization, or no gradient reaches its inputs.
        """
        from .synthesize import STEPS, synthesize

        loaded = load(model) if isinstance(model, (str, Path)) else model
        made = synthesize(
            loaded,
            count,
            seed,
            steps=STEPS if steps is None else steps,
            dims=dims,
            threads=threads,
            events=events,
        )
        where = f"inputs made from {made.layers} BatchNormalizations, seed {seed}"
        return cls(Memory(made.samples, where), synthetic=True)

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[Sample]:
        for index in range(len(self)):
            yield self[index]

    def __getitem__(self, index: int) -> Sample:
        """The sample of a number from 0 on."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        sample = self._source[index]
        for change in self._changes:
            try:
                sample = change(sample)
            except GraphoptError as error:
                raise GraphoptError(error.what, f"{error.where} (sample {index})", error.hint) from error
        return sample

    def __repr__(self) -> str:
        return f"CalibrationData({self.where!r}, {len(self)} samples{', synthetic' if self.synthetic else ''})"

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all samples: names, types, shapes and elements, in order."""
        total = hashlib.sha256()
        for sample in self:
            total.update(sample_digest(sample))
        return total.hexdigest()

    def take(self, count: int) -> CalibrationData:
        """The first samples only."""
        return self.part(0, count)

    def part(self, start: int, stop: int) -> CalibrationData:
        """Some of the samples, by their numbers."""
        start = min(max(start, 0), len(self))
        stop = min(max(stop, start), len(self))
        return self._chosen(range(start, stop))

    def spread(self, count: int) -> CalibrationData:
        """Samples spread evenly over the data: neighbours are often alike."""
        total = len(self)
        return self._chosen(range(total) if count >= total else [index * total // count for index in range(count)])

    def _chosen(self, numbers: Sequence[int]) -> CalibrationData:
        part = _Part(self._source, numbers)
        return CalibrationData(part, synthetic=self.synthetic, changes=self._changes)

    def map(self, change: Change) -> CalibrationData:
        """The data with a function applied to each sample (preprocessing), when it is read."""
        return CalibrationData(self._source, synthetic=self.synthetic, changes=(*self._changes, change))

    def scaled(self, scales: Mapping[str, tuple[float, float]]) -> CalibrationData:
        """Inputs in ``{name: (zero, scale)}`` become float32 ``(x - zero) / scale``: stored images."""
        return self.map(_Scale(dict(scales)))

    def for_model(self, model: ir.Model) -> CalibrationData:
        """The data checked against a model's inputs: the first sample now, each when it is read.

        float16 arrays become float32 where the model wants that (files are often stored at half the size);
        nothing else is converted.

        Raises:
            GraphoptError: a wrong or missing name, element type or shape.
        """
        fitted = self.map(_Fit(signature(model)[0], self._source.stacked, self.where))
        fitted[0]
        return fitted


class _Part:
    """Some of the samples of a source, by their numbers."""

    def __init__(self, source: Source, numbers: Sequence[int]) -> None:
        self._source, self._numbers = source, numbers
        self.where, self.stacked = source.where, source.stacked

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Sample:
        return self._source[self._numbers[index]]


class _Scale:
    """``(x - zero) / scale`` for some inputs."""

    def __init__(self, scales: dict[str, tuple[float, float]]) -> None:
        self._scales = scales

    def __call__(self, sample: Sample) -> Sample:
        unknown = sorted(set(self._scales) - set(sample))
        if unknown:
            raise GraphoptError(
                f"there is no input '{unknown[0]}' to scale",
                "calibration data",
                f"it has: {', '.join(sample)}",
            )
        return {
            name: ((np.asarray(array, np.float32) - self._scales[name][0]) / self._scales[name][1]).astype(np.float32)
            if name in self._scales
            else array
            for name, array in sample.items()
        }


class _Fit:
    """A sample as a model's inputs want it."""

    def __init__(self, ports: tuple[Port, ...], stacked: bool, where: str) -> None:
        self._ports, self._stacked, self._where = ports, stacked, where

    def __call__(self, sample: Sample) -> Sample:
        by_name = {port.name: port for port in self._ports}
        named = {self._name(key): value for key, value in sample.items()}
        ready = {name: self._convert(by_name.get(name), value) for name, value in named.items()}
        try:
            return checked(self._ports, ready, self._where)
        except GraphoptError as error:
            hint = error.hint
            if (
                any(getattr(value, "dtype", None) == np.uint8 for value in ready.values())
                and "wants float" in error.what
            ):
                hint = "say how bytes become numbers: data.scaled({'input': (zero, scale)})"
            raise GraphoptError(error.what, error.where, hint) from error

    def _name(self, key: str) -> str:
        if not key.startswith("#") or not key[1:].isdigit():
            return key
        number = int(key[1:])
        if number >= len(self._ports):
            raise GraphoptError(
                f"there is a file for input {number}, the model has {len(self._ports)} inputs",
                self._where,
                "wrong test data?",
            )
        return self._ports[number].name

    def _convert(self, port: Port | None, value: Any) -> Any:
        if port is None or not isinstance(value, np.ndarray):
            return value
        if self._stacked and port.shape is not None and value.ndim == len(port.shape) + 1:
            value = value[0]
        if value.dtype == np.float16 and port.dtype == ir.DataType.FLOAT:
            value = value.astype(np.float32)
        return value


def _from_path(path: Path) -> Source:
    if path.is_dir():
        return _from_folder(path)
    if not path.is_file():
        raise GraphoptError("there is no such file or folder", str(path), "check the path of the feeds", usage=True)
    with open_archive(path) as archive:
        keys = list(archive.files)
    if keyed(keys):
        return KeyedArchive(path)
    if not keys:
        raise GraphoptError(
            "the file holds no arrays", str(path), "write keys <i>|<input>, or one stacked array per input"
        )
    return StackedArchive(path)


def _from_folder(path: Path) -> Source:
    files = sorted(path.glob("*.npz"))
    if files:
        return ArchiveFolder(files, str(path))
    folders = sorted(path.glob("test_data_set_*"), key=lambda item: (len(item.name), item.name))
    if not folders and any(path.glob("input_*.pb")):
        folders = [path]
    if folders:
        return TestSets(folders, str(path))
    raise GraphoptError(
        "the folder holds no feeds",
        str(path),
        "expected .npz files, one sample each, or test_data_set_* folders",
    )


def sample_digest(sample: Sample) -> bytes:
    """SHA-256 of a sample: names, types, shapes and elements."""
    total = hashlib.sha256()
    for name in sorted(sample):
        _digest(total, name, sample[name])
    return total.digest()


def _digest(total: Any, name: str, value: Any) -> None:
    if isinstance(value, (list, tuple)):
        total.update(f"\0{name} sequence {len(value)}".encode())
        for element in value:
            _digest(total, name, element)
        return
    if value is None:
        total.update(f"\0{name} none".encode())
        return
    array = np.asarray(value)
    total.update(f"\0{name} {'string' if array.dtype.kind in 'OUST' else array.dtype.name} {array.shape}\0".encode())
    if array.dtype.kind in "OUST":
        total.update("\0".join(map(str, array.reshape(-1).tolist())).encode())
    else:
        total.update(np.ascontiguousarray(array).tobytes())
