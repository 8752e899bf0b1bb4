"""Element types besides float, int64 and bool; sequences and optionals; empty and scalar tensors."""

from __future__ import annotations

import numpy as np
from maker import Maker
from values import NUMPY_TYPES, ONNX_TYPES, Value, broadcast

_REAL = ("Add", "Sub", "Mul", "Neg", "Abs", "Relu", "Identity", "Transpose", "Unsqueeze", "Reshape", "Concat")
_MOVING = ("Identity", "Transpose", "Unsqueeze", "Reshape", "Concat", "Cast")
_OPERATORS = {
    "h": _REAL,
    "d": (*_REAL, "Max", "Min", "Sqrt", "ReduceMean", "MatMul"),
    "l": ("Add", "Sub", "Mul", "Neg", "Abs", "Max", "Min", *_MOVING),
    "s": ("Neg", "Abs", *_MOVING),
    "u": _MOVING,
}
KINDS = tuple(_OPERATORS)


def other_type(maker: Maker) -> None:
    """A few operators on an input of another element type, or on floats cast to it; often cast back at the end."""
    rng = maker.rng
    kind = rng.choice(KINDS)
    value = maker.pick(kind) if rng.random() < 0.5 else None
    if value is None:
        source = maker.pick("f", lambda item: item.rank <= 4)
        if source is None:
            return
        if kind in "lsu":  # what does not fit in has no defined result
            bounds = [maker.constant(np.array(item, np.float32)) for item in (0.0 if kind == "u" else -9.0, 9.0)]
            source = maker.apply("Clip", [source, *bounds], "f", source.shapes)
        value = maker.apply("Cast", [source], kind, source.shapes, to=ONNX_TYPES[kind])
    for _ in range(rng.randint(1, 4)):
        value = _step(maker, value, rng.choice(_OPERATORS[kind]))
    if rng.random() < 0.7:
        maker.apply("Cast", [value], "f", value.shapes, to=ONNX_TYPES["f"])


def _step(maker: Maker, value: Value, operator: str) -> Value:
    rng, kind = maker.rng, value.kind
    match operator:
        case "Add" | "Sub" | "Mul" | "Max" | "Min":
            return _binary(maker, operator, value)
        case "Transpose" if value.rank > 1:
            perm = rng.sample(range(value.rank), value.rank)
            return maker.apply(
                operator, [value], kind, [tuple(shape[axis] for axis in perm) for shape in value.shapes], perm=perm
            )
        case "Unsqueeze" if value.rank < 4 and maker.opset >= 13:
            return maker.apply(operator, [value, maker.ints(0)], kind, [(1, *shape) for shape in value.shapes])
        case "Reshape":
            flat = [(int(np.prod(shape)),) for shape in value.shapes]
            empty = any(0 in shape for shape in value.shapes)
            return value if empty else maker.apply(operator, [value, maker.ints(-1)], kind, flat)
        case "Concat" if value.rank and maker.small([(2 * shape[0], *shape[1:]) for shape in value.shapes]):
            return maker.apply(
                operator, [value, value], kind, [(2 * shape[0], *shape[1:]) for shape in value.shapes], axis=0
            )
        case "Cast":
            wide = "d" if kind != "d" else "f"
            there = maker.apply("Cast", [value], wide, value.shapes, to=ONNX_TYPES[wide])
            return maker.apply("Cast", [there], kind, value.shapes, to=ONNX_TYPES[kind])
        case "ReduceMean" if value.rank and all(0 not in shape for shape in value.shapes) and maker.opset < 18:
            # of an empty tensor ONNX Runtime 1.31 reduces nothing
            return maker.apply(operator, [value], kind, [(*shape[:-1], 1) for shape in value.shapes], axes=[-1])
        case "MatMul" if value.rank and len(set(value.size(-1))) == 1:
            weights = maker.constant(maker.floats((value.size(-1)[0], 2)).astype(NUMPY_TYPES[kind]))
            return maker.apply(operator, [value, weights], kind, [(*shape[:-1], 2) for shape in value.shapes])
        case "Sqrt":
            return maker.apply(operator, [maker.apply("Abs", [value], kind, value.shapes)], kind, value.shapes)
        case "Neg" | "Abs" | "Identity":
            return maker.apply(operator, [value], kind, value.shapes)
        case "Relu" if kind != "h" or maker.opset >= 13:
            return maker.apply(operator, [value], kind, value.shapes)
        case _:
            return maker.apply("Identity", [value], kind, value.shapes)


