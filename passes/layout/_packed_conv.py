"""Convolutions on packed channels: dense ones, those with a group for each channel, and those that read an image."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._form import is_permutable, nominal_bytes
from ._packable import Blocks, Packable, Refused, channels_of, padding
from ._packed import Operator, packed_bias, packed_weights

_SAVED = 0.3  # bytes that could be moved in the time a multiplication is quicker on packed channels
_NEEDED = 0.1  # and in that which it takes there


def convolution(node: ir.Node, blocks: Blocks) -> Packable:
    """A Conv of images as a function.

    Raises:
        Refused: it stays.
    """
    sizes, groups = _weights(node)
    outputs, inputs = sizes[0], sizes[1] * groups
    if channels_of(node.inputs[0]) != inputs or channels_of(node.outputs[0]) != outputs:
        raise Refused("its channels are not known")
    if groups > 1 and not _is_depthwise(sizes, groups) and (sizes[1] % blocks.size or outputs // groups % blocks.size):
        raise Refused(f"each of its {groups} groups makes {outputs // groups} channels of {sizes[1]}")
    if not blocks.fits(outputs, node.outputs[0]):
        raise Refused(f"its {outputs} channels are no multiple of {blocks.size}")
    if blocks.fits(inputs, node.inputs[0]):
        return _form(node, blocks, sizes, groups, plain=False)
    found = from_plain(node, blocks)
    if found is None:
        raise Refused(f"the {inputs} channels it reads are no multiple of {blocks.size}")
    return found


def from_plain(node: ir.Node, blocks: Blocks) -> Packable | None:
    """A Conv that reads its channels, less than a block, as they come; None for other nodes."""
    if not gir.is_op(node, "Conv"):
        return None
    sizes, groups = _weights(node)
    return _form(node, blocks, sizes, 1, plain=True) if groups == 1 and sizes[1] < blocks.size else None


def _weights(node: ir.Node) -> tuple[tuple[int, ...], int]:
    """Their sizes, and the number of groups."""
    tensor = gir.constant(node.inputs[1])
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if tensor is None or (bias is not None and gir.constant(bias) is None):
        raise Refused("its weights or its bias are not constant")
    sizes = tuple(int(size) for size in tensor.shape.numpy())
    if len(sizes) != 4 or not tensor.dtype.is_floating_point():
        raise Refused(f"its weights are {tensor.dtype.name} of rank {len(sizes)}")
    if not all(value is None or is_permutable(value) for value in node.inputs[1:]):
        raise Refused("its weights are shared, and a copy would be large")
    return sizes, int(gir.attribute(node, "group", 1))


def _form(node: ir.Node, blocks: Blocks, sizes: tuple[int, ...], groups: int, *, plain: bool) -> Packable:
    depthwise = _is_depthwise(sizes, groups)
    inputs, outputs = sizes[1] * groups, sizes[0]
    wide, high = inputs if plain else blocks.filled(inputs), blocks.filled(outputs)
    attributes: dict[str, Any] = {
        "dilations": list(gir.attribute(node, "dilations", (1, 1))),
        "group": high if depthwise else groups,
        "kernel_shape": list(sizes[2:]),
        "strides": list(gir.attribute(node, "strides", (1, 1))),
        **padding(node),
    }
    has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
    filled = (high, 1 if depthwise else wide // groups, *sizes[2:])
    kind = "DepthwiseConv" if depthwise else "ConvFromPlain" if plain else "Conv"
    operator = Operator(
        kind, "Conv", blocks.size, wide, high, attributes, weights=filled, has_bias=has_bias, reads_plain=plain
    )
    pack = partial(packed_weights, block=blocks.size, depthwise=depthwise, reads_plain=plain)
    constants: dict[int, partial[np.ndarray]] = {1: pack}
    if has_bias:
        constants[2] = partial(packed_bias, block=blocks.size)
    products = _elements(node.outputs[0]) * sizes[1] * sizes[2] * sizes[3]
    grown = products * filled[0] * filled[1] // (sizes[0] * sizes[1])
    costs = int(products * (_SAVED + _NEEDED)), int(grown * _NEEDED)
    used = (0, 1, 2) if has_bias else (0, 1)
    return Packable(() if plain else (0,), (0,), (), constants, operator, {}, used, costs)


def _is_depthwise(sizes: tuple[int, ...], groups: int) -> bool:
    return sizes[1] == 1 and groups == sizes[0] > 1


def _elements(value: ir.Value) -> int:
    bits = value.dtype.bitwidth if value.dtype is not None else 32
    return nominal_bytes(value) * 8 // bits
