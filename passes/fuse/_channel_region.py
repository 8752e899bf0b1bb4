"""Everything between two Transposes that bring the channels to the end and back, when it may as well happen in place.

Products over the channels become convolutions of kernel 1, per-channel constants get axes behind them, and operators
that look at one element at a time stay what they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.rewrite.uses import first_uses, use_count

from ._affine import Refusal, per_channel

Constant = tuple[ir.Node, int, np.ndarray, str]
_UNARY = {
    *("Abs", "Celu", "Elu", "Erf", "Exp", "FastGelu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Neg"),
    *("QuickGelu", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Swish", "Tanh"),
}
_BINARY = frozenset(("Add", "Sub", "Mul", "Div"))
_LARGEST = 64  # nodes; an MLP with a decomposed activation has a dozen


def to_last(rank: int) -> tuple[int, ...]:
    """N, C, D1, ... to N, D1, ..., C."""
    return (0, *range(2, rank), 1)


def to_second(rank: int) -> tuple[int, ...]:
    """N, D1, ..., C to N, C, D1, ..."""
    return (0, rank - 1, *range(1, rank - 1))


@dataclass(eq=False)
class Region:
    """The nodes between two Transposes.

    Attributes:
        rank: of all tensors.
        start: the Transpose in front.
        end: the one behind.
        nodes: in topological order.
        written: the new nodes.
        constants: what they read besides: a node, the number of its input, the elements, and what to call them.
    """

    rank: int
    start: ir.Node
    end: ir.Node
    nodes: list[ir.Node]
    written: list[ir.Node] = field(default_factory=list[ir.Node])
    constants: list[Constant] = field(default_factory=list[Constant])

    def check(self) -> None:
        """See whether it can be written, and leave nothing behind.

        Raises:
            Refusal: a constant is no number and no vector along the channels.
        """
        try:
            self._write()
        finally:
            for node in self.written:
                gir.release(node)
            self.written, self.constants = [], []

    def apply(self) -> None:
        """Put the new nodes in the place of the old ones."""
        result = self._write()
        assert self.end.graph is not None
        for node, index, elements, hint in self.constants:
            node.replace_input_with(index, gir.new_initializer(self.end.graph, elements, hint))
        gir.replace_node(self.end, self.written, [result])

    def _write(self) -> ir.Value:
        assert self.start.inputs[0] is not None and self.end.inputs[0] is not None
        made: dict[ir.Value | None, ir.Value] = {self.start.outputs[0]: self.start.inputs[0]}
        folded: set[ir.Node] = set()
        for node in self.nodes:
            if node in folded:
                continue
            bias = self._bias(node) if node.op_type == "MatMul" else None
            if bias is not None:
                folded.add(bias)
            fresh = self._convolution(node, bias, made) if node.op_type == "MatMul" else self._same(node, made)
            old, result = (bias or node).outputs[0], fresh.outputs[0]
            result.type = old.type
            if old.shape is not None:
                result.shape = ir.Shape([old.shape[axis] for axis in to_second(self.rank)])
            made[old] = result
        return made[self.end.inputs[0]]

    def _add(self, like: ir.Node, op_type: str, operands: list[ir.Value | None]) -> ir.Node:
        attributes = list(like.attributes.values())
        new = ir.Node(like.domain, op_type, operands, attributes, num_outputs=1, name=like.name)
        self.written.append(new)
        return new

    def _bias(self, product: ir.Node) -> ir.Node | None:
        """The Add of a constant, when that is all that happens to a product."""
        uses = product.outputs[0].uses()
        user = next(iter(uses))[0]
        if len(uses) != 1 or not gir.is_op(user, "Add"):
            return None
        other = user.inputs[0] if user.inputs[1] is product.outputs[0] else user.inputs[1]
        return user if gir.constant(other) is not None else None

    def _convolution(self, product: ir.Node, bias: ir.Node | None, made: dict[ir.Value | None, ir.Value]) -> ir.Node:
        weights = gir.array(product.inputs[1])
        owner = product.inputs[1]
        assert weights is not None and owner is not None
        outputs = weights.shape[1]
        arrays = [np.ascontiguousarray(weights.T).reshape(*weights.T.shape, *(1,) * (self.rank - 2))]
        if bias is not None:
            value = bias.inputs[0] if bias.inputs[1] is product.outputs[0] else bias.inputs[1]
            elements = gir.array(value)
            assert elements is not None
            vector = per_channel(elements, self.rank, -1, outputs)
            arrays.append(np.ascontiguousarray(np.broadcast_to(vector, (outputs,))))
        new = self._add(product, "Conv", [made[product.inputs[0]], *(None for _ in arrays)])
        self.constants += [(new, index, item, owner.name or "weights") for index, item in enumerate(arrays, start=1)]
        return new

    def _same(self, node: ir.Node, made: dict[ir.Value | None, ir.Value]) -> ir.Node:
        """The node itself, on operands in the other layout."""
        operands: list[ir.Value | None] = []
        columns: list[tuple[int, np.ndarray, str]] = []
        for index, value in enumerate(node.inputs):
            if value in made:
                operands.append(made[value])
                continue
            elements = gir.array(value)
            assert elements is not None and value is not None, "what is not made is constant"
            is_number = elements.size == 1 and elements.ndim <= self.rank
            operands.append(value if is_number else None)
            if not is_number:
                columns.append((index, self._column(node, elements), value.name or "constant"))
        new = self._add(node, node.op_type, operands)
        self.constants += [(new, *column) for column in columns]
        return new

    def _column(self, node: ir.Node, elements: np.ndarray) -> np.ndarray:
        shape = gir.dims(node.outputs[0])
        if shape is None or not isinstance(shape[-1], int):
            raise Refusal("how many channels there are is not known")
        vector = per_channel(elements, self.rank, -1, shape[-1])
        return np.ascontiguousarray(vector).reshape(-1, *(1,) * (self.rank - 2))


def region(end: ir.Node) -> Region | None:
    """What stands between a Transpose and one before it; None when there is no product, or something of another kind.

    Raises:
        Refusal: a value in between is also used elsewhere.
    """
    perm = tuple(gir.attribute(end, "perm", ()))
    if not 3 <= len(perm) <= 5 or perm != to_second(len(perm)) or end.inputs[0] is None:
        return None
    order: list[ir.Node] = []
    starts: set[ir.Node] = set()
    seen: set[ir.Node] = set()
    stack: list[tuple[ir.Value, bool]] = [(end.inputs[0], False)]
    while stack:
        value, done = stack.pop()
        node = value.producer()
        if node is None or node.graph is not end.graph or value.dtype is None:
            return None
        if done:
            order.append(node)
            continue
        if node in seen:
            continue
        seen.add(node)
        if gir.is_op(node, "Transpose") and tuple(gir.attribute(node, "perm", ())) == to_last(len(perm)):
            starts.add(node)
            continue
        operands = _operands(node)
        if operands is None or len(seen) > _LARGEST:
            return None
        stack.append((value, True))
        stack += [(operand, False) for operand in operands]
    if len(starts) != 1 or not any(node.op_type == "MatMul" for node in order):
        return None
    (start,) = starts
    inside = {*order, end}
    for node in (start, *order):
        value = node.outputs[0]
        many = use_count(value) > _LARGEST
        if many or value.is_graph_output() or any(user not in inside for user, _ in first_uses(value, _LARGEST)):
            raise Refusal(f"the result of {gir.where(node)} is also used elsewhere")
    return Region(len(perm), start, end, order)


def _operands(node: ir.Node) -> list[ir.Value] | None:
    """The operands that are no constants, of a node that may be part of a region; None for any other node."""
    if gir.has_reference(node) or len(node.outputs) != 1:
        return None
    if node.domain == "com.microsoft" and node.op_type in _UNARY and len(node.inputs) == 1:
        return [value for value in node.inputs if value is not None]
    if gir.is_op(node, "MatMul"):
        weights, data = gir.constant(node.inputs[1]), node.inputs[0]
        return [data] if weights is not None and len(weights.shape) == 2 and data is not None else None
    if gir.is_op(node, *_UNARY) and len(node.inputs) == 1 and node.inputs[0] is not None:
        return [node.inputs[0]]
    if gir.is_op(node, *_BINARY) and len(node.inputs) == 2:
        found = [value for value in node.inputs if value is not None and gir.constant(value) is None]
        return found or None
    return None
