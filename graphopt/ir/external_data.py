"""Weights outside the model file: mapped lazily on the way in, streamed on the way out.

In memory each reference becomes a ``MappedTensor``. All tensors of one file share one ``DataFile``, which remembers
the identity of the file (device, inode, size, time): a file that is exchanged under a loaded model is an error
that says so, never other numbers. A file that ``save`` itself replaces is mapped first, and the mapping keeps the
old content alive, so a model can be written onto its own source.

On the way out a ``Layout`` gives every large tensor a range of one new file, and small stand-ins take the place of
the tensors while the model is serialised. Tensors are then copied one at a time. (Checks: ``references.py``.)

Source: ONNX ``docs/ExternalData.md`` (offsets of large tensors are multiples of 4096).
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError

from .walk import graphs

_CHUNK = 8 << 20
_SMALL = 1024
_PAGE = 4096
_PAGED_FROM = 64 << 10
_ALIGNMENT = 64


class DataFile:
    """A file with weights of a loaded model, opened on first use."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._identity = _identity(os.stat(path))
        self._map: mmap.mmap | None = None

    @property
    def size(self) -> int:
        """Bytes in the file when the model was loaded."""
        return self._identity[2]

    def map(self) -> mmap.mmap:
        """The whole file, mapped read-only; it stays valid when the path gets another file.

        Raises:
            GraphoptError: the file is gone, or is no longer the one the model was loaded with.
        """
        if self._map is None:
            try:
                with open(self.path, "rb") as file:
                    if _identity(os.fstat(file.fileno())) != self._identity:
                        raise GraphoptError(
                            "the external data changed after the model was loaded", self.path, "load the model again"
                        )
                    self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except OSError as error:
                raise GraphoptError(
                    f"the external data can no longer be read: {error.strerror or error}",
                    self.path,
                    "put the file back and load the model again",
                ) from error
        return self._map

    def release(self, offset: int, length: int) -> None:
        """Tell the system that a range just read is not needed soon, so that streaming stays small in memory."""
        if self._map is not None and hasattr(self._map, "madvise"):
            start = offset - offset % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_DONTNEED, start, offset + length - start)


def _identity(facts: os.stat_result) -> tuple[int, int, int, int]:
    return (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)


class MappedTensor(ir.ExternalTensor):
    """An ``onnx_ir.ExternalTensor`` that reads through the ``DataFile`` it shares with its neighbours."""

    __slots__ = ("file",)

    def __init__(self, tensor: ir.ExternalTensor, file: DataFile, base: str) -> None:
        super().__init__(
            tensor.location,
            tensor.offset,
            tensor.length,
            tensor.dtype,
            shape=tensor.shape,  # type: ignore[arg-type]
            name=tensor.name,
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props) or None,
            base_dir=base,
        )
        self.file = file

    def _load(self) -> None:
        if self.size == 0:
            self._array = np.empty(self.shape.numpy(), dtype=self.dtype.numpy())
            return
        window = memoryview(self.file.map())[self.offset or 0 : (self.offset or 0) + self.nbytes]
        if self.dtype.bitwidth < 8:
            packed = ir.PackedTensor(np.frombuffer(window, np.uint8), self.dtype, shape=self.shape)
            self._array = packed.numpy()
        else:
            dtype = np.dtype(self.dtype.numpy()).newbyteorder("<")
            self._array = np.frombuffer(window, dtype).reshape(self.shape.numpy())

    def tobytes(self) -> bytes:
        """A copy of the tensor's bytes."""
        start = self.offset or 0
        return self.file.map()[start : start + self.nbytes] if self.size else b""

    def tofile(self, file: IO[bytes]) -> None:
        """Copy the bytes to a file a few megabytes at a time."""
        if not self.size:
            return
        content, start, end = self.file.map(), self.offset or 0, (self.offset or 0) + self.nbytes
        for position in range(start, end, _CHUNK):
            length = min(_CHUNK, end - position)
            file.write(content[position : position + length])
            if self._array is None:
                self.file.release(position, length)

    def release(self) -> None:
        """Forget the array; the mapping belongs to all tensors of the file and stays."""
        self._array = None


class References:
    """The checked references of one model: which file each location means."""

    def __init__(self, base: str, files: dict[str, DataFile]) -> None:
        self._base = base
        self._files = files

    def __bool__(self) -> bool:
        return bool(self._files)

    def tensor(self, tensor: ir.ExternalTensor) -> MappedTensor:
        """The lazy tensor for one that ``onnx_ir`` deserialised."""
        return MappedTensor(tensor, self._files[os.fspath(tensor.location)], self._base)


def adopt(model: ir.Model, references: References) -> None:
    """Put lazy tensors in place of those that ``onnx_ir`` made, everywhere in a model just deserialised."""
    for function in model.functions.values():
        _adopt_attributes(function, references)
    for graph in graphs(model):
        for value in graph.initializers.values():
            if type(value.const_value) is ir.ExternalTensor:
                value.const_value = references.tensor(value.const_value)
        for node in graph:
            if node.attributes:
                _adopt_attributes(node, references)


def _adopt_attributes(owner: Any, references: References) -> None:
    for name, attribute in tuple(owner.attributes.items()):
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.TENSOR and type(attribute.value) is ir.ExternalTensor:
            owner.attributes[name] = ir.Attr(
                name, attribute.type, references.tensor(attribute.value), doc_string=attribute.doc_string
            )
        elif attribute.type == ir.AttributeType.TENSORS:
            replaced = [
                references.tensor(item) if type(item) is ir.ExternalTensor else item for item in attribute.as_tensors()
            ]
            owner.attributes[name] = ir.Attr(name, attribute.type, replaced, doc_string=attribute.doc_string)


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
    for name, attribute in tuple(owner.attributes.items()):
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.TENSOR:
            yield attribute.value, lambda new, a=attribute, n=name: owner.attributes.__setitem__(n, _with(a, new))
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
    def wants(tensor: ir.TensorProtocol) -> bool:
        """True for a tensor worth a place outside: more than 1 KiB, no strings."""
        return tensor.dtype != ir.DataType.STRING and tensor.nbytes > _SMALL

    def place(self, tensor: ir.TensorProtocol) -> ir.ExternalTensor:
        """Give a tensor its range, and return the stand-in that is serialised in its place."""
        key: object = id(tensor)
        if isinstance(tensor, MappedTensor):
            key = (id(tensor.file), tensor.offset, tensor.nbytes)
        if key not in self._ranges:
            step = _PAGE if tensor.nbytes >= _PAGED_FROM else _ALIGNMENT
            start = -(-self._end // step) * step
            self._ranges[key] = (start, tensor.nbytes)
            self._order.append((tensor, start))
            self._end = start + tensor.nbytes
        offset, length = self._ranges[key]
        return ir.ExternalTensor(
            self.location,
            offset,
            length,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=tensor.name or "",
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props) or None,
        )

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


def _copy(tensor: ir.TensorProtocol, file: IO[bytes]) -> None:
    before = file.tell()
    if isinstance(tensor, MappedTensor):
        tensor.tofile(file)
    elif isinstance(tensor, ir.ExternalTensor) or tensor.dtype.bitwidth < 8:
        _write(file, tensor.tobytes())
    else:
        array = np.asarray(tensor.numpy())
        if array.dtype.byteorder == ">":
            array = array.astype(array.dtype.newbyteorder("<"))
        _write(file, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    if file.tell() - before != tensor.nbytes:
        raise GraphoptError(
            f"the tensor gave {file.tell() - before} bytes instead of {tensor.nbytes}", f"tensor '{tensor.name}'"
        )


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
