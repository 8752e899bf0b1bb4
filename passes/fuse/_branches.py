"""The window of a convolution: which elements its taps meet, and whether another one's lie among them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._affine import Refusal


@dataclass(frozen=True, eq=False)
class Branch:
    """A convolution, or what can be written as one; tap t of output o meets element o * stride - begin + t * dilation.

    Attributes:
        weights: output channels, input channels / groups, kernel.
        bias: one number, or one per output channel; None for none.
        groups: of the channels.
        begins: how much is padded before, by axis.
        ends: how much behind.
        strides: by axis.
        dilations: by axis.
    """

    weights: np.ndarray
    bias: np.ndarray | None
    groups: int
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]

    @property
    def kernel(self) -> tuple[int, ...]:
        """The size of the kernel."""
        return self.weights.shape[2:]

    def shrinkage(self, axis: int) -> int:
        """How much smaller the output is than the input, at stride 1."""
        return (self.kernel[axis] - 1) * self.dilations[axis] - self.begins[axis] - self.ends[axis]


def of_convolution(node: ir.Node, weights: np.ndarray, groups: int, bias: np.ndarray | None) -> Branch:
    """A Conv as a branch.

    Raises:
        Refusal: how much it pads depends on the size of its input.
    """
    count = weights.ndim - 2
    strides = tuple(gir.attribute(node, "strides", (1,) * count))
    dilations = tuple(gir.attribute(node, "dilations", (1,) * count))
    mode = gir.attribute(node, "auto_pad", "NOTSET")
    pads = tuple(gir.attribute(node, "pads", (0,) * (2 * count))) if mode == "NOTSET" else (0,) * (2 * count)
    begins, ends = pads[:count], pads[count:]
    if mode.startswith("SAME"):
        if any(stride != 1 for stride in strides):
            raise Refusal(f"how much {gir.where(node)} pads depends on the size of its input")
        totals = [(size - 1) * step for size, step in zip(weights.shape[2:], dilations, strict=True)]
        small, large = tuple(total // 2 for total in totals), tuple(total - total // 2 for total in totals)
        begins, ends = (small, large) if mode == "SAME_UPPER" else (large, small)
    return Branch(weights, bias, groups, begins, ends, strides, dilations)


def by_channel(scale: np.ndarray, shift: np.ndarray | None, groups: int, axes: int) -> Branch:
    """``scale * x + shift`` per channel, as a convolution of kernel 1."""
    channels = scale.size
    if channels % groups:
        raise Refusal(f"{channels} channels do not divide into {groups} groups")
    weights = np.zeros((channels, channels // groups, *(1,) * axes))
    every = np.arange(channels)
    weights[(every, every % (channels // groups), *(0,) * axes)] = scale
    ones, zeros = (1,) * axes, (0,) * axes
    return Branch(weights, shift, groups, zeros, zeros, ones, ones)


def inside(larger: Branch, smaller: Branch) -> tuple[int, ...]:
    """Where in the kernel of the larger branch that of the smaller one stands.

    Raises:
        Refusal: nowhere, or the outputs are not known to have the same size.
    """
    if larger.groups != smaller.groups:
        raise Refusal(f"the branches have {larger.groups} and {smaller.groups} groups")
    if larger.weights.shape[:2] != smaller.weights.shape[:2]:
        raise Refusal(f"the branches have {larger.weights.shape[0]} and {smaller.weights.shape[0]} output channels")
    if larger.strides != smaller.strides:
        raise Refusal(f"the branches have strides {list(larger.strides)} and {list(smaller.strides)}")
    place: list[int] = []
    for axis, (wide, narrow) in enumerate(zip(larger.kernel, smaller.kernel, strict=True)):
        if wide > 1 and narrow > 1 and larger.dilations[axis] != smaller.dilations[axis]:
            raise Refusal("the branches have different dilations")
        if larger.shrinkage(axis) != smaller.shrinkage(axis):
            raise Refusal("the results of the branches may differ in size")
        start, rest = divmod(larger.begins[axis] - smaller.begins[axis], larger.dilations[axis] if wide > 1 else 1)
        if rest or not 0 <= start <= wide - narrow:
            raise Refusal("the window of neither branch holds that of the other")
        place.append(start)
    return tuple(place)
