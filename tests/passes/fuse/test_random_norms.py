"""The normalisation passes on graphs made at random: what they take for one is one, and what follows still does."""

from __future__ import annotations

import random

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.passes.fuse.fuse_instance_norm import FuseInstanceNorm
from graphopt.passes.fuse.fuse_layer_norm import FuseLayerNorm
from graphopt.passes.fuse.fuse_reduce_mean import FuseReduceMean
from graphopt.passes.fuse.fuse_rms_norm import FuseRmsNorm


class Draw:
    """A normalisation of a random dialect over random axes, with random constants behind it."""

    def __init__(self, seed: int) -> None:
        self.choose = random.Random(seed)
        self.opset = self.choose.choice([17, 18, 23])
        self.shape = [self.choose.randint(1, 4) for _ in range(self.choose.randint(2, 4))]
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []

    def constant(self, elements: np.ndarray) -> ir.Value:
        tensor = ir.tensor(elements)
        kind, shape = ir.TensorType(tensor.dtype), ir.Shape(elements.shape)
        self.constants.append(ir.Value(name=f"k{len(self.constants)}", type=kind, shape=shape, const_value=tensor))
        return self.constants[-1]

    def number(self, one: float) -> ir.Value:
        return self.constant(np.array(one, np.float32).reshape(self.choose.choice([(), (), (1,)])))

    def op(self, operator: str, *inputs: ir.Value, **attributes: object) -> ir.Value:
        node = ir.node(operator, list(inputs), attributes, name=f"n{len(self.nodes)}")
        node.outputs[0].name = f"v{len(self.nodes)}"
        self.nodes.append(node)
        return node.outputs[0]

    def mean(self, value: ir.Value, axes: list[int]) -> ir.Value:
        rank = len(self.shape)
        axes = [axis - rank if self.choose.random() < 0.5 else axis for axis in axes]
        self.choose.shuffle(axes)
        if self.choose.random() < 0.2:
            total = self.op("ReduceSum", value, self.constant(np.array(axes)))
            count = int(np.prod([self.shape[axis] for axis in axes])) + (self.choose.random() < 0.1)
            if self.choose.random() < 0.5:
                return self.op("Div", total, self.number(count))
            return self.op("Mul", total, self.number(1 / count))
        if self.opset < 18:
            return self.op("ReduceMean", value, axes=axes)
        return self.op("ReduceMean", value, self.constant(np.array(axes)))

    def axes(self) -> list[int]:
        rank = len(self.shape)
        if self.choose.random() < 0.8:
            first = self.choose.choice([rank - 1, rank - 1, self.choose.randrange(rank), min(2, rank - 1)])
            return list(range(first, rank))
        return sorted(self.choose.sample(range(rank), self.choose.randint(1, rank)))

    def norm(self, x: ir.Value) -> ir.Value:
        axes = self.axes()
        others = [axes if self.choose.random() < 0.93 else self.axes() for _ in range(2)]
        d = e = x
        if self.choose.random() < 0.6:
            d = e = self.op("Sub", x, self.mean(x, axes))
            if self.choose.random() < 0.3:
                e = self.op("Sub", x, self.mean(x, others[0]))
        square = self.op("Pow", e, self.number(2)) if self.choose.random() < 0.5 else self.op("Mul", e, e)
        v = self.op("Add", *self.shuffled(self.mean(square, others[1]), self.number(self.choose.choice([0.1, 0.5]))))
        match self.choose.randrange(4):
            case 0:
                return self.op("Div", d, self.op("Sqrt", v))
            case 1:
                return self.op("Mul", *self.shuffled(d, self.op("Reciprocal", self.op("Sqrt", v))))
            case 2:
                return self.op("Mul", *self.shuffled(d, self.op("Div", self.number(1), self.op("Sqrt", v))))
            case _:
                return self.op("Mul", *self.shuffled(d, self.op("Pow", v, self.number(-0.5))))

    def shuffled(self, *values: ir.Value) -> list[ir.Value]:
        return self.choose.sample(values, len(values))

    def behind(self, value: ir.Value, x: ir.Value) -> ir.Value:
        """A constant of a shape that broadcasts, at times to more than there was; or the input itself."""
        operator = self.choose.choice(["Mul", "Mul", "Add", "Add", "Sub", "Div"])
        if self.choose.random() < 0.1:
            return self.op("Add", value, x)
        start = self.choose.randint(0, len(self.shape))
        shape = [size if self.choose.random() < 0.7 else 1 for size in self.shape[start:]]
        if self.choose.random() < 0.4 and len(self.shape) > 2:
            shape = [self.shape[1], *[1] * (len(self.shape) - 2)]
        if self.choose.random() < 0.05:
            shape = [1] * (len(self.shape) + 1)
        elements = np.random.default_rng(len(self.constants)).uniform(0.5, 2, size=shape).astype(np.float32)
        operands = [value, self.constant(elements)]
        if operator in ("Mul", "Add") or self.choose.random() < 0.2:
            self.choose.shuffle(operands)
        return self.op(operator, *operands)

    def model(self) -> ir.Model:
        x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(self.shape))
        y = self.norm(x)
        for _ in range(self.choose.choice([0, 1, 2, 3])):
            y = self.behind(y, x)
        outputs = [y]
        if self.choose.random() < 0.15:
            outputs.append(self.choose.choice([node.outputs[0] for node in self.nodes]))
        for output in dict.fromkeys(outputs):
            output.type = ir.TensorType(ir.DataType.FLOAT)
        graph = ir.Graph(
            [x], list(dict.fromkeys(outputs)), nodes=self.nodes, initializers=self.constants,
            opset_imports={"": self.opset}, name="g",
        )  # fmt: skip
        return ir.Model(graph, ir_version=10)


PASSES = [FuseReduceMean(), FuseLayerNorm(), FuseInstanceNorm(), FuseRmsNorm()]


@pytest.mark.parametrize("start", range(0, 200, 100))
def test_random_normalisations_compute_the_same(agrees, start):
    changed = dict.fromkeys((item.name for item in PASSES), 0)
    for seed in range(start, start + 100):
        for item in PASSES:
            changed[item.name] += len(agrees(item, Draw(seed).model(), seed).changed)
    assert all(changed.values()), changed
