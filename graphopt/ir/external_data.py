"""Weights outside the model file, on the way in: mapped lazily, and never mistaken for others.

In memory each reference becomes a ``MappedTensor``. All tensors of one file share one ``DataFile``, which
remembers the identity of the file (device, inode, size, time): a file that is exchanged under a loaded model
is an error that says so, never other numbers. A file that ``save`` itself replaces is mapped first, and the
mapping keeps the old content alive, so a model can be written onto its own source. (A file that another
program shortens in place after it was mapped cannot be guarded against: the system ends the process.)

The checks before this are in ``references.py``, the way out is ``layout.py``. Source: ONNX
``docs/ExternalData.md``.
"""

from __future__ import annotations

import errno
import mmap
import os
from typing import IO, Any

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError

from .walk import graphs

_CHUNK = 8 << 20
_KERNEL_CHUNK = 256 << 20  # short enough for a Ctrl-C to be heard
# another file system, an old kernel, or (None) not a real file
_NO_KERNEL_COPY: frozenset[int | None] = frozenset(
    (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, None)
)


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
                            "the external data changed after the model was loaded",
                            self.path,
                            "load the model again",
                        )
                    self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except OSError as error:
                raise GraphoptError(
                    f"the external data can no longer be read: {error.strerror or error}",
                    self.path,
                    "put the file back and load the model again",
                ) from error
        return self._map

    def copy(self, start: int, length: int, target: IO[bytes]) -> None:
        """Append a range of the file to another file with little memory: in the kernel, where it can."""
        copied = self._kernel_copy(start, length, target)
        content = self.map() if copied < length else None
        for position in range(start + copied, start + length, _CHUNK):
            assert content is not None
            size = min(_CHUNK, start + length - position)
            target.write(content[position : position + size])
            if hasattr(content, "madvise"):  # let go of the pages, or the whole file counts as our memory
                page = position - position % mmap.PAGESIZE
                content.madvise(mmap.MADV_DONTNEED, page, position + size - page)

    def _kernel_copy(self, start: int, length: int, target: IO[bytes]) -> int:
        """Copy what the kernel will; returns the number of bytes, 0 where it cannot or the path has another file."""
        copied = 0
        if not hasattr(os, "copy_file_range"):
            return copied
        try:
            source = open(self.path, "rb")  # noqa: SIM115  (its errors are not those of the copy below)
        except OSError:
            return copied
        with source:
            if _identity(os.fstat(source.fileno())) != self._identity:
                return copied
            try:
                target.flush()
                while copied < length:
                    step = min(_KERNEL_CHUNK, length - copied)
                    done = os.copy_file_range(source.fileno(), target.fileno(), step, start + copied)
                    if not done:
                        break
                    copied += done
                    target.seek(0, os.SEEK_CUR)
            except OSError as error:
                if error.errno not in _NO_KERNEL_COPY:
                    raise
        return copied


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
            shape=tensor.shape,
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
        if self.size:
            self.file.copy(self.offset or 0, self.nbytes, file)

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
