"""What was learnt of a model's tensors: observers by tensor, that can be saved, loaded and merged."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.ir.atomic import Staging

from .observers import KINDS, Observer

Kind = TypeVar("Kind", bound=Observer)

_FORMAT = 2


class Statistics:
    """Observers by tensor name.

    Attributes:
        samples: how many samples were run.
        synthetic: they were made up: good for trying things out, not for accuracy.
        digest: of the model, the data and what was asked for; the name under which they are kept for reuse.
        growth: by how much the range of a tensor widened over the last quarter of the samples, as a share of what it
            was before; infinite where it was nothing. Only for tensors whose ends are observed, and of four samples on.
    """

    def __init__(
        self,
        observers: Mapping[str, Iterable[Observer]],
        samples: int = 0,
        *,
        synthetic: bool = False,
        digest: str = "",
        growth: Mapping[str, float] | None = None,
    ) -> None:
        self._observers = {name: {item.key: item for item in items} for name, items in observers.items()}
        self.samples = samples
        self.synthetic = synthetic
        self.digest = digest
        self.growth = dict(growth or {})

    def __iter__(self) -> Iterator[str]:
        return iter(self._observers)

    def __contains__(self, name: object) -> bool:
        return name in self._observers

    def of(self, name: str) -> list[Observer]:
        """All observers of a tensor."""
        return list(self._observers.get(name, {}).values())

    def get(self, name: str, kind: type[Kind], *options: Any) -> Kind:
        """The observer of a tensor of a kind; with options (an axis) where there may be several.

        Raises:
            KeyError: nothing of that kind was asked for.
        """
        for item in self._observers[name].values():
            if isinstance(item, kind) and (not options or item.key[1:] == options):
                return item
        raise KeyError(f"{kind.kind} of '{name}'")

    def covers(self, requests: Mapping[str, Iterable[Observer]]) -> bool:
        """Whether everything that is asked for has been observed."""
        return all(item.key in self._observers.get(name, {}) for name, items in requests.items() for item in items)

    def add(self, other: Statistics) -> None:
        """Take in what was observed besides, of the same model."""
        for name, items in other._observers.items():
            self._observers.setdefault(name, {}).update(items)
        self.growth |= other.growth

    def merge(self, other: Statistics) -> None:
        """Add what was learnt from other samples (another shard, another process).

        Raises:
            GraphoptError: the other ones are of other tensors, or of other kinds.
        """
        if {name: set(items) for name, items in self._observers.items()} != {
            name: set(items) for name, items in other._observers.items()
        }:
            raise GraphoptError(
                "statistics of different tensors cannot be merged", "statistics", "collect both with the same requests"
            )
        for name, items in self._observers.items():
            for key, item in items.items():
                item.merge(other._observers[name][key])
        for name, share in other.growth.items():
            self.growth[name] = max(share, self.growth.get(name, 0.0))
        self.samples += other.samples
        self.synthetic = self.synthetic or other.synthetic

    def save(self, path: Path | str) -> None:
        """Write them as one ``.npz``: arrays, and a JSON description under the key ``about``."""
        arrays: dict[str, np.ndarray] = {}
        tensors: list[dict[str, Any]] = []
        for name, items in self._observers.items():
            for item in items.values():
                number = len(tensors)
                tensors.append({"tensor": name, "kind": item.kind, "options": list(item.key[1:])})
                arrays |= {f"{number}|{key}": array for key, array in item.state().items()}
        about = {
            "format": _FORMAT,
            "samples": self.samples,
            "synthetic": self.synthetic,
            "digest": self.digest,
            "tensors": tensors,
            "growth": self.growth,
        }
        arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)  # type: ignore[arg-type]  # its keywords are the arrays' names
        with Staging() as staging:
            staging.write(str(path), content.getvalue())
            staging.commit()

    @classmethod
    def load(cls, path: Path | str) -> Statistics:
        """What ``save`` wrote.

        Raises:
            GraphoptError: there is no such file, or it is none of statistics.
        """
        try:
            with np.load(path) as archive:
                arrays = {key: archive[key] for key in archive.files}
            about = json.loads(arrays.pop("about").tobytes())
            if about["format"] != _FORMAT:
                raise ValueError(f"format {about['format']}")
            observers: dict[str, list[Observer]] = {}
            for number, item in enumerate(about["tensors"]):
                observer = KINDS[item["kind"]](*item["options"])
                head = f"{number}|"
                observer.restore({key[len(head) :]: arrays[key] for key in arrays if key.startswith(head)})
                observers.setdefault(item["tensor"], []).append(observer)
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, zlib.error) as error:
            raise GraphoptError(
                f"these are no statistics: {error}", str(path), "give a file that `graphopt quantize` kept"
            ) from error
        return cls(
            observers,
            about["samples"],
            synthetic=about["synthetic"],
            digest=about["digest"],
            growth=about["growth"],
        )
