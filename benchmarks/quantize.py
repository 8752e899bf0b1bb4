"""graphopt's quantisation beside its peers', on real models: signal, task, size, latency, cost, and what was fused.

    make bench-quantize ARGS="--feeds FOLDER"
    python benchmarks/quantize.py [--feeds FOLDER] [--models efficientnet_lite0] [--tools graphopt,ort] [--no-latency]

Each (tool, model) runs in a process of its own under a time and memory limit: a crash is a row. All tools calibrate on
the same samples and are judged on others, in the same ONNX Runtime. Latency is the ratio to the original, which has the
runtime's own optimisations too: one thread, all candidates of a model interleaved in one process. Results go to
benchmarks/results, the models to build/bench; ``--publish`` puts the tables into docs/benchmarks.md too.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cases import CASES, Case, Ready, ready
from publish import RESULTS, WORK, circumstances, publish
from quantize_trial import Row, attempt, original
from quantizers import PEERS, Quantizer, own, version_in
from rich.console import Console
from tables import Table

from graphopt.calibrate import CalibrationData
from graphopt.errors import GraphoptError
from graphopt.execute import Candidate, measure
from graphopt.flows.quantize import SCHEMES

_TIMED_FEEDS = 2
_MARKS = {"broken": "BROKEN", "refused": "refused", "crashed": "CRASHED"}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to do with each model.

    Attributes:
        tools: what runs on it.
        folder: where models and samples are kept, in one folder for each case.
        environments: where the environments of the peers that need one are.
        latency: measure it.
        seconds: measure at least so long for each candidate.
        timeout: seconds for a tool, and for judging what it made.
    """

    tools: tuple[Quantizer, ...]
    folder: Path
    environments: Path = WORK
    latency: bool = True
    seconds: float = 2.0
    timeout: float = 900.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs, prints and writes; 1 when graphopt crashes or breaks a model, or there is nothing to run on."""
    chosen, tools = _parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 200)

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    plan = Plan(
        tuple(tools.values()),
        chosen.work / "quantize",
        chosen.environments,
        latency=not chosen.no_latency,
        seconds=chosen.seconds,
        timeout=chosen.timeout,
    )
    results: list[Row] = []
    for name in chosen.models:
        results += run(CASES[name], plan, chosen.feeds, chosen.model, say)
        lines = "".join(json.dumps(row.as_json()) + "\n" for row in results)
        (chosen.out / "quantize.jsonl").write_text(lines, encoding="utf-8")
    if not results:
        say("there is no model to run on")
        return 1
    report = tables(results)
    for table in report:
        table.show(console)
    remarks = [f"- {row.model}, {row.tool}: {_remark(row)}" for row in results if row.why and row.status != "missing"]
    text = "\n\n".join(
        [
            circumstances({tool.package: _version(tool, plan.environments) for tool in plan.tools}),
            *(table.markdown() for table in report),
            "\n".join(remarks),
        ]
    )
    say("\n".join(remarks))
    (chosen.out / "quantize.md").write_text(text + "\n", encoding="utf-8")
    if chosen.publish:
        publish("quantize", text)
    return int(any(row.tool.startswith("graphopt") and row.status in ("broken", "crashed") for row in results))


def run(
    case: Case,
    plan: Plan,
    feeds: Path | None = None,
    given: Mapping[str, Path] | None = None,
    say: Say = lambda line: None,
) -> list[Row]:
    """The original and all tools on one model, then the latency of everything that runs, side by side."""
    folder = plan.folder / case.name
    try:
        files = ready(case, folder, feeds, given)
        results = [original(files, plan.timeout)]
    except GraphoptError as error:
        say(f"{case.name:22} cannot be judged: {error.what} ({error.where})")
        return []
    say(f"{case.name:22} {_line(results[0])}")
    for tool in plan.tools:
        if tool.transformers_only and not case.transformer:
            continue
        for old in folder.glob(f"{tool.file_name}.*"):
            old.unlink()
        results.append(attempt(tool, files, folder / f"{tool.file_name}.onnx", plan.environments, plan.timeout))
        say(f"  {tool.name:20} {_line(results[-1])}")
    return _with_latency(files, results, plan, say) if plan.latency else results


def _with_latency(files: Ready, results: list[Row], plan: Plan, say: Say) -> list[Row]:
    folder = plan.folder / files.case.name
    names = {tool.name: folder / f"{tool.file_name}.onnx" for tool in plan.tools}
    candidates = [Candidate("original", files.path)]
    candidates += [Candidate(row.tool, names[row.tool]) for row in results[1:] if row.status == "right"]
    data = CalibrationData.open(files.evaluation)
    timed = [data[number] for number in range(min(_TIMED_FEEDS, len(data)))]
    limit = 120.0 + 20.0 * plan.seconds * len(candidates)
    try:
        measured = measure(candidates, timed, threads=1, min_seconds=plan.seconds, timeout=limit)
    except GraphoptError as error:
        say(f"  latency was not measured: {error.what}")
        return results
    found = {item.name: item for item in measured}
    say("  latency " + ", ".join(f"{name} {item.ratio:.3f}" for name, item in found.items() if name != "original"))
    return [
        replace(row, ratio=item.ratio, ratio_low=item.ratio_low, ratio_high=item.ratio_high)
        if (item := found.get(row.tool)) is not None and row.tool != "original"
        else row
        for row in results
    ]


def tables(results: Sequence[Row]) -> list[Table]:
    """A table for each model: a row for each tool, the task's own figures among the columns."""
    return [
        _table([row for row in results if row.model == name]) for name in dict.fromkeys(row.model for row in results)
    ]


