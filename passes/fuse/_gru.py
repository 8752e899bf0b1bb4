"""Single steps of a gated recurrent unit, in the ways its mixture of states and its reset are written.

    h = z h' + (1 - z) tanh(n)  =  z (h' - tanh(n)) + tanh(n)  =  (1 - u) h' + u tanh(n),  u = 1 - z
    n = x W + b + (r h') R + d   or   x W + b + r (h' R + d)     (linear_before_reset)

Source: Cho et al., Learning Phrase Representations using RNN Encoder-Decoder, 2014, equations 5 to 8; ONNX, GRU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._affine import Refusal
from ._cells import Cell, Step, common, is_zero, operands, plain, producers, reader
from ._gates import Gate, Weights, activation, read
from ._steps import Source, source_of


def gru_cells(node: ir.Node) -> Iterator[Cell]:
    """What an Add may be the last operator of."""
    for share, first, second, outer in _mixtures(node):
        for before, new, turned in ((first, second, False), (second, first, True)):
            nodes = {node, *outer}
            z = activation(share, "Sigmoid", nodes)
            n = activation(new, "Tanh", nodes)
            if z is not None and n is not None:
                h = node.outputs[0]
                yield Cell(h, h, reader(before, node, *outer), _GruReader(z, n, turned, nodes), nodes)


def _mixtures(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value, ir.Value, list[ir.Node]]]:
    """Ways to read an Add as s a + (1 - s) b."""
    for left, right in operands(node, "Add"):
        for share, other in operands(left.producer(), "Mul"):
            minus = other.producer()
            if minus is not None and gir.is_op(minus, "Sub") and minus.inputs[1] is right:  # s (a - b) + b
                if minus.inputs[0] is not None:
                    yield share, minus.inputs[0], right, producers(left, other)
                continue
            for rest, b in operands(right.producer(), "Mul"):  # s a + (1 - s) b
                less = rest.producer()
                one = less is not None and gir.is_op(less, "Sub") and gir.scalar(less.inputs[0]) == 1
                if one and less is not None and less.inputs[1] is share:
                    yield share, other, b, producers(left, right, rest)


@dataclass(frozen=True, eq=False)
class _GruReader:
    """Attributes: the sums in front of z and of tanh; z is the share of the new, not of the old; nodes outside."""

    z: tuple[ir.Value, int]
    n: tuple[ir.Value, int]
    turned: bool
    nodes: set[ir.Node]

    def __call__(self, cell: Cell) -> Step:
        units, nodes, hidden = cell.units, set(self.nodes), source_of(cell.before)
        z, n = plain(*self.z, units), read(*self.n, units)
        if self.turned:
            z = z.negated()
        recurrent_bias = np.zeros((3, units))
        if n.others:
            r, behind = _reset_behind(n, units, nodes)
            recurrent_bias[2] = behind.bias
            matrix = _only(behind, hidden)
            nodes |= behind.nodes
            if hidden in n.terms:
                raise Refusal("its new state reads the old one without the reset gate")
        else:
            r, matrix = _reset_before(n, units, cell.before, hidden, nodes)
        cell.resets_after = bool(n.others)
        owned = [gate.terms.pop(hidden, None) for gate in (z, r)] + [matrix]
        recurrent = tuple(item for item in owned if item is not None)
        if len(recurrent) < 3:
            if not is_zero(cell.before):
                raise Refusal("not every gate reads the earlier state")
            recurrent = ()
        bias = np.stack([gate.bias for gate in (z, r, n)])
        nodes = nodes.union(z.nodes, r.nodes, n.nodes)
        return Step(common([z, r, n]), recurrent or None, bias, recurrent_bias, nodes)


def _reset_behind(n: Gate, units: int, nodes: set[ir.Node]) -> tuple[Gate, Gate]:
    """The reset gate, and what it is multiplied with: the product of the earlier state."""
    if len(n.others) == 1:
        value, start = n.others[0]
        for gate, product in operands(value.producer(), "Mul") if start == 0 else ():
            inner = set[ir.Node]()
            found = activation(gate, "Sigmoid", inner)
            if found is None:
                continue
            behind = read(product, 0, units)
            if not behind.others:
                nodes.update(inner, producers(value))
                return plain(*found, units), behind
    raise Refusal("its new state is no sum of products with constant matrices")


def _reset_before(
    n: Gate, units: int, before: ir.Value, hidden: Source, nodes: set[ir.Node]
) -> tuple[Gate, Weights | None]:
    """The reset gate in the product of the earlier state, and that product's matrix."""
    for source in list(n.terms):
        for gate, other in operands(source.value.producer(), "Mul") if source.axis < 0 else ():
            inner = set[ir.Node]()
            found = activation(gate, "Sigmoid", inner) if other is before or source_of(other) == hidden else None
            if found is not None:
                nodes.update(inner, producers(source.value))
                return plain(*found, units), n.terms.pop(source)
    raise Refusal("no reset gate is applied to the earlier state")


def _only(gate: Gate, hidden: Source) -> Weights | None:
    """The matrix of the earlier state, when a sum has no other product."""
    if gate.terms.keys() - {hidden}:
        raise Refusal("the reset gate is applied to more than the earlier state")
    return gate.terms.get(hidden)
