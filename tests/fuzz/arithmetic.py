"""Elementwise operators, reductions and softmax."""

from __future__ import annotations

import numpy as np
import onnx
from maker import Maker
from onnx import TensorProto
from sizes import size_of, with_axes
from values import NUMPY_TYPES, ONNX_TYPES, Shape, Value, broadcast


def unary(maker: Maker) -> None:
    value = maker.pick()
    if value is None:
        return
    operators = ["Relu", "Abs", "Neg", "Sigmoid", "Tanh", "Identity", "Ceil", "Softplus", "Dropout", "LeakyRelu"]
    operator = maker.rng.choice(operators)
    maker.apply(operator, [value], "f", value.shapes)


def clip(maker: Maker) -> None:
    value = maker.pick()
    if value is None:
        return
    low, high = maker.rng.choice(((-1.0, 1.0), (0.0, 6.0), (0.0, None), (None, 2.0), (2.0, 0.5)))
    bounds = ["" if item is None else maker.constant(np.array(item, np.float32)) for item in (low, high)]
    maker.apply("Clip", [value, *bounds], "f", value.shapes)


def binary(maker: Maker) -> None:
    first = maker.pick()
    second = maker.pick()
    if first is None or second is None:
        return None
    shapes = broadcast(first.shapes, second.shapes)
    if shapes is None or not maker.small(shapes):
        return with_constant(maker)
    operator = maker.rng.choice(("Add", "Add", "Mul", "Sub", "Max", "Min"))
    maker.apply(operator, [first, second], "f", shapes)
    return None


def with_constant(maker: Maker) -> None:
    """An operand that is neutral, per channel, a scalar, or widens the result."""
    rng = maker.rng
    value = maker.pick()
    if value is None:
        return
    shape: Shape = rng.choice(((), (1,), (1,) * value.rank, (1,) * (value.rank + 1)))
    if value.rank and rng.random() < 0.5:
        axis = rng.randrange(-value.rank, 0)
        if len(set(value.size(axis))) == 1:
            shape = (value.shapes[0][axis],) + (1,) * (-axis - 1)
    operator = rng.choice(("Add", "Mul", "Sub", "Div", "Add", "Mul", "Pow"))
    if operator == "Pow":
        elements = np.full(shape, rng.choice((1.0, 2.0)), np.float32)
    elif rng.random() < 0.35:
        elements = np.full(shape, 0.0 if operator in ("Add", "Sub") else 1.0, np.float32)
    else:
        elements = maker.floats(shape)
        if operator == "Div":
            elements = np.where(elements == 0, np.float32(2), elements).astype(np.float32)
    operands: list[Value] = [value, maker.constant(elements)]
    if rng.random() < 0.25 and operator in ("Add", "Mul", "Sub"):
        operands.reverse()
    shapes = broadcast(value.shapes, (shape,) * maker.assignments)
    if shapes is not None and maker.small(shapes):
        maker.apply(operator, operands, "f", shapes)


def repeat(maker: Maker) -> None:
    """A node again, for common subexpressions."""
    if not maker.scope.nodes:
        return
    old = maker.rng.choice(maker.scope.nodes[-8:])
    by_name = {value.name: value for value in maker.scope.values}
    if len(old.output) != 1 or old.output[0] not in by_name or old.op_type in ("If", "Loop", "Scan", "Constant"):
        return
    value = by_name[old.output[0]]
    copy = onnx.NodeProto()
    copy.CopyFrom(old)
    copy.name = maker.fresh("n")
    copy.output[0] = maker.fresh()
    maker.scope.nodes.append(copy)
    maker.add(copy.output[0], value.kind, value.shapes, value.elements)


