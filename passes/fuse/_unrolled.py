"""A recurrent layer that was written out step by step, as one operator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from graphopt import ir as gir

from ._forms import Place
from ._layers import Layer
from ._neighbours import only_user
from ._recurrent import LayerWriter, Positions, Run, is_state, run


@dataclass(frozen=True, eq=False)
class Unrolled:
    """How a layer is written.

    Attributes:
        layer: the layer.
        runs: the sequence of each input, where its steps are one.
        backward: the steps are those of the sequences from the last to the first.
        first: what must be put in front of the layer before.
        stack: the Concat of all results in the order of the sequence, and the axis of steps; None without one.
        single: which results are used one by one.
    """

    layer: Layer
    runs: list[Run | None]
    backward: bool
    first: list[ir.Node]
    stack: tuple[ir.Node, int] | None
    single: list[int]


def plan(found: Layer, positions: Positions) -> Unrolled:
    """How to write it.

    Raises:
        Refusal: what it reads depends on its results.
    """
    runs = [run(part) for part in found.parts]
    ways = {None if item is None or item.count == 1 else item.backward for item in runs}
    backward = ways == {True}
    if len(ways) > 1:
        runs = [None if item is None or item.backward else item for item in runs]
    values = [item.value for item in runs if item is not None]
    for part, item in zip(found.parts, runs, strict=True):
        if item is None:
            values += [source.at or source.value for source in part]
    anchor = found.cells[0].state.producer()
    assert anchor is not None, "a node computes it"
    first = positions.needed(values, anchor, found.nodes)
    stack, inside = _stack(found, backward)
    single = [
        index
        for index, cell in enumerate(found.cells)
        if cell.h.is_graph_output() or any(user not in found.nodes and user not in inside for user, _ in cell.h.uses())
    ]
    return Unrolled(found, runs, backward, first, stack, single)


def _stack(found: Layer, backward: bool) -> tuple[tuple[ir.Node, int] | None, set[ir.Node]]:
    """The Concat of all results, and the nodes that give them the axis."""
    results = [cell.h for cell in (reversed(found.cells) if backward else found.cells)]
    if len(results) > 1:
        for unsqueeze, axis in _unsqueezes(results[0]):
            for concat, index in unsqueeze.outputs[0].uses():
                if index or not gir.is_op(concat, "Concat") or gir.attribute(concat, "axis", -1) % 3 != axis:
                    continue
                inside = [value.producer() for value in concat.inputs if value is not None]
                nodes = {node for node in inside if node is not None}
                right = len(inside) == len(results) and all(
                    node is not None and (node, axis) in _unsqueezes(h) for node, h in zip(inside, results, strict=True)
                )
                alone = all(only_user(node.outputs[0]) is concat for node in nodes)
                if right and alone:
                    return (concat, axis), nodes
    return None, set()


def _unsqueezes(value: ir.Value) -> list[tuple[ir.Node, int]]:
    """The nodes that give a matrix an axis of steps, as axis 0 or 1 of three."""
    return list(_found_unsqueezes(value))


def _found_unsqueezes(value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    for user, _ in value.uses():
        if gir.is_op(user, "Unsqueeze") and user.inputs[0] is value and not gir.has_reference(user):
            axes = gir.known_ints(user.inputs[1]) if len(user.inputs) > 1 else gir.attribute(user, "axes")
            if axes is not None and len(axes) == 1 and axes[0] % 3 < 2:
                yield user, int(axes[0]) % 3


def write(found: Unrolled, place: Place, positions: Positions) -> None:
    """Put the operator in the place of the steps."""
    layer, cells = found.layer, found.layer.cells
    anchor, last = cells[0].state.producer(), cells[-1]  # c comes before h, and something may read it in between
    assert anchor is not None and anchor.graph is not None, "it is in a graph"
    positions.move(found.first, anchor)
    writer = LayerWriter(layer, place, anchor.graph)
    sequences = [
        writer.stacked(part) if item is None else writer.steps(item.value, item.axis, item.start, item.count)
        for part, item in zip(layer.parts, found.runs, strict=True)
    ]
    hidden = None if layer.hidden is None else writer.matrix(layer.hidden)
    before = last.state is not last.h and is_state(cells[0].before)
    states = (hidden, cells[0].before if before else None)
    steps = len(cells)
    wants_c = last.state is not last.h and (
        last.state.is_graph_output() or any(user not in layer.nodes for user, _ in last.state.uses())
    )
    one_by_one = any(index != steps - 1 for index in found.single)  # a layer above reads a sequence then
    wants_last = bool(found.single) and not one_by_one
    wanted = (found.stack is not None or one_by_one, wants_last, wants_c)
    if not any(wanted):
        return
    results = writer.layer(sequences, states, wanted, backward=found.backward)
    singles = {
        index: results.h if wants_last else _taken(writer, results.every, index, steps, found.backward)
        for index in found.single
    }
    turned = found.stack is not None and found.stack[1] == 1 and results.every is not None
    stacked = writer.turned(results.every) if turned and results.every is not None else results.every
    positions.note(writer.op.nodes, anchor)
    writer.op.insert(anchor)
    for index, value in singles.items():
        _hand_over(cells[index].h, value)
    if results.c is not None:
        _hand_over(last.state, results.c)
    if found.stack is not None:
        _hand_over(found.stack[0].outputs[0], stacked)
        gir.erase_if_dead(found.stack[0])
    for cell in reversed(cells):
        gir.erase_if_dead(cell.h.producer())
        gir.erase_if_dead(cell.state.producer())


def _hand_over(old: ir.Value, new: ir.Value | None) -> None:
    assert new is not None, "the operator gives it"
    gir.succeed(old, new)


def _taken(writer: LayerWriter, every: ir.Value | None, index: int, steps: int, backward: bool) -> ir.Value:
    assert every is not None, "it was asked for"
    return writer.take(every, steps - 1 - index if backward else index)
