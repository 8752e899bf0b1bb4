"""Writes the nodes of an attention; masks that several layers share are written once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, cast

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.rewrite.schema import make_attribute

from ._attention_operands import Dims
from ._forms import Place


@dataclass(frozen=True, slots=True)
class Length:
    """A dimension of a tensor, as a number or by its place.

    Attributes:
        size: the number, when known before the run.
        value: the tensor.
        axis: which of its dimensions.
    """

    size: int | str | None
    value: ir.Value
    axis: int

    @property
    def place(self) -> int | str | ir.Value:
        """What tells it from others: lengths of the same place are equal."""
        return self.size if self.size is not None else self.value


class Writer:
    """New nodes for one place; ``insert`` puts them before a node.

    Attributes:
        nodes: what was written so far.
    """

    def __init__(self, place: Place, graph: ir.Graph | ir.Function, memory: dict[Hashable, ir.Value]) -> None:
        self.nodes: list[ir.Node] = []
        self._place = place
        self._graph = graph
        self._memory = memory

    def op(
        self,
        name: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        dtype: ir.DataType | None = None,
        like: ir.Value | None = None,
        dims: Dims | None = None,
    ) -> ir.Value:
        """Write a node with one result.

        Args:
            name: the operator, ``domain::Operator`` outside of the standard domain.
            inputs: its operands.
            attributes: Python values.
            dtype: the result's element type.
            like: a value of the result's shape.
            dims: or the shape itself.
        """
        (result,) = self.ops(name, inputs, attributes, outputs=1)
        result.type = None if dtype is None else ir.TensorType(dtype)
        known = gir.dims(like) if dims is None else dims
        if known is not None:
            result.shape = ir.Shape(known)
        return result

    def ops(
        self,
        name: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        outputs: int,
    ) -> tuple[ir.Value, ...]:
        """Write a node with several results."""
        domain, _, op_type = name.rpartition("::")
        version = self._place.body.version(domain) or 1
        if domain:
            for opsets in (self._place.body.opsets, self._place.model.opset_imports):
                cast("MutableMapping[str, int]", opsets).setdefault(domain, 1)
        given = [make_attribute(domain, op_type, version, key, value) for key, value in (attributes or {}).items()]
        operands = list(inputs)
        while operands and operands[-1] is None:
            operands.pop()
        node = ir.Node(domain, op_type, operands, given, num_outputs=outputs)
        self.nodes.append(node)
        return tuple(node.outputs)

    def constant(self, number: float, dtype: ir.DataType, rank: int = 0) -> ir.Value:
        """A number of an element type."""
        elements = np.full((1,) * rank, number, dtype=dtype.numpy())
        key = ("number", number, dtype, rank)
        return self.shared(key, lambda: gir.new_initializer(self._owner, elements, "number"))

    def ints(self, numbers: Sequence[int]) -> ir.Value:
        """A vector of int64."""
        elements = np.array(numbers, dtype=np.int64)
        return self.shared(("ints", tuple(numbers)), lambda: gir.new_initializer(self._owner, elements, "sizes"))

    def int32(self, numbers: np.ndarray) -> ir.Value:
        """A constant of int32."""
        key = ("int32", numbers.shape, tuple(numbers.reshape(-1).tolist()))
        return self.shared(key, lambda: gir.new_initializer(self._owner, numbers.astype(np.int32), "sizes"))

    @property
    def version(self) -> int:
        """The standard opset here."""
        return self._place.body.version()

    @property
    def _owner(self) -> ir.Graph:
        return self._graph.graph if isinstance(self._graph, ir.Function) else self._graph

    def length(self, length: Length) -> ir.Value:
        """A dimension as a vector of one element."""
        if self._place.body.version() >= 15:
            attributes = {"start": length.axis, "end": length.axis + 1}
            return self.op("Shape", [length.value], attributes, dtype=ir.DataType.INT64, dims=(1,))
        whole = self.op("Shape", [length.value], dtype=ir.DataType.INT64)
        return self.op("Gather", [whole, self.ints([length.axis])], dtype=ir.DataType.INT64, dims=(1,))

    def sizes(self, sizes: Sequence[int | Length]) -> ir.Value:
        """A shape."""
        parts: list[ir.Value] = []
        for known, group in groupby(sizes, lambda size: isinstance(size, int)):
            if known:
                parts.append(self.ints([size for size in group if isinstance(size, int)]))
            else:
                parts += [self.length(size) for size in group if isinstance(size, Length)]
        return parts[0] if len(parts) == 1 else self.op("Concat", parts, {"axis": 0}, dtype=ir.DataType.INT64)

    def part(self, value: ir.Value, index: int, count: int) -> ir.Value:
        """One of several equal parts along the last of three axes."""

        def split() -> ir.Value:
            attributes = {"axis": 2} | ({"num_outputs": count} if self._place.body.version() >= 18 else {})
            parts = self.ops("Split", [value], attributes, outputs=count)
            dims = gir.dims(value)
            for number, item in enumerate(parts):
                item.type = value.type
                if dims is not None and isinstance(dims[2], int):
                    item.shape = ir.Shape((*dims[:2], dims[2] // count))
                self._memory[(self._graph, (value, number, count))] = item
            return parts[index]

        return self.shared((value, index, count), split)

    def turned(self, value: ir.Value) -> ir.Value:
        """[length, batch, width] for [batch, length, width], and back."""

        def turn() -> ir.Value:
            length, batch, width = gir.dims(value) or (None, None, None)
            return self.op("Transpose", [value], {"perm": [1, 0, 2]}, dtype=value.dtype, dims=(batch, length, width))

        return self.shared((value, "turned"), turn)

    def unsqueeze(self, value: ir.Value, axis: int) -> ir.Value:
        """A new axis of size 1."""
        if self._place.body.version() >= 13:
            return self.op("Unsqueeze", [value, self.ints([axis])], dtype=value.dtype)
        return self.op("Unsqueeze", [value], {"axes": [axis]}, dtype=value.dtype)

    def shared(self, key: Hashable, write: Callable[[], ir.Value]) -> ir.Value:
        """What was written under a key before in this graph, when it is still there; else it is written now."""
        found = self._memory.get((self._graph, key))
        if found is not None:
            node = found.producer()
            if found.is_initializer() or (node is not None and (node.graph is not None or node in self.nodes)):
                return found
        found = self._memory[(self._graph, key)] = write()
        return found

    def insert(self, before: ir.Node) -> None:
        """Put the nodes written so far into the graph."""
        for node in self.nodes:
            node.metadata_props.update(before.metadata_props)
        gir.insert_before(before, self.nodes)
        self.nodes.clear()
