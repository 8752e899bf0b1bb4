"""What exporters write for one operator of a framework: activations, normalisations, softmax, attention, siblings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from maker import Maker
from values import Value, broadcast


def gelu(maker: Maker) -> None:
    """The erf form, its factors in any order; or the tanh form."""
    rng = maker.rng
    x = maker.pick()
    if x is None:
        return
    if rng.random() < 0.7:
        scaled = _one_of(maker, x, ("Div", 2**0.5), ("Mul", 0.5**0.5))
        gate = maker.apply("Erf", [scaled], "f", x.shapes)
    else:
        cube = maker.apply("Pow", [x, _number(maker, 3.0)], "f", x.shapes)
        inner = _two(maker, "Add", x, _two(maker, "Mul", cube, _number(maker, 0.044715)))
        gate = maker.apply("Tanh", [_two(maker, "Mul", inner, _number(maker, (2 / np.pi) ** 0.5))], "f", x.shapes)
    plus = _two(maker, "Add", gate, _number(maker, 1.0))
    if rng.random() < 0.5:
        _two(maker, "Mul", _two(maker, "Mul", x, plus), _number(maker, 0.5))
    else:
        _two(maker, "Mul", _two(maker, "Mul", x, _number(maker, 0.5)), plus)


def gated(maker: Maker) -> None:
    """Swish, QuickGelu, Mish: x times a function of x."""
    rng = maker.rng
    x = maker.pick()
    if x is None:
        return
    if rng.random() < 0.3:
        gate = maker.apply("Tanh", [maker.apply("Softplus", [x], "f", x.shapes)], "f", x.shapes)
    else:
        inner = _two(maker, "Mul", x, _number(maker, 1.702)) if rng.random() < 0.5 else x
        gate = maker.apply("Sigmoid", [inner], "f", x.shapes)
    _two(maker, "Mul", x, gate)


def layer_norm(maker: Maker) -> None:
    """LayerNormalization or RMSNormalization over the last axis, as frameworks decompose it."""
    rng = maker.rng
    x = maker.pick("f", lambda item: item.rank >= 2 and len(set(item.size(-1))) == 1 and min(map(min, item.shapes)) > 0)
    if x is None:
        return
    centred = x if rng.random() < 0.4 else _two(maker, "Sub", x, _mean(maker, x))
    if rng.random() < 0.5:
        square = maker.apply("Pow", [centred, _number(maker, 2.0)], "f", x.shapes)
    else:
        square = _two(maker, "Mul", centred, centred)
    variance = _two(maker, "Add", _mean(maker, square), _number(maker, 1e-2))
    root = maker.apply("Sqrt", [variance], "f", variance.shapes)
    if rng.random() < 0.5:
        y = _two(maker, "Div", centred, root)
    else:
        y = _two(maker, "Mul", centred, maker.apply("Reciprocal", [root], "f", root.shapes))
    size = (x.size(-1)[0],)
    if rng.random() < 0.8:
        y = _two(maker, "Mul", y, maker.constant(maker.floats(size)))
        if rng.random() < 0.7:
            _two(maker, "Add", y, maker.constant(maker.floats(size)))


def softmax_by_hand(maker: Maker) -> None:
    """Exp(x - max) / sum."""
    x = maker.pick("f", lambda item: item.rank >= 1 and min(map(min, item.shapes)) > 0)
    if x is None:
        return
    if maker.opset >= 18:
        top = maker.apply("ReduceMax", [x, maker.ints(-1)], "f", _kept(x), keepdims=1)
    else:
        top = maker.apply("ReduceMax", [x], "f", _kept(x), axes=[-1], keepdims=1)
    powers = maker.apply("Exp", [_two(maker, "Sub", x, top)], "f", x.shapes)
    if maker.opset >= 13:
        total = maker.apply("ReduceSum", [powers, maker.ints(-1)], "f", _kept(x), keepdims=1)
    else:
        total = maker.apply("ReduceSum", [powers], "f", _kept(x), axes=[-1], keepdims=1)
    _two(maker, "Div", powers, total)


def attention(maker: Maker) -> None:
    """Three projections of one tensor of rank 3, heads split off, scores scaled and masked, heads joined."""
    rng = maker.rng
    if maker.opset < 13 or maker.scope.depth > 1:
        return
    x = maker.pick("f", lambda item: item.rank == 3 and len(set(item.size(-1))) == 1 and min(item.size(1)) > 0)
    if x is None:
        return
    hidden, heads, size = x.size(-1)[0], 2, rng.choice((2, 3))
    if not hidden:
        return
    q, k, v = (_heads(maker, x, hidden, heads, size) for _ in range(3))
    turned = [(*shape[:2], shape[3], shape[2]) for shape in k.shapes]
    scores_shapes = [(*shape[:3], shape[2]) for shape in q.shapes]
    if not maker.small(scores_shapes):
        return
    scale = size**-0.5
    if rng.random() < 0.4:
        q = _two(maker, "Mul", q, _number(maker, scale**0.5))
        k = _two(maker, "Mul", k, _number(maker, scale**0.5))
    key = maker.apply("Transpose", [k], "f", turned, perm=[0, 1, 3, 2])
    scores = maker.apply("MatMul", [q, key], "f", scores_shapes)
    if rng.random() < 0.6:
        scores = _one_of(maker, scores, ("Div", size**0.5), ("Mul", scale))
    if rng.random() < 0.4:
        mask = maker.pick("f", lambda item: broadcast(scores_shapes, item.shapes) == scores_shapes)
        scores = scores if mask is None else _two(maker, "Add", scores, mask)
    weights = maker.apply("Softmax", [scores], "f", scores_shapes, axis=-1)
    mixed = maker.apply("MatMul", [weights, v], "f", q.shapes)
    rows = [(shape[0], shape[2], heads, size) for shape in q.shapes]
    back = maker.apply("Transpose", [mixed], "f", rows, perm=[0, 2, 1, 3])
    joined = [(*shape[:2], heads * size) for shape in rows]
    maker.apply("Reshape", [back, maker.ints(0, 0, heads * size)], "f", joined)


def siblings(maker: Maker) -> None:
    """Two or three products, or convolutions, of one tensor; added up sometimes."""
    rng = maker.rng
    if rng.random() < 0.5:
        x = maker.pick("f", lambda item: item.rank >= 2 and len(set(item.size(-1))) == 1 and item.size(-1)[0] > 0)
        if x is None:
            return
        parts = [_project(maker, x, x.size(-1)[0], rng.choice((2, 3, 3))) for _ in range(rng.choice((2, 3)))]
    else:
        x = maker.pick(
            "f", lambda item: item.rank == 4 and len(set(item.size(1))) == 1 and min(map(min, item.shapes)) > 0
        )
        if x is None:
            return
        channels = x.size(1)[0]
        out = rng.choice((2, channels))
        parts = []
        for _ in range(2):
            kernel = rng.choice((1, 3))
            weights = maker.constant(maker.floats((out, channels, kernel, kernel)))
            shapes = [(shape[0], out, *shape[2:]) for shape in x.shapes]
            parts.append(maker.apply("Conv", [x, weights], "f", shapes, pads=[kernel // 2] * 4))
    if rng.random() < 0.5 and parts[0].shapes == parts[1].shapes:
        _two(maker, "Add", parts[0], parts[1])


def pixel_shuffle(maker: Maker) -> None:
    """Reshape, Transpose, Reshape: DepthToSpace or SpaceToDepth."""
    rng = maker.rng
    fixed = [
        value
        for value in maker.scope.values
        if value.kind == "f" and value.rank == 4 and all(len(set(value.size(axis))) == 1 for axis in (1, 2, 3))
    ]
    if not fixed:
        return
    x = rng.choice(fixed)
    channels, height, width = x.shapes[0][1:]
    if channels and channels % 4 == 0:
        order = rng.choice(((1, 4, 2, 5, 3), (3, 4, 1, 5, 2)))
        inner = (2, 2, channels // 4, height, width) if order[0] == 3 else (channels // 4, 2, 2, height, width)
        outer = (channels // 4, 2 * height, 2 * width)
    elif height and width and height % 2 == 0 and width % 2 == 0:
        inner, order = (channels, height // 2, 2, width // 2, 2), (3, 5, 1, 2, 4)
        outer = (channels * 4, height // 2, width // 2)
    else:
        return
    if 0 in x.size(0):
        return
    split = maker.apply("Reshape", [x, maker.ints(-1, *inner)], "f", [(shape[0], *inner) for shape in x.shapes])
    perm = [0, *order]
    turned = maker.apply("Transpose", [split], "f", [tuple(s[axis] for axis in perm) for s in split.shapes], perm=perm)
    maker.apply("Reshape", [turned, maker.ints(-1, *outer)], "f", [(shape[0], *outer) for shape in x.shapes])


def einsum(maker: Maker) -> None:
    """A product of two tensors over their last axes, or a transposition."""
    rng = maker.rng
    x = maker.pick("f", lambda item: 2 <= item.rank <= 4)
    if x is None or maker.opset < 12:
        return
    letters = "abcd"[: x.rank]
    if rng.random() < 0.5:
        order = rng.sample(range(x.rank), x.rank)
        result = "".join(letters[axis] for axis in order)
        shapes = [tuple(shape[axis] for axis in order) for shape in x.shapes]
        maker.apply("Einsum", [x], "f", shapes, equation=f"{letters}->{result}")
    elif len(set(x.size(-1))) == 1 and x.size(-1)[0]:  # a sum of nothing ends the process (ONNX Runtime 1.31)
        weights = maker.constant(maker.floats((3, x.size(-1)[0])))
        result = letters[:-1] + "z"
        shapes = [(*shape[:-1], 3) for shape in x.shapes]
        maker.apply("Einsum", [x, weights], "f", shapes, equation=f"{letters},z{letters[-1]}->{result}")


def _heads(maker: Maker, x: Value, hidden: int, heads: int, size: int) -> Value:
    projected = _project(maker, x, hidden, heads * size)
    split = [(*shape[:2], heads, size) for shape in x.shapes]
    parts = maker.apply("Reshape", [projected, maker.ints(0, 0, heads, size)], "f", split)
    turned = [(shape[0], shape[2], shape[1], shape[3]) for shape in split]
    return maker.apply("Transpose", [parts], "f", turned, perm=[0, 2, 1, 3])


def _project(maker: Maker, x: Value, hidden: int, size: int) -> Value:
    shapes = [(*shape[:-1], size) for shape in x.shapes]
    found = maker.apply("MatMul", [x, maker.constant(maker.floats((hidden, size)) / 2)], "f", shapes)
    return _two(maker, "Add", found, maker.constant(maker.floats((size,)))) if maker.rng.random() < 0.7 else found


def _mean(maker: Maker, x: Value) -> Value:
    if maker.opset >= 18:
        return maker.apply("ReduceMean", [x, maker.ints(-1)], "f", _kept(x), keepdims=1)
    return maker.apply("ReduceMean", [x], "f", _kept(x), axes=[-1], keepdims=1)


def _kept(x: Value) -> list[tuple[int, ...]]:
    return [(*shape[:-1], 1) for shape in x.shapes]


def _number(maker: Maker, item: float) -> Value:
    return maker.constant(np.array(item, np.float32))


def _two(maker: Maker, operator: str, first: Value, second: Value) -> Value:
    operands: Sequence[Value] = (first, second)
    if operator in ("Add", "Mul") and maker.rng.random() < 0.4:
        operands = (second, first)
    shapes = broadcast(first.shapes, second.shapes)
    assert shapes is not None
    return maker.apply(operator, operands, "f", shapes)


def _one_of(maker: Maker, x: Value, *ways: tuple[str, float]) -> Value:
    operator, number = maker.rng.choice(ways)
    return maker.apply(operator, [x, _number(maker, number)], "f", x.shapes)