def _table(rows: Sequence[Row]) -> Table:
    case = CASES.get(rows[0].model)
    figures = list(rows[0].figures)
    timed = any(row.ratio is not None for row in rows)
    columns = (
        "tool",
        "dB",
        *figures,
        "MB",
        *(("latency",) if timed else ()),
        "CPU s",
        "MiB",
        "Q/DQ",
        "integer",
        "float",
    )
    title = f"{rows[0].model}: {case.aim}" if case is not None else rows[0].model
    return Table(title, columns, tuple(_cells(row, figures, timed) for row in rows if row.status != "missing"))


def _cells(row: Row, figures: Sequence[str], timed: bool) -> tuple[str, ...]:
    if row.status != "right":
        return (row.tool, _MARKS[row.status], *("" for _ in range(len(figures) + timed + 6)))
    ratio = "" if row.ratio is None else f"{row.ratio:.3f} [{row.ratio_low:.3f}, {row.ratio_high:.3f}]"
    cost = ("", "") if row.tool == "original" else (f"{row.cpu:.1f}", f"{row.memory / 2**20:.0f}")
    return (
        row.tool,
        f"{row.sqnr_db:.1f}" if math.isfinite(row.sqnr_db) else "",
        *(f"{row.figures[name]:.3f}" if name in row.figures else "" for name in figures),
        f"{row.bytes / 1e6:.2f}",
        *((ratio,) if timed else ()),
        *cost,
        str(row.conversions),
        str(row.integers),
        str(row.floats),
    )


def _remark(row: Row) -> str:
    return row.why if row.status == "right" else f"{row.status}: {row.why}"


def _line(row: Row) -> str:
    if row.status != "right":
        return f"{row.status}: {row.why[:200]}"
    figures = ", ".join(f"{name} {number:.3f}" for name, number in row.figures.items())
    cost = f"{row.cpu:6.1f} s CPU {row.memory / 2**20:5.0f} MiB" if row.cpu else ""
    graph = f"Q/DQ {row.conversions}, integer {row.integers}, float {row.floats}"
    return f"{row.sqnr_db:6.2f} dB  {figures}  {row.bytes / 1e6:.2f} MB  {graph}  {cost}  {row.why}"


def _version(tool: Quantizer, environments: Path) -> str:
    python = environments / tool.environment / "bin" / "python"
    return version_in(python, tool.package) if tool.environment else tool.version


def _parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, dict[str, Quantizer]]:
    everything = {**own(SCHEMES), **PEERS}
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--models", type=_names, default=list(CASES), help=f"of {', '.join(CASES)}")
    add("--tools", type=_names, default=[], help=f"beginnings of names, with commas; of {', '.join(everything)}")
    add("--feeds", type=Path, help="folder with <id>.calib.npz and <id>.eval.npz, and models that are not fetched")
    add("--model", type=_pair, action="append", default=[], help="<id>=<file>: a model that is not fetched")
    add("--no-latency", action="store_true", help="leave out what needs a quiet machine")
    add("--seconds", type=float, default=2.0, help="of timing, for each candidate")
    add("--timeout", type=float, default=900.0, help="seconds for each tool and model")
    add("--out", type=Path, default=RESULTS, help="folder of the results")
    add("--work", type=Path, default=WORK, help="folder of the quantised models")
    add("--environments", type=Path, default=WORK, help="folder with the environments of quark and aimet")
    add("--publish", action="store_true", help="put the tables into docs/benchmarks.md")
    chosen = parser.parse_args(arguments)
    chosen.model = dict(chosen.model)
    if unknown := set(chosen.models) - set(CASES):
        parser.error(f"no model {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    tools = {
        name: tool
        for name, tool in everything.items()
        if not chosen.tools or any(name.startswith(start) for start in chosen.tools)
    }
    if not tools:
        parser.error(f"no tool begins so; there are {', '.join(everything)}")
    chosen.out.mkdir(parents=True, exist_ok=True)
    return chosen, tools


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _pair(text: str) -> tuple[str, Path]:
    name, _, file = text.partition("=")
    if not file:
        raise argparse.ArgumentTypeError(f"'{text}' is not <id>=<file>")
    return name, Path(file)


if __name__ == "__main__":
    sys.exit(main())
