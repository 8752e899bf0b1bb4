"""Where weights lie in the data file that ``save`` writes, and how they get there with little memory.

A ``Layout`` gives every large tensor a range of one new file, and small stand-ins take the place of the
tensors while the model is serialised. Tensors are then copied one at a time, those that are mapped a few
megabytes at a time.

Source: ONNX ``docs/ExternalData.md`` (offsets of large tensors are multiples of 4096, so that they can be
mapped).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError

from .external_data import MappedTensor
from .walk import graphs

_CHUNK = 8 << 20
SMALL = 1024
"""Bytes of a tensor that always stays inside the model file, unless another limit is asked for."""

_PAGE = 4096
_PAGED_FROM = 64 << 10
_ALIGNMENT = 64
_SIZES = 4096
_SCALES = 16

_TENSOR_TYPES = frozenset((ir.AttributeType.TENSOR, ir.AttributeType.TENSORS))

Slot = tuple[ir.TensorProtocol, Callable[[Any], None]]
"""A tensor, and the function that puts another one in its place."""


def slots(model: ir.Model) -> Iterator[Slot]:
    """Every tensor of a model, initialisers first within each graph, in an order that the model alone decides."""
    for graph in graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value, _setter(value)
        for node in graph:
            if node.attributes:
                yield from _attribute_slots(node)
    for function in model.functions.values():
        yield from _attribute_slots(function)


def _setter(value: ir.Value) -> Callable[[Any], None]:
    def put(tensor: Any) -> None:
        value.const_value = tensor

    return put


def _attribute_slots(owner: Any) -> Iterator[Slot]:
    attributes = owner.attributes.data
    if _TENSOR_TYPES.isdisjoint([attribute.type for attribute in attributes.values()]):
        return
    for name, attribute in tuple(attributes.items()):
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.TENSOR:
            yield (
                attribute.value,
                lambda new, a=attribute, n=name: owner.attributes.__setitem__(n, _with(a, new)),
            )
        elif attribute.type == ir.AttributeType.TENSORS:
            for index, tensor in enumerate(attribute.as_tensors()):
                yield tensor, lambda new, n=name, i=index: _put_one(owner, n, i, new)


def _with(attribute: ir.Attr, value: Any) -> ir.Attr:
    return ir.Attr(attribute.name, attribute.type, value, doc_string=attribute.doc_string)


def _put_one(owner: Any, name: str, index: int, tensor: Any) -> None:
    held = list(owner.attributes[name].as_tensors())
    held[index] = tensor
    owner.attributes[name] = _with(owner.attributes[name], held)


class Layout:
    """Which tensor lies where in the new data file; a tensor that is shared is written once."""

    def __init__(self, location: str) -> None:
        self.location = location
        self._ranges: dict[object, tuple[int, int]] = {}
        self._order: list[tuple[ir.TensorProtocol, int]] = []
        self._end = 0

    def __bool__(self) -> bool:
        return bool(self._order)

    @staticmethod
    def wants(tensor: ir.TensorProtocol, above: int = SMALL) -> bool:
        """True for a tensor worth a place outside: more than so many bytes, no strings, nothing that gives sizes."""
        return tensor.dtype != ir.DataType.STRING and tensor.nbytes > above and not _may_give_sizes(tensor)

    def place(self, tensor: ir.TensorProtocol) -> ir.ExternalTensor:
        """Give a tensor its range, the same for a tensor that was placed before; returns its stand-in."""
        key: object = id(tensor)
        if isinstance(tensor, MappedTensor):
            key = (id(tensor.file), tensor.offset, tensor.nbytes)
        if key not in self._ranges:
            step = _PAGE if tensor.nbytes >= _PAGED_FROM else _ALIGNMENT
            start = -(-self._end // step) * step
            self._ranges[key] = (start, tensor.nbytes)
            self._order.append((tensor, start))
            self._end = start + tensor.nbytes
        return stand_in(tensor, self.location, *self._ranges[key])

    def write(self, file: IO[bytes]) -> None:
        """Stream the tensors into the file, one after the other."""
        position = 0
        for tensor, start in self._order:
            file.write(bytes(start - position))
            _copy(tensor, file)
            position = start + tensor.nbytes

    def reserve(self, file: IO[bytes]) -> None:
        """Make a file of the right size without content, for a checker that does not look at weights."""
        file.truncate(self._end)


def _may_give_sizes(tensor: ir.TensorProtocol) -> bool:
    """Whether shape inference may want to read it: a Reshape's shape, the ends of a Slice, the scales of a Resize.

    It cannot where the elements are outside (``Cannot parse data from external tensors``), and ONNX Runtime then
    refuses the model.
    """
    few = _SIZES if tensor.dtype in (ir.DataType.INT32, ir.DataType.INT64) else _SCALES
    return tensor.size <= few and len(tensor.shape) <= 1


def stand_in(tensor: ir.TensorProtocol, location: str, offset: int, length: int) -> ir.ExternalTensor:
    """A tensor of the same name, type and shape without content."""
    return ir.ExternalTensor(
        location,
        offset,
        length,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name or "",
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props) or None,
    )


def _copy(tensor: ir.TensorProtocol, file: IO[bytes]) -> None:
    before = file.tell()
    if isinstance(tensor, MappedTensor):
        tensor.tofile(file)
    elif isinstance(tensor, ir.ExternalTensor):
        _write(file, _read(tensor))
    elif tensor.dtype.bitwidth < 8:
        _write(file, tensor.tobytes())
    else:
        array = np.asarray(tensor.numpy())
        if array.dtype.byteorder == ">":
            array = array.astype(array.dtype.newbyteorder("<"))
        _write(file, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    if file.tell() - before != tensor.nbytes:
        raise GraphoptError(
            f"the tensor gave {file.tell() - before} bytes instead of {tensor.nbytes}",
            f"tensor '{tensor.name}'",
        )


def _read(tensor: ir.ExternalTensor) -> bytes:
    try:
        return tensor.tobytes()
    except (OSError, ValueError) as error:
        raise GraphoptError(
            f"the external data cannot be read: {error}",
            f"tensor '{tensor.name}' at {tensor.path}",
            "load the model with graphopt.load",
        ) from error


def _write(file: IO[bytes], content: bytes | memoryview) -> None:
    view = memoryview(content)
    for position in range(0, len(view), _CHUNK):
        file.write(view[position : position + _CHUNK])


@contextmanager
def standing_in(replacements: list[tuple[Slot, ir.TensorProtocol]]) -> Iterator[None]:
    """Put other tensors into a model for the time of a serialisation."""
    done: list[Slot] = []
    try:
        for slot, replacement in replacements:
            done.append(slot)
            slot[1](replacement)
        yield
    finally:
        for tensor, put in reversed(done):
            put(tensor)


def hold(model: ir.Model, path: str) -> None:
    """Make sure that a file about to be replaced can still be read by the model that was loaded from it.

    Raises:
        GraphoptError: the model refers to the file through a plain ``onnx_ir.ExternalTensor``, which would
            read the new content at the old offsets.
    """
    if not os.path.exists(path):
        return
    target = os.path.realpath(path)
    for tensor, _ in slots(model):
        if isinstance(tensor, MappedTensor):
            if tensor.size and os.path.realpath(tensor.file.path) == target:
                tensor.file.map()
        elif isinstance(tensor, ir.ExternalTensor) and os.path.realpath(tensor.path) == target:
            raise GraphoptError(
                "saving would overwrite the data that the model in memory still reads",
                path,
                "save under another name, or load the model with graphopt.load",
            )
