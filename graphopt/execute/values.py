"""Between numpy arrays and ONNX Runtime's values, for the element types numpy does not have.

bfloat16, the float8 kinds and the 2- and 4-bit types cross the border as raw memory: ONNX Runtime keeps them
as ONNX does (two int4 in a byte, low nibble first), ``ml_dtypes`` gives numpy its types. Everything else
uses the runtime's own conversion.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError

from .signature import Port, runtime_dtype

_EXOTIC = frozenset(
    dtype
    for dtype in ir.DataType
    if dtype.name.startswith(("BFLOAT", "FLOAT8", "FLOAT6", "FLOAT4", "INT4", "UINT4", "INT2", "UINT2"))
)


def is_exotic(dtype: ir.DataType | None) -> bool:
    """True for an element type that numpy itself lacks."""
    return dtype in _EXOTIC


def to_runtime(array: np.ndarray, dtype: ir.DataType) -> Any:
    """An ``OrtValue`` on the CPU with the elements of an array of an exotic type."""
    import onnxruntime

    value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(array.shape), int(dtype))
    raw = _packed(array, dtype)
    if raw.nbytes:
        ctypes.memmove(value.data_ptr(), raw.ctypes.data, raw.nbytes)
    return value


def from_runtime(value: Any, port: Port) -> Any:
    """The array in an ``OrtValue``, copied; of an ``ml_dtypes`` type where numpy has none."""
    if not value.is_tensor():
        raise GraphoptError(
            f"an output of type {value.data_type()} cannot be read together with outputs of exotic types",
            f"output '{port.name}'",
            "run the model with fewer outputs",
        )
    dtype = runtime_dtype(value.data_type()) or port.dtype
    if not is_exotic(dtype):
        return value.numpy()
    assert dtype is not None
    raw = np.frombuffer(ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes()), np.uint8)
    return _unpacked(raw, dtype, tuple(value.shape()))


def _packed(array: np.ndarray, dtype: ir.DataType) -> np.ndarray:
    """The bytes as ONNX stores them; 2- and 4-bit elements share a byte, the first in the lowest bits."""
    flat = np.ascontiguousarray(array).reshape(-1)
    if dtype.bitwidth >= 8:
        return flat.view(np.uint8)
    each = 8 // dtype.bitwidth
    bits = flat.view(np.uint8) & (2**dtype.bitwidth - 1)
    bits = np.pad(bits, (0, -len(bits) % each)).reshape(-1, each)
    shifts = np.arange(each, dtype=np.uint8) * np.uint8(dtype.bitwidth)
    return np.bitwise_or.reduce(bits << shifts, axis=1).astype(np.uint8)


def _unpacked(raw: np.ndarray, dtype: ir.DataType, shape: tuple[int, ...]) -> np.ndarray:
    count = int(np.prod(shape, dtype=np.int64))
    if dtype.bitwidth >= 8:
        return raw.view(dtype.numpy())[:count].reshape(shape).copy()
    each = 8 // dtype.bitwidth
    shifts = np.arange(each, dtype=np.uint8) * np.uint8(dtype.bitwidth)
    bits = ((raw[:, None] >> shifts) & np.uint8(2**dtype.bitwidth - 1)).reshape(-1)[:count]
    if dtype in (ir.DataType.INT4, ir.DataType.INT2):
        half = 2 ** (dtype.bitwidth - 1)
        numbers = bits.astype(np.int8) - np.where(bits >= half, 2 * half, 0).astype(np.int8)
        return numbers.astype(dtype.numpy()).reshape(shape)
    if dtype.is_floating_point():
        return bits.view(dtype.numpy()).reshape(shape)
    return bits.astype(dtype.numpy()).reshape(shape)
