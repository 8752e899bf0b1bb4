"""How an operator is written when the tensors around it are stored in another order of axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.convenience import convert_attribute

from graphopt import ir as gir
from graphopt.ir import STANDARD_DOMAINS

Order = tuple[int, ...]
"""Axis i of what is stored is axis order[i] of the tensor."""

COPY_LIMIT = 1 << 20  # bytes of a constant that something else reads too, of which a permuted copy may be made
_USUAL = 16  # taken for a size that is not known before the run
_BITS = 32  # of an element of unknown type


@dataclass(frozen=True)
class Form:
    """An operator for other orders of its operands and results.

    Attributes:
        carried: inputs that are stored in the other order.
        results: outputs that are.
        attributes: those that change.
        constants: constant inputs that change, as new arrays.
        permuted: constant inputs whose elements are stored in the other order; of a lower rank they broadcast.
        gather: what puts a result of sizes, one for each axis, back.
        costs: bytes that the operator's kernel itself has to move in the own and in the other order.
    """

    carried: tuple[int, ...] = ()
    results: tuple[int, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[int, np.ndarray] = field(default_factory=dict)
    permuted: tuple[int, ...] = ()
    gather: tuple[int, ...] = ()
    costs: tuple[int, int] = (0, 0)


@dataclass(frozen=True, eq=False)
class View:
    """A node and the order its tensors may get.

    Attributes:
        node: of the standard domain, without references to a function's parameters where an axis matters.
        order: the other order.
        version: of the node's operator set.
        rounding: operators may be moved whose last bit depends on where an element stands.
    """

    node: ir.Node
    order: Order
    version: int
    rounding: bool

    @property
    def rank(self) -> int:
        """Of the tensors that are stored in the other order."""
        return len(self.order)

    def place(self, axis: int) -> int:
        """Where an axis, counted from either end, is in the other order."""
        return self.order.index(axis % self.rank)

    def places(self, axes: Sequence[int]) -> list[int]:
        """Where axes are, in the order they are given."""
        return [self.place(axis) for axis in axes]

    def are_axes(self, axes: Sequence[int]) -> bool:
        """Each is an axis of the tensor, and none comes twice."""
        return all(-self.rank <= axis < self.rank for axis in axes) and len({axis % self.rank for axis in axes}) == len(
            axes
        )

    def keeps_rest(self, axes: Sequence[int]) -> bool:
        """The other axes follow each other in the other order as in the own."""
        gone = {axis % self.rank for axis in axes}
        rest = [axis for axis in self.order if axis not in gone]
        return rest == sorted(rest)

    def input(self, index: int) -> ir.Value | None:
        """An operand, None when it is left out."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value."""
        return gir.attribute(self.node, name, default)

    def axis(self, default: int) -> int | None:
        """The attribute ``axis`` when it is one of the tensor."""
        axis = int(self.attribute("axis", default))
        return axis if -self.rank <= axis < self.rank else None


def is_standard(node: ir.Node) -> bool:
    """True for an operator of ONNX itself."""
    return node.domain in STANDARD_DOMAINS


def is_permutable(value: ir.Value) -> bool:
    """A constant may be written in another order: it holds numbers, and there is not a large copy more of it."""
    tensor = gir.constant(value)
    if tensor is None or tensor.dtype == ir.DataType.STRING:
        return False
    return len(value.uses()) <= 1 or tensor.nbytes <= COPY_LIMIT


def nominal_bytes(value: ir.Value) -> int:
    """What a tensor takes; every size that is not known counts the same."""
    sizes = gir.dims(value) or ()
    count = 1
    for size in sizes:
        count *= size if isinstance(size, int) else _USUAL
    bits = value.dtype.bitwidth if value.dtype is not None and value.dtype != ir.DataType.STRING else _BITS
    return count * bits // 8


def stored(elements: np.ndarray, order: Order) -> np.ndarray:
    """A constant operand, which may have fewer axes than the tensors it is broadcast to, in the other order.

    Axes of size 1 that this puts in front of a broadcast operand are left away again.
    """
    rank = elements.ndim
    whole = elements.reshape((1,) * (len(order) - rank) + elements.shape).transpose(order)
    while rank < whole.ndim and whole.shape[0] == 1:
        whole = whole[0]
    return np.ascontiguousarray(whole)


Stored = dict[tuple[ir.Value, Order], ir.Value]


def rewritten(form: Form, node: ir.Node, view: View, operands: dict[int, ir.Value], constants: Stored) -> ir.Node:
    """The node in its other form.

    Args:
        form: as found for it.
        node: which stays as it is.
        view: the node in the other order.
        operands: the carried inputs in the other order.
        constants: those in the other order, for all nodes of a graph; gets the ones that are made here.
    """
    graph = node.graph
    assert graph is not None
    inputs = list(node.inputs)
    inputs += [None] * (max(form.constants, default=-1) + 1 - len(inputs))
    for index, value in operands.items():
        inputs[index] = value
    for index in form.permuted:
        old = inputs[index]
        tensor = gir.constant(old)
        assert old is not None and tensor is not None
        if (old, view.order) not in constants:
            elements = ir.Tensor(stored(tensor.numpy(), view.order), tensor.dtype)
            constants[old, view.order] = gir.new_initializer(graph, elements, f"{old.name}_permuted")
        inputs[index] = constants[old, view.order]
    for index, array in form.constants.items():
        inputs[index] = gir.new_initializer(graph, array, f"{node.name or node.op_type}_{index}")
    attributes = [item for name, item in node.attributes.items() if name not in form.attributes]
    attributes += [convert_attribute(name, value) for name, value in form.attributes.items()]
    new = ir.Node(
        node.domain,
        node.op_type,
        inputs,
        attributes,
        overload=node.overload,
        num_outputs=len(node.outputs),
        version=node.version,
        name=node.name,
    )
    new.metadata_props.update(node.metadata_props)
    for index, (before, after) in enumerate(zip(node.outputs, new.outputs, strict=True)):
        after.type = before.type
        after.shape = before.shape
        if before.name == "":
            after.name = ""
        elif index in form.results:
            after.name = None if before.name is None else f"{before.name}_permuted"
            if before.shape is not None and len(before.shape) == view.rank:
                after.shape = ir.Shape([before.shape.dims[axis] for axis in view.order])
    return new
