"""What is in a model: interface, operators, weights, and what it costs to run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ..errors import GraphoptError
from ..execute.feeds import random_feeds
from ..execute.isolate import isolated
from ..execute.signature import Port, signature
from ..ir import STANDARD_DOMAINS, bodies, constant, is_op, load, nodes
from ..ir.memory_plan import MemoryPlan
from .costs import Costs, costs, operator_name
from .limits import limits
from .memory import planned
from .places import external_files
from .stats import ModelStats, stats

LARGE = 2 * 10**9
_SECONDS = 20.0
_SHOWN = 5


@dataclass(frozen=True)
class OpenDim:
    """A dimension that differs from run to run: its symbol or place (``x:2``), and the size taken for the costs."""

    name: str
    size: int


@dataclass(frozen=True)
class OperatorRow:
    """All nodes of one operator: their number, operations, bytes of constants they read and of what they give."""

    operator: str
    nodes: int
    flops: int
    weights: int
    activations: int


@dataclass(frozen=True)
class Weight:
    """A constant of the model."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    external: bool


@dataclass(frozen=True)
class Inspection:
    """The account of a model.

    Attributes:
        path, file_bytes: the file, and its size with the external data.
        ir_version, producer, opsets: as the file says; the default domain is ``ai.onnx``.
        inputs, outputs: name and type of each.
        open_dims: dimensions that are not fixed.
        sizes_from: where the sizes taken for them come from, in words; "" when all are fixed.
        stats: nodes, parameters and so on.
        operators: the most expensive first.
        flops, activations, peak: of the whole model, for these sizes; peak is the most activations at once.
        largest_nodes: ``(where, flops, bytes of outputs)``.
        largest_weights: the largest first.
        functions: local functions, as ``domain::name``.
        external: files that hold weights.
        notes: what is unusual, or could not be counted.
        memory: a plan for the memory of a run, if it was asked for and can be made.
    """

    path: str
    file_bytes: int
    ir_version: int
    producer: str
    opsets: dict[str, int]
    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]
    open_dims: tuple[OpenDim, ...]
    sizes_from: str
    stats: ModelStats
    operators: tuple[OperatorRow, ...]
    flops: int
    activations: int
    peak: int
    largest_nodes: tuple[tuple[str, int, int], ...]
    largest_weights: tuple[Weight, ...]
    functions: tuple[str, ...]
    external: tuple[str, ...]
    notes: tuple[str, ...]
    memory: MemoryPlan | None = None

    def as_json(self) -> dict[str, Any]:
        """The ``result`` event of ``graphopt inspect --json``."""
        found = asdict(self)
        return found if self.memory is None else found | {"memory": self.memory.as_json()}


def inspect(path: Path | str, dims: Mapping[str, int] | None = None, *, memory: bool = False) -> Inspection:
    """Look into a model file.

    Args:
        path: the file.
        dims: sizes of open dimensions, by symbol (``N``) or input and axis (``x:0``). For the others sizes are
            searched on which the model runs (in a child process); 1 where none are found.
        memory: plan the memory of a run, too.

    Raises:
        GraphoptError: the file is no valid model, or a name in ``dims`` is none of its dimensions.
    """
    path = Path(path)
    model = load(path)
    open_dims = _open_dims(model)
    chosen, origin = _sizes(path, open_dims, dict(dims or {}))
    numbers = stats(model)
    sizes = {place: chosen[name] for place, name in open_dims.items()}
    spent, problem = _costs(path, sizes)
    plan, remarks = planned(path, sizes) if memory else (None, ())
    weights = sorted(_weights(model), key=lambda item: (-item.bytes, item.name))
    return Inspection(
        path=str(path),
        file_bytes=path.stat().st_size + sum(item.stat().st_size for item in external_files(model)),
        ir_version=model.ir_version or 0,
        producer=" ".join(part for part in (model.producer_name, model.producer_version) if part),
        opsets={domain or "ai.onnx": version for domain, version in model.opset_imports.items()},
        inputs=_ports(signature(model)[0]),
        outputs=_ports(signature(model)[1]),
        open_dims=tuple(OpenDim(name, chosen[name]) for name in dict.fromkeys(open_dims.values())),
        sizes_from=origin,
        stats=numbers,
        operators=_rows(model, spent),
        flops=sum(cost.flops for cost in spent.operators.values()),
        activations=sum(cost.activations for cost in spent.operators.values()),
        peak=spent.peak,
        largest_nodes=tuple(item for item in spent.nodes[:_SHOWN] if item[1]),
        largest_weights=tuple(weights[:_SHOWN]),
        functions=tuple(f"{domain}::{name}" for domain, name, *_ in model.functions),
        external=tuple(sorted(str(file) for file in external_files(model))),
        notes=(*_notes(model, numbers, spent, problem), *remarks),
        memory=plan,
    )


def _ports(ports: tuple[Port, ...]) -> tuple[tuple[str, str], ...]:
    return tuple((port.name, str(port) + ("" if port.required else ", optional")) for port in ports)


def _open_dims(model: ir.Model) -> dict[tuple[str, int], str]:
    """The name of each dimension that is not fixed, by input and axis."""
    return {
        (port.name, axis): size if size is not None else f"{port.name}:{axis}"
        for port in signature(model)[0]
        for axis, size in enumerate(port.shape or ())
        if not isinstance(size, int)
    }


