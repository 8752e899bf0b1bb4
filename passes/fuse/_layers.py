"""Steps of a recurrent layer that follow each other: the same matrices, each continuing from the one before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._affine import Refusal
from ._cells import Blocks, Cell, Step, is_zero
from ._steps import Source, source_of

_SAME = 1e-6  # of two biases of which one was folded to float32 before


@dataclass(eq=False)
class Layer:
    """A recurrent layer over some steps.

    Attributes:
        cells: the steps.
        parts: what each step reads: for each input its source in every step.
        weights: the matrices of each input, one for each gate.
        recurrent: those of the earlier state.
        bias, recurrent_bias: [gates, units].
        hidden: the first earlier h; None for zeros.
        nodes: what computes it all.
    """

    cells: list[Cell]
    parts: list[list[Source]]
    weights: list[Blocks]
    recurrent: Blocks
    bias: np.ndarray
    recurrent_bias: np.ndarray
    hidden: Source | None
    nodes: set[ir.Node]

    @property
    def is_lstm(self) -> bool:
        """True for an LSTM, which has two states."""
        return self.cells[0].state is not self.cells[0].h

    @property
    def features(self) -> int:
        """How many numbers a step reads."""
        return sum(blocks[0].rows for blocks in self.weights)

    @property
    def batch(self) -> int | str | None:
        """How many sequences there are."""
        shape = gir.dims(self.cells[0].h)
        return None if shape is None else shape[0]

    def work(self, steps: int | str | None) -> float | None:
        """Multiplications, where the sizes are known."""
        sizes = (steps, self.batch, len(self.recurrent), self.cells[0].units, self.features + self.cells[0].units)
        known = [size for size in sizes if isinstance(size, int)]
        return prod(known) if len(known) == len(sizes) else None


def chains(nodes: Iterable[ir.Node], find: Callable[[ir.Node], Iterator[Cell]]) -> list[list[Cell]]:
    """All that look like cells of one graph, each behind the one it continues from, in the order of the graph."""
    found = [group for node in nodes if (group := list(find(node)))]
    states = {cell.state for group in found for cell in group}
    cells = [_choice(group, states) for group in found]
    by_state = {cell.state: cell for cell in cells}
    follower: dict[Cell, Cell] = {}
    for cell in cells:
        earlier = by_state.get(cell.before)
        if earlier is not None and earlier not in follower and _hands_over(earlier, cell):
            follower[earlier] = cell
    behind = set(follower.values())
    result: list[list[Cell]] = []
    for cell in cells:
        if cell not in behind:
            chain = [cell]
            while chain[-1] in follower:
                chain.append(follower[chain[-1]])
            result.append(chain)
    return result


def _choice(group: list[Cell], states: set[ir.Value]) -> Cell:
    """The reading that continues from another cell, or else one that can be read."""
    if len(group) == 1:
        return group[0]
    for cell in group:
        if cell.before in states and cell.before is not cell.state:
            return cell
    for cell in group:
        try:
            cell.read(cell)
        except Refusal:
            continue
        return cell
    return group[0]


def _hands_over(earlier: Cell, later: Cell) -> bool:
    """True when nothing else wants a state that the operator does not give: c in the middle."""
    if earlier.state is earlier.h:
        return True
    inside = earlier.inner | later.inner
    return not earlier.state.is_graph_output() and all(user in inside for user, _ in earlier.state.uses())


def layer(cells: list[Cell], carried: ir.Value | None = None) -> Layer:
    """As many of the cells as have the same matrices, at least one.

    Args:
        cells: each continues from the one before.
        carried: the earlier h of a loop's only cell.

    Raises:
        Refusal: the first is no cell.
    """
    first = cells[0].read(cells[0])
    steps, hidden = [first], None
    if cells[0].state is cells[0].h:
        hidden = source_of(cells[0].before)
    for earlier, cell in pairwise(cells):
        step = _follow(earlier, cell)
        if step is None:
            break
        if len(steps) == 1 and first.recurrent is None:
            found = [source for source, blocks in first.inputs.items() if blocks == step.recurrent]
            if found and hidden is None and len(first.inputs) > len(step.inputs):
                hidden = found[0]
                first.recurrent = first.inputs.pop(hidden)
        if not _alike(steps[-1], step) or earlier.resets_after != cell.resets_after:
            break
        steps.append(step)
    if len(steps) == 1 and first.recurrent is None:
        hidden = _hidden(first, cells[0], carried)
        first.recurrent = first.inputs.pop(hidden)
    last = steps[-1]
    assert last.recurrent is not None, "it has been settled"
    weights = list(last.inputs.values())
    if hidden is not None and is_zero(hidden.value):
        hidden = None
    parts = [[_reading(step, blocks) for step in steps] for blocks in weights]
    nodes = set[ir.Node]().union(*(step.nodes for step in steps))
    return Layer(cells[: len(steps)], parts, weights, last.recurrent, last.bias, last.recurrent_bias, hidden, nodes)


def _follow(earlier: Cell, cell: Cell) -> Step | None:
    """A later step, which must read the h of the earlier one."""
    try:
        step = cell.read(cell)
    except Refusal:
        return None
    if step.recurrent is None:
        step.recurrent = step.inputs.pop(source_of(earlier.h), None)
    return None if step.recurrent is None else step


def _alike(earlier: Step, later: Step) -> bool:
    """True when two steps have the same matrices; the first may lack those of a state that is zero."""
    mine, other = list(earlier.inputs.values()), list(later.inputs.values())
    if len(set(mine)) != len(mine) or set(mine) != set(other) or len(other) != len(mine):
        return False
    if earlier.recurrent is not None and earlier.recurrent != later.recurrent:
        return False
    pairs = ((earlier.bias, later.bias), (earlier.recurrent_bias, later.recurrent_bias))
    return all((np.abs(a - b) <= _SAME * np.maximum(np.abs(a), np.abs(b))).all() for a, b in pairs)


def _hidden(step: Step, cell: Cell, carried: ir.Value | None) -> Source:
    """Which input of a single LSTM cell is the earlier h; where several fit, one that comes with the earlier c."""
    fitting = [source for source, blocks in step.inputs.items() if blocks[0].rows == cell.units]
    if cell.state is cell.h or not fitting:
        raise Refusal("its gates read no earlier state")
    for source in fitting:
        if source.value is carried:
            return source
    before = source_of(cell.before)
    origin = before.value if before.axis >= 0 else before.value.producer()

    def distance(source: Source) -> tuple[bool, bool]:
        mine = source.value if source.axis >= 0 else source.value.producer()
        return (mine is not origin or (mine is None and not source.value.is_graph_input()), source.axis >= 0)

    return min(fitting, key=distance)


def _reading(step: Step, blocks: Blocks) -> Source:
    return next(source for source, own in step.inputs.items() if own == blocks)


def check_sizes(found: Layer) -> None:
    """See that the operator can take what the layer reads.

    Raises:
        Refusal: element type, features, or batch are not as it needs them.
    """
    first = found.cells[0]
    if first.h.dtype != ir.DataType.FLOAT:
        kind = "not known" if first.h.dtype is None else first.h.dtype.name.lower()
        raise Refusal(f"its element type is {kind}, and runtimes have these layers for float")
    if not found.parts:
        raise Refusal("its gates read nothing but the earlier state")
    batch = found.batch
    if batch is None or 0 in (batch, first.units, *(blocks[0].rows for blocks in found.weights)):
        raise Refusal("it is empty" if batch is not None else "the size of its batch is not known")
    for source in (source for part in found.parts for source in part):
        shape = source.dims
        if shape is None or len(shape) != 2 or shape[0] != batch:
            raise Refusal(f"the batch of {gir.where(source.value)} is not known to be that of the result")


def check_uses(found: Layer) -> None:
    """See that nothing else wants what lies inside.

    Raises:
        Refusal: something does.
    """
    public = {cell.h for cell in found.cells} | {found.cells[-1].state}
    for node in found.nodes:
        for value in node.outputs:
            if value in public:
                continue
            if value.is_graph_output() or any(user not in found.nodes for user, _ in value.uses()):
                raise Refusal(f"{gir.where(value)} inside of it is used elsewhere")
