"""Random graphs of operators that work in any order of axes, with transpositions in between.

``make(seed)`` gives a model with static shapes; ``regions`` of it hang together by one permutation and its inverse,
sometimes by two pairs. Operators of a fixed order, outputs in the middle, inner graphs and reductions are mixed in.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Shape = tuple[int, ...]
_TYPES = {"f": TensorProto.FLOAT, "i": TensorProto.INT64, "b": TensorProto.BOOL}
_UNARY = ("Relu", "Sigmoid", "Tanh", "Neg", "Abs", "HardSwish", "LeakyRelu", "Erf", "Exp", "Identity", "Floor")
_BINARY = ("Add", "Sub", "Mul", "Max", "Min")


@dataclass(frozen=True)
class Value:
    name: str
    shape: Shape
    kind: str = "f"

    @property
    def rank(self) -> int:
        return len(self.shape)


class Maker:
    """Builds one graph, node by node."""

    def __init__(self, seed: int, steps: int, *, rounding: bool) -> None:
        self.rng = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.opset = self.rng.choice((13, 17, 18, 20))
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.rounding = rounding
        self.count = 0
        rank = self.rng.choice((2, 3, 4, 4, 4, 5))
        orders = [tuple(self.rng.sample(range(rank), rank)) for _ in range(1 if self.rng.random() < 0.7 else 2)]
        if rank == 4 and self.rng.random() < 0.6:
            orders[0] = (0, 2, 3, 1)
        self.orders = [order for given in orders for order in (given, tuple(np.argsort(given).tolist()))]
        sizes = tuple(self.rng.choice((1, 2, 3, 4, 5)) for _ in range(rank))
        self.inputs = [Value("x0", sizes)]
        if self.rng.random() < 0.5:
            self.inputs.append(Value("x1", self.rng.choice([sizes, tuple(sizes[axis] for axis in self.orders[0])])))
        self.values = list(self.inputs)
        self.steps = steps

    def fresh(self, hint: str = "v") -> str:
        self.count += 1
        return f"{hint}{self.count}"

    def constant(self, array: np.ndarray) -> str:
        name = self.fresh("c")
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def ints(self, *numbers: int) -> str:
        return self.constant(np.array(numbers, np.int64))

    def node(self, op: str, inputs: Sequence[str], outputs: int = 1, **attributes: object) -> list[str]:
        names = [self.fresh() for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        return names

    def add(self, op: str, inputs: Sequence[str], shape: Shape, kind: str = "f", **attributes: object) -> Value:
        value = Value(self.node(op, inputs, **attributes)[0], shape, kind)
        self.values.append(value)
        return value

    def pick(self, least: int = 2, kind: str = "f") -> Value | None:
        recent = [value for value in self.values if value.kind == kind and value.rank >= least]
        if not recent:
            return None
        return self.rng.choice(recent[-5:] if self.rng.random() < 0.7 else recent)

    # each step adds a node or a few, or nothing where it finds no operand

    def unary(self) -> None:
        value = self.pick()
        if value is not None:
            op = self.rng.choice(_UNARY)
            self.add("HardSigmoid" if op == "HardSwish" and self.opset < 14 else op, [value.name], value.shape)

    def by_place(self) -> None:
        value = self.pick()
        if value is not None and self.rounding:
            self.add(
                self.rng.choice(("Softplus", "Elu", "Sin", "Mish")) if self.opset >= 18 else "Elu",
                [value.name],
                value.shape,
            )

    def transpose(self) -> None:
        value = self.pick()
        fitting = [order for order in self.orders if value is not None and len(order) == value.rank]
        if value is not None and fitting:
            order = self.rng.choice(fitting)
            self.add("Transpose", [value.name], tuple(value.shape[axis] for axis in order), value.kind, perm=order)

    def binary(self) -> None:
        first = self.pick()
        others = [
            value for value in self.values if first is not None and value.kind == "f" and _broadcasts(first, value)
        ]
        if first is not None and others:
            second = self.rng.choice(others[-6:])
            names = [first.name, second.name]
            self.rng.shuffle(names)
            self.add(self.rng.choice(_BINARY), names, np.broadcast_shapes(first.shape, second.shape))

    def with_constant(self) -> None:
        value = self.pick()
        if value is None:
            return
        rank = self.rng.randint(0, value.rank)
        shape = tuple(size if self.rng.random() < 0.6 else 1 for size in value.shape[value.rank - rank :])
        array = self.numbers.standard_normal(shape).astype(np.float32)
        names = [value.name, self.constant(array)]
        self.rng.shuffle(names)
        self.add(self.rng.choice(_BINARY), names, value.shape)

    def choose(self) -> None:
        value = self.pick()
        if value is None:
            return
        condition = self.add("Greater", [value.name, self.constant(np.float32(0.1))], value.shape, "b")
        other = self.rng.choice([item for item in self.values if item.kind == "f" and item.shape == value.shape])
        self.add("Where", [condition.name, value.name, other.name], value.shape)

    def concat(self) -> None:
        value = self.pick()
        if value is None:
            return
        axis = self.rng.randrange(value.rank)
        fitting = [
            item
            for item in self.values
            if item.kind == "f"
            and item.rank == value.rank
            and _without(item.shape, axis) == _without(value.shape, axis)
        ]
        parts = [value, self.rng.choice(fitting)]
        names = [part.name for part in parts]
        size = sum(part.shape[axis] for part in parts)
        if self.rng.random() < 0.3:
            shape = (*value.shape[:axis], 2, *value.shape[axis + 1 :])
            names.append(self.constant(self.numbers.standard_normal(shape).astype(np.float32)))
            size += 2
        if size <= 12:
            given = axis - value.rank if self.rng.random() < 0.3 else axis
            self.add("Concat", names, (*value.shape[:axis], size, *value.shape[axis + 1 :]), axis=given)

    def split(self) -> None:
        value = self.pick()
        if value is None:
            return
        axis = self.rng.randrange(value.rank)
        if value.shape[axis] < 2:
            return
        sizes = (1, value.shape[axis] - 1)
        names = self.node("Split", [value.name, self.ints(*sizes)], 2, axis=axis)
        for name, size in zip(names, sizes, strict=True):
            self.values.append(Value(name, (*value.shape[:axis], size, *value.shape[axis + 1 :])))

    def slice(self) -> None:
        value = self.pick()
        if value is None:
            return
        axes = self.rng.sample(range(value.rank), self.rng.randint(1, 2))
        shape = list(value.shape)
        steps = []
        for axis in axes:
            steps.append(self.rng.choice((1, 1, 2, -1)))
            taken = range(shape[axis])[:: steps[-1]] if steps[-1] < 0 else range(shape[axis])[1 :: steps[-1]]
            shape[axis] = len(taken)
        if 0 in shape:
            return
        starts = [(-1 if step < 0 else 1) for step in steps]
        ends = [(-1000 if step < 0 else 1000) for step in steps]
        inputs = [value.name, self.ints(*starts), self.ints(*ends)]
        if axes != list(range(len(axes))) or any(step != 1 for step in steps) or self.rng.random() < 0.5:
            inputs += [self.ints(*axes), self.ints(*steps)]
        self.add("Slice", inputs, tuple(shape))

    def pad(self) -> None:
        value = self.pick()
        if value is None:
            return
        pads = [self.rng.choice((0, 0, 0, 1)) for _ in range(2 * value.rank)]
        shape = tuple(size + pads[i] + pads[i + value.rank] for i, size in enumerate(value.shape))
        if max(shape) <= 8:
            self.add("Pad", [value.name, self.ints(*pads), self.constant(np.float32(0.5))], shape)

    def softmax(self) -> None:
        value = self.pick()
        if value is not None:
            op = self.rng.choice(("Softmax", "LogSoftmax")) if self.rounding else "Softmax"
            self.add(op, [value.name], value.shape, axis=self.rng.randrange(-value.rank, value.rank))

    def reduce(self) -> None:
        value = self.pick(least=3)
        if value is None:
            return
        axes = sorted(self.rng.sample(range(value.rank), self.rng.randint(1, value.rank - 1)))
        keeps = self.rng.random() < 0.5
        op = self.rng.choice(("ReduceMax", "ReduceMin", *(("ReduceMean", "ReduceSum") if self.rounding else ())))
        shape = tuple(1 if i in axes else size for i, size in enumerate(value.shape) if keeps or i not in axes)
        if op == "ReduceSum" or self.opset >= 18:
            self.add(op, [value.name, self.ints(*axes)], shape, keepdims=int(keeps))
        else:
            self.add(op, [value.name], shape, axes=axes, keepdims=int(keeps))

    def arg_max(self) -> None:
        value = self.pick()
        if value is not None:
            axis = self.rng.randrange(value.rank)
            found = self.add("ArgMax", [value.name], _with(value.shape, axis, 1), "i", axis=axis)
            self.add("Cast", [found.name], found.shape, to=TensorProto.FLOAT)

    def top_k(self) -> None:
        value = self.pick()
        if value is not None:
            axis = self.rng.randrange(value.rank)
            names = self.node("TopK", [value.name, self.ints(1)], 2, axis=axis)
            self.values.append(Value(names[0], _with(value.shape, axis, 1)))
            self.values.append(Value(names[1], _with(value.shape, axis, 1), "i"))

    def gather(self) -> None:
        value = self.pick()
        if value is not None:
            axis = self.rng.randrange(value.rank)
            shape = _with(value.shape, axis, 2)
            self.add("Gather", [value.name, self.ints(0, value.shape[axis] - 1)], shape, axis=axis)

    def quantize(self) -> None:
        value = self.pick()
        if value is None:
            return
        axis = self.rng.randrange(value.rank)
        by_axis = self.rng.random() < 0.5
        sizes = (value.shape[axis],) if by_axis else ()
        scale = self.constant(np.asarray(self.numbers.uniform(0.01, 0.1, sizes), np.float32))
        zero = self.constant(np.full(sizes, 3, np.uint8))
        attributes = {"axis": axis} if by_axis else {}
        middle = self.node("QuantizeLinear", [value.name, scale, zero], **attributes)[0]
        self.add("DequantizeLinear", [middle, scale, zero], value.shape, **attributes)

    def resize(self) -> None:
        value = self.pick()
        if value is None:
            return
        scales = [self.rng.choice((1.0, 1.0, 2.0)) for _ in value.shape]
        shape = tuple(int(size * scale) for size, scale in zip(value.shape, scales, strict=True))
        if max(shape) <= 10:
            inputs = [value.name, "", self.constant(np.array(scales, np.float32))]
            self.add(
                "Resize",
                inputs,
                shape,
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )

    def expand(self) -> None:
        value = self.pick()
        if value is not None:
            shape = tuple(2 if size == 1 else size for size in value.shape)
            self.add("Expand", [value.name, self.ints(*shape)], shape)

    def tile(self) -> None:
        value = self.pick()
        if value is not None:
            repeats = [self.rng.choice((1, 1, 2)) for _ in value.shape]
            shape = tuple(size * count for size, count in zip(value.shape, repeats, strict=True))
            if max(shape) <= 8:
                self.add("Tile", [value.name, self.ints(*repeats)], shape)

    def squeeze(self) -> None:
        value = self.pick(least=3)
        ones = [axis for axis, size in enumerate(value.shape) if size == 1] if value is not None else []
        if value is not None and ones:
            axis = self.rng.choice(ones)
            self.add("Squeeze", [value.name, self.ints(axis)], _without(value.shape, axis))

    def unsqueeze(self) -> None:
        value = self.pick()
        if value is not None and value.rank < 5:
            axis = self.rng.randint(0, value.rank)
            self.add("Unsqueeze", [value.name, self.ints(axis)], (*value.shape[:axis], 1, *value.shape[axis:]))

    def reshape(self) -> None:
        value = self.pick()
        if value is None:
            return
        if self.rng.random() < 0.4:
            axis = self.rng.randint(0, value.rank)
            shape = int(np.prod(value.shape[:axis])), int(np.prod(value.shape[axis:]))
            self.add("Flatten", [value.name], shape, axis=axis)
            return
        sizes = list(value.shape)
        if self.rng.random() < 0.5:  # only axes of size 1 come, go or move
            sizes = [size for size in sizes if size != 1]
            while len(sizes) < self.inputs[0].rank:
                sizes.insert(self.rng.randint(0, len(sizes)), 1)
        else:
            self.rng.shuffle(sizes)
        self.add("Reshape", [value.name, self.ints(*sizes)], tuple(sizes))

    def shape_of(self) -> None:
        value = self.pick()
        if value is not None:
            sizes = self.add("Shape", [value.name], (value.rank,), "i")
            number = self.add("Cast", [sizes.name], sizes.shape, to=TensorProto.FLOAT)
            self.add("ReduceMax", [number.name], (), keepdims=0)

    def fixed(self) -> None:
        """Operators of which the order is given."""
        value = self.pick()
        if value is None:
            return
        if value.rank == 4 and self.rng.random() < 0.7:
            weights = self.constant(self.numbers.standard_normal((value.shape[1], 1, 1, 1)).astype(np.float32))
            self.add("Conv", [value.name, weights], value.shape, group=value.shape[1])
        else:
            size = value.shape[-1]
            weights = self.constant(self.numbers.standard_normal((size, size)).astype(np.float32))
            self.add("MatMul", [value.name, weights], value.shape)

    def branch(self) -> None:
        """An If whose branches read values of the outer graph and transpose them."""
        value = self.pick()
        if value is None:
            return
        branches: list[onnx.GraphProto] = []
        for op in ("Relu", "Neg"):
            order = next((item for item in self.orders if len(item) == value.rank), tuple(range(value.rank)))
            back = tuple(np.argsort(order).tolist())
            names = [self.fresh("t") for _ in range(3)]
            nodes = [
                helper.make_node("Transpose", [value.name], [names[0]], perm=order),
                helper.make_node(op, [names[0]], [names[1]]),
                helper.make_node("Transpose", [names[1]], [names[2]], perm=back),
            ]
            result = helper.make_tensor_value_info(names[2], TensorProto.FLOAT, value.shape)
            branches.append(helper.make_graph(nodes, op, [], [result]))
        condition = self.constant(np.array(self.rng.random() < 0.5))
        self.add("If", [condition], value.shape, then_branch=branches[0], else_branch=branches[1])

    def finish(self) -> onnx.ModelProto:
        made = [value for value in self.values if value not in self.inputs]
        outputs = [value for value in made if self.rng.random() < 0.15] or made[-1:]
        if made[-1] not in outputs:
            outputs.append(made[-1])
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info(value.name, _TYPES[value.kind], value.shape) for value in self.inputs],
            [helper.make_tensor_value_info(value.name, _TYPES[value.kind], value.shape) for value in outputs],
            self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def _without(shape: Shape, axis: int) -> Shape:
    return (*shape[:axis], *shape[axis + 1 :])


def _with(shape: Shape, axis: int, size: int) -> Shape:
    return (*shape[:axis], size, *shape[axis + 1 :])


def _broadcasts(first: Value, second: Value) -> bool:
    try:
        return max(np.broadcast_shapes(first.shape, second.shape), default=1) <= 10
    except ValueError:
        return False


_STEPS: tuple[Callable[[Maker], None], ...] = (
    Maker.transpose, Maker.transpose, Maker.transpose, Maker.transpose, Maker.transpose, Maker.transpose, Maker.unary,
    Maker.unary, Maker.unary, Maker.binary, Maker.binary, Maker.binary, Maker.with_constant, Maker.with_constant, Maker.choose,
    Maker.concat, Maker.split, Maker.slice, Maker.pad, Maker.softmax, Maker.reduce, Maker.arg_max, Maker.top_k,
    Maker.gather, Maker.quantize, Maker.resize, Maker.expand, Maker.tile, Maker.squeeze, Maker.unsqueeze, Maker.reshape,
    Maker.shape_of, Maker.fixed, Maker.branch, Maker.by_place,
)  # fmt: skip


def make(seed: int, steps: int = 25, *, rounding: bool = False) -> onnx.ModelProto:
    """A random model; the same for the same seed."""
    maker = Maker(seed, steps, rounding=rounding)
    maker.transpose()
    for _ in range(maker.rng.randint(3, steps)):
        maker.rng.choice(_STEPS)(maker)
    return maker.finish()
