"""Gradients through operators that slide a window: convolutions and pools.

    y = Conv(x, W)        dx = Conv(dy, W turned by 180 degrees, channels exchanged), with a stride ConvTranspose(dy, W)

MaxPool hands a number in several windows the gradient of one of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from .trail import Shape, Trail


def conv(trail: Trail, node: ir.Node, gradient: ir.Value, index: int) -> ir.Value | None:
    """The weight turned and its channels exchanged; with a stride, or zeros cut away, a ConvTranspose."""
    weight = gir.array(node.inputs[1])
    if index or weight is None:
        return None
    kernel = weight.shape[2:]
    strides = gir.attribute(node, "strides", [1] * len(kernel))
    dilations = gir.attribute(node, "dilations", [1] * len(kernel))
    group = gir.attribute(node, "group", 1)
    before, after = trail.shape(node.inputs[0])[2:], trail.shape(node.outputs[0])[2:]
    reach = [step * (size - 1) for step, size in zip(dilations, kernel, strict=True)]
    pads = _pads(node, before, after, strides, reach)
    axes = range(len(kernel))
    backward = [reach[axis] - pads[axis] for axis in axes] + [reach[axis] - pads[axis + len(kernel)] for axis in axes]
    if all(step == 1 for step in strides) and min(backward) >= 0:
        split = weight.reshape(group, weight.shape[0] // group, *weight.shape[1:]).swapaxes(1, 2)
        turned = np.flip(split.reshape(-1, *split.shape[2:]), axis=tuple(range(2, weight.ndim)))
        turned_value = trail.constant(np.ascontiguousarray(turned))
        return trail.op("Conv", [gradient, turned_value], group=group, dilations=list(dilations), pads=backward)
    reached = [
        strides[axis] * (after[axis] - 1) + reach[axis] + 1 - pads[axis] - pads[axis + len(kernel)] for axis in axes
    ]
    beyond = [size - end for size, end in zip(before, reached, strict=True)]
    if any(more < 0 or more >= max(step, 1) for more, step in zip(beyond, strides, strict=True)):
        return None
    return trail.op(
        "ConvTranspose",
        [gradient, trail.constant(weight)],
        group=group,
        dilations=list(dilations),
        strides=list(strides),
        pads=pads,
        output_padding=beyond,
    )


def _pads(node: ir.Node, before: Shape, after: Shape, strides: Sequence[int], reach: Sequence[int]) -> list[int]:
    """Zeros at the starts, then at the ends, of the axes."""
    automatic = gir.attribute(node, "auto_pad", "NOTSET")
    if automatic == "NOTSET":
        return list(gir.attribute(node, "pads", [0] * (2 * len(before))))
    if automatic == "VALID":
        return [0] * (2 * len(before))
    totals = [
        max((out - 1) * step + far + 1 - size, 0)
        for out, step, far, size in zip(after, strides, reach, before, strict=True)
    ]
    less, more = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return less + more if automatic == "SAME_UPPER" else more + less


def conv_transpose(trail: Trail, node: ir.Node, gradient: ir.Value, index: int) -> ir.Value | None:
    """A Conv with the same weight."""
    weight = gir.array(node.inputs[1])
    if index or weight is None or gir.attribute(node, "auto_pad", "NOTSET") != "NOTSET":
        return None
    if "output_shape" in node.attributes:
        return None
    kept = {name: node.attributes[name].value for name in ("group", "strides", "dilations") if name in node.attributes}
    pads = gir.attribute(node, "pads", [0] * (2 * (weight.ndim - 2)))
    return trail.op("Conv", [gradient, trail.constant(weight)], pads=list(pads), **kept)


def average_pool(trail: Trail, node: ir.Node, gradient: ir.Value, index: int) -> ir.Value | None:
    """Each number of a window gets its share."""
    if gir.attribute(node, "ceil_mode", 0) or "dilations" in node.attributes:
        return None
    shape, after = trail.shape(node.inputs[0]), trail.shape(node.outputs[0])
    kernel = gir.attribute(node, "kernel_shape", [])
    strides = gir.attribute(node, "strides", [1] * len(kernel))
    pads = _pads(node, shape[2:], after[2:], strides, [size - 1 for size in kernel])
    counts = np.ones(())
    for axis, size in enumerate(kernel):
        starts = np.arange(after[axis + 2]) * strides[axis] - pads[axis]
        if gir.attribute(node, "count_include_pad", 0):
            here = np.full(len(starts), size)
        else:
            here = np.minimum(starts + size, shape[axis + 2]) - np.maximum(starts, 0)
        counts = counts[..., None] * here
    each = trail.op("Div", [gradient, trail.constant(counts)])
    ones = trail.constant(np.ones((shape[1], 1, *kernel)))
    axes = range(len(kernel))
    reached = [
        strides[axis] * (after[axis + 2] - 1) + kernel[axis] - pads[axis] - pads[axis + len(kernel)] for axis in axes
    ]
    beyond = [size - end for size, end in zip(shape[2:], reached, strict=True)]
    if any(more < 0 or more >= step for more, step in zip(beyond, strides, strict=True)):
        return None
    return trail.op(
        "ConvTranspose", [each, ones], group=shape[1], strides=list(strides), pads=pads, output_padding=beyond
    )


def max_pool(trail: Trail, node: ir.Node, gradient: ir.Value, index: int) -> ir.Value | None:
    """Each window's gradient goes to the number that won it, by its place in the whole tensor."""
    if gir.attribute(node, "storage_order", 0):
        return None
    again = ir.node("MaxPool", node.inputs, dict(node.attributes), num_outputs=2)
    trail.graph.append(again)
    shape = trail.shape(node.inputs[0])
    flat = trail.op(
        "ScatterElements",
        [
            trail.constant(np.zeros(int(np.prod(shape)), np.float32)),
            trail.reshaped(again.outputs[1], (-1,)),
            trail.reshaped(gradient, (-1,)),
        ],
    )
    return trail.reshaped(flat, shape)
