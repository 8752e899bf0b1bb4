"""Single steps of recurrent layers.

    LSTM:  c = sigmoid(f) c' + sigmoid(i) tanh(g);  h = sigmoid(o) tanh(c)

Source: Hochreiter and Schmidhuber, Long Short-Term Memory, 1997, with Gers et al., Learning to Forget, 2000; ONNX, LSTM
(versions 7, 14, 22).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._affine import Refusal
from ._gates import Gate, Source, Weights, activation, read

Blocks = tuple[Weights, ...]
"""The matrices of a source, one for each gate."""


@dataclass(eq=False)
class Step:
    """What a cell computes, its gates in ONNX's order (LSTM: i o f c, GRU: z r h).

    Attributes:
        inputs: all that every gate reads; for an LSTM the earlier h is still among them.
        recurrent: the matrices of the earlier h; None when that is among the inputs, or was zero and folded away.
        bias, recurrent_bias: [gates, units]; the second is zero where the two are added.
        nodes: what computes it, without what makes the inputs.
    """

    inputs: dict[Source, Blocks]
    recurrent: Blocks | None
    bias: np.ndarray
    recurrent_bias: np.ndarray
    nodes: set[ir.Node]


@dataclass(eq=False)
class Cell:
    """A place that looks like a cell.

    Attributes:
        h: its result.
        state: what the next cell continues from: c of an LSTM, h of a GRU.
        reader: a node that reads the state it continues from, and at which place.
        read: looks at the gates; may raise ``Refusal``.
        inner: nodes that may read the state besides those of the next cell.
        resets_after: the reset gate of a GRU is applied behind the product (linear_before_reset).
        operator: it is an operator over one step already, and only worth a look inside of a loop.
    """

    h: ir.Value
    state: ir.Value
    reader: tuple[ir.Node, int]
    read: Callable[[Cell], Step]
    inner: set[ir.Node]
    resets_after: bool = False
    operator: bool = False

    @property
    def before(self) -> ir.Value:
        """The state it continues from, which may have become another since the cell was found."""
        node, index = self.reader
        value = node.inputs[index]
        assert value is not None, "it was there"
        return value

    @property
    def units(self) -> int:
        """The size of the state.

        Raises:
            Refusal: it is not known.
        """
        shape = gir.dims(self.h)
        if shape is None or len(shape) != 2 or not isinstance(shape[1], int):
            raise Refusal("the shape of its state is not known")
        return shape[1]


def is_zero(value: ir.Value) -> bool:
    """True for a tensor of zeros, of whatever shape."""
    elements = gir.array(value, max_elements=1 << 20)
    if elements is not None:
        return not elements.any()
    node = value.producer()
    if node is None or gir.has_reference(node):
        return False
    if gir.is_op(node, "ConstantOfShape"):
        tensor = gir.attribute(node, "value")
        return tensor is None or not tensor.numpy().any()
    return gir.is_op(node, "Expand") and node.inputs[0] is not None and is_zero(node.inputs[0])


def operands(node: ir.Node | None, op_type: str) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Both orders of the operands of a commutative operator."""
    if node is not None and gir.is_op(node, op_type) and len(node.inputs) == 2:
        a, b = node.inputs
        if a is not None and b is not None:
            yield a, b
            if a is not b:
                yield b, a


def reader(value: ir.Value, *nodes: ir.Node | None) -> tuple[ir.Node, int]:
    """Which of some nodes reads a value, and at which place."""
    found = ((node, index) for node in nodes if node is not None for index in range(len(node.inputs)))
    return next((node, index) for node, index in found if node.inputs[index] is value)


def _unary(value: ir.Value, op_type: str) -> ir.Value | None:
    node = value.producer()
    return node.inputs[0] if node is not None and gir.is_op(node, op_type) else None


def lstm_cells(node: ir.Node) -> Iterator[Cell]:
    """What a Mul may be the last operator of."""
    for gate, bounded in operands(node, "Mul"):
        c, outer = _unary(bounded, "Tanh"), set[ir.Node]()
        add = None if c is None else c.producer()
        o = activation(gate, "Sigmoid", outer)
        if c is None or o is None or add is None:
            continue
        outer.update((node, add, *producers(bounded)))
        for kept, new in operands(add, "Add"):
            for forget, before in operands(kept.producer(), "Mul"):
                for enter, candidate in operands(new.producer(), "Mul"):
                    nodes = outer.union(producers(kept, new))
                    f = activation(forget, "Sigmoid", nodes)
                    i = activation(enter, "Sigmoid", nodes)
                    g = activation(candidate, "Tanh", nodes)
                    if f is not None and i is not None and g is not None:
                        place = reader(before, kept.producer())
                        yield Cell(node.outputs[0], c, place, _LstmReader((i, o, f, g), nodes), nodes)


@dataclass(frozen=True, eq=False)
class _LstmReader:
    gates: tuple[tuple[ir.Value, int], ...]
    nodes: set[ir.Node]

    def __call__(self, cell: Cell) -> Step:
        gates = [plain(value, start, cell.units) for value, start in self.gates]
        bias = np.stack([gate.bias for gate in gates])
        nodes = self.nodes.union(*(gate.nodes for gate in gates))
        return Step(common(gates), None, bias, np.zeros_like(bias), nodes)


def plain(value: ir.Value, start: int, units: int) -> Gate:
    """A gate that is nothing but products and constants."""
    gate = read(value, start, units)
    if gate.others:
        raise Refusal("a gate is no sum of products with constant matrices")
    return gate


def common(gates: list[Gate]) -> dict[Source, Blocks]:
    """What all gates read, with the matrices."""
    first = gates[0]
    if any(gate.terms.keys() != first.terms.keys() for gate in gates):
        raise Refusal("its gates do not all read the same")
    return {source: tuple(gate.terms[source] for gate in gates) for source in first.terms}


def producers(*values: ir.Value) -> list[ir.Node]:
    """The nodes that compute values."""
    return [node for value in values if (node := value.producer()) is not None]
