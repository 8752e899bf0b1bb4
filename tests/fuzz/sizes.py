"""Shapes computed in the graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from maker import Maker
from onnx import TensorProto, numpy_helper
from values import Shape, Value, column, mapped, reshaped


def with_axes(
    maker: Maker,
    operator: str,
    value: Value,
    axes: list[int],
    shapes: list[Shape],
    elements: tuple[np.ndarray, ...] | None,
) -> Value:
    if maker.opset >= 13:
        return maker.apply(operator, [value, maker.ints(*axes)], value.kind, shapes, elements)
    return maker.apply(operator, [value], value.kind, shapes, elements, axes=axes)


def reshape_to(
    maker: Maker, value: Value, targets: Sequence[np.ndarray], by: Value, *, computed: bool = False
) -> Value | None:
    shapes: list[Shape] = []
    for shape, target in zip(value.shapes, targets, strict=True):
        found = reshaped(shape, target.tolist())
        if found is None:
            return None
        if computed and any(size == 0 != shape[axis] for axis, size in enumerate(target.tolist())):
            return None  # a size that happens to be 0 means "copy": shape inference takes it for a size
        shapes.append(found)
    if len({len(shape) for shape in shapes}) > 1 or len(shapes[0]) > 6:
        return None
    return maker.apply("Reshape", [value, by], value.kind, shapes)


def reshape_by_sizes(maker: Maker, value: Value) -> None:
    """Reshape(x, Concat(size of an axis, ..., -1)), as exporters write view() and flatten(); or two axes joined."""
    rng = maker.rng
    if rng.random() < 0.4:
        place = rng.randrange(value.rank - 1)
        parts = [size_of(maker, value, axis) for axis in range(value.rank)]
        first, second = parts[place : place + 2]
        assert first.elements is not None and second.elements is not None
        elements = [a * b for a, b in zip(first.elements, second.elements, strict=True)]
        parts[place : place + 2] = [maker.apply("Mul", [first, second], "i", first.shapes, elements)]
    else:
        parts = [size_of(maker, value, axis) for axis in rng.sample(range(value.rank), rng.randint(1, value.rank - 1))]
        parts.insert(rng.randint(0, len(parts)), maker.ints(-1))
    by = joined(maker, parts)
    if by.elements is not None:
        reshape_to(maker, value, by.elements, by, computed=True)


def size_of(maker: Maker, value: Value, axis: int) -> Value:
    """A tensor of one element, the size of an axis: Gather or Slice of Shape, sometimes computed with."""
    rng = maker.rng
    if maker.opset >= 15 and rng.random() < 0.3:
        return maker.apply(
            "Shape", [value], "i", [(1,)] * maker.assignments, column(value.size(axis)), start=axis, end=axis + 1
        )
    shape = shape_of(maker, value)
    counted = axis - value.rank if rng.random() < 0.4 else axis
    if rng.random() < 0.5:
        size = maker.apply(
            "Gather", [shape, maker.ints(counted)], "i", [(1,)] * maker.assignments, column(value.size(axis))
        )
    elif rng.random() < 0.5:
        index = maker.constant(np.array(counted))
        scalars = [np.array(size) for size in value.size(axis)]
        gathered = maker.apply("Gather", [shape, index], "i", [()] * maker.assignments, scalars)
        size = with_axes(maker, "Unsqueeze", gathered, [0], [(1,)] * maker.assignments, column(value.size(axis)))
    else:
        inputs = [shape, maker.ints(axis), maker.ints(axis + 1)]
        if rng.random() < 0.5:
            inputs.append(maker.ints(0))
        size = maker.apply("Slice", inputs, "i", [(1,)] * maker.assignments, column(value.size(axis)))
    if rng.random() < 0.15:
        cast = maker.node("Cast", [size], to=TensorProto.INT32)[0]
        return maker.apply("Cast", [cast], "i", size.shapes, size.elements, to=TensorProto.INT64)
    return size


def shape_of(maker: Maker, value: Value) -> Value:
    sizes = [np.array(shape, np.int64) for shape in value.shapes]
    return maker.apply("Shape", [value], "i", [(value.rank,)] * maker.assignments, sizes)


def joined(maker: Maker, parts: list[Value]) -> Value:
    elements = None
    if all(part.elements is not None for part in parts):
        elements = [
            np.concatenate([part.elements[index] for part in parts if part.elements is not None])
            for index in range(maker.assignments)
        ]
    shapes = [(sum(part.shapes[index][0] for part in parts),) for index in range(maker.assignments)]
    return maker.apply("Concat", list(parts), "i", shapes, elements, axis=0)


def shape_arithmetic(maker: Maker) -> None:
    """Integers out of sizes, sometimes used to shape something."""
    rng = maker.rng
    value = maker.pick("f", lambda item: item.rank >= 1)
    if value is None:
        return
    size = size_of(maker, value, rng.randrange(value.rank))
    other = rng.choice((2, 3, 1, 0, -1))
    operator = rng.choice(("Add", "Mul", "Sub", "Div", "Max", "Mod"))
    if operator in ("Div", "Mod"):
        other = rng.choice((1, 2))
    if operator == "Max" and maker.opset < 12:
        return
    functions = {"Add": np.add, "Mul": np.multiply, "Sub": np.subtract, "Div": np.floor_divide, "Max": np.maximum,
                 "Mod": np.mod}  # fmt: skip
    elements = mapped(size.elements, lambda item: functions[operator](item, other))
    result = maker.apply(operator, [size, maker.ints(other)], "i", size.shapes, elements)
    if rng.random() < 0.5:
        fill(maker, result)


def fill(maker: Maker, sizes: Value) -> None:
    if sizes.elements is None or any((item < 0).any() or (item > 8).any() for item in sizes.elements):
        return
    shapes = [tuple(item.tolist()) for item in sizes.elements]
    filling = numpy_helper.from_array(np.array([maker.rng.choice((0.0, 1.0, 0.5))], np.float32))
    if maker.small(shapes):
        maker.apply("ConstantOfShape", [sizes], "f", shapes, value=filling)


def fill_like(maker: Maker) -> None:
    value = maker.pick("f", lambda item: item.rank >= 1)
    if value is not None:
        fill(maker, shape_of(maker, value))


def slice_by_size(maker: Maker) -> None:
    """x[:, : size of another], as masks are cut."""
    value = maker.pick("f", lambda item: item.rank >= 1)
    like = maker.pick("f", lambda item: item.rank >= 1)
    if value is None or like is None:
        return
    axis = maker.rng.randrange(value.rank)
    size = size_of(maker, like, maker.rng.randrange(like.rank))
    if size.elements is None:
        return
    shapes = [
        (*shape[:axis], min(shape[axis], int(item[0])), *shape[axis + 1 :])
        for shape, item in zip(value.shapes, size.elements, strict=True)
    ]
    maker.apply("Slice", [value, maker.ints(0), size, maker.ints(axis)], "f", shapes)
