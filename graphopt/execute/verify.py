"""Do two models compute the same? Both run as written, on the same feeds, and their outputs are compared.

The first model is right by definition. An output that it does not give twice alike is not comparable, and
said to be; a missing, renamed or reordered input or output is a failure whatever the numbers are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir import load

from .compare import EXACT, Difference, Tolerance, compare
from .feeds import random_feeds
from .rounding import Rounding
from .session import Session
from .signature import Feeds, Port

RANDOM_FEEDS = 2


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a comparison.

    Attributes:
        ok: no output differs by more than its tolerance, and the interfaces are alike.
        outputs: for each output that can be compared, the worst difference over all feeds.
        problems: what is wrong besides numbers: the interface, a model that does not load or run.
        not_comparable: outputs that differ from run to run of the same model.
        notes: what weakens the comparison (outputs that are all NaN).
        feeds: how many feeds were compared.
        evaluator: who computed the truth: ``onnxruntime`` or ``onnx.reference``.
        runs: False when the second model does not load, or fails on a feed.
    """

    ok: bool
    outputs: tuple[Difference, ...] = ()
    problems: tuple[str, ...] = ()
    not_comparable: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    feeds: int = 0
    evaluator: str = "onnxruntime"
    runs: bool = True

    @property
    def verdict(self) -> str:
        """``equal``, ``within tolerance``, ``different``, ``does not run`` or ``not comparable``."""
        if not self.ok:
            return "different" if self.runs else "does not run"
        if not self.outputs:
            return "not comparable" if self.not_comparable else "equal"
        return "equal" if all(item.max_abs == 0.0 for item in self.outputs) else "within tolerance"

    def __str__(self) -> str:
        wrong = [f"output '{item.name}': {item.reason}" for item in self.outputs if not item.ok]
        left_out = [f"output '{name}' differs from run to run" for name in self.not_comparable]
        return "; ".join([self.verdict, *self.problems, *wrong, *left_out])

    def as_json(self) -> dict[str, Any]:
        """The content of a run folder's verify.json."""
        return {
            "verdict": self.verdict,
            "ok": self.ok,
            "feeds": self.feeds,
            "evaluator": self.evaluator,
            "problems": list(self.problems),
            "not_comparable": list(self.not_comparable),
            "notes": list(self.notes),
            "outputs": [item.as_json() for item in self.outputs],
        }


def verify(
    a: ir.Model | str | Path,
    b: ir.Model | str | Path,
    feeds: Iterable[Feeds] | None = None,
    tolerance: Tolerance | None = None,
    *,
    threads: int = 1,
) -> Verdict:
    """Compare model ``b`` with model ``a``.

    Args:
        a: the model that is right by definition.
        b: the model in question.
        feeds: what to run both on, one mapping for each run; two random ones made from the signature without.
        tolerance: what is forgiven in every output; by default what rounding explains (``Rounding``).
            ``EXACT`` for equality.
        threads: threads within an operator; with more than one some sums differ from run to run.

    Raises:
        GraphoptError: ``a`` does not load or run, a feed does not fit it, or there are no feeds.
    """
    truth = Session(a, optimized=False, threads=threads)
    try:
        other = _beside(truth, b, threads)
    except GraphoptError as error:
        problem = f"the second model does not load: {error.what}"
        return Verdict(False, problems=(problem,), evaluator=truth.evaluator, runs=False)
    problems = [
        *interface_problems("input", truth.inputs, other.inputs),
        *interface_problems("output", truth.outputs, other.outputs),
    ]
    if problems:
        return Verdict(False, problems=tuple(problems), evaluator=truth.evaluator)
    rounding = None if tolerance is not None else Rounding(load(a) if isinstance(a, (str, Path)) else a)
    collected = _Collected()
    for feed in random_feeds(a, count=RANDOM_FEEDS) if feeds is None else feeds:
        expected = truth.run(feed)
        if collected.feeds == 0:
            collected.leave_out(expected, truth.run(feed))
        try:
            if collected.feeds == 0 and other.evaluator != truth.evaluator:  # a kernel was missing only when it ran
                other = _beside(truth, b, threads)
            actual = other.run(feed)
        except GraphoptError as error:
            problem = f"the second model fails on feed {collected.feeds}: {error.what}"
            return Verdict(False, problems=(problem,), feeds=collected.feeds, evaluator=truth.evaluator, runs=False)
        found = compare(expected, actual, allowances(expected, tolerance, rounding))
        if any(not item.ok and item.name not in collected.random for item in found):
            collected.leave_out(expected, truth.run(feed))
        collected.add(found, expected)
    if collected.feeds == 0:
        raise GraphoptError("there are no feeds to compare the models on", "verify", "give at least one feed")
    return collected.verdict(truth.evaluator)


