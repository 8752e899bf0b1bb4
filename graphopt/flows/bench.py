"""Model files measured against the first of them, as their target would run them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backends.onnxruntime import session_settings
from ..errors import GraphoptError
from ..execute.measure import Candidate, Measurement, measure
from ..execute.signature import signature
from ..execute.verify import interface_problems
from ..ir import load
from ..target import find_target
from .feeding import Data, feeds_for


@dataclass(frozen=True)
class Benchmark:
    """What was measured.

    Attributes:
        measurements: one for each model, in the order given; ratios are to the first.
        target: whose session settings were used.
        feeds: what the models ran on, in words.
    """

    measurements: tuple[Measurement, ...]
    target: str
    feeds: str

    def as_json(self) -> dict[str, Any]:
        """The ``result`` event of ``graphopt bench --json``."""
        return {
            "target": self.target,
            "on": self.feeds,
            "measurements": [item.as_json() for item in self.measurements],
        }


def bench(
    models: Sequence[Path | str],
    data: Data = None,
    *,
    names: Sequence[str] | None = None,
    target: str = "onnx",
    threads: int = 1,
    seed: int = 0,
    seconds: float = 2.0,
) -> Benchmark:
    """Measure models in turns, in child processes.

    Args:
        models: files; the first is what the others are compared with.
        data: feeds (see ``CalibrationData.open``), which must fit all of the models; random ones without.
        names: for the table; by default the files' names.
        target: whose provider and session options are used.
        threads: threads within an operator; 0 leaves the number to the runtime.
        seed: of random feeds, and of the order within the rounds.
        seconds: how long to measure each model, at least.

    Raises:
        GraphoptError: no such target or provider; a model that does not load or run; data that do not fit.
    """
    if not models:
        raise GraphoptError("there is no model to measure", "bench", "name at least one", usage=True)
    if threads < 0:
        raise GraphoptError("a number of threads is not negative", f"--threads {threads}", "0 is all", usage=True)
    settings = session_settings(find_target(target))
    paths = [Path(model) for model in models]
    for path in paths:
        if not path.is_file():
            raise GraphoptError("there is no such file", str(path), "check the path of the model", usage=True)
    _refuse_other_inputs(paths)
    feeds, words = feeds_for(paths[0], data, seed=seed)
    called = list(names) if names is not None else _names(paths)
    candidates = [Candidate(name, path, **settings) for name, path in zip(called, paths, strict=True)]
    found = measure(candidates, feeds, threads=threads, min_seconds=seconds, seed=seed)
    return Benchmark(tuple(found), target, words)


def _refuse_other_inputs(paths: Sequence[Path]) -> None:
    """Say that the models cannot run on the same feeds, before any are made.

    Raises:
        GraphoptError: an input is missing, new, or of another type than the first model's; names the model.
    """
    if len(paths) < 2:
        return
    first = signature(load(paths[0]))[0]
    for path in paths[1:]:
        problems = interface_problems("input", first, signature(load(path))[0])
        if problems:
            raise GraphoptError(
                f"it does not take the inputs of {paths[0]}: {'; '.join(problems)}",
                str(path),
                "models are measured on the same feeds; measure each alone, and mind that this compares nothing",
            )


def _names(paths: Sequence[Path]) -> list[str]:
    """File names where they differ, whole paths where they do not, numbered where those are the same too."""
    short = [path.name for path in paths]
    names = short if len(set(short)) == len(short) else [str(path) for path in paths]
    seen: dict[str, int] = {}
    unique: list[str] = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return unique