def ramp(maker: Maker) -> None:
    """What hard-sigmoid is written with, in any order and with any numbers."""
    rng = maker.rng
    value = maker.pick()
    if value is None:
        return

    def number(item: float) -> Value:
        return maker.constant(np.array(item, np.float32))

    gate: Value | str = value
    for operator in rng.sample(("Add", "Mul", "Div", "Neg", "Sub"), rng.randint(1, 3)):
        if operator == "Neg":
            gate = maker.node("Neg", [gate])[0]
            continue
        operands = [gate, number(rng.choice((3.0, 6.0, 0.5, 1.0, 2.0)))]
        if operator != "Div" and rng.random() < 0.3:
            operands.reverse()
        gate = maker.node(operator, operands)[0]
    high = rng.choice((6.0, 1.0, 3.0))
    form = rng.random()
    if form < 0.4:
        gate = maker.node("Clip", [gate, number(0.0), number(high)])[0]
    elif form < 0.7:
        gate = maker.node("Min", [maker.node("Relu", [gate])[0], number(high)])[0]
    else:
        gate = maker.node("Max", [number(0.0), maker.node("Min", [gate, number(high)])[0]])[0]
    if rng.random() < 0.6:
        gate = maker.node(rng.choice(("Div", "Mul")), [gate, number(high)])[0]
    if rng.random() < 0.7:
        gate = maker.node("Mul", rng.choice(([value, gate], [gate, value])))[0]
    if rng.random() < 0.4:
        gate = maker.node(rng.choice(("Div", "Mul")), [gate, number(rng.choice((high, 1 / high)))])[0]
    maker.add(str(gate), "f", value.shapes)


def others(maker: Maker) -> None:
    """Operators no pass looks for, but whose shapes are inferred."""
    rng = maker.rng
    value = maker.pick("f", lambda item: item.rank >= 1 and all(min(shape) > 0 for shape in item.shapes))
    if value is None:
        return
    axis = rng.randrange(-value.rank, value.rank)
    one = [tuple(1 if k == axis % value.rank else n for k, n in enumerate(shape)) for shape in value.shapes]
    match rng.choice(("ArgMax", "CumSum", "Range", "TopK", "DepthToSpace", "LayerNormalization", "MaxPool", "Resize")):
        case "ArgMax":
            maker.apply("ArgMax", [value], "i", one, axis=axis)
        case "CumSum":
            maker.apply("CumSum", [value, maker.constant(np.array(axis))], "f", value.shapes)
        case "Range":
            size = size_of(maker, value, axis % value.rank)
            scalar = with_axes(maker, "Squeeze", size, [0], [()] * maker.assignments, None)
            lengths = [(shape[axis],) for shape in value.shapes]
            ends = [maker.constant(np.array(number)) for number in (0, 1)]
            elements = [np.arange(length[0]) for length in lengths]
            maker.apply("Range", [ends[0], scalar, ends[1]], "i", lengths, elements)
        case "TopK":
            names = maker.node("TopK", [value, maker.ints(1)], 2, axis=axis)
            maker.add(names[0], "f", one)
            if rng.random() < 0.5:
                maker.add(names[1], "i", one)
        case "DepthToSpace" if value.rank == 4 and set(value.size(1)) == {4}:
            shapes = [(shape[0], 1, 2 * shape[2], 2 * shape[3]) for shape in value.shapes]
            if maker.small(shapes):
                maker.apply("DepthToSpace", [value], "f", shapes, blocksize=2)
        case "LayerNormalization" if maker.opset >= 17 and len(set(value.size(-1))) == 1:
            scale = maker.constant(maker.floats((value.shapes[0][-1],)))
            maker.apply("LayerNormalization", [value, scale], "f", value.shapes)
        case "MaxPool" if value.rank == 4:
            names = maker.node("MaxPool", [value], 2, kernel_shape=[1, 1])
            maker.add(names[0], "f", value.shapes)
        case "Resize" if value.rank == 4 and maker.opset >= 13:
            shapes = [(*shape[:2], 2 * shape[2], 2 * shape[3]) for shape in value.shapes]
            if maker.small(shapes):
                scales = maker.constant(np.array([1, 1, 2, 2], np.float32))
                maker.apply("Resize", [value, "", scales], "f", shapes, mode="nearest")
        case _:
            return


