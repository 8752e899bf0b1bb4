"""Operators that move elements: transposes, reshapes, slices, concatenations."""

from __future__ import annotations

import numpy as np
from maker import Maker
from onnx import numpy_helper
from sizes import joined, reshape_by_sizes, reshape_to, shape_of, size_of, with_axes
from values import Value, broadcast, flat, mapped, positions


def transpose(maker: Maker) -> None:
    value = maker.pick(maker.rng.choice("ffffi"), lambda item: item.rank >= 2)
    if value is None:
        return
    order = list(range(value.rank))
    maker.rng.shuffle(order)
    if maker.rng.random() < 0.15:
        order.sort()
    shapes = [tuple(shape[axis] for axis in order) for shape in value.shapes]
    result = maker.apply("Transpose", [value], value.kind, shapes, perm=order)
    if maker.rng.random() < 0.4:
        back = [order.index(axis) for axis in range(value.rank)]
        if maker.rng.random() < 0.3:
            result = maker.apply("Relu", [result], "f", shapes) if value.kind == "f" else result
        maker.apply("Transpose", [result], value.kind, value.shapes, perm=back)


def squeeze(maker: Maker) -> None:
    rng = maker.rng
    value = maker.pick(rng.choice("fffi"))
    if value is None:
        return
    ones = [axis for axis in range(value.rank) if set(value.size(axis)) == {1}]
    if ones and rng.random() < 0.5:
        axes = rng.sample(ones, rng.randint(1, len(ones)))
        shapes = [tuple(size for axis, size in enumerate(shape) if axis not in axes) for shape in value.shapes]
        elements = mapped(value.elements, lambda item: np.squeeze(item, tuple(axes)))
        axes = [axis - value.rank if rng.random() < 0.3 else axis for axis in axes]
        with_axes(maker, "Squeeze", value, axes, shapes, elements)
        return
    if value.rank > 4:
        return
    count = rng.choice((1, 1, 2))
    axes = sorted(rng.sample(range(value.rank + count), count))
    shapes = []
    for shape in value.shapes:
        sizes = list(shape)
        for axis in axes:
            sizes.insert(axis, 1)
        shapes.append(tuple(sizes))
    elements = mapped(value.elements, lambda item: np.expand_dims(item, tuple(axes)))
    axes = [axis - (value.rank + count) if rng.random() < 0.3 else axis for axis in axes]
    with_axes(maker, "Unsqueeze", value, axes, shapes, elements)


