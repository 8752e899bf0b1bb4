"""Comparing tensors by content, reading no more of them than it takes to tell them apart."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir

from graphopt.ir.external_data import MappedTensor

T = TypeVar("T")

_PIECES = 4  # each may bring 64 KiB of a mapped file into memory
_PIECE_BYTES = 1024
_CHUNK_BYTES = 1 << 24


def content_key(tensor: ir.TensorProtocol) -> Hashable:
    """Equal for two tensors exactly when element type, shape and every bit are."""
    return (*_kind(tensor), _whole(tensor))


def equal_groups(items: Iterable[T], tensor_of: Callable[[T], ir.TensorProtocol]) -> list[list[T]]:
    """The items whose tensors are equal, in groups of two or more, each in the order given.

    Four sieves, the next one only for what the last could not tell apart: element type and shape; the first
    1 KiB; a sample of 4 KiB spread over the bytes; a SHA-256 of all bytes. Weights of a trained model end in
    the second, so external data is hardly read. Linear in the number of items.
    """
    groups = [list(items)]
    for sieve in (_kind, _start, _sample, _whole):
        groups = [part for group in groups for part in _parts(group, tensor_of, sieve)]
    return groups


def _parts(
    items: Sequence[T], tensor_of: Callable[[T], ir.TensorProtocol], sieve: Callable[[ir.TensorProtocol], Hashable]
) -> list[list[T]]:
    found: dict[Hashable, list[T]] = {}
    for item in items:
        found.setdefault(sieve(tensor_of(item)), []).append(item)
    return [part for part in found.values() if len(part) > 1]


def _kind(tensor: ir.TensorProtocol) -> tuple[Hashable, ...]:
    return tensor.dtype, tensor.shape.dims


def _start(tensor: ir.TensorProtocol) -> bytes:
    return b"" if _is_opaque(tensor) else _pieces(tensor, [0])


def _sample(tensor: ir.TensorProtocol) -> bytes:
    """Evenly spread pieces of the bytes; all of them when the tensor is small."""
    if _is_opaque(tensor):
        return b""
    starts = range(0, tensor.nbytes, _PIECE_BYTES)
    if len(starts) > _PIECES:
        starts = [(tensor.nbytes - _PIECE_BYTES) * piece // (_PIECES - 1) for piece in range(_PIECES)]
    return _pieces(tensor, starts)


def _pieces(tensor: ir.TensorProtocol, starts: Sequence[int]) -> bytes:
    flat = _flat(tensor)
    sample = b"".join(flat[start : start + _PIECE_BYTES].tobytes() for start in starts)
    if isinstance(tensor, MappedTensor):
        tensor.release()
    return sample


def _whole(tensor: ir.TensorProtocol) -> Hashable:
    if isinstance(tensor, ir.StringTensor) or tensor.dtype == ir.DataType.STRING:
        return tuple(tensor.numpy().reshape(-1).tolist())
    digest = hashlib.sha256()
    if isinstance(tensor, ir.ExternalTensor):
        tensor.tofile(_Sink(digest.update))  # a few megabytes at a time, straight from the file
    elif tensor.dtype.bitwidth < 8:
        digest.update(tensor.tobytes())
    else:
        flat = _flat(tensor)
        if flat.size <= _PIECE_BYTES:
            return flat.tobytes()  # a constant in a key: no need for a digest
        for start in range(0, flat.size, _CHUNK_BYTES):
            digest.update(flat[start : start + _CHUNK_BYTES].data)
    return digest.digest()


def _is_opaque(tensor: ir.TensorProtocol) -> bool:
    """True where a look at single bytes would unpack or decode the whole tensor."""
    return tensor.dtype == ir.DataType.STRING or tensor.dtype.bitwidth < 8


def _flat(tensor: ir.TensorProtocol) -> np.ndarray:
    """The bytes in memory order, without a copy where the elements lie in a row."""
    return np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8)


class _Sink(io.RawIOBase):
    """A file without a descriptor that hands on what ``tofile`` writes."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take

    def write(self, content: Any) -> int:
        self._take(content)
        return len(content)
