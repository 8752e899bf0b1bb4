"""Operators over one step as cells: what torch writes of nn.LSTMCell and nn.GRUCell in a scripted loop.

h = Squeeze(LSTM(Unsqueeze(x), W, R, B, , Unsqueeze(h'), Unsqueeze(c')))
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._affine import Refusal
from ._cells import Cell, Step
from ._gates import Weights
from ._steps import source_of

_PLAIN = frozenset({"hidden_size", "linear_before_reset", "direction", "layout"})


def operator_cells(node: ir.Node, op_type: str) -> Iterator[Cell]:
    """What a Squeeze of the last h of such an operator is the end of."""
    if not _drops_first(node) or node.inputs[0] is None:
        return
    layer = node.inputs[0].producer()
    if layer is None or not gir.is_op(layer, op_type) or node.inputs[0].index() != 1 or not _is_plain(layer):
        return
    inputs = [*layer.inputs, *(None,) * 7]
    around = [_of_one(inputs[index]) for index in ((0, 5, 6) if op_type == "LSTM" else (0, 5))]
    steps = [item for item in around if item is not None]
    matrices = [gir.array(inputs[index]) for index in (1, 2)]
    if len(steps) < len(around) or any(item is None or item.ndim != 3 or len(item) != 1 for item in matrices):
        return
    if inputs[4] is not None or (inputs[3] is not None and gir.array(inputs[3]) is None):
        return
    state = node
    if op_type == "LSTM":
        if len(layer.inputs) > 7 or len(layer.outputs) < 3:
            return
        users = [user for user, _ in layer.outputs[2].uses()]
        if len(users) != 1 or not _drops_first(users[0]):
            return
        state = users[0]
    nodes = {node, state, layer, *steps}
    after = bool(gir.attribute(layer, "linear_before_reset", 0))
    reader = (steps[-1], 0)
    yield Cell(node.outputs[0], state.outputs[0], reader, _Reader(layer, nodes), nodes, after, operator=True)


def _drops_first(node: ir.Node) -> bool:
    """True for a Squeeze of the axis in front."""
    if not gir.is_op(node, "Squeeze") or gir.has_reference(node):
        return False
    axes = gir.known_ints(node.inputs[1]) if len(node.inputs) > 1 else gir.attribute(node, "axes")
    return axes is not None and tuple(axes) in ((0,), (-3,))


def _is_plain(layer: ir.Node) -> bool:
    if gir.has_reference(layer) or not _PLAIN.issuperset(layer.attributes.keys()):
        return False
    return gir.attribute(layer, "direction", "forward") == "forward" and not gir.attribute(layer, "layout", 0)


def _of_one(value: ir.Value | None) -> ir.Node | None:
    """The Unsqueeze that gives a matrix an axis in front."""
    node = None if value is None else value.producer()
    if node is None or not gir.is_op(node, "Unsqueeze") or gir.has_reference(node):
        return None
    axes = gir.known_ints(node.inputs[1]) if len(node.inputs) > 1 else gir.attribute(node, "axes")
    return node if axes is not None and tuple(axes) in ((0,), (-3,)) else None


@dataclass(frozen=True, eq=False)
class _Reader:
    layer: ir.Node
    nodes: set[ir.Node]

    def __call__(self, cell: Cell) -> Step:
        inputs, units = self.layer.inputs, cell.units
        x, h = (None if inputs[index] is None else _of_one(inputs[index]) for index in (0, 5))
        w, r = inputs[1], inputs[2]
        assert x is not None and h is not None and w is not None and r is not None, "they were there"
        assert x.inputs[0] is not None and h.inputs[0] is not None, "Unsqueeze has an input"
        gates = 3 if cell.state is cell.h else 4
        if gir.attribute(self.layer, "hidden_size", units) != units or gir.static_dims(r) != (1, gates * units, units):
            raise Refusal("the sizes of its matrices are not those of its state")
        blocks = [tuple(_block(owner, gate, units) for gate in range(gates)) for owner in (w, r)]
        given = gir.array(inputs[3]) if len(inputs) > 3 else None
        bias = np.zeros((2, gates, units)) if given is None else given.astype(np.float64).reshape(2, gates, units)
        apart = np.zeros((gates, units))
        if cell.resets_after:
            apart[2] = bias[1, 2]
        joined = bias.sum(axis=0) - apart
        if cell.state is cell.h:
            return Step({source_of(x.inputs[0]): blocks[0]}, blocks[1], joined, apart, self.nodes)
        both = {source_of(x.inputs[0]): blocks[0], source_of(h.inputs[0]): blocks[1]}
        return Step(both, None, joined, apart, self.nodes)


def _block(owner: ir.Value, gate: int, units: int) -> Weights:
    shape = gir.static_dims(owner)
    assert shape is not None, "it is constant"
    return Weights(owner, True, 0, shape[2], gate * units, units, 1.0)
