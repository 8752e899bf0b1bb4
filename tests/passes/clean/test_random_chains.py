"""Random chains of operators that move data, through all merge passes: the same bits come out, with fewer nodes."""

from __future__ import annotations

import math
import random

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.execute.session import Session
from graphopt.ir import check, count_nodes, forget, infer
from graphopt.passes.clean.merge_casts import MergeCasts
from graphopt.passes.clean.merge_concats import MergeConcats
from graphopt.passes.clean.merge_expands import MergeExpands
from graphopt.passes.clean.merge_pads import MergePads
from graphopt.passes.clean.merge_reductions import MergeReductions
from graphopt.passes.clean.merge_reshapes import MergeReshapes
from graphopt.passes.clean.merge_slices import MergeSlices
from graphopt.passes.clean.merge_transposes import MergeTransposes
from graphopt.pipeline import Context
from graphopt.pipeline.drive import drive

PASSES = (
    MergeTransposes(), MergeCasts(), MergeReshapes(), MergeSlices(),
    MergePads(), MergeExpands(), MergeConcats(), MergeReductions(),
)  # fmt: skip


class Chain:
    """A graph that grows by one random operator at a time, with the shape of its last value."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.version = self.random.choice((11, 13, 18, 21))
        self.shape = [self.random.choice((1, 1, 2, 3, 4)) for _ in range(self.random.randint(1, 4))]
        shape = [size if self.random.random() < 0.6 else f"d{axis}" for axis, size in enumerate(self.shape)]
        self.inputs = tuple(self.shape)
        self.x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape))
        self.last, self.nodes, self.constants = self.x, [], []

    def constant(self, *integers: int) -> ir.Value:
        tensor = ir.tensor(np.array(integers, np.int64))
        name = f"c{len(self.constants)}"
        self.constants.append(
            ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=tensor.shape)
        )
        return self.constants[-1]

    def add(self, operator: str, shape: list[int], *inputs: ir.Value, **attributes: object) -> None:
        self.nodes.append(ir.node(operator, [self.last, *inputs], attributes))
        self.last, self.shape = self.nodes[-1].outputs[0], shape

    def with_axes(self, operator: str, shape: list[int], axes: list[int], since: int, **attributes: object) -> None:
        if self.version >= since:
            self.add(operator, shape, self.constant(*axes), **attributes)
        else:
            self.add(operator, shape, axes=axes, **attributes)

    def reshape(self) -> None:
        target, rest = [], math.prod(self.shape)
        for _ in range(self.random.randint(0, 3)):
            target.append(self.random.choice([size for size in range(1, rest + 1) if rest % size == 0]))
            rest //= target[-1]
        target.append(rest)
        written = [
            0 if axis < len(self.shape) and self.shape[axis] == size and self.random.random() < 0.5 else size
            for axis, size in enumerate(target)
        ]
        written[self.random.randrange(len(target))] = -1
        self.add("Reshape", target, self.constant(*written))

    def flatten(self) -> None:
        axis = self.random.randint(0, len(self.shape))
        self.add("Flatten", [math.prod(self.shape[:axis]), math.prod(self.shape[axis:])], axis=axis)

    def squeeze(self) -> None:
        ones = [axis for axis, size in enumerate(self.shape) if size == 1]
        if ones:
            axes = self.random.sample(ones, self.random.randint(1, len(ones)))
            shape = [size for axis, size in enumerate(self.shape) if axis not in axes]
            self.with_axes("Squeeze", shape, [axis - len(self.shape) * (axis % 2) for axis in axes], 13)

    def unsqueeze(self) -> None:
        rank = len(self.shape) + self.random.randint(1, 2)
        axes = self.random.sample(range(rank), rank - len(self.shape))
        sizes = iter(self.shape)
        shape = [1 if axis in axes else next(sizes) for axis in range(rank)]
        self.with_axes("Unsqueeze", shape, [axis - rank * (axis % 2) for axis in axes], 13)

    def transpose(self) -> None:
        order = self.random.sample(range(len(self.shape)), len(self.shape))
        if order:
            self.add("Transpose", [self.shape[axis] for axis in order], perm=order)

    def pad(self) -> None:
        pads = [self.random.randint(0, 1) for _ in range(2 * len(self.shape))]
        shape = [
            size + before + after
            for size, before, after in zip(self.shape, pads[: len(self.shape)], pads[len(self.shape) :], strict=True)
        ]
        if shape and math.prod(shape) < 2000:
            self.add("Pad", shape, self.constant(*pads))

    def expand(self) -> None:
        shape = [self.random.choice((1, 2)) if size == 1 else size for size in self.shape]
        self.add("Expand", shape, self.constant(*shape))

    def cut(self) -> None:
        if self.shape:
            axis = self.random.randrange(len(self.shape))
            start, end = self.random.randint(-3, 1), self.random.choice((2, 3, 2**63 - 1))
            cut = len(range(*slice(start, end).indices(self.shape[axis])))
            if cut:
                shape = [cut if place == axis else size for place, size in enumerate(self.shape)]
                self.add("Slice", shape, *(self.constant(item) for item in (start, end, axis)))

    def reduce(self) -> None:
        if self.shape:
            axis = self.random.randrange(len(self.shape))
            shape = self.shape[:axis] + self.shape[axis + 1 :]
            self.with_axes("ReduceMax", shape, [axis], 18, keepdims=0)
            self.with_axes("Unsqueeze", [*shape[:axis], 1, *shape[axis:]], [axis], 13)

    def model(self) -> ir.Model:
        steps = (self.reshape, self.flatten, self.squeeze, self.unsqueeze, self.transpose, self.pad, self.expand,
                 self.cut, self.reduce)  # fmt: skip
        for _ in range(6):
            self.random.choice(steps)()
        self.add("Identity", self.shape)
        self.last.name, self.last.type = "y", ir.TensorType(ir.DataType.FLOAT)
        graph = ir.Graph(
            [self.x], [self.last], nodes=self.nodes, initializers=self.constants,
            opset_imports={"": self.version}, name="chain",
        )  # fmt: skip
        return ir.Model(graph, ir_version=8)


@pytest.mark.parametrize("seed", range(150))
def test_the_same_bits_come_out_of_fewer_nodes(seed):
    chain = Chain(seed)
    before = chain.model()
    after = before.clone()
    for _ in range(3):
        for merge in PASSES:
            infer(after)
            drive(merge, after, Context())
    forget(after)
    check(after)
    assert count_nodes(after) <= count_nodes(before)
    x = np.random.default_rng(seed).standard_normal(chain.inputs).astype(np.float32)
    (expected,) = Session(before, optimized=False).run({"x": x}).values()
    (actual,) = Session(after, optimized=False).run({"x": x}).values()
    assert actual.shape == expected.shape == tuple(chain.shape)
    assert actual.tobytes() == expected.tobytes()
