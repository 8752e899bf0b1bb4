"""How cost grows: chain, wide and nested graphs of 1,000 to 50,000 nodes, and a model with 3 GB of weights.

    python benchmarks/scale.py [--sizes 1000,10000] [--graphs chain] [--gigabytes 3] [--peers onnxsim,onnxslim]

Each run is a child process pinned to one core. It reads a file, optimises without verification, and writes the
result; imports and a first run on a tiny model come before the clock starts. Nodes are compared with the least that the
graph can come down to. The growth is the slope of log seconds over log nodes from 5,000 nodes on: 1 is linear.
The result of the model with external weights is a whole model with its own weights beside it: writing them counts.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
from one_core import examine, run_on_one_core
from publish import RESULTS, WORK, circumstances, publish
from rich.console import Console
from tables import Table
from tools import TOOLS, Tool

from graphopt.errors import GraphoptError
from graphopt.execute import isolated
from graphopt.ir import count_nodes, load, save
from graphopt.models.builders import chain, chain_minimum, external, sub, sub_minimum, wide, wide_minimum

GRAPHS: Mapping[str, tuple[Callable[[int], ir.Model], Callable[[int], int]]] = {
    "chain": (chain, chain_minimum),
    "wide": (wide, wide_minimum),
    "sub": (sub, sub_minimum),
}
"""How to build a graph of about n nodes, and the least nodes it can come down to."""

SIZES = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000)
LARGE = 5_000
"""Below, what does not grow with the graph hides how the rest does."""


@dataclass(frozen=True)
class Cost:
    """What one run cost.

    Attributes:
        tool, graph, size: which; the size is in nodes, or in GB of weights for ``external``.
        nodes_before, nodes, minimum: of the graph; the minimum is 0 where it is not known.
        wall, cpu: seconds.
        memory: bytes above what was held before.
        why: what went wrong; empty when nothing did.
    """

    tool: str
    graph: str
    size: float
    nodes_before: int = 0
    nodes: int = 0
    minimum: int = 0
    wall: float = 0.0
    cpu: float = 0.0
    memory: int = 0
    why: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs, prints and writes; 1 when graphopt failed somewhere."""
    chosen = _parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    tools = [TOOLS["graphopt"], *(TOOLS[name] for name in chosen.peers)]
    costs: list[Cost] = []
    chosen.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="scale-", dir=chosen.work) as name:
        folder = Path(name)
        for cost in _all(tools, chosen, folder):
            costs.append(cost)
            console.print(_line(cost), markup=False, highlight=False)
    chosen.out.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(asdict(cost)) + "\n" for cost in costs)
    (chosen.out / "scale.jsonl").write_text(lines, encoding="utf-8")
    table = report(costs)
    table.show(console)
    growth = [f"{tool} on {graph}: seconds grow as nodes^{power:.2f}" for tool, graph, power in exponents(costs)]
    for line in growth:
        console.print(line, markup=False, highlight=False)
    versions = {tool.package: tool.version for tool in tools}
    text = "\n\n".join([circumstances(versions), table.markdown(), "\n".join(f"- {line}" for line in growth)])
    (chosen.out / "scale.md").write_text(text + "\n", encoding="utf-8")
    if chosen.publish:
        publish("scale", text)
    return 1 if any(cost.why for cost in costs if cost.tool == "graphopt") else 0


def measured(tool: Tool, graph: str, size: float, source: Path, minimum: int, timeout: float) -> Cost:
    """One run, in a child on one core, and what came of it; the result's file is removed afterwards."""
    output = source.with_name(f"{source.stem}.{tool.name}.onnx")
    before = count_nodes(load(source))
    if not tool.version:
        return Cost(tool.name, graph, size, before, minimum=minimum, why=f"{tool.package} is not installed")
    try:
        cost = isolated(run_on_one_core, tool, source, output, timeout=timeout, stage=tool.name)
        nodes, why = isolated(examine, source, output, timeout=timeout, stage="judging")
    except GraphoptError as error:
        return Cost(tool.name, graph, size, before, minimum=minimum, why=" ".join(error.what.split())[:160])
    finally:
        for file in source.parent.glob(f"{output.stem}*"):
            file.unlink()
    return Cost(tool.name, graph, size, before, nodes, minimum, cost["wall"], cost["cpu"], cost["memory"], why)


