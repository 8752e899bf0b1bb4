"""Plans the memory of a run: which tensors may have the same place in one arena.

Which tensors need memory, and when, is said in ``activations.py``; how they find their places, in ``arena.py``. A
result that is written over an operand has its place, and the two are one block that lives as long as both. A node with
subgraphs gets a piece of the arena for as long as it runs, in which the bodies' own plans lie: the branches of an If
over one another, as only one of them runs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx_ir as ir

from graphopt.errors import GraphoptError

from .activations import Schedule, inner_first, runs, schedule
from .arena import Block, extent, live, place
from .extents import ASSUMED, Extent, extents, owners_of
from .facts import dims, where
from .files import load
from .memory_plan import Inner, MemoryPlan, Place


def plan_memory(
    model: ir.Model | str | os.PathLike[str],
    sizes: Mapping[str, int] | None = None,
    *,
    alignment: int = 64,
    in_place: bool = True,
    assumed: int = ASSUMED,
) -> MemoryPlan:
    """Plan the memory of a run of the main graph, its nodes in their order.

    Args:
        model: the model or its file; it is not changed.
        sizes: of open dimensions of the inputs, by symbol (``N``) or input and axis (``x:0``).
        alignment: in bytes, a power of two.
        in_place: whether element-wise results may be written over operands.
        assumed: the size of what ``sizes`` does not say.

    Raises:
        GraphoptError: a name in ``sizes`` is none of an open dimension; an argument makes no sense; no such model.
    """
    if alignment < 1 or alignment & (alignment - 1):
        raise GraphoptError(f"{alignment} bytes is no alignment", "plan_memory", "a power of two", usage=True)
    if not isinstance(model, ir.Model):
        model = load(model)
    shapes, taken = _shapes(model, dict(sizes or {}), assumed)
    known = extents(model, shapes, assumed)
    owners = owners_of(model)
    plans: dict[ir.Graph, MemoryPlan] = {}
    for body in inner_first(model):
        for graph in reversed(list(body.graphs())):
            inner = {node: found for node in graph if (found := [plans[item] for item in runs(model, node)])}
            plans[graph] = _plan(graph, owners.get(graph), known, inner, alignment, in_place)
    return replace(plans[model.graph], assumed=tuple(taken.items()))


def _shapes(model: ir.Model, sizes: dict[str, int], assumed: int) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """The shape of each input, and what was assumed for it."""
    declared = {value.name or "": shape for value in model.graph.inputs if (shape := dims(value)) is not None}
    symbols = {
        f"{name}:{axis}": dim or f"{name}:{axis}"
        for name, shape in declared.items()
        for axis, dim in enumerate(shape)
        if not isinstance(dim, int)
    }
    for name, size in sizes.items():
        if name not in symbols and name not in symbols.values():
            listed = ", ".join(dict.fromkeys(symbols.values())) or "none, all are fixed"
            what = f"no input has an open dimension '{name}'"
            raise GraphoptError(what, "sizes", f"the open ones: {listed}", usage=True)
        if size < 0:
            raise GraphoptError("a size is not negative", f"sizes: {name}={size}", usage=True)
    chosen = {symbol: sizes[place] for place, symbol in symbols.items() if place in sizes}
    chosen |= {symbol: sizes[symbol] for symbol in symbols.values() if symbol in sizes}
    taken = {symbol: assumed for symbol in symbols.values() if symbol not in chosen}
    shapes = {
        name: tuple(
            dim if isinstance(dim, int) else chosen.get(symbols[f"{name}:{axis}"], assumed)
            for axis, dim in enumerate(shape)
        )
        for name, shape in declared.items()
    }
    return shapes, taken


def _plan(
    graph: ir.Graph,
    owner: ir.Node | None,
    known: Mapping[ir.Value, Extent],
    inner: Mapping[ir.Node, list[MemoryPlan]],
    alignment: int,
    in_place: bool,
) -> MemoryPlan:
    """The plan of one graph, when those of the graphs inside it are made."""
    made = schedule(graph, owner, known, lambda node: max((item.arena for item in inner.get(node, ())), default=0))
    exact, made.sizes = made.sizes, [-(-size // alignment) * alignment for size in made.sizes]
    inside = [index for index, item in enumerate(made.work) if item.node in inner]
    layout = _layout(made, {}, inside)
    if in_place:
        shared = _layout(made, _written_over(made), inside)
        layout = shared if shared.arena <= layout.arena else layout
    bounds = {node: max(item.bound for item in found) for node, found in inner.items()}
    in_orders = {node: max(item.in_order for item in found) for node, found in inner.items()}
    makers = {buffer: item.node for item in made.work for buffer in item.makes}
    places: list[Place] = []
    for buffer, ((first, last), values) in enumerate(zip(layout.spans, made.values, strict=True)):
        names, node = tuple(value.name or "" for value in values), makers.get(buffer)
        places.append(
            Place(
                names,
                where(node) if node is not None else "",
                node.op_type if node is not None else "",
                layout.offsets[buffer],
                exact[buffer],
                first,
                last,
                made.values[layout.over[buffer]][0].name or "" if buffer in layout.over else "",
                buffer in made.guessed,
            )
        )
    return MemoryPlan(
        graph.name or "",
        len(made.work),
        alignment,
        layout.arena,
        _with_inside(made, bounds).peak(in_place=in_place),
        _with_inside(made, in_orders).peak(in_place=False),
        sum(made.sizes) + sum(item.naive for found in inner.values() for item in found),
        layout.fullest,
        tuple(places),
        tuple(
            Inner(where(made.work[index].node), index, offset, item)
            for index, offset in zip(inside, layout.inner, strict=True)
            for item in inner[made.work[index].node]
        ),
    )


def _with_inside(made: Schedule, bytes_of: Mapping[ir.Node, int]) -> Schedule:
    """The schedule with another measure of what runs inside the nodes."""
    if not bytes_of:
        return made
    return replace(made, work=[replace(item, inside=bytes_of.get(item.node, 0)) for item in made.work])


@dataclass(frozen=True)
class _Layout:
    """Offsets for the buffers of a schedule.

    Attributes:
        spans: when each buffer lives.
        over: the buffer that a buffer is written over.
        offsets: of each buffer.
        inner: of the arenas of the nodes in which graphs run.
        arena: where the last ends.
        fullest: the step at which the most bytes live.
    """

    spans: list[tuple[int, int]]
    over: dict[int, int]
    offsets: list[int]
    inner: list[int]
    arena: int
    fullest: int


def _layout(made: Schedule, over: dict[int, int], inside: list[int]) -> _Layout:
    spans = _spans(made)
    root, ends = list(range(len(spans))), [last for _, last in spans]
    for buffer, taken in over.items():  # in the order of the nodes: the first of a chain is known
        root[buffer] = root[taken]
        ends[root[buffer]] = max(ends[root[buffer]], spans[buffer][1])
    own = [buffer for buffer in range(len(spans)) if root[buffer] == buffer]
    blocks = [Block(spans[buffer][0], ends[buffer], made.sizes[buffer]) for buffer in own]
    blocks += [Block(index, index, made.work[index].inside) for index in inside]
    found = place(blocks)
    offset_of = dict(zip(own, found, strict=False))
    levels = live(blocks)
    return _Layout(
        spans,
        over,
        [offset_of[root[buffer]] for buffer in range(len(spans))],
        found[len(own) :],
        extent(blocks, found),
        levels.index(max(levels)) if levels else 0,
    )


def _spans(made: Schedule) -> list[tuple[int, int]]:
    """The first and the last node at which each buffer lives."""
    end = max(len(made.work) - 1, 0)
    first, last = [0] * len(made.sizes), [0] * len(made.sizes)
    for index, item in enumerate(made.work):
        for buffer in item.makes:
            first[buffer] = last[buffer] = index
        for buffer in item.reads:
            last[buffer] = index
    for buffer in made.stays:
        last[buffer] = end
    return list(zip(first, last, strict=True))


def _written_over(made: Schedule) -> dict[int, int]:
    """Which buffer each result is written over: of its operands the first that nothing else reads any more."""
    left = list(made.readers)
    found: dict[int, int] = {}
    for item in made.work:
        free = [buffer for buffer in item.takes if left[buffer] == 1 and buffer not in made.stays]
        if free:
            found[item.makes[0]] = free[0]
        for buffer in item.reads:
            left[buffer] -= 1
    return found
