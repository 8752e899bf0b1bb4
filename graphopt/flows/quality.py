"""How good a quantised model is beside the original: signal to error of each output, and the user's own metric."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx_ir as ir

from ..calibrate import CalibrationData
from ..errors import GraphoptError
from ..events import Event, Events, silent
from ..execute.session import Session

Outputs = Mapping[str, Any]
Metric = Callable[[Sequence[Outputs], CalibrationData], float]
"""A score of a model's outputs, one mapping for each sample of the data, in order; more is better."""

COLLAPSED_DB = 5.0
"""A signal less than so far above its error is gone."""


@dataclass(frozen=True)
class OutputQuality:
    """One output of a model beside that of the original, over all samples.

    Attributes:
        name: of the output.
        sqnr_db: 10 log10 of the energy of the original's output and that of the difference; infinite when equal.
        cosine: of the angle between the two, all numbers in one vector.
        agreement: the share of rows (along the last axis) whose largest number is at the same place; None where a row
            has fewer than two numbers.
        constant: the output is one number everywhere, and the original's is not.
        broken: how many numbers are NaN or infinite where the original's are not.
    """

    name: str
    sqnr_db: float
    cosine: float
    agreement: float | None
    constant: bool
    broken: int

    @property
    def collapsed(self) -> str:
        """Why nothing is left of the output; "" otherwise."""
        if self.broken:
            return f"'{self.name}' holds {self.broken:,} NaN or infinities"
        if self.constant:
            return f"'{self.name}' is the same number everywhere"
        if self.sqnr_db < COLLAPSED_DB:
            return f"the error of '{self.name}' is {-self.sqnr_db:.1f} dB of the signal, which is no signal any more"
        return ""


@dataclass(frozen=True)
class Quality:
    """A model beside the original.

    Attributes:
        outputs: the floating-point ones.
        samples: how many were run.
        metric: the user's score of the model; None without.
        original: that of the original.
    """

    outputs: tuple[OutputQuality, ...]
    samples: int
    metric: float | None = None
    original: float | None = None

    @property
    def sqnr_db(self) -> float:
        """Of the worst output."""
        return min((item.sqnr_db for item in self.outputs), default=math.inf)

    @property
    def drop(self) -> float | None:
        """How much of the original's score is lost, as a share of it; negative where it is better."""
        if self.metric is None or self.original is None:
            return None
        return (self.original - self.metric) / abs(self.original) if self.original else self.original - self.metric

    @property
    def collapsed(self) -> str:
        """Why the model is useless; "" when it is not."""
        return next((item.collapsed for item in self.outputs if item.collapsed), "")

    def as_json(self) -> dict[str, Any]:
        """For ``--json`` and the run folder; an infinite ratio becomes None."""
        outputs = [asdict(item) | {"sqnr_db": _finite(item.sqnr_db)} for item in self.outputs]
        return {
            "samples": self.samples,
            "sqnr_db": _finite(self.sqnr_db),
            "metric": self.metric,
            "metric_of_original": self.original,
            "drop": self.drop,
            "outputs": outputs,
        }


class Judge:
    """The original's outputs on some data, to compare with.

    Args:
        original: a model.
        data: fitted to it.
        metric: the user's score.
        threads: threads within an operator; 0 leaves the number to the runtime.
        events: hears of progress.
    """

    def __init__(
        self,
        original: ir.Model | Path,
        data: CalibrationData,
        metric: Metric | None = None,
        *,
        threads: int = 0,
        events: Events = silent,
    ) -> None:
        self._data, self._metric, self._threads, self._events = data, metric, threads, events
        session = Session(original, optimized=True, threads=threads)
        self._truth = list(self._run(session, "running the original"))
        self._score = metric(self._truth, data) if metric is not None else None

    def quality(self, model: ir.Model | Path) -> Quality:
        """Compare a model with the original.

        Raises:
            GraphoptError: it does not run.
        """
        found = list(self._run(Session(model, optimized=True, threads=self._threads), "running the result"))
        names = [name for name, array in self._truth[0].items() if _is_float(array)]
        outputs = tuple(
            output_quality(name, [item[name] for item in self._truth], [item[name] for item in found]) for name in names
        )
        score = self._metric(found, self._data) if self._metric is not None else None
        return Quality(outputs, len(self._data), score, self._score)

    def _run(self, session: Session, stage: str) -> Iterable[Outputs]:
        for number, sample in enumerate(self._data, 1):
            yield session.run(sample)
            self._events(Event("progress", {"stage": stage, "done": number, "total": len(self._data)}))


def output_quality(name: str, truth: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> OutputQuality:
    """Compare the values of an output over samples."""
    signal = error = product = energy = 0.0
    rows = same = broken = 0
    spread = 0.0, 0.0
    for expected, actual in zip(truth, found, strict=True):
        left, right = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
        if left.shape != right.shape:
            return OutputQuality(name, -math.inf, 0.0, None, False, right.size or 1)
        both = np.isfinite(left) & np.isfinite(right)
        broken += int(np.count_nonzero(np.isfinite(left) & ~np.isfinite(right)))
        if left.ndim and left.shape[-1] > 1 and left.size:
            rows += left.size // left.shape[-1]
            same += int(np.count_nonzero(left.argmax(-1) == right.argmax(-1)))
        left, right = left[both], right[both]
        if left.size:
            spread = max(spread[0], float(np.ptp(left))), max(spread[1], float(np.ptp(right)))
        signal += float(left @ left)
        energy += float(right @ right)
        error += float((left - right) @ (left - right))
        product += float(left @ right)
    ratio = math.inf if error == 0 else 10 * math.log10(signal / error) if signal else -math.inf
    cosine = product / math.sqrt(signal * energy) if signal and energy else float(signal == energy)
    agreement = same / rows if rows else None
    return OutputQuality(name, ratio, cosine, agreement, spread[1] == 0 < spread[0], broken)


def find_metric(text: str) -> Metric:
    """The function that ``module:function`` names; the module may be a file in the current folder.

    Raises:
        GraphoptError: there is no such module or function.
    """
    module, _, name = text.partition(":")
    if not module or not name:
        raise GraphoptError(f"'{text}' names no function", "--metric", "write module:function", usage=True)
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise GraphoptError(
            f"there is no '{text}': {error}", "--metric", "write module:function", usage=True
        ) from error
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise GraphoptError(f"'{text}' is no function", "--metric", "it takes the outputs and the data", usage=True)
    return cast(Metric, found)


def _is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and (value.dtype.kind == "f" or value.dtype.name == "bfloat16")


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
