"""Convolutions, matrix products, poolings, and what stands around them."""

from __future__ import annotations

import numpy as np
from maker import Maker
from values import Shape, Value, broadcast


def conv(maker: Maker) -> None:
    rng = maker.rng
    value = maker.pick("f", lambda item: item.rank in (3, 4) and len(set(item.size(1))) == 1 and item.shapes[0][1] > 0)
    if value is None:
        return
    channels, spatial = value.shapes[0][1], value.rank - 2
    out = rng.choice((1, 2, 4))
    transposed = rng.random() < 0.2
    group = channels if rng.random() < 0.2 else 1
    out = out * group
    kernel = tuple(rng.choice((1, 1, 2, 3)) for _ in range(spatial))
    pads = [rng.choice((0, 0, 1)) for _ in range(2 * spatial)] if rng.random() < 0.4 else [0] * (2 * spatial)
    stride = rng.choice((1, 1, 1, 2))
    shapes: list[Shape] = []
    for shape in value.shapes:
        sizes: list[int] = []
        for axis, size in enumerate(shape[2:]):
            both = pads[axis] + pads[axis + spatial]
            if transposed:
                sizes.append(stride * (size - 1) + kernel[axis] - both if size else 0)
            else:
                sizes.append((size + both - kernel[axis]) // stride + 1)
        if min(sizes) < 1 and 0 not in shape:
            return
        shapes.append((shape[0], out, *(max(size, 0) for size in sizes)))
    if not maker.small(shapes):
        return
    weights = (channels, out // group, *kernel) if transposed else (out, channels // group, *kernel)
    inputs: list[Value | str] = [value, maker.constant(maker.floats(weights))]
    if rng.random() < 0.5:
        inputs.append(maker.constant(maker.floats((out,))))
    attributes: dict[str, object] = {"group": group, "strides": [stride] * spatial}
    if any(pads) or rng.random() < 0.5:
        attributes["pads"] = pads
    if rng.random() < 0.5:
        attributes["kernel_shape"] = list(kernel)
    result = maker.apply("ConvTranspose" if transposed else "Conv", inputs, "f", shapes, **attributes)
    if rng.random() < 0.5:
        batchnorm_of(maker, result)


def batchnorm(maker: Maker) -> None:
    value = maker.pick("f", lambda item: item.rank >= 2 and len(set(item.size(1))) == 1 and item.shapes[0][1] > 0)
    if value is not None:
        batchnorm_of(maker, value)


def batchnorm_of(maker: Maker, value: Value) -> None:
    channels = value.shapes[0][1]
    scale, shift, mean = (maker.constant(maker.floats((channels,))) for _ in range(3))
    variance = maker.constant(np.abs(maker.floats((channels,))) + np.float32(0.5))
    maker.apply("BatchNormalization", [value, scale, shift, mean, variance], "f", value.shapes)


def matmul(maker: Maker) -> None:
    rng = maker.rng
    value = maker.pick("f", lambda item: item.rank >= 1 and len(set(item.size(-1))) == 1 and item.shapes[0][-1] > 0)
    if value is None:
        return
    depth, out = value.shapes[0][-1], rng.choice((1, 2, 3, 4))
    shapes = [(*shape[:-1], out) for shape in value.shapes]
    if not maker.small(shapes):
        return
    if value.rank == 2 and rng.random() < 0.4:
        transposed = rng.random() < 0.5
        inputs: list[Value | str] = [
            value,
            maker.constant(maker.floats((out, depth) if transposed else (depth, out))),
        ]
        if rng.random() < 0.6:
            inputs.append(maker.constant(maker.floats(rng.choice(((out,), (1, out), (1,), ())))))
        alpha, beta = rng.choice(((1.0, 1.0), (0.5, 2.0)))
        maker.apply("Gemm", inputs, "f", shapes, transB=int(transposed), alpha=alpha, beta=beta)
        return
    result = maker.apply("MatMul", [value, maker.constant(maker.floats((depth, out)))], "f", shapes)
    if rng.random() < 0.6:
        bias = maker.floats(rng.choice(((out,), (1, out), (1,), (1, 1, out))))
        wide = broadcast(result.shapes, (bias.shape,) * maker.assignments)
        if wide is not None:
            operands = [result, maker.constant(bias)]
            rng.shuffle(operands)
            maker.apply("Add", operands, "f", wide)


def matmul_of_two(maker: Maker) -> None:
    first = maker.pick("f", lambda item: item.rank >= 2)
    if first is None:
        return
    second = maker.pick("f", lambda item: item.rank >= 2 and item.size(-2) == first.size(-1))
    if second is None:
        return
    batch = broadcast([item[:-2] for item in first.shapes], [item[:-2] for item in second.shapes])
    if batch is None or any(0 in shape for shape in (*first.shapes, *second.shapes)):
        return
    shapes = [(*outer, a[-2], b[-1]) for outer, a, b in zip(batch, first.shapes, second.shapes, strict=True)]
    if maker.small(shapes):
        maker.apply("MatMul", [first, second], "f", shapes)


def pool(maker: Maker) -> None:
    rng = maker.rng
    value = maker.pick("f", lambda item: item.rank in (3, 4) and all(min(shape) > 0 for shape in item.shapes))
    if value is None:
        return
    spatial = value.rank - 2
    if rng.random() < 0.25:
        ones = [(*shape[:2], *(1,) * spatial) for shape in value.shapes]
        maker.apply(rng.choice(("GlobalAveragePool", "GlobalMaxPool")), [value], "f", ones)
        return
    if rng.random() < 0.5:
        padded = pad_of(maker, value, spatial_only=True)
        value = padded if padded is not None else value
    kernel = [rng.choice((1, 2, 2, 3)) for _ in range(spatial)]
    stride = rng.choice((1, 2))
    pads = [rng.choice((0, 0, 1)) if size > 1 else 0 for size in kernel * 2]
    ceil = int(rng.random() < 0.2 and stride <= min(kernel) and not any(pads))
    shapes: list[Shape] = []
    for shape in value.shapes:
        sizes: list[int] = []
        for axis, size in enumerate(shape[2:]):
            room = size + pads[axis] + pads[axis + spatial] - kernel[axis]
            sizes.append((-(-room // stride) if ceil else room // stride) + 1)
            if room < 0:
                return
        shapes.append((*shape[:2], *sizes))
    operator = rng.choice(("AveragePool", "MaxPool", "MaxPool"))
    attributes: dict[str, object] = {"kernel_shape": kernel, "strides": [stride] * spatial, "ceil_mode": ceil}
    if any(pads):
        attributes["pads"] = pads
    if operator == "AveragePool" and rng.random() < 0.5:
        attributes["count_include_pad"] = 1
    maker.apply(operator, [value], "f", shapes, **attributes)


def pad(maker: Maker) -> None:
    value = maker.pick("f", lambda item: item.rank >= 1)
    if value is not None:
        padded = pad_of(maker, value, spatial_only=maker.rng.random() < 0.5)
        if padded is not None and maker.rng.random() < 0.3:
            pad_of(maker, padded, spatial_only=True)


def pad_of(maker: Maker, value: Value, *, spatial_only: bool) -> Value | None:
    rng = maker.rng
    first = 2 if spatial_only and value.rank > 2 else 0
    pads = [rng.choice((0, 0, 1, 2)) if axis % value.rank >= first else 0 for axis in range(2 * value.rank)]
    shapes = [
        tuple(size + pads[axis] + pads[axis + value.rank] for axis, size in enumerate(shape)) for shape in value.shapes
    ]
    if not maker.small(shapes):
        return None
    inputs: list[Value | str] = [value, maker.ints(*pads)]
    if rng.random() < 0.5:
        inputs.append(maker.constant(np.array(rng.choice((0.0, 0.0, 1.0)), np.float32)))
    mode = "constant"
    if rng.random() < 0.15 and all(min(shape) > 2 for shape in value.shapes):
        mode, inputs = rng.choice(("reflect", "edge")), inputs[:2]
    return maker.apply("Pad", inputs, "f", shapes, mode=mode)
