"""One quantiser on one model: it runs in a child process, what it wrote is judged in another.

What a tool refuses or dies of is a result like any other: nothing here raises because of a tool.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from cases import Ready
from metrics import TASKS, Seen
from quantizers import Job, Quantizer, run_elsewhere, run_here, version_in
from trial import MEMORY, Status, file_bytes

from graphopt.calibrate import CalibrationData
from graphopt.errors import GraphoptError
from graphopt.execute import Session, isolated
from graphopt.flows.fused import fused
from graphopt.flows.quality import output_quality
from graphopt.ir import load
from graphopt.target import find_target

_TARGET = "x86-64"


@dataclass(frozen=True)
class Row:
    """What came of a quantiser on a model.

    Attributes:
        tool, model: which.
        status: ``right`` means that the result runs and is finite; the others are those of ``trial.Result``.
        why: of any status but ``right``; a remark otherwise.
        sqnr_db: of the worst output.
        figures: of the task, by name.
        bytes: of the result.
        wall, cpu: seconds to read, quantise and write, after imports.
        memory: the most bytes the process held, with the interpreter and the tool.
        conversions, integers, floats: what is left in the graph that ONNX Runtime runs: nodes that quantise or
            dequantise, operators on integers, and products in floats.
        ratio, ratio_low, ratio_high: latency by that of the original, with its 95 % interval; None when not measured.
    """

    tool: str
    model: str
    status: Status
    why: str = ""
    sqnr_db: float = math.nan
    figures: dict[str, float] = field(default_factory=dict)
    bytes: int = 0
    wall: float = 0.0
    cpu: float = 0.0
    memory: int = 0
    conversions: int = 0
    integers: int = 0
    floats: int = 0
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None

    def as_json(self) -> dict[str, Any]:
        """One line of the results; a number that is not finite becomes None."""
        return {
            key: None if isinstance(it, float) and not math.isfinite(it) else it for key, it in asdict(self).items()
        }


def original(case: Ready, timeout: float) -> Row:
    """The row of the model itself.

    Raises:
        GraphoptError: it does not run: then no tool can be judged on it.
    """
    return Row("original", case.case.name, "right", case.remark, **_judged(case, case.path, timeout))


def attempt(tool: Quantizer, case: Ready, output: Path, environments: Path, timeout: float) -> Row:
    """Run the tool, then judge what it wrote to ``output``."""
    name = case.case.name
    python = environments / tool.environment / "bin" / "python" if tool.environment else None
    if not (version_in(python, tool.package) if python and python.exists() else "" if python else tool.version):
        return Row(tool.name, name, "missing", f"{tool.package} is not installed")
    job = Job(case.path, case.calibration, output, case.case.transformer, case.case.aim_db)
    limits: dict[str, Any] = {"timeout": timeout, "memory_bytes": MEMORY, "stage": tool.name}
    try:
        if python is None:
            cost = isolated(run_here, tool, job, **limits)
        else:
            cost = isolated(run_elsewhere, python, tool, job, output.with_suffix(".answer.json"), **limits)
    except GraphoptError as error:
        crash = any(mark in error.what for mark in ("crashed", "no answer within", "more memory"))
        where = f" ({error.where})" if error.where and error.where != tool.name else ""
        return Row(tool.name, name, "crashed" if crash else "refused", _one_line(error.what + where))
    remark = cost.pop("remark")
    try:
        judged = _judged(case, output, timeout)
    except GraphoptError as error:
        return Row(tool.name, name, "broken", _one_line(error.what), **cost)
    return Row(tool.name, name, "right", remark, **cost, **judged)


def _judged(case: Ready, result: Path, timeout: float) -> dict[str, Any]:
    limits: dict[str, Any] = {"timeout": timeout, "memory_bytes": MEMORY, "stage": f"judging {result.name}"}
    facts = isolated(judge, case.path, result, case.evaluation, case.case.task, **limits)
    graph = fused(result, find_target(_TARGET))
    return {**facts, "conversions": graph.conversions, "integers": graph.integers, "floats": graph.floats}


def judge(source: Path, result: Path, evaluation: Path, task: str) -> dict[str, Any]:
    """Signal, figures and bytes of a result beside the original, both with the runtime's optimisations; in a child."""
    if not result.exists():
        raise GraphoptError("no result was written", str(result))
    model = load(source)
    data = list(CalibrationData.open(evaluation).for_model(model))
    with np.load(evaluation) as archive:
        labels = {key: archive[key] for key in archive.files if "|" not in key}
    truth, found = (
        [session.run(sample) for sample in data]
        for session in (Session(source, optimized=True), Session(result, optimized=True))
    )
    names = [name for name, array in truth[0].items() if array.dtype.kind == "f"]
    signal = [output_quality(name, [item[name] for item in truth], [item[name] for item in found]) for name in names]
    if broken := next((one.collapsed for one in signal if one.broken), ""):
        raise GraphoptError(broken, result.name)
    seen = Seen(truth, found, data, labels, dict(model.metadata_props))
    return {
        "sqnr_db": min((one.sqnr_db for one in signal), default=math.inf),
        "figures": TASKS[task](seen),
        "bytes": file_bytes(result),
    }


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
