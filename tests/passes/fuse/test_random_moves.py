"""Random rows of Reshape, Transpose and Split behind a linear operator, scaled at their ends."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.passes.fuse.sink_scale import SinkScale
from graphopt.passes.fuse.sink_splits import SinkSplits


class _Row:
    """A model that grows; tensors have the free axis N and known ones behind it, or N in another place."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.x = ir.val("x", ir.DataType.FLOAT, ["N", 3, 4])
        self.graph = ir.Graph([self.x], [], nodes=[], opset_imports={"": 17})

    def constant(self, elements: np.ndarray) -> ir.Value:
        name = f"c{len(self.graph.initializers)}"
        value = ir.val(name, const_value=ir.tensor(elements, name=name))
        self.graph.initializers.add(value)
        return value

    def op(self, op_type: str, *inputs: ir.Value, outputs: int = 1, **attributes: object) -> list[ir.Value]:
        node = ir.node(op_type, list(inputs), attributes, num_outputs=outputs, name=f"n{len(self.graph)}")
        self.graph.append(node)
        for index, value in enumerate(node.outputs):
            value.name = f"{node.name}_{index}"
        return list(node.outputs)

    def linear(self) -> tuple[ir.Value, list[int]]:
        """``N, 3, 12``, as list of sizes in which -1 is N."""
        weights = self.constant(self.rng.normal(size=(4, 12)).astype(np.float32))
        (value,) = self.op("MatMul", self.x, weights)
        if self.rng.random() < 0.5:
            (value,) = self.op("Add", value, self.constant(self.rng.normal(size=12).astype(np.float32)))
        return value, [-1, 3, 12]

    def move(self, value: ir.Value, shape: list[int]) -> tuple[ir.Value, list[int]]:
        """One Transpose, or one Reshape that cuts an axis or joins two, N among them or not."""
        choice = self.rng.integers(3)
        if choice == 0:
            perm = self.rng.permutation(len(shape)).tolist()
            return self.op("Transpose", value, perm=perm)[0], [shape[axis] for axis in perm]
        axis = int(self.rng.integers(len(shape)))
        new = list(shape)
        if choice == 1 and axis + 1 < len(shape) and -1 not in shape[axis : axis + 2]:
            new[axis : axis + 2] = [prod(shape[axis : axis + 2])]
        else:
            factors = [size for size in (1, 2, 3, 4) if shape[axis] > 0 and shape[axis] % size == 0]
            factor = int(self.rng.choice(factors)) if factors else 1
            new[axis : axis + 1] = [shape[axis] // factor if factors else -1, factor]
        return self.op("Reshape", value, self.constant(np.array(new, dtype=np.int64)))[0], new

    def split(self, value: ir.Value, shape: list[int]) -> list[tuple[ir.Value, list[int]]]:
        """Two parts, where an axis has two elements."""
        axes = [axis for axis, size in enumerate(shape) if size > 1]
        if not axes:
            return [(value, shape)]
        axis = int(self.rng.choice(axes))
        first = int(self.rng.integers(1, shape[axis]))
        sizes = [first, shape[axis] - first]
        lengths = self.constant(np.array(sizes, dtype=np.int64))
        parts = self.op("Split", value, lengths, outputs=2, axis=axis)
        return [(part, [*shape[:axis], size, *shape[axis + 1 :]]) for part, size in zip(parts, sizes, strict=True)]

    def end(self, value: ir.Value) -> None:
        """Scaled or not, an output."""
        value.type = value.type or ir.TensorType(ir.DataType.FLOAT)
        factor = self.constant(np.array(self.rng.uniform(0.2, 2), dtype=np.float32))
        (value,) = self.op(str(self.rng.choice(["Mul", "Div"])), value, factor) if self.rng.random() < 0.8 else [value]
        (value,) = self.op("Relu", value)
        value.type = ir.TensorType(ir.DataType.FLOAT)
        self.graph.outputs.append(value)

    def model(self) -> ir.Model:
        value, shape = self.linear()
        for _ in range(int(self.rng.integers(0, 4))):
            value, shape = self.move(value, shape)
        parts = self.split(value, shape) if self.rng.random() < 0.6 else [(value, shape)]
        alike = int(self.rng.integers(1 << 30)) if self.rng.random() < 0.5 else None
        for part, size in parts:
            if alike is not None:
                self.rng = np.random.default_rng(alike)
            for _ in range(int(self.rng.integers(0, 4))):
                part, size = self.move(part, size)
            self.end(part)
        return ir.Model(self.graph, ir_version=8)


@pytest.mark.parametrize("kind", [SinkScale, SinkSplits])
def test_random_moves_compute_the_same(agrees, kind):
    changed = sum(len(agrees(kind(), _Row(seed).model(), seed).changed) for seed in range(60))
    assert changed >= 10
