"""Random numbers that respect what an input is for."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .roles import Role
from .signature import Port


def draw(
    generator: np.random.Generator, port: Port, shape: tuple[int, ...], item: Role, compared: int, plain: str
) -> np.ndarray:
    """The array to feed to an input.

    Args:
        generator: where the numbers come from.
        port: the input.
        shape: its sizes in this run.
        item: what it is for.
        compared: which of the numbers it is compared with.
        plain: ``ones`` or ``zeros`` for integers of unknown use, after random ones have failed.
    """
    dtype = port.dtype or ir.DataType.FLOAT
    if dtype == ir.DataType.STRING:
        words = generator.integers(0, 1000, shape)
        return np.asarray([f"word{word}" for word in words.reshape(-1)], dtype=object).reshape(shape)
    integer = dtype.is_integer()
    if integer and plain and item.kind in ("number", "index"):
        return np.full(shape, 1 if plain == "ones" else 0).astype(dtype.numpy())
    return _by_role(generator, dtype, shape, item, compared).astype(dtype.numpy())


def _by_role(
    generator: np.random.Generator, dtype: ir.DataType, shape: tuple[int, ...], item: Role, compared: int
) -> np.ndarray:
    last = shape[-1] if shape else 1
    rows = item.rows if item.rows is not None else 2
    match item.kind:
        case "index":
            return generator.integers(0, rows, shape)
        case "position":
            return np.broadcast_to(np.arange(last) % (item.rows or 2**31), shape)
        case "segment":
            return generator.integers(0, min(rows, 2), shape)
        case "mask":
            mask = generator.random(shape) < 0.8
            if shape:
                mask[..., 0] = True  # a row that is masked altogether gives NaN in many models
            return np.asarray(mask)
        case "choice":
            return np.full(shape, item.choices[compared % len(item.choices)] if item.choices else 1)
        case "fixed":
            return np.full(shape, item.value)
        case "axes":
            return np.broadcast_to(np.arange(last), shape)
        case "whole shape":
            target = np.ones(shape, np.int64)
            target[..., :1] = -1
            return target
        case "true" | "false":
            return np.full(shape, item.kind == "true")
        case "unit":
            return generator.random(shape)
        case "positive":
            return generator.random(shape) + 0.5
        case _:
            return _plain_numbers(generator, dtype, shape)


def _plain_numbers(generator: np.random.Generator, dtype: ir.DataType, shape: tuple[int, ...]) -> np.ndarray:
    if dtype.is_integer():
        low, high = {"UINT8": (0, 256), "INT8": (-128, 128), "UINT4": (0, 16), "INT4": (-8, 8)}.get(dtype.name, (0, 10))
        if dtype.name in ("UINT2", "INT2"):
            low, high = (0, 4) if dtype.name == "UINT2" else (-2, 2)
        return generator.integers(low, high, shape)
    if dtype in (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128):
        return generator.standard_normal(shape) + 1j * generator.standard_normal(shape)
    return generator.standard_normal(shape)