def _beside(truth: Session, b: ir.Model | str | Path, threads: int) -> Session:
    """The second model in the evaluator of the first; in ONNX Runtime where the other one lacks its opset."""
    try:
        return Session(b, optimized=False, threads=threads, evaluator=truth.evaluator)
    except GraphoptError:
        if truth.evaluator == "onnxruntime":
            raise
        return Session(b, optimized=False, threads=threads, evaluator="onnxruntime")


def allowances(expected: Feeds, given: Tolerance | None, rounding: Rounding | None) -> Tolerance | dict[str, Tolerance]:
    """The tolerance of each value: the given one, or what the rounding of the first model explains."""
    if given is not None:
        return given
    assert rounding is not None
    return {name: rounding.tolerance(name, dtype) for name, value in expected.items() if (dtype := _dtype(value))}


def _dtype(value: Any) -> np.dtype | None:
    if isinstance(value, (list, tuple)):
        return _dtype(value[0]) if value else None
    return None if value is None else getattr(value, "dtype", None)


class _Collected:
    """The worst difference of each output over the feeds so far."""

    def __init__(self) -> None:
        self.feeds = 0
        self.random: dict[str, None] = {}
        self._worst: dict[str, Difference] = {}
        self._all_nan: dict[str, bool] = {}

    def leave_out(self, once: Feeds, again: Feeds) -> None:
        """Outputs that the same model does not give twice alike."""
        self.random.update({item.name: None for item in compare(once, again, EXACT) if not item.ok})

    def add(self, found: list[Difference], expected: Feeds) -> None:
        self.feeds += 1
        for item in found:
            self._worst[item.name] = _worse(self._worst.get(item.name), item)
        for name, value in expected.items():
            self._all_nan[name] = self._all_nan.get(name, True) and _is_all_nan(value)

    def verdict(self, evaluator: str) -> Verdict:
        outputs = tuple(item for name, item in self._worst.items() if name not in self.random)
        notes = tuple(f"output '{name}' is NaN in every element" for name, nan in self._all_nan.items() if nan)
        ok = all(item.ok for item in outputs)
        return Verdict(ok, outputs, (), tuple(self.random), notes, self.feeds, evaluator)


def _worse(first: Difference | None, second: Difference) -> Difference:
    if first is None:
        return second
    worst = max(first, second, key=lambda item: (not item.ok, item.max_abs if item.max_abs == item.max_abs else 0.0))
    return replace(
        worst,
        max_abs=_larger(first.max_abs, second.max_abs),
        max_rel=_larger(first.max_rel, second.max_rel),
        sqnr_db=-_larger(-first.sqnr_db, -second.sqnr_db),
    )


def _larger(first: float, second: float) -> float:
    """The larger number; NaN, which says that a difference has no size, wins."""
    return first if first != first or first >= second else second


def _is_all_nan(value: Any) -> bool:
    if not isinstance(value, np.ndarray) or value.size == 0 or value.dtype.kind not in "fc":
        return False
    return bool(np.isnan(value).all())


def interface_problems(kind: str, a: tuple[Port, ...], b: tuple[Port, ...]) -> list[str]:
    """What is wrong with the inputs or outputs of the second model."""
    before, after = {port.name: port for port in a}, {port.name: port for port in b}
    problems = [f"{kind} '{name}' is missing" for name in before if name not in after]
    problems += [f"{kind} '{name}' is new" for name in after if name not in before]
    if problems:
        return problems
    if [port.name for port in a if port.required] != [port.name for port in b if port.required]:
        problems.append(f"the {kind}s are in another order, or others are required")
    for name, port in before.items():
        other = after[name]
        if port.dtype != other.dtype and port.dtype is not None and other.dtype is not None:
            problems.append(f"{kind} '{name}' is {other.dtype.name.lower()} instead of {port.dtype.name.lower()}")
    return problems