def _sizes(path: Path, open_dims: dict[tuple[str, int], str], given: dict[str, int]) -> tuple[dict[str, int], str]:
    """A size for each open dimension, and where they come from."""
    for name, size in given.items():
        known = {*open_dims.values(), *(f"{port}:{axis}" for port, axis in open_dims)}
        if name not in known:
            listed = ", ".join(dict.fromkeys(open_dims.values())) or "none, all are fixed"
            raise GraphoptError(
                f"no input has an open dimension '{name}'", "--dims", f"the open ones: {listed}", usage=True
            )
        if size < 0:
            raise GraphoptError("a size is not negative", f"--dims {name}={size}", usage=True)
    if not open_dims:
        return {}, ""
    chosen = {name: given[name] for name in open_dims.values() if name in given}
    for (port, axis), name in open_dims.items():
        if f"{port}:{axis}" in given:
            chosen[name] = given[f"{port}:{axis}"]
    if all(name in chosen for name in open_dims.values()):
        return chosen, "as given"
    try:
        stage = f"searching sizes for {path}"
        found = isolated(_shapes, str(path), given, stage=stage, **limits(_SECONDS + 60.0))
    except GraphoptError as error:
        rest = {name: 1 for name in open_dims.values() if name not in chosen}
        return {**rest, **chosen}, f"1, since none were found on which the model runs ({error.what})"
    for (port, axis), name in open_dims.items():
        chosen.setdefault(name, found.get(port, {}).get(axis, 1))
    return chosen, "found by trying: the model runs with them"


def _shapes(path: str, given: dict[str, int]) -> dict[str, dict[int, int]]:
    """In a child: the shapes of random feeds that the model runs on."""
    feeds = random_feeds(path, dims=given, seconds=_SECONDS)[0]
    return {
        name: dict(enumerate(feed.shape)) if hasattr(feed, "shape") else dict(enumerate(feed[0].shape))
        for name, feed in feeds.items()
    }


def _costs(path: Path, sizes: dict[tuple[str, int], int]) -> tuple[Costs, str]:
    """In a child, since a hostile model can make shape inference hang; the costs, or why there are none."""
    try:
        return isolated(_counted, str(path), sizes, stage=f"shape inference of {path}", **limits(300.0)), ""
    except GraphoptError as error:
        return Costs(), error.what


def _counted(path: str, sizes: dict[tuple[str, int], int]) -> Costs:
    return costs(load(path), sizes)


def _rows(model: ir.Model, spent: Costs) -> tuple[OperatorRow, ...]:
    count: Counter[str] = Counter()
    weights: Counter[str] = Counter()
    seen: set[ir.Value] = set()
    for node in nodes(model):
        if is_op(node, "Constant"):
            continue
        name = operator_name(node)
        count[name] += 1
        for value in node.inputs:
            tensor = constant(value)
            if value is not None and tensor is not None and value not in seen:
                seen.add(value)
                weights[name] += tensor.nbytes if tensor.dtype != ir.DataType.STRING else 0
    rows: list[OperatorRow] = []
    for name, number in count.items():
        cost = spent.operators.get(name)
        operations, given = (cost.flops, cost.activations) if cost is not None else (0, 0)
        rows.append(OperatorRow(name, number, operations, weights[name], given))
    return tuple(sorted(rows, key=lambda row: (-row.flops, -row.nodes, row.operator)))


def _weights(model: ir.Model) -> Iterator[Weight]:
    for body in bodies(model):
        for graph in body.graphs():
            values = [*graph.initializers.values()]
            values += [node.outputs[0] for node in graph if is_op(node, "Constant") and node.outputs]
            for value in values:
                tensor = value.const_value if value.is_initializer() else constant(value)
                if tensor is None or tensor.dtype == ir.DataType.STRING:
                    continue
                shape = tuple(int(size) for size in tensor.shape.numpy())
                external = isinstance(tensor, ir.ExternalTensor)
                yield Weight(value.name or "", tensor.dtype.name.lower(), shape, tensor.nbytes, external)


def _notes(model: ir.Model, numbers: ModelStats, spent: Costs, problem: str) -> Iterator[str]:
    domains = {node.domain for node in nodes(model)} - STANDARD_DOMAINS - {key[0] for key in model.functions}
    if domains:
        yield f"operators of other domains: {', '.join(sorted(domains))}"
    if numbers.bytes > LARGE:
        yield "weights of more than 2 GB: only with external data can the model be a file"
    defaults = [value.name or "" for value in model.graph.inputs if value.is_initializer()]
    if defaults and (model.ir_version or 0) >= 4:
        yield f"{len(defaults)} inputs have a default that a caller may override, so they are no constants"
    if problem:
        yield f"operations and activations were not counted: {problem}"
    if spent.cleaned:
        yield "most shapes are known only once constants are folded: the costs are those after the recipe clean"
    if spent.unknown_operators:
        yield f"operations not counted for {', '.join(sorted(spent.unknown_operators))}"
    if spent.unknown_shapes:
        count = spent.unknown_shapes
        yield f"{count} nodes have shapes that depend on the data: their operations or outputs are not counted"
    if spent.unknown_trips:
        yield f"{spent.unknown_trips} loops have a number of trips that is not known: counted once"
