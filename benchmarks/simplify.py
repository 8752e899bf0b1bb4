"""graphopt beside its peers on real models and fresh exports: nodes, bytes, seconds, memory, right or not, latency.

    python -m pip install -r benchmarks/requirements.txt
    python benchmarks/simplify.py [--models bert,magika_v3_3] [--tools graphopt,onnxslim] [--no-latency] [--quick]

Each (tool, model) runs in a process of its own under a time and memory limit: a crash is a result. What comes out is
run on several feeds, of several sizes where the model allows it, and compared with the original by what rounding
explains. Latency is measured with ONNX Runtime's optimisations on, one thread, all candidates of a model interleaved
in one process, the same session settings for all. Results go to benchmarks/results, as JSON lines and as Markdown, the
models to build/bench; ``--publish`` puts the tables into docs/benchmarks.md too.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from publish import RESULTS, WORK, circumstances, publish
from rich.console import Console
from subjects import Subject, subjects
from tables import failures, tables
from tools import TOOLS, USUAL, Tool
from trial import Original, Result, attempt, original

from graphopt.errors import GraphoptError
from graphopt.execute import Candidate, measure

_QUICK_MODELS = ("ppocr_cls_v2", "silero_vad_16k_op15", "magika_v3_3", "mixer", "bert")
_TIMED_FEEDS = 2

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to do with each model.

    Attributes:
        tools: what runs on it.
        folder: where results are kept, in one folder for each model.
        latency: measure it.
        seconds: measure at least so long for each candidate.
        timeout: seconds for a tool, and for judging what it made.
    """

    tools: tuple[Tool, ...]
    folder: Path
    latency: bool = True
    seconds: float = 2.0
    timeout: float = 300.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs, prints and writes; 1 when a result of graphopt is not right, or there is nothing to run on."""
    chosen = _parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    wanted = chosen.models or (list(_QUICK_MODELS) if chosen.quick else [])
    found, missing = subjects(chosen.exports, wanted)
    for line in missing:
        console.print(f"not there: {line}", style="yellow", markup=False)
    if not found:
        console.print("there is no model to run on", style="red")
        return 1
    plan = Plan(
        tuple(TOOLS[name] for name in chosen.tools),
        chosen.work / "simplify",
        latency=not chosen.no_latency,
        seconds=0.5 if chosen.quick else 2.0,
        timeout=chosen.timeout,
    )
    for tool in plan.tools:
        if not tool.version:
            console.print(f"not there: {tool.name}: pip install -r benchmarks/requirements.txt", style="yellow")
    results: list[Result] = []
    for subject in found:
        results += run(subject, plan, lambda line: console.print(line, markup=False, highlight=False))
        _write(chosen.out, results)
    report = tables(results)
    for table in report:
        table.show(console)
    for line in failures(results):
        console.print(line, markup=False, highlight=False)
    text = "\n\n".join([circumstances(_versions(plan.tools)), *(table.markdown() for table in report)])
    remarks = "\n".join(f"- {line}" for line in failures(results))
    (chosen.out / "simplify.md").write_text(f"{text}\n\n{remarks}\n", encoding="utf-8")
    if chosen.publish:
        publish("simplify", f"{text}\n\n{remarks}")
    bad = [result for result in results if result.tool.startswith("graphopt") and result.status != "right"]
    return 1 if bad else 0


def run(subject: Subject, plan: Plan, say: Say = lambda line: None) -> list[Result]:
    """All tools on one model, then the latency of everything that is right, side by side."""
    folder = plan.folder / subject.name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        given = original(subject, plan.timeout)
    except GraphoptError as error:
        say(f"{subject.name:28} cannot be judged: {error.what}")
        return []
    say(f"{subject.name:28} {given.nodes:5} nodes, {len(given.feeds)} feeds {given.remark}")
    results: list[Result] = []
    for tool in plan.tools:
        output = folder / f"{tool.name}.onnx"
        for old in folder.glob(f"{tool.name}.onnx*"):
            old.unlink()
        results.append(attempt(tool, given, output, plan.timeout))
        say(f"  {_line(results[-1])}")
    return _with_latency(given, results, folder, plan, say) if plan.latency else results


def _with_latency(given: Original, results: list[Result], folder: Path, plan: Plan, say: Say) -> list[Result]:
    right = [result for result in results if result.status == "right"]
    if not right:
        return results
    candidates = [Candidate("original", given.subject.path)]
    candidates += [Candidate(result.tool, folder / f"{result.tool}.onnx") for result in right]
    feeds = given.feeds[:_TIMED_FEEDS]
    limit = 60.0 + 20.0 * plan.seconds * len(candidates)
    started = time.perf_counter()
    try:
        measured = measure(candidates, feeds, threads=1, min_seconds=plan.seconds, timeout=limit)
    except GraphoptError as error:
        say(f"  latency was not measured: {error.what}")
        return results
    ratios = {item.name: item for item in measured}
    say(
        "  latency "
        + ", ".join(f"{name} {item.ratio:.3f}" for name, item in ratios.items() if name != "original")
        + f"  ({measured[0].median_ms:.2f} ms before; {time.perf_counter() - started:.0f} s)"
    )
    return [
        replace(result, ratio=found.ratio, ratio_low=found.ratio_low, ratio_high=found.ratio_high)
        if (found := ratios.get(result.tool)) is not None
        else result
        for result in results
    ]


def _line(result: Result) -> str:
    if result.status == "right":
        cost = f"{result.cpu:6.2f} s CPU {result.memory / 2**20:6.0f} MiB"
        return f"{result.tool:16} {result.nodes:5} nodes {cost}  right {result.why}"
    return f"{result.tool:16} {result.status}: {result.why[:200]}"


def _write(folder: Path, results: list[Result]) -> None:
    lines = "".join(json.dumps(result.as_json()) + "\n" for result in results)
    (folder / "simplify.jsonl").write_text(lines, encoding="utf-8")


def _versions(tools: Sequence[Tool]) -> dict[str, str]:
    return {tool.package: tool.version for tool in tools}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--models", type=_names, default=[], help="names, with commas; bert stands for both of its exports")
    add("--tools", type=_names, default=list(USUAL), help=f"of {', '.join(TOOLS)}")
    add("--no-latency", action="store_true", help="leave out what takes long and needs a quiet machine")
    add("--quick", action="store_true", help=f"{', '.join(_QUICK_MODELS)} only, and a rough latency")
    add("--timeout", type=float, default=300.0, help="seconds for each tool and model")
    add("--out", type=Path, default=RESULTS, help="folder of the results")
    add("--work", type=Path, default=WORK, help="folder of the optimised models")
    add("--exports", type=Path, default=WORK / "exports", help="folder exports.py writes to")
    add("--publish", action="store_true", help="put the tables into docs/benchmarks.md")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.tools) - set(TOOLS):
        parser.error(f"no tool {', '.join(sorted(unknown))}; there are {', '.join(TOOLS)}")
    chosen.out.mkdir(parents=True, exist_ok=True)
    return chosen


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


if __name__ == "__main__":
    sys.exit(main())
