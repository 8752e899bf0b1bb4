"""Where samples come from: files that are read when they are asked for, or something in memory.

A source gives the number of samples, and each of them by its number, as often as wanted. Sources hold paths,
not open files, so they can be sent to another process.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from graphopt.errors import GraphoptError

Sample = dict[str, Any]
_KEY = re.compile(r"([^|#]+)\|(.+)\Z", re.DOTALL)
_INPUT_FILE = re.compile(r"input_(\d+)\.pb\Z")


class Source(Protocol):
    """Samples by number."""

    @property
    def where(self) -> str:
        """For messages."""
        ...

    @property
    def stacked(self) -> bool:
        """True when samples were cut from arrays along their first axis, and keep it with size 1."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


@dataclass
class Memory:
    """Samples that are there already."""

    samples: Sequence[Mapping[str, Any]]
    where: str
    stacked: bool = False

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        sample = self.samples[index]
        if not isinstance(sample, Mapping):
            raise GraphoptError(
                f"a sample is a {type(sample).__name__}, not a mapping of input names to arrays",
                f"{self.where}, sample {index}",
                "give dicts: {'input': array}",
            )
        return dict(sample)


@dataclass
class KeyedArchive:
    """One .npz with keys ``<i>|<input>``; keys without a bar (``labels``, ``000#notes``) are none of ours."""

    path: Path
    stacked: bool = False

    @property
    def where(self) -> str:
        """The file."""
        return str(self.path)

    @cached_property
    def _keys(self) -> list[dict[str, str]]:
        with open_archive(self.path) as archive:
            return keyed(archive.files)

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Sample:
        with open_archive(self.path) as archive:
            return {name: read(archive, key, self.path) for name, key in self._keys[index].items()}


@dataclass
class StackedArchive:
    """One .npz with an array per input whose first axis counts the samples; scalars go to every sample."""

    path: Path
    stacked: bool = True

    @property
    def where(self) -> str:
        """The file."""
        return str(self.path)

    @cached_property
    def _arrays(self) -> Sample:
        with open_archive(self.path) as archive:
            arrays = {key: read(archive, key, self.path) for key in archive.files}
        counts = {name: len(array) for name, array in arrays.items() if array.ndim}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"'{name}' has {count}" for name, count in counts.items())
            raise GraphoptError(
                f"the arrays do not hold equally many samples: {listed}",
                str(self.path),
                "the first axis of every array counts the samples; or use keys <i>|<input>",
            )
        return arrays

    def __len__(self) -> int:
        return max((len(array) for array in self._arrays.values() if array.ndim), default=0)

    def __getitem__(self, index: int) -> Sample:
        return {name: array[index : index + 1] if array.ndim else array for name, array in self._arrays.items()}


@dataclass
class ArchiveFolder:
    """A folder of .npz files, one sample each, keys are input names; in the order of the files' names."""

    files: list[Path]
    where: str
    stacked: bool = False

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        path = self.files[index]
        with open_archive(path) as archive:
            return {key: read(archive, key, path) for key in archive.files}


@dataclass
class TestSets:
    """ONNX test data: folders with ``input_0.pb``, ``input_1.pb``, ... in the order of the model's inputs.

    The samples' keys are ``#0``, ``#1``, ...: the names in the files are optional and often wrong.
    """

    folders: list[Path]
    where: str
    stacked: bool = False
    __test__ = False  # not a test class, whatever pytest makes of the name

    def __len__(self) -> int:
        return len(self.folders)

    def __getitem__(self, index: int) -> Sample:
        found: Sample = {}
        for path in sorted(self.folders[index].iterdir()):
            match = _INPUT_FILE.match(path.name)
            if match:
                found[f"#{int(match[1])}"] = _message(path)
        return found


def open_archive(path: Path) -> Any:
    """The archive, opened; its arrays are read one by one.

    Raises:
        GraphoptError: it is missing, or no .npz file.
    """
    try:
        archive = np.load(path, allow_pickle=False)
    except Exception as error:
        raise GraphoptError("this is no .npz file, or a damaged one", str(path), "write it with numpy.savez") from error
    if not hasattr(archive, "files"):
        raise GraphoptError(
            "this is a single array, not an .npz file",
            str(path),
            "write it with numpy.savez, one key per input",
        )
    return archive


def read(archive: Any, key: str, path: Path) -> np.ndarray:
    """One array of an archive."""
    try:
        return archive[key]
    except Exception as error:
        raise GraphoptError(
            f"'{key}' cannot be read ({_short(error)})",
            str(path),
            "the file is damaged or holds Python objects",
        ) from error


def keyed(keys: Sequence[str]) -> list[dict[str, str]]:
    """For each sample its keys by input name, of keys ``<i>|<input>``; in numeric order, before words."""
    samples: dict[str, dict[str, str]] = {}
    for key in keys:
        match = _KEY.match(key)
        if match:
            samples.setdefault(match[1], {})[match[2]] = key
    order = sorted(samples, key=lambda label: (not label.isdigit(), int(label) if label.isdigit() else 0, label))
    return [samples[label] for label in order]


def _message(path: Path) -> Any:
    """The array (or list of arrays, or None) in a protobuf file."""
    import onnx
    from onnx import numpy_helper

    content = path.read_bytes()
    kinds: list[Any] = [
        (onnx.TensorProto, numpy_helper.to_array, "data_type"),
        (onnx.SequenceProto, numpy_helper.to_list, "elem_type"),
        (onnx.OptionalProto, numpy_helper.to_optional, "elem_type"),
    ]
    for kind, convert, element in kinds:
        message = kind()
        try:
            message.ParseFromString(content)
            if getattr(message, element) != 0:
                return convert(message)
        except Exception:  # noqa: BLE001  protobuf and numpy_helper raise what they like; the next kind is tried
            continue
    raise GraphoptError("this file holds no ONNX tensor", str(path), "expected a serialised TensorProto")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
