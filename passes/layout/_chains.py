"""Tensors that have the same channels: from the convolutions that make them to those that read them.

Channels that are zero where they are made stay finite through the operators in between, and meet weights of zero at the
end; so the count of channels can grow without a change of any result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._channelwise import Growth, operands
from ._form import COPY_LIMIT


class Fixed(Exception):
    """Something needs the number of channels as it is."""


@dataclass(eq=False)
class Chain:
    """Tensors with the same channels.

    Attributes:
        graph: all of them are in it.
        channels: how many.
        version: of the standard operator set.
        values: the tensors.
        makers: the convolutions that make them.
        growths: what becomes larger with them.
        depthwise: convolutions with a group for each channel.
        obstacle: why their number cannot change; "" when it can.
    """

    graph: ir.Graph | None
    channels: int
    version: int
    values: dict[ir.Value, None] = field(default_factory=dict)
    makers: list[ir.Node] = field(default_factory=list)
    growths: list[Growth] = field(default_factory=list)
    depthwise: list[ir.Node] = field(default_factory=list)
    obstacle: str = ""

    @classmethod
    def of(cls, start: ir.Node, version: int) -> Chain:
        """All tensors that have the channels of a convolution's result, also behind the first obstacle.

        Raises:
            Fixed: the convolution itself has to stay as it is.
        """
        found = cls(start.graph, outputs_of(start), version)
        found._grow(start.outputs[0])
        return found

    def _grow(self, start: ir.Value) -> None:
        self._pending = [start]
        self._seen: set[ir.Node] = set()
        while self._pending:
            value = self._pending.pop()
            if value in self.values:
                continue
            self.values[value] = None
            for node, index in ((value.producer(), None), *value.uses()):
                try:
                    self._check(value)
                    self._visit(node, index, value)
                except Fixed as reason:
                    self.obstacle = self.obstacle or str(reason)

    def _check(self, value: ir.Value) -> None:
        shape = gir.dims(value)
        if shape is None or len(shape) < 3 or shape[1] != self.channels:
            raise Fixed(f"the channels of {gir.where(value)} are not known")
        if value.is_graph_output():
            self.obstacle = self.obstacle or f"{gir.where(value)} is an output"

    def _visit(self, node: ir.Node | None, index: int | None, value: ir.Value) -> None:
        if node is None:
            raise Fixed(f"{gir.where(value)} is an input")
        if node.graph is not self.graph:
            raise Fixed(f"{gir.where(node)} in another graph has it too")
        if not is_convolution(node) or _is_depthwise(node, self.channels):
            self._through(node)
        elif index is None:
            self._made_by(node)
        else:
            self._read_by(node, index)

    def _made_by(self, node: ir.Node) -> None:
        if _groups(node) != 1:
            raise Fixed(f"{gir.where(node)} has {_groups(node)} groups")
        if outputs_of(node) != self.channels:
            raise Fixed(f"the channels of {gir.where(node)} are not known")
        self.makers.append(node)
        self.growths.append(Growth(node, 1, 0 if node.op_type == "Conv" else 1))
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            self.growths.append(Growth(node, 2, 0))

    def _read_by(self, node: ir.Node, index: int) -> None:
        axis = 1 if node.op_type == "Conv" else 0
        sizes = _weights(node)
        if index != 0 or _groups(node) != 1 or sizes[axis] != self.channels:
            raise Fixed(f"{gir.where(node)} has {_groups(node)} groups")
        self.growths.append(Growth(node, 1, axis))

    def _through(self, node: ir.Node) -> None:
        """An operator in between, all of whose operands and results with these channels belong to the chain."""
        if node in self._seen:
            return
        self._seen.add(node)
        found = None
        if node.domain in gir.STANDARD_DOMAINS and not gir.has_reference(node):
            found = operands(node, self.channels, self.version)
        if found is None or any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
            raise Fixed(f"{gir.where(node)} reads or makes its channels")
        for index in found[0]:
            value = node.inputs[index]
            assert value is not None
            self._pending.append(value)
        self._pending.append(node.outputs[0])
        self.growths += found[1]
        if is_convolution(node):
            self.depthwise.append(node)


def is_convolution(node: ir.Node | None) -> bool:
    """Conv or ConvTranspose."""
    return gir.is_op(node, "Conv", "ConvTranspose")


def outputs_of(node: ir.Node) -> int:
    """How many channels a convolution with constant weights makes.

    Raises:
        Fixed: its weights are not constant.
    """
    sizes = _weights(node)
    return sizes[0] if node.op_type == "Conv" else sizes[1] * _groups(node)


def _groups(node: ir.Node) -> int:
    return int(gir.attribute(node, "group", 1))


def _weights(node: ir.Node) -> Sequence[int]:
    tensor = gir.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    others = [value for value in node.inputs[2:] if value is not None]
    if tensor is None or any(gir.constant(value) is None for value in others) or gir.has_reference(node):
        raise Fixed(f"the weights or the bias of {gir.where(node)} are not constant")
    sizes = [int(size) for size in tensor.shape.numpy()]
    if len(sizes) < 3 or not tensor.dtype.is_floating_point():
        raise Fixed(f"the weights of {gir.where(node)} are {tensor.dtype.name} of rank {len(sizes)}")
    return sizes


def _is_depthwise(node: ir.Node, channels: int) -> bool:
    return node.op_type == "Conv" and _groups(node) == channels > 1 and list(_weights(node)[:2]) == [channels, 1]


def is_large_and_shared(growth: Growth) -> bool:
    """A padded copy would be one large tensor more."""
    value = growth.node.inputs[growth.index]
    tensor = gir.constant(value)
    return value is not None and tensor is not None and len(value.uses()) > 1 and tensor.nbytes > COPY_LIMIT


def grow(growths: Sequence[Growth], count: int) -> None:
    """Give operands more entries; what was one constant stays one."""
    made: dict[tuple[ir.Value, ir.Graph, int, float], ir.Value] = {}
    for growth in growths:
        node, value = growth.node, growth.node.inputs[growth.index]
        tensor = gir.constant(value)
        assert node.graph is not None and value is not None and tensor is not None
        key = (value, node.graph, growth.axis, growth.fill)
        if key not in made:
            elements = tensor.numpy()
            widths = [(0, count if axis == growth.axis else 0) for axis in range(elements.ndim)]
            filled = np.pad(elements, widths, constant_values=np.asarray(growth.fill, elements.dtype))
            hint = f"{(value.name or 'constant').removesuffix('_padded')}_padded"
            made[key] = gir.new_initializer(node.graph, ir.Tensor(filled, tensor.dtype), hint)
        node.replace_input_with(growth.index, made[key])