def _binary(maker: Maker, operator: str, value: Value) -> Value:
    rng, kind = maker.rng, value.kind
    other = maker.pick(kind) if rng.random() < 0.3 else None
    shapes = broadcast(value.shapes, other.shapes) if other is not None else None
    if other is None or shapes is None or not maker.small(shapes):
        number = rng.choice((0, 1, 2)) if operator != "Mul" else rng.choice((1, 2))
        other = maker.constant(np.full(rng.choice(((), (1,))), number, NUMPY_TYPES[kind]))
        shapes = broadcast(value.shapes, other.shapes)
        assert shapes is not None, "a scalar fits to everything"
    if operator in ("Max", "Min") and maker.opset < 12:
        operator = "Add"
    return maker.apply(operator, [value, other], kind, shapes)


def sequence(maker: Maker) -> None:
    """Tensors into a sequence and out of it."""
    rng = maker.rng
    value = maker.pick("f", lambda item: item.rank >= 1)
    if value is None:
        return
    if rng.random() < 0.5 or any(shape[0] == 0 for shape in value.shapes):
        other = maker.pick("f", lambda item: item.shapes == value.shapes) or value
        parts = maker.node("SequenceConstruct", [value, other])[0]
        if rng.random() < 0.3:
            parts = maker.node("SequenceInsert", [parts, value, maker.constant(np.array(0))])[0]
        if rng.random() < 0.5:
            maker.apply("SequenceAt", [parts, maker.constant(np.array(rng.choice((0, 1, -1))))], "f", value.shapes)
            return
        axis = rng.randrange(value.rank)
        count = 3 if maker.scope.nodes[-1].op_type == "SequenceInsert" else 2
        shapes = [(*shape[:axis], count * shape[axis], *shape[axis + 1 :]) for shape in value.shapes]
        if maker.small(shapes):
            maker.apply("ConcatFromSequence", [parts], "f", shapes, axis=axis, new_axis=0)
        return
    parts = maker.node("SplitToSequence", [value], axis=0, keepdims=1)[0]
    if rng.random() < 0.5:
        maker.apply(
            "SequenceAt", [parts, maker.constant(np.array(0))], "f", [(1, *shape[1:]) for shape in value.shapes]
        )
    elif rng.random() < 0.5:
        maker.apply("ConcatFromSequence", [parts], "f", value.shapes, axis=0, new_axis=0)
    else:
        length = [np.array(shape[0]) for shape in value.shapes]
        maker.apply("SequenceLength", [parts], "i", [()] * maker.assignments, length)


def optional(maker: Maker) -> None:
    """A tensor that might be missing and is not."""
    value = maker.pick()
    if value is None or maker.opset < 15:
        return
    held = maker.node("Optional", [value])[0]
    if maker.rng.random() < 0.3:
        maker.apply("OptionalHasElement", [held], "b", [()] * maker.assignments)
    maker.apply("OptionalGetElement", [held], "f", value.shapes)


def constant_of_any_size(maker: Maker) -> None:
    """An empty tensor, a scalar or a row of ones, as a value among others."""
    shape = maker.rng.choice(((), (0,), (1,), (0, 3), (2, 0), (1, 1)))
    found = maker.constant(maker.floats(shape))
    value = maker.add(found.name, "f", found.shapes)
    maker.apply("Identity", [value], "f", value.shapes)
