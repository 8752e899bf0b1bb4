"""A weight and its bias as codes: which scale, and how each number is rounded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._affine import TYPES, Affine, weight_affine
from ._roles import Roles


@dataclass(frozen=True)
class Encoded:
    """What is stored for a product.

    Attributes:
        affine: of the weight.
        codes: int32, the shape of the weight.
        bias: int32, [channels]; None without a bias.
        bias_scale: float32, [] or [channels]: s_x * s_w.
    """

    affine: Affine
    codes: np.ndarray
    bias: np.ndarray | None = None
    bias_scale: np.ndarray | None = None


@dataclass(frozen=True)
class WeightScheme:
    """How weights become codes.

    Attributes:
        kind: int8, or int4: stored in 4 bits and cast to int8 (``pack``).
        per_channel: a scale for each output channel.
        bits: of the codes in use, 7 where 8-bit products saturate; None for all.
    """

    kind: str = "int8"
    per_channel: bool = True
    bits: int | None = None

    def encode(self, role: Roles, source: Affine) -> Encoded:
        """The codes of a product's weight and bias.

        Args:
            role: a product with a constant weight.
            source: of its activation: the bias has the scale of both together.
        """
        assert role.weight is not None
        array = gir.array(role.node.inputs[role.weight])
        assert array is not None
        axis = role.axis if self.per_channel else None
        affine = weight_affine(array, TYPES["int8"], axis, bits=4 if self.kind == "int4" else self.bits)
        bias = gir.array(role.node.inputs[role.bias]) if role.bias is not None else None
        if bias is None:
            return Encoded(affine, affine.encode(array))
        affine = wide_enough(affine, source, bias)
        scale = np.asarray(source.scale * affine.scale, np.float32)
        return Encoded(affine, affine.encode(array), bias_codes(bias, scale), scale)


def bias_codes(bias: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """A bias as int32 codes of a scale for each channel (or one)."""
    return np.clip(np.rint(bias / scale.astype(np.float64)), -(2**31), 2**31 - 1).astype(np.int32)


def wide_enough(weight: Affine, source: Affine, bias: np.ndarray) -> Affine:
    """A weight's map, its scale large enough that the bias has a code of 32 bits in ``s_x * s_w``."""
    largest = np.abs(bias.reshape(-1)).astype(np.float64)
    needed = largest if weight.axis is not None else largest.max(initial=0.0)
    least = needed / (float(source.scale) * (2**31 - 1) * 0.5)
    if not np.any(least > weight.scale):
        return weight
    scale = np.asarray(np.maximum(weight.scale, least), np.float32)
    return Affine(scale, weight.zero, weight.kind, weight.axis, weight.low, weight.high)


def pack(node: ir.Node, index: int) -> None:
    """Store the int8 codes of a weight in 4 bits: W4 -> Cast(int8) -> DequantizeLinear.

    A runtime computes the Cast once, when it loads the model, and finds the int8 codes it has integer kernels for; on
    int4 codes it has none. Casts from int4: opset 21.
    """
    value = node.inputs[index]
    back = value.producer() if value is not None else None
    assert back is not None
    stored = back.inputs[0]
    codes = gir.array(stored)
    assert codes is not None
    assert stored is not None
    assert back.graph is not None
    kind = TYPES["int4"]
    packed = ir.tensor(codes.astype(kind.numpy()), dtype=kind)
    held = gir.new_initializer(back.graph, packed, f"{stored.name}_packed")
    cast = ir.node("Cast", [held], {"to": ir.DataType.INT8})
    cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(ir.DataType.INT8), stored.shape
    gir.insert_before(back, cast)
    back.replace_input_with(0, cast.outputs[0])


def is_packed(back: ir.Node) -> bool:
    """Whether a DequantizeLinear has its codes from 4 bits, by ``pack``."""
    value = back.inputs[0]
    source = value.producer() if value is not None else None
    if source is None or not gir.is_op(source, "Cast"):
        return False
    held = gir.constant(source.inputs[0])
    return held is not None and held.dtype == TYPES["int4"]


def stored_codes(back: ir.Node) -> np.ndarray | None:
    """The constant codes that a DequantizeLinear reads, packed or not; None when they are no constant."""
    value = back.inputs[0]
    if is_packed(back):
        source = value.producer() if value is not None else None
        assert source is not None
        value = source.inputs[0]
    codes = gir.array(value)
    return None if codes is None else codes.astype(np.int32)
