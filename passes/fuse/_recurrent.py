"""Writes a recurrent layer as one operator: LSTM or GRU, versions 7, 14 and 22."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._affine import Refusal
from ._attention_writer import Length, Writer
from ._cells import Blocks, is_zero
from ._forms import Place
from ._layers import Layer
from ._steps import Source

Dim = int | str | None
_FLOAT = ir.DataType.FLOAT
_AXES_ARE_INPUT = 13


@dataclass(frozen=True, eq=False)
class Results:
    """Attributes: all h [steps, batch, units]; the last h and the last c [batch, units]; None where not asked for."""

    every: ir.Value | None
    h: ir.Value | None
    c: ir.Value | None


@dataclass(frozen=True)
class Run:
    """Steps of one sequence that follow each other, in the order of the layer or the other way round.

    Attributes:
        value: the sequence.
        axis: of the steps, 0 or 1.
        start, count: the first of them in the sequence, and how many.
        backward: the layer reads the last one first.
    """

    value: ir.Value
    axis: int
    start: int
    count: int
    backward: bool


def run(sources: Sequence[Source]) -> Run | None:
    """The steps as a run, when they are one."""
    first, indices = sources[0], [source.index for source in sources]
    if first.axis < 0 or any((item.value, item.axis) != (first.value, first.axis) for item in sources):
        return None
    numbers = [index for index in indices if isinstance(index, int)]
    if len(numbers) != len(indices):
        return None
    start, count = min(numbers), len(numbers)
    if numbers == list(range(start, start + count)):
        return Run(first.value, first.axis, start, count, False)
    if numbers == list(range(start + count - 1, start - 1, -1)):
        return Run(first.value, first.axis, start, count, True)
    return None


class LayerWriter:
    """Writes what a layer needs in front of it, the layer, and what it gives behind it."""

    def __init__(self, found: Layer, place: Place, graph: ir.Graph | ir.Function) -> None:
        self._found = found
        self._writer = Writer(place, graph, {})
        self._owner = graph.graph if isinstance(graph, ir.Function) else graph
        self._version = place.body.version()

    @property
    def op(self) -> Writer:
        """Where to write what else is needed."""
        return self._writer

    def squeeze(self, value: ir.Value, axis: int) -> ir.Value:
        """Without an axis of size 1."""
        dims = gir.dims(value) or ()
        rest = dims[:axis] + dims[axis + 1 :]
        if self._version >= _AXES_ARE_INPUT:
            return self._writer.op("Squeeze", [value, self._writer.ints([axis])], dtype=_FLOAT, dims=rest)
        return self._writer.op("Squeeze", [value], {"axes": [axis]}, dtype=_FLOAT, dims=rest)

    def unsqueeze(self, value: ir.Value) -> ir.Value:
        """With an axis in front."""
        result = self._writer.unsqueeze(value, 0)
        result.type = ir.TensorType(_FLOAT)
        result.shape = ir.Shape((1, *(gir.dims(value) or ())))
        return result

    def turned(self, value: ir.Value) -> ir.Value:
        """Steps and batch change places."""
        batch, steps, size = gir.dims(value) or (None,) * 3
        dims = (steps, batch, size)
        return self._writer.op("Transpose", [value], {"perm": [1, 0, 2]}, dtype=_FLOAT, dims=dims)

    def steps(self, value: ir.Value, axis: int, start: int, count: int) -> ir.Value:
        """Some steps of a sequence, steps first."""
        dims = list(gir.dims(value) or ())
        if (start, count) != (0, dims[axis]):
            dims[axis] = count
            bounds = [self._writer.ints([number]) for number in (start, start + count, axis)]
            value = self._writer.op("Slice", [value, *bounds], dtype=_FLOAT, dims=tuple(dims))
        return self.turned(value) if axis else value

    def stacked(self, sources: Sequence[Source]) -> ir.Value:
        """Single matrices as a sequence."""
        parts = [self.unsqueeze(self.matrix(source)) for source in sources]
        if len(parts) == 1:
            return parts[0]
        dims = (len(parts), *(gir.dims(parts[0]) or ())[1:])
        return self._writer.op("Concat", parts, {"axis": 0}, dtype=_FLOAT, dims=dims)

    def matrix(self, source: Source) -> ir.Value:
        """One step."""
        if source.axis < 0:
            return source.value
        return source.at or self.take(source.value, source.index, source.axis)

    def take(self, value: ir.Value, index: int | ir.Value, axis: int = 0) -> ir.Value:
        """One step of a sequence."""
        dims = gir.dims(value) or ()
        rest = dims[:axis] + dims[axis + 1 :]
        number = gir.new_initializer(self._owner, np.array(index), "step") if isinstance(index, int) else index
        return self._writer.op("Gather", [value, number], {"axis": axis}, dtype=_FLOAT, dims=rest)

    def layer(
        self,
        sequences: Sequence[ir.Value],
        before: tuple[ir.Value | None, ir.Value | None],
        wanted: tuple[bool, bool, bool],
        *,
        backward: bool,
    ) -> Results:
        """The operator.

        Args:
            sequences: the inputs, [steps, batch, features].
            before: the first h, and the first c of an LSTM; None for zeros.
            wanted: which results are: every h, the last h, the last c.
            backward: the last step comes first.
        """
        found, writer = self._found, self._writer
        x = sequences[0]
        steps, batch = (gir.dims(x) or (None, None))[:2]
        units = found.cells[0].units
        if len(sequences) > 1:
            x = writer.op("Concat", sequences, {"axis": 2}, dtype=_FLOAT, dims=(steps, batch, found.features))
        states = [None if value is None else self._initial(value, x, batch, units) for value in before]
        bias = np.concatenate([found.bias.reshape(-1), found.recurrent_bias.reshape(-1)])
        inputs = [
            x,
            self._constant(np.concatenate([_wide(blocks) for blocks in found.weights], axis=1), "weights"),
            self._constant(_wide(found.recurrent), "recurrence"),
            self._constant(bias, "bias") if bias.any() else None,
            None,
            *states[: 2 if found.is_lstm else 1],
        ]
        attributes: dict[str, Any] = {"hidden_size": units}
        if backward:
            attributes["direction"] = "reverse"
        if found.cells[0].resets_after:
            attributes["linear_before_reset"] = 1
        count = max(index for index, asked in enumerate(wanted) if asked) + 1
        results = writer.ops("LSTM" if found.is_lstm else "GRU", inputs, attributes, outputs=count)
        shapes = ((steps, 1, batch, units), (1, batch, units), (1, batch, units))
        for result, asked, shape in zip(results, wanted, shapes, strict=False):
            result.type, result.shape = ir.TensorType(_FLOAT), ir.Shape(shape)
            if not asked:
                result.name = ""
        taken = [
            self.squeeze(results[index], 1 if index == 0 else 0) if asked else None
            for index, asked in enumerate(wanted)
        ]
        return Results(*taken)

    def _initial(self, value: ir.Value, x: ir.Value, batch: Dim, units: int) -> ir.Value:
        if gir.dims(value) == (batch, units):
            return self.unsqueeze(value)
        size = batch if isinstance(batch, int) else Length(batch, x, 1)
        shape = self._writer.sizes([1, size, units])
        return self._writer.op("Expand", [value, shape], dtype=_FLOAT, dims=(1, batch, units))

    def _constant(self, elements: np.ndarray, hint: str) -> ir.Value:
        array = np.ascontiguousarray(elements[np.newaxis], dtype=np.float32)
        return gir.new_initializer(self._owner, array, hint)


def _wide(blocks: Blocks) -> np.ndarray:
    return np.concatenate([item.array() for item in blocks], axis=0)


class Positions:
    """Which nodes of a graph stand in front of which."""

    def __init__(self, graph: ir.Graph | ir.Function) -> None:
        self._at: dict[ir.Node, int] = {node: index for index, node in enumerate(graph)}

    def needed(self, values: Sequence[ir.Value], anchor: ir.Node, forbidden: set[ir.Node]) -> list[ir.Node]:
        """What must come in front of a node so that values can be used there, in a possible order.

        Raises:
            Refusal: they depend on what comes from a forbidden node, or on too much.
        """
        limit, order, seen = self._at[anchor], list[ir.Node](), set[ir.Node]()
        pending: list[tuple[ir.Node | None, bool]] = [(value.producer(), False) for value in reversed(values)]
        while pending:
            node, done = pending.pop()
            if node is None or node.graph is not anchor.graph or self._at.get(node, limit) < limit:
                continue
            if done:
                order.append(node)
                continue
            if node in seen:
                continue
            if node is anchor or node in forbidden:
                raise Refusal("what it reads depends on its own results")
            seen.add(node)
            if len(seen) > 64 * (len(values) + 1):
                raise Refusal("what it reads is computed between its steps")
            pending.append((node, True))
            pending += [(value.producer(), False) for value in gir.captured_values(node)]
        return order

    def move(self, nodes: Sequence[ir.Node], anchor: ir.Node) -> None:
        """Put nodes in front of another."""
        for node in nodes:
            assert node.graph is not None, "it is in the graph"
            node.graph.remove(node)
        gir.insert_before(anchor, nodes)
        self.note(nodes, anchor)

    def note(self, nodes: Sequence[ir.Node], anchor: ir.Node) -> None:
        """Nodes have been put in front of another."""
        self._at.update((node, self._at[anchor]) for node in nodes)


def is_state(value: ir.Value | None) -> bool:
    """True for a state that is given, and not zeros."""
    return value is not None and not is_zero(value)
