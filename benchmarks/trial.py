"""One (tool, model): the tool runs in a child process, its result is judged in another.

A crash, a time-out and a wrong result are results like any other: nothing here raises because of a tool.
"""

from __future__ import annotations

import contextlib
import gc
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from subjects import Feeds, Subject, judging_feeds
from tools import Tool

from graphopt.errors import GraphoptError
from graphopt.execute import Session, isolated, verify
from graphopt.execute.machine import peak_memory
from graphopt.ir import check, count_nodes, load, save

Status = Literal["right", "wrong", "broken", "refused", "crashed", "missing"]

MEMORY = 16 * 2**30


@dataclass(frozen=True)
class Result:
    """What came of one tool on one model.

    Attributes:
        tool, model: which.
        status: ``right``; ``wrong`` (other numbers or another interface); ``broken`` (the result does not load or run);
            ``refused`` (an error, no result); ``crashed`` (or out of time or memory); ``missing`` (not installed).
        why: of any status but ``right``; a remark otherwise.
        nodes_before, nodes: with those in subgraphs and functions, without Constant nodes.
        bytes_before, bytes: of the files.
        wall, cpu: seconds to read, optimise and write, after imports and a first run on a tiny model.
        memory: the most bytes it held above what it held before it began.
        feeds: how many were compared.
        ratio, ratio_low, ratio_high: latency after/before, with its 95 % interval; None when not measured.
    """

    tool: str
    model: str
    status: Status
    why: str = ""
    nodes_before: int = 0
    nodes: int = 0
    bytes_before: int = 0
    bytes: int = 0
    wall: float = 0.0
    cpu: float = 0.0
    memory: int = 0
    feeds: int = 0
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None

    def as_json(self) -> dict[str, Any]:
        """One line of the results."""
        return asdict(self)


@dataclass(frozen=True)
class Original:
    """A subject, and what is known of it before any tool runs: feeds, nodes, bytes, a remark on the feeds."""

    subject: Subject
    feeds: tuple[Feeds, ...]
    nodes: int
    bytes: int
    remark: str = ""


def original(subject: Subject, timeout: float) -> Original:
    """Look at the model in a child.

    Raises:
        GraphoptError: it does not load or run: then no tool can be judged on it.
    """
    found = isolated(_look_at, subject, timeout=timeout, memory_bytes=MEMORY, stage=f"looking at {subject.name}")
    return Original(subject, *found)


def attempt(tool: Tool, given: Original, output: Path, timeout: float) -> Result:
    """Run the tool, then judge what it wrote to ``output``."""
    before = {"nodes_before": given.nodes, "bytes_before": given.bytes}
    if not tool.version:
        return Result(tool.name, given.subject.name, "missing", f"{tool.package} is not installed", **before)
    limits: dict[str, Any] = {"timeout": timeout, "memory_bytes": MEMORY}
    try:
        cost = isolated(run_tool, tool, given.subject.path, output, stage=tool.name, **limits)
    except GraphoptError as error:
        crash = any(mark in error.what for mark in ("crashed", "no answer within", "more memory"))
        status: Status = "crashed" if crash else "refused"
        return Result(tool.name, given.subject.name, status, _one_line(error.what), **before)
    remark = cost.pop("remark")
    measured = {**before, **cost}
    try:
        judged = isolated(_judge, given.subject.path, output, given.feeds, stage="judging", **limits)
    except GraphoptError as error:
        return Result(tool.name, given.subject.name, "broken", _one_line(error.what), **measured)
    judged["why"] = "; ".join(filter(None, (judged["why"], remark)))
    return Result(tool.name, given.subject.name, **judged, **measured)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


def _look_at(subject: Subject) -> tuple[tuple[Feeds, ...], int, int, str]:
    model = load(subject.path)
    feeds, remark = judging_feeds(subject)
    if not feeds:
        raise GraphoptError(remark, subject.name)
    session = Session(subject.path, optimized=False)
    accepted = [feed for feed in feeds if _accepts(session, feed)]
    if not accepted:
        raise GraphoptError("the original runs on none of the feeds", subject.name)
    if len(accepted) < len(feeds):
        remark = "; ".join(filter(None, (remark, f"{len(feeds) - len(accepted)} feeds do not suit the original")))
    return tuple(accepted), count_nodes(model), file_bytes(subject.path), remark


def _accepts(session: Session, feed: Feeds) -> bool:
    try:
        session.run(feed)
    except GraphoptError:
        return False
    return True


def file_bytes(path: Path) -> int:
    """The file and the external data it refers to."""
    import onnx_ir as ir

    tensors = (value.const_value for graph in load(path).graphs() for value in graph.initializers.values())
    outside = {Path(item.base_dir, item.location) for item in tensors if isinstance(item, ir.ExternalTensor)}
    return path.stat().st_size + sum(file.stat().st_size for file in outside if file.is_file())


def run_tool(tool: Tool, source: Path, output: Path) -> dict[str, Any]:
    """Seconds and memory of the tool, without imports and whatever it prepares on its first run; in a child."""
    run = tool.load()
    _warm_up(run)
    baseline = _start_counting_memory()
    wall, cpu = time.perf_counter(), time.process_time()
    remark = run(source, output)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"wall": wall, "cpu": cpu, "memory": max(peak_memory() - baseline, 0), "remark": remark or ""}


def _warm_up(run: Any) -> None:
    """Imports, those too that a tool takes up only where there is something to fold, and the garbage they leave."""
    import onnxruntime  # noqa: F401

    from graphopt.models.builders import mlp

    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Exception):
        source = Path(folder, "tiny.onnx")
        save(mlp(), source)
        run(source, Path(folder, "result.onnx"))
    gc.collect()


def _start_counting_memory() -> int:
    """What is resident now; the peak is counted from here where the system can forget the one before."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return peak_memory()


def _judge(source: Path, output: Path, feeds: tuple[Feeds, ...]) -> dict[str, Any]:
    """Nodes, bytes, and whether it computes what the original does; in a child."""
    if not output.exists():
        raise GraphoptError("no result was written", str(output))
    model = load(output)
    facts = {"nodes": count_nodes(model), "bytes": file_bytes(output), "feeds": len(feeds), "why": ""}
    try:
        check(model)
    except GraphoptError as error:
        return {**facts, "status": "broken", "why": f"invalid: {error.what} ({error.where})"}
    verdict = verify(source, output, feeds)
    if not verdict.ok:
        broken = any("does not load" in problem or "fails on feed" in problem for problem in verdict.problems)
        return {**facts, "status": "broken" if broken else "wrong", "why": _one_line(str(verdict))}
    if problem := _trouble_when_optimised(source, output, feeds):
        return {**facts, "status": "broken", "why": _one_line(problem)}
    remark = f"not comparable: {', '.join(verdict.not_comparable)}" if verdict.not_comparable else ""
    return {**facts, "status": "right", "why": remark}


def _trouble_when_optimised(source: Path, output: Path, feeds: tuple[Feeds, ...]) -> str:
    """What happens to the result, and not to the original, when the runtime optimises it at load."""
    try:
        Session(source, optimized=True).run(feeds[0])
    except GraphoptError:
        return ""
    try:
        session = Session(output, optimized=True)
        for feed in feeds:
            session.run(feed)
    except GraphoptError as error:
        return f"with the runtime's optimisations: {error.what}"
    return ""
