"""Optimising on the record: the main job, measured before and after, with everything kept in a run folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import GraphoptError
from ..events import Event
from ..ir import save
from ..target import find_target
from .bench import Benchmark, bench
from .decisions import profiles
from .inspect import Inspection, inspect
from .optimize import Optimized, Request, optimize, read_recipe
from .places import refuse_overwriting, refuse_unwritable
from .run_folder import RunFolder

BEFORE, AFTER = "before", "after"


@dataclass(frozen=True)
class Recorded:
    """What came of it.

    Attributes:
        optimized: the model and every pass's account.
        folder: the run folder; ``graphopt.report.render`` makes its page.
        benchmark: before and after, or None.
        unmeasured: why there is none.
        seconds: what the optimisation took, verification included.
    """

    optimized: Optimized
    folder: RunFolder
    benchmark: Benchmark | None
    unmeasured: str
    seconds: float


def optimize_on_record(
    source: Path | str,
    output: Path | str | None,
    request: Request,
    *,
    runs: Path | str = "runs",
    command: Sequence[str] = ("optimize",),
    threads: int = 1,
    seconds: float = 2.0,
) -> Recorded:
    """Optimise a model, measure it before and after, and write the run folder.

    Args:
        source: the model's file.
        output: where else than in the run folder the result goes.
        request: as for ``optimize``.
        runs: the folder of all runs.
        command: what was called, for ``run.json``.
        threads: threads within an operator while measuring.
        seconds: how long to measure each of the two.

    Raises:
        GraphoptError: as ``optimize``; the run folder then holds what there was until then, and the error. A run that
            is interrupted leaves no folder. That the models could not be measured (no such provider here) is no error,
            and is noted.
    """
    source = Path(source)
    target = find_target(request.target)
    recipe = read_recipe(request, target)
    if output is not None:
        refuse_unwritable(Path(output))
        refuse_overwriting(source, Path(output))
    data = request.data.where if request.data is not None else f"random feeds, seed {request.seed}"
    folder = RunFolder.create(
        runs,
        command,
        source=source,
        target=target.name,
        profiles=profiles(target),
        data=data,
        data_path=data if request.data is not None and Path(data).exists() else None,
        seed=request.seed,
        samples=len(request.data) if request.data is not None else None,
    )
    try:
        folder.write_recipe(recipe.to_toml())
        started = time.perf_counter()
        done = optimize(source, None, request)
        took = time.perf_counter() - started
        for outcome in done.outcomes:
            folder.append_step(outcome.as_json())
        for decision in done.decisions:
            folder.append_decision(decision.as_json())
        folder.write_verify(done.as_json()["verify"])
        save(done.model, folder.model)
        _weigh(source, folder, done, request)
        benchmark, unmeasured = _measure(source, folder, request, threads, seconds)
        if output is not None:
            save(done.model, Path(output), external_above=request.external_above)
        folder.finish(output=None if output is None else str(output), unmeasured=unmeasured)
    except GraphoptError as error:
        folder.finish(error=str(error))
        raise
    except Exception as error:
        folder.finish(error=f"{type(error).__name__}: {error}")
        raise
    except BaseException:  # Ctrl-C, or asked to end
        folder.remove()
        raise
    return Recorded(done, folder, benchmark, unmeasured, took)


def _weigh(source: Path, folder: RunFolder, done: Optimized, request: Request) -> None:
    """The numbers of both models, with what they cost for the same sizes: operations and the peak of activations.

    That costs cannot be counted is no error: they are left out.
    """
    before, after = done.before.as_json(), done.after.as_json()
    request.events(Event("progress", {"stage": "counting the costs before and after"}))
    try:
        first = inspect(source)
        second = inspect(folder.model, {dim.name: dim.size for dim in first.open_dims})
    except GraphoptError as error:
        folder.write_stats(before, after, uncounted=error.what)
        return
    sizes = ", ".join(f"{dim.name}={dim.size}" for dim in first.open_dims)
    folder.write_stats(_costs(first) | before, _costs(second) | after, sizes=sizes)


def _costs(found: Inspection) -> dict[str, Any]:
    """Nothing where nothing could be counted; a zero would be taken for a gain."""
    notes = [note for note in found.notes if "cost" in note or "counted" in note]
    if not found.peak:
        return {"cost_notes": notes}
    return {"flops": found.flops, "activations": found.activations, "peak": found.peak, "cost_notes": notes}


def _measure(
    source: Path, folder: RunFolder, request: Request, threads: int, seconds: float
) -> tuple[Benchmark | None, str]:
    request.events(Event("progress", {"stage": "measuring before and after"}))
    try:
        found = bench(
            [source, folder.model],
            request.data,
            names=[BEFORE, AFTER],
            target=request.target,
            threads=threads,
            seed=request.seed,
            seconds=seconds,
        )
    except GraphoptError as error:
        return None, error.what
    for item in found.measurements:
        folder.append_measurement(item.as_json())
    return found, ""