def reshape(maker: Maker) -> None:
    """To a constant target with 0 and -1, or to sizes taken from the value itself."""
    rng = maker.rng
    value = maker.pick(rng.choice("fffffi"))
    if value is None:
        return
    if rng.random() < 0.12 and value.rank:
        axis = rng.randint(0, value.rank)
        matrices = [flat(shape, axis) for shape in value.shapes]
        maker.apply("Flatten", [value], value.kind, matrices, axis=axis)
        return
    if rng.random() < 0.4 and value.rank >= 2:
        reshape_by_sizes(maker, value)
        return
    target: list[int] = []
    pieces = list(range(value.rank))
    while pieces:
        axis = pieces.pop(0)
        sizes = value.size(axis)
        fixed = len(set(sizes)) == 1
        roll = rng.random()
        if len(target) == axis and roll < 0.4:
            target.append(0)
        elif fixed and sizes[0] in (4, 6) and roll < 0.6:
            target += [2, sizes[0] // 2]
        elif fixed and pieces and len(set(value.size(pieces[0]))) == 1 and roll < 0.75:
            target.append(sizes[0] * value.size(pieces.pop(0))[0])
        elif fixed and (roll < 0.9 or -1 in target):
            target.append(sizes[0])
        elif -1 not in target:
            target.append(-1)
            if pieces and rng.random() < 0.4:
                pieces.pop(0)
        else:
            return
    if rng.random() < 0.15:
        target.append(1)
    reshape_to(maker, value, [np.array(target, np.int64)] * maker.assignments, maker.ints(*target))


def expand(maker: Maker) -> None:
    """Expand to a constant, to another's shape, or by Where(Equal(shape, -1), 1, shape)."""
    rng = maker.rng
    value = maker.pick("f", lambda item: item.rank <= 4)
    like = maker.pick("f", lambda item: item.rank >= 1)
    if value is None or like is None:
        return
    roll = rng.random()
    if roll < (0.35 if maker.focus is None else 0.8):
        target = [rng.choice((1, 1, 2, 3)) for _ in range(rng.randint(1, 3))]
        by = maker.ints(*target)
    elif roll < 0.6:
        by = shape_of(maker, like)
    else:
        parts = [
            size_of(maker, like, axis) if rng.random() < 0.6 else maker.ints(rng.choice((-1, 1)))
            for axis in range(like.rank)
        ]
        wanted = joined(maker, parts)
        if wanted.elements is None:
            return
        length = wanted.shapes[0]
        filling = numpy_helper.from_array(np.array([1], np.int64))
        ones = maker.apply(
            "ConstantOfShape", [maker.ints(length[0])], "i", wanted.shapes,
            [np.ones(length, np.int64)] * maker.assignments, value=filling,
        )  # fmt: skip
        minus = maker.apply("Mul", [ones, maker.ints(-1)], "i", wanted.shapes, mapped(ones.elements, np.negative))
        same = maker.node("Equal", [wanted, minus])[0]
        elements = mapped(wanted.elements, lambda item: np.where(item == -1, 1, item))
        by = maker.apply("Where", [same, ones, wanted], "i", wanted.shapes, elements)
    if by.elements is None:
        return
    shapes = broadcast(value.shapes, [tuple(item.tolist()) for item in by.elements])
    if shapes is not None and maker.small(shapes):
        maker.apply("Expand", [value, by], "f", shapes)


def cut(maker: Maker) -> None:
    rng = maker.rng
    value = maker.pick(rng.choice("fffi"), lambda item: item.rank >= 1)
    if value is None:
        return
    axes = rng.sample(range(value.rank), rng.randint(1, min(2, value.rank)))
    large = 2**63 - 1
    starts = [rng.choice((0, 0, 1, -2, -1, 2)) for _ in axes]
    ends = [rng.choice((large, 2, 3, -1, 4, 1)) for _ in axes]
    steps = [rng.choice((1, 1, 1, 1, 2, -1)) for _ in axes]
    starts = [large if step < 0 and rng.random() < 0.5 else start for start, step in zip(starts, steps, strict=True)]
    ends = [-large if step < 0 else end for end, step in zip(ends, steps, strict=True)]
    chosen: dict[int, tuple[int, int, int]] = dict(zip(axes, zip(starts, ends, steps, strict=True), strict=True))

    def sliced(item: np.ndarray) -> np.ndarray:
        for axis, bounds in chosen.items():
            item = np.take(item, list(positions(item.shape[axis], *bounds)), axis)
        return item

    shapes = [sliced(np.empty(shape, np.bool_)).shape for shape in value.shapes]
    named = [axis - value.rank if rng.random() < 0.3 else axis for axis in axes]
    inputs: list[Value | str] = [value, maker.ints(*starts), maker.ints(*ends), maker.ints(*named)]
    if any(step != 1 for step in steps) or rng.random() < 0.3:
        inputs.append(maker.ints(*steps))
    maker.apply("Slice", inputs, value.kind, shapes, mapped(value.elements, sliced))


def concat(maker: Maker) -> None:
    rng = maker.rng
    value = maker.pick(rng.choice("ffffi"), lambda item: item.rank >= 1)
    if value is None:
        return
    axis = rng.randrange(value.rank)

    def fits(item: Value) -> bool:
        others = (position for position in range(value.rank) if position != axis)
        return item.rank == value.rank and all(item.size(place) == value.size(place) for place in others)

    parts: list[Value] = [value]
    for _ in range(rng.choice((0, 1, 1, 2))):
        part = maker.pick(value.kind, fits)
        assert part is not None
        parts.append(part)
    rng.shuffle(parts)
    shapes = [
        (*shape[:axis], sum(part.shapes[index][axis] for part in parts), *shape[axis + 1 :])
        for index, shape in enumerate(value.shapes)
    ]
    if maker.small(shapes):
        maker.apply("Concat", list(parts), value.kind, shapes, axis=axis - value.rank if rng.random() < 0.3 else axis)


def split(maker: Maker) -> None:
    rng = maker.rng
    value = maker.pick("f", lambda item: any(set(item.size(axis)) in ({4}, {6}, {2}) for axis in range(item.rank)))
    if value is None:
        return
    axis = next(axis for axis in range(value.rank) if set(value.size(axis)) in ({4}, {6}, {2}))
    size = value.shapes[0][axis]
    even = rng.random() < 0.5
    lengths = [size // 2, size // 2] if even else [1, size - 1]
    attributes: dict[str, object] = {"axis": axis}
    inputs: list[Value | str] = [value]
    if not even or rng.random() < 0.5:
        if maker.opset >= 13:
            inputs.append(maker.ints(*lengths))
        else:
            attributes["split"] = lengths
    elif maker.opset >= 18:
        attributes["num_outputs"] = 2
    names = maker.node("Split", inputs, 2, **attributes)
    halves = [
        maker.add(name, "f", [(*shape[:axis], length, *shape[axis + 1 :]) for shape in value.shapes])
        for name, length in zip(names, lengths, strict=True)
    ]
    if rng.random() < 0.4:
        if rng.random() < 0.5:
            halves.reverse()
        maker.apply("Concat", list(halves), "f", value.shapes, axis=axis)


def gather(maker: Maker) -> None:
    rng = maker.rng
    value = maker.pick(rng.choice("fi"), lambda item: item.rank >= 1 and all(shape[0] > 0 for shape in item.shapes))
    if value is None:
        return
    index = np.array(rng.choice((0, -1, [0], [0, 0], [[0, -1]])), np.int64)
    shapes = [(*index.shape, *shape[1:]) for shape in value.shapes]
    elements = mapped(value.elements, lambda item: np.take(item, index, 0))
    maker.apply("Gather", [value, maker.constant(index)], value.kind, shapes, elements, axis=0)


def tile(maker: Maker) -> None:
    value = maker.pick("f", lambda item: 1 <= item.rank <= 3)
    if value is None:
        return
    repeats = [maker.rng.choice((1, 1, 2)) for _ in range(value.rank)]
    shapes = [tuple(size * times for size, times in zip(shape, repeats, strict=True)) for shape in value.shapes]
    if maker.small(shapes):
        maker.apply("Tile", [value, maker.ints(*repeats)], "f", shapes)