def exponents(costs: Sequence[Cost]) -> list[tuple[str, str, float]]:
    """Tool, graph, and the slope of log seconds over log nodes by least squares, from ``LARGE`` nodes on."""
    found: list[tuple[str, str, float]] = []
    for tool, graph in dict.fromkeys((cost.tool, cost.graph) for cost in costs):
        own = [cost for cost in costs if (cost.tool, cost.graph) == (tool, graph)]
        points = [
            (math.log(cost.nodes_before), math.log(cost.cpu))
            for cost in own
            if graph in GRAPHS and cost.nodes_before >= LARGE and cost.cpu > 0 and not cost.why
        ]
        if len(points) < 2:
            continue
        x0, y0 = (sum(column) / len(points) for column in zip(*points, strict=True))
        power = sum((x - x0) * (y - y0) for x, y in points) / sum((x - x0) ** 2 for x, _ in points)
        found.append((tool, graph, power))
    return found


def report(costs: Sequence[Cost]) -> Table:
    """A row for each run."""
    rows = [
        (
            cost.graph,
            f"{cost.size:g} GB" if cost.graph == "external" else str(cost.nodes_before),
            cost.tool,
            str(cost.nodes) if not cost.why else "failed",
            str(cost.minimum or ""),
            "" if cost.why else f"{cost.wall:.2f}",
            "" if cost.why else f"{cost.cpu:.2f}",
            "" if cost.why else f"{cost.memory / 1e6:.0f}",
        )
        for cost in costs
    ]
    columns = ("graph", "size", "tool", "nodes after", "least", "seconds", "CPU s", "MB more")
    return Table("One core, to read, optimise without verification, and write", columns, tuple(rows))


def _all(tools: Sequence[Tool], chosen: argparse.Namespace, folder: Path) -> Any:
    for graph in chosen.graphs:
        build, minimum = GRAPHS[graph]
        for size in chosen.sizes:
            source = folder / f"{graph}{size}.onnx"
            save(build(size), source)
            for tool in tools:
                yield measured(tool, graph, size, source, minimum(size), chosen.timeout)
            source.unlink()
    if chosen.gigabytes > 0:
        source = external(folder / "external.onnx", chosen.gigabytes)
        layers = count_nodes(load(source)) // 3
        for tool in tools:
            yield measured(tool, "external", chosen.gigabytes, source, 2 * layers + 1, chosen.timeout)


def _line(cost: Cost) -> str:
    done = cost.why or f"{cost.nodes} nodes, {cost.wall:.2f} s, {cost.memory / 1e6:.0f} MB more"
    return f"{cost.graph:9} {cost.size:>7g} {cost.tool:10} {done}"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--graphs", type=_names, default=list(GRAPHS), help=f"of {', '.join(GRAPHS)}; empty for none")
    add("--sizes", type=lambda text: [int(n) for n in _names(text)], default=list(SIZES), help="in nodes")
    add("--gigabytes", type=float, default=3.0, help="weights of the external model; 0 leaves it out")
    add("--peers", type=_names, default=[], help=f"of {', '.join(TOOLS)}")
    add("--timeout", type=float, default=300.0, help="seconds for each run")
    add("--work", type=Path, default=WORK, help="folder for the models: twice the weights' size is needed")
    add("--out", type=Path, default=RESULTS, help="folder of the results")
    add("--publish", action="store_true", help="put the table into docs/benchmarks.md")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.peers) - set(TOOLS):
        parser.error(f"no tool {', '.join(sorted(unknown))}; there are {', '.join(TOOLS)}")
    if unknown := set(chosen.graphs) - set(GRAPHS):
        parser.error(f"no graph {', '.join(sorted(unknown))}; there are {', '.join(GRAPHS)}")
    return chosen


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


if __name__ == "__main__":
    sys.exit(main())
