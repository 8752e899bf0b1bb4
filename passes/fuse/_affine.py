"""One number per channel: operators that compute ``scale * x + shift`` with such constants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

Terms = tuple[np.ndarray, np.ndarray]

FLOATS = frozenset((ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE))


class Refusal(Exception):
    """A candidate is kept; the message is the reason, lower case, without a full stop."""


@dataclass(frozen=True, eq=False)
class Affine:
    """An operator that computes ``scale * source + shift``.

    Attributes:
        node: the operator.
        source: its variable operand.
        terms: gives scale and shift in float64, broadcast as numpy does; may raise ``Refusal``.
        along_axis_1: scale and shift are vectors along axis 1, as those of BatchNormalization.
    """

    node: ir.Node
    source: ir.Value
    terms: Callable[[], Terms]
    along_axis_1: bool = False

    @property
    def result(self) -> ir.Value:
        """What the operator computes."""
        return self.node.outputs[0]

    def vectors(self, rank: int | None, axis: int, channels: int) -> Terms:
        """Scale and shift as one number, shape ``()``, or one number per channel, shape ``(channels,)``.

        Args:
            rank: of the tensor they apply to; None when unknown.
            axis: its channel axis: 1, or -1 for the last.
            channels: its size.

        Raises:
            Refusal: the constants are something else.
        """
        scale, shift = self.terms()
        if not self.along_axis_1:
            return per_channel(scale, rank, axis, channels), per_channel(shift, rank, axis, channels)
        if rank is None:
            raise Refusal("the rank of its input is not known")
        if axis == -1 and rank != 2:
            raise Refusal("it normalises axis 1, which is not the last one")
        if scale.shape != (channels,):
            raise Refusal(f"it has {scale.size} channels, not {channels}")
        return scale, shift


def per_channel(elements: np.ndarray, rank: int | None, axis: int, channels: int) -> np.ndarray:
    """A constant that broadcasts against a tensor, as one number or one per channel.

    Raises:
        Refusal: it varies along another axis, or broadcasting it would make the tensor larger.
    """
    least = 1 if rank is None else rank
    if elements.ndim > least:
        raise Refusal("the rank of its input is not known" if rank is None else "its constant would add a dimension")
    padded = (1,) * (least - elements.ndim) + elements.shape
    size = padded[axis] if elements.ndim else 1
    if elements.size != size:
        raise Refusal("its constant is not one number per channel")
    if size not in (1, channels):
        raise Refusal(f"its constant has {size} channels, not {channels}")
    return elements.reshape(()) if size == 1 else elements.reshape(channels)


def number(node: ir.Node, name: str, default: float) -> float:
    """A float attribute as ONNX stores it, in 32 bits: 1e-5 is not the double 1e-5."""
    return float(np.float32(gir.attribute(node, name, default)))


def finite(elements: np.ndarray, what: str) -> np.ndarray:
    """The elements in float64.

    Raises:
        Refusal: one of them is NaN or infinite.
    """
    wide = elements.astype(np.float64)
    if not np.isfinite(wide).all():
        raise Refusal(f"{what} holds NaN or infinity")
    return wide
