"""Which of several models is faster, and by how much.

A time on its own says little: machines heat up, clocks change, neighbours come and go. So the candidates run
alternately in one process, in an order shuffled anew each round, and the claim is the median of the ratios
within the rounds, with the interval that holds it with 95 % (order statistics of the binomial distribution:
no assumption about how times are distributed). Load time and peak memory are taken for each candidate in a
process of its own.
"""

from __future__ import annotations

import gc
import importlib
import math
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir import load, save

from .isolate import isolated
from .machine import peak_memory
from .session import CPU, Session
from .signature import Feeds

NOISE = 0.02
"""Ratios nearer to 1 than this are not told apart from 1: a model measured against itself differs by up to 1 %."""

_SLOT = 0.002  # seconds: shorter runs are repeated within a round, so that the clock and the loop do not count
_MOST_ROUNDS = 2001
_WARM = 0.2  # seconds
_PLACEMENTS = 5

STOP_SPINNING = {"session.force_spinning_stop": "1"}
"""Session configuration for measuring in turns: or the threads of one session spin while the other one runs."""


@dataclass(frozen=True)
class Candidate:
    """Something to measure: a model and how its session is made.

    Attributes:
        name: for the table.
        model: a path, or a model in memory.
        optimized: with the runtime's own optimisations.
        provider, provider_options, config, disabled_optimizers: as for ``Session``.
    """

    name: str
    model: ir.Model | str | Path
    optimized: bool = True
    provider: str = CPU
    provider_options: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)
    disabled_optimizers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured of one candidate.

    Attributes:
        name, threads, provider: of the candidate and its session.
        median_ms: the median time of one run. Not a claim: compare ratios.
        ratio: median over the rounds of its time divided by the first candidate's; 1 for the first.
        ratio_low, ratio_high: the interval that holds the true median ratio with 95 %.
        runs: rounds measured.
        load_s: seconds to make the session, file in the page cache.
        peak_bytes: the most memory resident in a process that loads it and runs once, interpreter included.
        file_bytes: the model's file and its external data.
    """

    name: str
    median_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    runs: int
    load_s: float
    peak_bytes: int
    file_bytes: int
    threads: int
    provider: str

    def as_json(self) -> dict[str, Any]:
        """One line of a run folder's measurements.jsonl."""
        return asdict(self)


def measure(
    candidates: Sequence[Candidate],
    feeds: Iterable[Feeds],
    *,
    threads: int = 1,
    min_seconds: float = 2.0,
    rounds: int = 21,
    seed: int = 0,
    timeout: float = 600.0,
    memory_bytes: int | None = None,
) -> list[Measurement]:
    """Measure candidates against the first of them.

    Args:
        candidates: at least one; names must differ.
        feeds: runs' inputs, used in turn, the same for all candidates within a round.
        threads: threads within an operator.
        min_seconds: measure at least this long for each candidate.
        rounds: measure at least as many rounds.
        seed: of the order within the rounds.
        timeout: seconds for each of the child processes.
        memory_bytes: their memory limit, if any.

    Raises:
        GraphoptError: no candidates or feeds, or a candidate that does not load, run, or end in time.
    """
    given = list(feeds)
    if not candidates or not given:
        raise GraphoptError("nothing to measure", "bench", "give at least one model and one feed", usage=True)
    if len({item.name for item in candidates}) < len(candidates):
        raise GraphoptError("two candidates have the same name", "bench", "names must differ", usage=True)
    with tempfile.TemporaryDirectory(prefix="graphopt-bench-") as folder:
        files = [_on_disk(item, Path(folder, str(index))) for index, item in enumerate(candidates)]
        plans = [_plan(item, file, threads) for item, file in zip(candidates, files, strict=True)]
        limits: dict[str, Any] = {"timeout": timeout, "memory_bytes": memory_bytes}
        costs = [isolated(_cost, plan, given[0], stage=f"loading {plan['name']}", **limits) for plan in plans]
        times = isolated(_alternate, plans, given, min_seconds, rounds, seed, stage="timing", **limits)
        sizes = [_file_bytes(file) for file in files]
    found: list[Measurement] = []
    for item, (load_s, peak), size, own in zip(candidates, costs, sizes, times, strict=True):
        ratio, low, high = paired_ratio(own, times[0])
        median = 1000.0 * float(np.median(own))
        found.append(
            Measurement(item.name, median, ratio, low, high, len(own), load_s, peak, size, threads, item.provider)
        )
    return found


def paired_ratio(times: Sequence[float], base: Sequence[float]) -> tuple[float, float, float]:
    """Median of the ratios of two equally long series, and its 95 % interval."""
    ratios = np.sort(np.asarray(times) / np.asarray(base))
    count = len(ratios)
    rank = _lower_rank(count)
    return float(np.median(ratios)), float(ratios[rank]), float(ratios[count - 1 - rank])


