"""fuse-hardsigmoid and fuse-hardswish on chains made at random: what they take to be a ramp is one."""

from __future__ import annotations

import random

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.passes.fuse.fuse_hardsigmoid import FuseHardsigmoid
from graphopt.passes.fuse.fuse_hardswish import FuseHardswish

NUMBERS = [0.0, 1.0, 6.0, 6.0, 3.0, -3.0, 0.5, 1 / 6, 2.0, -1.0]


def chain(seed: int) -> ir.Model:
    choose = random.Random(seed)
    dtype = choose.choice([ir.DataType.FLOAT, ir.DataType.FLOAT, ir.DataType.FLOAT16])
    x = ir.Value(name="x", type=ir.TensorType(dtype), shape=ir.Shape([64]))
    nodes: list[ir.Node] = []
    constants: list[ir.Value] = []

    def number(one: float) -> ir.Value:
        tensor = ir.tensor(np.array(one, dtype.numpy()))
        value = ir.Value(name=f"k{len(constants)}", type=ir.TensorType(dtype), shape=ir.Shape([]), const_value=tensor)
        constants.append(value)
        return value

    def add(operator: str, *inputs: ir.Value) -> ir.Value:
        node = ir.node(operator, list(inputs), name=f"n{len(nodes)}")
        node.outputs[0].name = f"v{len(nodes)}"
        nodes.append(node)
        return node.outputs[0]

    def some_step(value: ir.Value) -> ir.Value:
        operator = choose.choice(["Add", "Sub", "Mul", "Div", "Min", "Max", "Relu", "Neg", "Clip", "HardSigmoid"])
        if operator in ("Relu", "Neg", "HardSigmoid"):
            return add(operator, value)
        if operator == "Clip":
            return add("Clip", value, number(0.0), number(choose.choice([1.0, 6.0])))
        operands = [value, number(choose.choice(NUMBERS[1:] if operator == "Div" else NUMBERS))]
        if operator != "Div":
            choose.shuffle(operands)
        return add(operator, *operands)

    def ramp(value: ir.Value) -> ir.Value:
        if choose.random() < 0.6:  # near the truth, so that much is found
            value = add("Add", value, number(choose.choice([3.0, 3.0, 2.0])))
            if choose.random() < 0.3:
                value = some_step(value)
            value = add("Clip", value, number(0.0), number(choose.choice([6.0, 6.0, 1.0])))
        for _ in range(choose.choice([0, 1, 2, 3])):
            value = some_step(value)
        return value

    start = some_step(x) if choose.random() < 0.5 else x
    y = ramp(start)
    if choose.random() < 0.6:
        other = choose.choice([start, start, x, add("Mul", start, number(1 / 6))])
        y = add("Mul", *choose.choice([(y, other), (other, y)]))
        for _ in range(choose.choice([0, 1])):
            y = add("Div", y, number(6.0)) if choose.random() < 0.8 else some_step(y)
    if y is x or y is start:
        y = add("Neg", y)
    y.type, y.shape = ir.TensorType(dtype), ir.Shape([None])
    graph = ir.Graph([x], [y], nodes=nodes, initializers=constants, opset_imports={"": 17}, name="g")
    return ir.Model(graph, ir_version=8)


@pytest.mark.parametrize("start", range(0, 300, 100))
def test_random_chains_compute_the_same(agrees, start):
    sigmoids = swishes = 0
    for seed in range(start, start + 100):
        sigmoids += len(agrees(FuseHardsigmoid(), chain(seed), seed).changed)
        swishes += len(agrees(FuseHardswish(), chain(seed), seed).changed)
    assert sigmoids > 3
    assert swishes > 3