def hard_swish(maker: Maker) -> None:
    rng = maker.rng
    value = maker.pick()
    if value is None:
        return

    def number(item: float) -> Value:
        return maker.constant(np.array(item, np.float32).reshape(rng.choice(((), (), (1,)))))

    if value.rank == 0:
        return
    gate = maker.node("Add", [value, number(3.0)])[0]
    gate = maker.node("Clip", [gate, number_scalar(maker, 0.0), number_scalar(maker, 6.0)])[0]
    if rng.random() < 0.5:
        gate = maker.node("Div", [gate, number(6.0)])[0]
        if rng.random() < 0.3:
            maker.add(gate, "f", value.shapes)
        maker.apply("Mul", [value, gate], "f", value.shapes)
    else:
        product = maker.node("Mul", [value, gate])[0]
        maker.apply("Div", [product, number(rng.choice((6.0, 6.0, 5.0)))], "f", value.shapes)


def casts(maker: Maker) -> None:
    """There and back, through types that lose something and types that do not."""
    rng = maker.rng
    value = maker.pick(rng.choice("fib"))
    if value is None:
        return
    via = {
        "f": (TensorProto.DOUBLE, TensorProto.FLOAT),
        "i": (TensorProto.INT32, TensorProto.INT64, TensorProto.DOUBLE, TensorProto.FLOAT),
        "b": (TensorProto.INT64, TensorProto.FLOAT, TensorProto.INT32),
    }[value.kind]
    middle = maker.node("Cast", [value], to=rng.choice(via))[0]
    target = rng.choice({"f": "f", "i": "if", "b": "bif"}[value.kind])
    maker.apply(
        "Cast", [middle], target, value.shapes, value.elements if target == "i" else None, to=ONNX_TYPES[target]
    )


def compare(maker: Maker) -> None:
    rng = maker.rng
    value = maker.pick(rng.choice("fi"))
    if value is None:
        return
    number = np.array(rng.choice((0, 1, 2)), NUMPY_TYPES[value.kind])
    maker.apply(rng.choice(("Greater", "Less", "Equal")), [value, maker.constant(number)], "b", value.shapes)


def logic(maker: Maker) -> None:
    rng = maker.rng
    value = maker.pick("b")
    if value is None:
        return compare(maker)
    if rng.random() < 0.4:
        maker.apply("Not", [value], "b", value.shapes)
    else:
        neutral = maker.constant(np.array(rng.random() < 0.5))
        maker.apply(rng.choice(("And", "Or")), [value, neutral], "b", value.shapes)
    return None


def choose(maker: Maker) -> None:
    rng = maker.rng
    first, second = maker.pick(), maker.pick()
    if first is None or second is None:
        return
    condition = maker.pick("b") if rng.random() < 0.6 else maker.constant(np.array(rng.random() < 0.5))
    if condition is None:
        return
    shapes = broadcast(first.shapes, second.shapes)
    shapes = broadcast(shapes, condition.shapes) if shapes is not None else None
    if shapes is not None and maker.small(shapes):
        maker.apply("Where", [condition, first, second], "f", shapes)


def softmax(maker: Maker) -> None:
    value = maker.pick("f", lambda item: item.rank >= 1 and all(min(shape) > 0 for shape in item.shapes))
    if value is not None:
        maker.apply("Softmax", [value], "f", value.shapes, axis=maker.rng.randrange(-1, value.rank))


def reduce(maker: Maker) -> None:
    rng = maker.rng
    value = maker.pick("f", lambda item: item.rank >= 1 and all(min(shape) > 0 for shape in item.shapes))
    if value is None:
        return
    axes = sorted(rng.sample(range(value.rank), rng.randint(1, value.rank)))
    keep = rng.random() < 0.5
    shapes = [
        tuple(1 if axis in axes else size for axis, size in enumerate(shape) if keep or axis not in axes)
        for shape in value.shapes
    ]
    usual = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin")
    operator = rng.choice(usual if maker.focus is None else usual[:2])
    as_input = maker.opset >= (13 if operator == "ReduceSum" else 18)
    if as_input:
        maker.apply(operator, [value, maker.ints(*axes)], "f", shapes, keepdims=int(keep))
    else:
        maker.apply(operator, [value], "f", shapes, axes=axes, keepdims=int(keep))


def number_scalar(maker: Maker, item: float) -> Value:
    """A constant of rank 0."""
    return maker.constant(np.array(item, np.float32))
