"""The moments of what a product with a constant weight saw: rows of its inputs beside its outputs.

A matrix product has its rows as they are. Of a convolution a row is one patch: for each group the input channels of the
group at each place of the kernel (im2col), so a depthwise convolution has a small Gram matrix for each channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._rounding import Moments

PATCHES = 32
"""Patches for each feature of a convolution, over all samples: beyond that they repeat themselves and cost time."""

LEAST_PATCHES = 8192


@dataclass(frozen=True)
class View:
    """A product's weight as G groups with R outputs of F features each.

    Attributes:
        node: Conv, Gemm or MatMul.
        shape: of the weight as it is stored.
        groups: G.
        turned: it is stored as [features, outputs].
    """

    node: ir.Node
    shape: tuple[int, ...]
    groups: int = 1
    turned: bool = False

    @property
    def features(self) -> int:
        """F."""
        return self.shape[0] if self.turned else int(np.prod(self.shape[1:]))

    def rows(self, weight: np.ndarray) -> np.ndarray:
        """float64 [G, R, F] of a weight as it is stored."""
        flat = weight.T if self.turned else weight.reshape(self.shape[0], -1)
        return flat.astype(np.float64).reshape(self.groups, -1, self.features)

    def stored(self, rows: np.ndarray) -> np.ndarray:
        """A weight as it is stored of [G, R, F]."""
        flat = rows.reshape(-1, self.features)
        return np.ascontiguousarray(flat.T if self.turned else flat).reshape(self.shape)

    def moments(self, inputs: np.ndarray, outputs: np.ndarray, patches: int, rng: np.random.Generator) -> Moments:
        """Of one sample.

        Args:
            inputs: of the node.
            outputs: what it should give.
            patches: how many patches of a convolution are looked at, at most.
            rng: draws them.
        """
        if self.node.op_type == "Conv":
            x, y = self._patches(inputs, outputs, patches, rng)
        else:
            x = inputs.reshape(1, -1, inputs.shape[-1]).swapaxes(1, 2)
            y = outputs.reshape(1, -1, outputs.shape[-1]).swapaxes(1, 2)
        # products in float32 of one sample, sums of samples in float64
        return Moments(
            (x @ x.swapaxes(1, 2)).astype(np.float64),
            (y @ x.swapaxes(1, 2)).astype(np.float64),
            np.einsum("grn,grn->gr", y, y, dtype=np.float64),
            x.sum(axis=-1, dtype=np.float64),
            y.sum(axis=-1, dtype=np.float64),
            x.shape[-1],
        )

    def _patches(
        self, inputs: np.ndarray, outputs: np.ndarray, patches: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """[G, F, N] and [G, R, N] at N places of the result, all of them or drawn."""
        kernel = self.shape[2:]
        spatial = outputs.shape[2:]
        strides, dilations, begin, end = _geometry(self.node, kernel, inputs.shape[2:], spatial)
        padded = np.pad(inputs, [(0, 0), (0, 0), *zip(begin, end, strict=True)])
        reach = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
        axes = tuple(range(2, inputs.ndim))
        windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=axes)
        steps = [slice(None, None, stride) for stride in strides]
        windows = windows[(slice(None), slice(None), *steps, *(slice(None, None, dilation) for dilation in dilations))]
        total = len(inputs) * int(np.prod(spatial))
        chosen = np.arange(total) if total <= patches else np.sort(rng.choice(total, patches, replace=False))
        image, *place = np.unravel_index(chosen, (len(inputs), *spatial))
        x = windows[(image, slice(None), *place)]  # [N, C, kernel]
        y = outputs[(image, slice(None), *place)]  # [N, outputs]
        x = x.reshape(len(chosen), self.groups, -1).transpose(1, 2, 0)
        return np.ascontiguousarray(x), np.ascontiguousarray(y.T).reshape(self.groups, -1, len(chosen))


def view_of(node: ir.Node, weight: np.ndarray) -> View | str:
    """How a product's weight is looked at; a reason when it is not."""
    if gir.is_op(node, "Conv"):
        return View(node, weight.shape, gir.attribute(node, "group", 1))
    if not gir.is_op(node, "Gemm", "MatMul"):
        return f"rounded to nearest: Conv, Gemm and MatMul are known, not {node.op_type}"
    if weight.ndim != 2:
        return f"rounded to nearest: its weight has the shape {list(weight.shape)}"
    return View(node, weight.shape, turned=gir.is_op(node, "MatMul") or not gir.attribute(node, "transB", 0))


def _geometry(
    node: ir.Node, kernel: Sequence[int], before: Sequence[int], after: Sequence[int]
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Strides, dilations, and the zeros at the begin and the end of each axis."""
    count = len(kernel)
    strides = list(gir.attribute(node, "strides", [1] * count))
    dilations = list(gir.attribute(node, "dilations", [1] * count))
    auto = gir.attribute(node, "auto_pad", "NOTSET")
    if auto == "NOTSET":
        pads = list(gir.attribute(node, "pads", [0] * (2 * count)))
        return strides, dilations, pads[:count], pads[count:]
    if auto == "VALID":
        return strides, dilations, [0] * count, [0] * count
    total = [
        max((size - 1) * stride + (extent - 1) * dilation + 1 - given, 0)
        for size, stride, extent, dilation, given in zip(after, strides, kernel, dilations, before, strict=True)
    ]
    small, large = [item // 2 for item in total], [item - item // 2 for item in total]
    return (strides, dilations, small, large) if auto == "SAME_UPPER" else (strides, dilations, large, small)
