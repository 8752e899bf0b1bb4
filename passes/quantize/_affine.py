"""The affine map between numbers and codes.

    code = clip(round(x / scale) + zero)        x ~ (code - zero) * scale

with rounding half to even, as ONNX's QuantizeLinear does (opset 10, per axis 13). Jacob et al., Quantization and
Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference (2018), section 2.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

TYPES = {
    "int4": ir.DataType.INT4,
    "uint4": ir.DataType.UINT4,
    "int8": ir.DataType.INT8,
    "uint8": ir.DataType.UINT8,
    "int16": ir.DataType.INT16,
    "uint16": ir.DataType.UINT16,
}

_LEAST = np.float32(np.finfo(np.float32).tiny)


def limits(kind: ir.DataType) -> tuple[int, int]:
    """The smallest and the largest code."""
    bits = kind.itemsize * 8
    if kind.name.startswith("U"):
        return 0, int(2**bits) - 1
    return -int(2 ** (bits - 1)), int(2 ** (bits - 1)) - 1


@dataclass(frozen=True)
class Affine:
    """Scale and zero point of a tensor.

    Attributes:
        scale: float32, [] or [channels].
        zero: int, [] or [channels]: the code of 0.
        kind: of the codes.
        axis: of the channels; None for one scale.
        low, high: the codes in use, within the type's (symmetric int8 weights leave out -128; ``reduce_range`` more).
    """

    scale: np.ndarray
    zero: np.ndarray
    kind: ir.DataType
    axis: int | None = None
    low: int = 0
    high: int = 255

    def encode(self, array: np.ndarray) -> np.ndarray:
        """Codes, as int32."""
        scale, zero = self._beside(array)
        return np.clip(np.rint(array / scale) + zero, self.low, self.high).astype(np.int32)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """The numbers that codes stand for, as float32."""
        scale, zero = self._beside(codes)
        return ((codes - zero).astype(np.float32) * scale).astype(np.float32)

    def rounded(self, array: np.ndarray) -> np.ndarray:
        """What is left of numbers."""
        return self.decode(self.encode(array))

    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """The smallest and the largest number that has a code."""
        return (self.low - self.zero) * self.scale, (self.high - self.zero) * self.scale

    def _beside(self, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scale and zero point in a shape that broadcasts over an array."""
        if self.axis is None:
            return self.scale, self.zero
        shape = [1] * array.ndim
        shape[self.axis] = -1
        return self.scale.reshape(shape), self.zero.reshape(shape)

    def codes_tensor(self, codes: np.ndarray) -> ir.TensorProtocol:
        """Codes as a tensor of the right type (4-bit ones are packed)."""
        return ir.tensor(codes.astype(self.kind.numpy()), dtype=self.kind)

    def zero_tensor(self) -> ir.TensorProtocol:
        """The zero points as a tensor."""
        return self.codes_tensor(np.asarray(self.zero))


def affine_of(low: float, high: float, kind: ir.DataType, *, symmetric: bool = False) -> Affine:
    """The map that represents a range, 0 exactly among it.

    Args:
        low: of the range, which is widened to hold 0.
        high: of the range.
        kind: of the codes.
        symmetric: zero point 0 (signed) or the middle (unsigned), the range symmetric about 0.
    """
    least, most = limits(kind)
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        signed = least < 0
        least = -most if signed else least
        reach = max(-low, high)
        steps = most if signed else (most - least) // 2
        zero = 0 if signed else (most + least + 1) // 2
        scale = np.float32(reach / steps)
    else:
        scale = np.float32((high - low) / (most - least))
        zero = round(least - low / float(scale)) if scale >= _LEAST else (0 if least < 0 else least)
    if scale < _LEAST:
        scale = np.float32(1.0)  # the tensor is 0, or as good as that: every scale represents it
    return Affine(np.asarray(scale), np.asarray(int(np.clip(zero, least, most))), kind, None, least, most)


def weight_affine(
    array: np.ndarray, kind: ir.DataType, axis: int | None, *, bits: int | None = None, reach: np.ndarray | None = None
) -> Affine:
    """The symmetric map of a weight.

    Args:
        array: the weight.
        kind: of the codes, signed.
        axis: of the output channels, each with its scale; None for one scale.
        bits: use only the codes of so many bits (7 where 8-bit products saturate).
        reach: the magnitude that is to be represented, [] or [channels]; the largest there is by default.
    """
    _, most = limits(kind)
    if bits is not None:
        most = min(most, 2 ** (bits - 1) - 1)
    if reach is None:
        others = tuple(index for index in range(array.ndim) if index != axis) if axis is not None else None
        reach = np.abs(array).max(axis=others, initial=0.0)
    scale = np.asarray(reach, np.float64) / most
    fallback = scale.max(initial=0.0) or 1.0  # for channels that are 0
    scale = np.where(scale < _LEAST, fallback, scale).astype(np.float32)
    return Affine(scale, np.zeros(scale.shape, np.int64), kind, axis, -most, most)