def _lower_rank(count: int) -> int:
    """The largest k such that the k-th smallest and k-th largest, counted from 0, hold the median with 95 %.

    They miss it on one side when at most k of the values lie on that side: P(Binomial(count, 1/2) <= k).
    Below six values that is never less than 2.5 %, and the range of all of them is given.
    """
    cumulated, rank = 0.0, 0
    for k in range(count // 2):
        log_choose = math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        cumulated += math.exp(log_choose - count * math.log(2.0))
        if cumulated > 0.025:
            break
        rank = k
    return rank


def _on_disk(item: Candidate, folder: Path) -> Path:
    if not isinstance(item.model, ir.Model):
        return Path(item.model)
    folder.mkdir()
    path = folder / "model.onnx"
    save(item.model, path)
    return path


def _plan(item: Candidate, file: Path, threads: int) -> dict[str, Any]:
    session = {
        "optimized": item.optimized,
        "threads": threads,
        "provider": item.provider,
        "provider_options": dict(item.provider_options),
        "config": {**STOP_SPINNING, **item.config},
        "disabled_optimizers": tuple(item.disabled_optimizers),
        "evaluator": "onnxruntime",
    }
    return {"name": item.name, "file": str(file), "session": session}


def _file_bytes(path: Path) -> int:
    """The file and the external data it refers to."""
    tensors = (value.const_value for graph in load(path).graphs() for value in graph.initializers.values())
    outside = {Path(item.base_dir, item.location) for item in tensors if isinstance(item, ir.ExternalTensor)}
    return path.stat().st_size + sum(file.stat().st_size for file in outside if file.is_file())


def _cost(plan: dict[str, Any], feeds: dict[str, Any]) -> tuple[float, int]:
    """Load time and peak memory; runs in a child of its own."""
    importlib.import_module("onnxruntime")  # that is no part of loading a model
    _into_page_cache(Path(plan["file"]))
    times: list[float] = []
    peak = 0
    while len(times) < 3 and sum(times) < 3.0:
        started = time.perf_counter()
        session = Session(plan["file"], **plan["session"])
        times.append(time.perf_counter() - started)
        if not peak:
            session.run(feeds)
            peak = peak_memory()
        del session
    return sorted(times)[len(times) // 2], peak


def _into_page_cache(path: Path) -> None:
    buffer = bytearray(2**20)  # piecewise: the process's peak memory is being measured
    with path.open("rb") as file:
        while file.readinto(buffer):
            pass


def _alternate(
    plans: list[dict[str, Any]], feeds: list[dict[str, Any]], min_seconds: float, rounds: int, seed: int
) -> list[list[float]]:
    """Seconds of one run, for each candidate and round; runs in a child that holds all sessions.

    Where a session's memory happens to lie can be worth several per cent (the same graph loaded twice differs by as
    much), so the sessions are made anew, in another order, a few times.
    """
    times: list[list[float]] = [[] for _ in plans]
    for placement in range(_PLACEMENTS):
        order = list(range(len(plans)))
        random.Random(seed + placement).shuffle(order)
        sessions = {index: Session(plans[index]["file"], **plans[index]["session"]) for index in order}
        found = alternate(
            [sessions[index] for index in range(len(plans))],
            feeds,
            min_seconds=min_seconds / _PLACEMENTS,
            rounds=math.ceil(rounds / _PLACEMENTS),
            seed=seed + placement,
        )
        for series, more in zip(times, found, strict=True):
            series.extend(more)
    return times


def alternate(
    sessions: Sequence[Session],
    feeds: Sequence[Feeds],
    *,
    min_seconds: float,
    rounds: int,
    seed: int = 0,
    warm_seconds: float = _WARM,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Run sessions in turns, within this process; ``paired_ratio`` compares what comes of it.

    Args:
        sessions: best made with ``STOP_SPINNING``.
        feeds: used in turn, the same for all sessions within a round.
        min_seconds: measure at least this long for each session.
        rounds: measure at least as many rounds.
        seed: of the order within the rounds.
        warm_seconds: run each session as long before.
        clock: seconds; ``time.thread_time`` leaves out what other processes take, where all work is done in the
            calling thread.

    Returns:
        seconds of one run, for each session and round.
    """
    ready = [[session.prepared(feed) for feed in feeds] for session in sessions]
    slots = [_warm(runs[0], warm_seconds) for runs in ready]
    order = list(range(len(sessions)))
    shuffle = random.Random(seed).shuffle
    times: list[list[float]] = [[] for _ in sessions]
    gc.collect()
    gc.disable()
    until, turn = time.perf_counter() + min_seconds * len(sessions), 0
    while turn < rounds or (time.perf_counter() < until and turn < _MOST_ROUNDS):
        shuffle(order)
        for index in order:
            run, repeats = ready[index][turn % len(feeds)], slots[index]
            begin = clock()
            for _ in range(repeats):
                run()
            times[index].append((clock() - begin) / repeats)
        turn += 1
    gc.enable()
    return times


def _warm(run: Callable[[], object], seconds: float) -> int:
    """Run until times have settled; returns how many runs fill a slot."""
    best, until, count = math.inf, time.perf_counter() + seconds, 0
    while count < 3 or (time.perf_counter() < until and count < 50):
        begin = time.perf_counter()
        run()
        best, count = min(best, time.perf_counter() - begin), count + 1
    return max(1, math.ceil(_SLOT / max(best, 1e-7)))
