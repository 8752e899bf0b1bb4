"""The folding passes on models made at random: shapes, groups, pads, types, broadcasts, and everything in between."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.passes.fuse.fuse_affine import FuseAffine
from graphopt.passes.fuse.fuse_batchnorm import FuseBatchnorm
from graphopt.passes.fuse.fuse_pad import FusePad

TYPES = [ir.DataType.FLOAT, ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16]


class Maker:
    """Builds one model node by node; keeps the shape of the last tensor."""

    def __init__(self, seed: int, dtype: ir.DataType) -> None:
        self.random = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.dtype = dtype
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []

    def start(self, shape: list[int]) -> None:
        self.shape = shape
        self.input = ir.Value(name="x", type=ir.TensorType(self.dtype), shape=ir.Shape(shape))
        self.value = self.input

    def constant(self, shape: Any, low: float = -1.0, high: float = 1.0) -> ir.Value:
        elements = np.asarray(self.numbers.uniform(low, high, shape)).astype(self.dtype.numpy())
        return self.add_constant(ir.tensor(elements))

    def add_constant(self, tensor: ir.TensorProtocol) -> ir.Value:
        name = f"k{len(self.constants)}"
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape), const_value=tensor)
        self.constants.append(value)
        return value

    def node(self, operator: str, inputs: list[ir.Value | None], **attributes: Any) -> None:
        node = ir.node(operator, inputs, attributes, name=f"n{len(self.nodes)}")
        node.outputs[0].name = f"v{len(self.nodes)}"
        self.nodes.append(node)
        self.value = node.outputs[0]

    def convolution(self, operator: str) -> None:
        groups = self.random.choice([1, 1, 2])
        inside, outside = self.shape[1], groups * self.random.choice([1, 2, 3])
        if inside % groups:
            groups, outside = 1, 2
        kernel = [self.random.choice([1, 2, 3]) for _ in self.shape[2:]]
        first, second = (outside, inside) if operator == "Conv" else (inside, outside)
        weights = self.constant((first, second // groups, *kernel))
        bias = self.constant(outside) if self.random.random() < 0.5 else None
        attributes: dict[str, Any] = {"group": groups}
        pads = [0] * (2 * len(kernel))
        if self.random.random() < 0.4:
            pads = [self.random.choice([0, 1]) for _ in pads]
            attributes["pads"] = pads
        elif operator == "Conv" and self.random.random() < 0.5:
            attributes["auto_pad"] = "VALID"
        self.node(operator, [self.value, weights, bias], **attributes)
        half = len(kernel)
        sign = 1 if operator == "Conv" else -1
        sizes = [
            size + sign * (pads[axis] + pads[axis + half]) - sign * (kernel[axis] - 1)
            for axis, size in enumerate(self.shape[2:])
        ]
        self.shape = [self.shape[0], outside, *sizes]

    def dense(self, operator: str) -> None:
        inside, outside = self.shape[-1], self.random.choice([1, 2, 3])
        if operator == "MatMul":
            self.node("MatMul", [self.value, self.constant((inside, outside))])
            if self.random.random() < 0.5:
                operands = [self.value, self.constant(outside)]
                self.random.shuffle(operands)
                self.node("Add", operands)
        else:
            turned = self.random.choice([0, 1])
            weights = self.constant((outside, inside) if turned else (inside, outside))
            shape = self.random.choice([(), (outside,), (1, outside), (self.shape[0], outside), None])
            bias = None if shape is None else self.constant(shape)
            self.node("Gemm", [self.value, weights, bias], transB=turned, alpha=0.5, beta=2.0)
        self.shape = [*self.shape[:-1], outside]

    def batchnorm(self) -> None:
        channels = self.shape[1]
        parameters = [self.constant(channels), self.constant(channels), self.constant(channels)]
        self.node("BatchNormalization", [self.value, *parameters, self.constant(channels, 0.1, 2.0)])

    def affine(self) -> None:
        """A constant that broadcasts somehow: along the channels, one number, along another axis, widening."""
        kept = [self.random.random() < 0.5 for _ in self.shape]
        shape = [size if keep else 1 for size, keep in zip(self.shape, kept, strict=True)]
        kind = self.random.random()
        if kind < 0.6:
            axis = 1 if len(self.shape) > 2 and self.convolves else len(self.shape) - 1
            shape = [size if at == axis else 1 for at, size in enumerate(self.shape)][self.random.choice([0, axis]) :]
        elif kind < 0.8:
            shape = [1] * self.random.randrange(len(self.shape) + 1)
        operator = self.random.choice(["Mul", "Add", "Sub", "Div"])
        operands = [self.value, self.constant(tuple(shape), 0.5, 2.0)]
        if operator != "Div":
            self.random.shuffle(operands)
        self.node(operator, operands)

    def model(self, opset: int = 17) -> ir.Model:
        output = self.value
        output.type = ir.TensorType(self.dtype)
        output.shape = ir.Shape([None] * len(self.shape))
        graph = ir.Graph(
            [self.input], [output], nodes=self.nodes, initializers=self.constants, opset_imports={"": opset}, name="g"
        )
        return ir.Model(graph, ir_version=8)


def chain(seed: int) -> ir.Model:
    made = Maker(seed, TYPES[seed % len(TYPES)])
    made.convolves = made.random.random() < 0.6
    if made.convolves:
        made.start([2, made.random.choice([1, 2, 4]), *([6] * made.random.choice([1, 2]))])
    else:
        made.start([3, 4] if made.random.random() < 0.7 else [2, 3, 4])
    linear = ["Conv", "Conv", "ConvTranspose"] if made.convolves else ["MatMul", "Gemm"]
    if made.convolves and made.dtype == ir.DataType.DOUBLE:
        linear = ["Conv"]  # onnx.reference, which runs doubles, is wrong about groups and 1-D in ConvTranspose
    if len(made.shape) == 3 and not made.convolves:
        linear = ["MatMul"]
    for _ in range(2):
        for _ in range(made.random.choice([0, 1, 2])):
            made.affine() if made.random.random() < 0.6 else made.batchnorm()
        operator = made.random.choice(linear)
        made.convolution(operator) if made.convolves else made.dense(operator)
        for _ in range(made.random.choice([0, 1, 2])):
            made.affine() if made.random.random() < 0.6 else made.batchnorm()
    return made.model()


@pytest.mark.parametrize("start", range(0, 200, 50))
def test_random_chains_compute_the_same(agrees, start):
    changed = 0
    for seed in range(start, start + 50):
        changed += len(agrees(FuseBatchnorm(), chain(seed), seed).changed)
        changed += len(agrees(FuseAffine(), chain(seed), seed).changed)
    assert changed > 50


def padded(seed: int) -> ir.Model:
    made = Maker(seed, ir.DataType.FLOAT)
    axes = made.random.choice([1, 2])
    made.start([1, 2, *([9] * axes)])
    if made.random.random() < 0.5:
        made.node(made.random.choice(["Relu", "Neg"]), [made.value])
    value = made.random.choice([0.0, 0.0, 0.0, -np.inf, 1.0])
    pads = [0, 0, *(made.random.choice([0, 1, 2]) for _ in range(axes))] * 2
    pads[-1] = made.random.choice([0, 1, 2])
    inputs = [made.value, made.add_constant(ir.tensor(np.array(pads, np.int64)))]
    made.node("Pad", [*inputs, made.add_constant(ir.tensor(np.float32(value)))])
    reader = made.random.choice(["Conv", "AveragePool", "MaxPool", "LpPool"])
    attributes: dict[str, Any] = {"strides": [made.random.choice([1, 2, 3]) for _ in range(axes)]}
    if made.random.random() < 0.5:
        attributes["pads"] = [made.random.choice([0, 1]) for _ in range(2 * axes)]
    elif made.random.random() < 0.5:
        attributes["auto_pad"] = made.random.choice(["VALID", "SAME_UPPER", "NOTSET"])
    if "auto_pad" not in attributes and made.random.random() < 0.3:
        attributes["dilations"] = [made.random.choice([1, 2]) for _ in range(axes)]
    if reader == "Conv":
        made.node("Conv", [made.value, made.constant((1, 2, *([made.random.choice([1, 3])] * axes)))], **attributes)
        return made.model(19)
    if reader != "LpPool":
        attributes["ceil_mode"] = int(made.random.random() < 0.2)
    if reader == "AveragePool":
        attributes["count_include_pad"] = made.random.choice([0, 1])
    made.node(reader, [made.value], kernel_shape=[made.random.choice([2, 3, 4])] * axes, **attributes)
    return made.model(19)


@pytest.mark.parametrize("start", range(0, 200, 100))
def test_random_pads_compute_the_same(agrees, start):
    changed = sum(len(agrees(FusePad(), padded(seed), seed).changed) for seed in range(start, start + 100))
    assert changed > 10
