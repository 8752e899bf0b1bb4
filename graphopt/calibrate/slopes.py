"""The model that computes how far its BatchNormalizations are from their training, and the slope of that.

    L = sum_l mean_c [ (mean(z_lc) - mu_lc)^2 + (std(z_lc) - sigma_lc)^2 ] / s_lc
    dL/dz = 2 (mean - mu) / (n s) + 2 (std - sigma) / (n s std) (z - mean)        n numbers of a channel

From there the adjoint of each node takes it back to the inputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.errors import GraphoptError
from graphopt.execute.session import Session

from .adjoints import adjoint
from .trail import Trail

NO_SLOPE = frozenset(("Shape", "Size"))
"""Operators whose results do not depend on the numbers of their operand."""
_SMALL = 4096  # integer tensors up to here may be the operands of Slice, Pad and their like
_FLOAT = ir.DataType.FLOAT


def with_gradients(
    model: ir.Model, layers: list[str], inputs: list[str], feeds: dict[str, Any]
) -> tuple[ir.Model, str, dict[str, str]]:
    """The model that computes the loss and its slope, the name of the loss, and that of each input's gradient."""
    shapes, numbers = _facts(model, feeds)
    copy = gir.copy_model(model)
    trail = Trail(copy.graph, copy.opset_imports.get("", 11), shapes, numbers)
    wanted = set(layers)
    nodes = list(copy.graph)
    slopes: dict[ir.Value, list[ir.Value]] = {}
    losses = []
    for node in nodes:
        if str(node.outputs[0].name) in wanted:
            source = node.inputs[0]
            assert source is not None
            loss, slope = _statistics_loss(trail, node, source, len(layers))
            losses.append(loss)
            slopes.setdefault(source, []).append(slope)
    alive = {value for value in copy.graph.inputs if value.name in inputs}
    for node in nodes:
        if node.op_type not in NO_SLOPE and any(value in alive for value in node.inputs):
            alive.update(value for value in node.outputs if value.dtype in (None, _FLOAT))
    for node in reversed(nodes):
        gathered = slopes.pop(node.outputs[0], [])
        if not gathered:
            continue
        total = _total(trail, gathered)
        for index, value in enumerate(node.inputs):
            if value is not None and value in alive:
                slope = adjoint(trail, node, total, index)
                if slope is not None:
                    slopes.setdefault(value, []).append(slope)
    gradients = {str(value.name): _total(trail, slopes[value]) for value in copy.graph.inputs if slopes.get(value)}
    if not gradients:
        raise GraphoptError(
            "no gradient reaches an input of the model",
            f"graph '{model.graph.name}'",
            "inputs cannot be made from it: give real data",
        )
    loss = _total(trail, losses)
    copy.graph.outputs.clear()
    for value in (loss, *gradients.values()):
        value.type = ir.TensorType(_FLOAT)
        copy.graph.outputs.append(value)
    gir.sweep(copy)
    return copy, str(loss.name), {name: str(value.name) for name, value in gradients.items()}


def _total(trail: Trail, values: list[ir.Value]) -> ir.Value:
    total = values[0]
    for value in values[1:]:
        total = trail.op("Add", [total, value])
    return total if len(values) > 1 else trail.op("Identity", [total])


def _statistics_loss(trail: Trail, node: ir.Node, source: ir.Value, layers: int) -> tuple[ir.Value, ir.Value]:
    """How far a BatchNormalization's input is from what it was in training, and the slope of that."""
    shape = trail.shape(source)
    mean, variance = (np.asarray(gir.array(node.inputs[index]), np.float64) for index in (3, 4))
    beside = (-1, *[1] * (len(shape) - 2))
    share = variance + 0.1 * variance.mean() + 1e-12
    weight = (1.0 / (share * len(variance) * layers)).reshape(beside)
    axes = [axis for axis in range(len(shape)) if axis != 1]
    elements = float(np.prod(shape)) / shape[1]
    centre = trail.reduced("ReduceMean", source, axes)
    square = trail.reduced("ReduceMean", trail.op("Mul", [source, source]), axes)
    spread = trail.op("Relu", [trail.op("Sub", [square, trail.op("Mul", [centre, centre])])])
    deviation = trail.op("Sqrt", [trail.op("Add", [spread, trail.constant((1e-6 * share).reshape(beside))])])
    first = trail.op("Sub", [centre, trail.constant(mean.reshape(beside))])
    second = trail.op("Sub", [deviation, trail.constant(np.sqrt(variance).reshape(beside))])
    weights = trail.constant(weight)
    squares = trail.op("Add", [trail.op("Mul", [first, first]), trail.op("Mul", [second, second])])
    every = list(range(len(shape)))
    loss = trail.reduced("ReduceSum", trail.op("Mul", [squares, weights]), every, keepdims=False)
    twice = trail.constant(2.0 * weight / elements)
    steep = trail.op("Div", [trail.op("Mul", [second, twice]), deviation])
    level = trail.op("Sub", [trail.op("Mul", [first, twice]), trail.op("Mul", [steep, centre])])
    slope = trail.op("Add", [trail.op("Mul", [source, steep]), level])
    return loss, slope


def _facts(model: ir.Model, feeds: dict[str, Any]) -> tuple[dict[str, tuple[int, ...]], dict[str, np.ndarray]]:
    """Shapes of all tensors of a run, and the small integer ones themselves."""
    copy = gir.copy_model(model)
    gir.infer(copy)
    tensors = [value for node in copy.graph for value in node.outputs if value.name]
    probed: list[str] = []
    for number, value in enumerate(tensors):
        node = ir.node("Shape", [value])
        node.outputs[0].name = f"shape_of_{number}_{value.name}"
        copy.graph.append(node)
        probed.append(str(node.outputs[0].name))
    small = [str(value.name) for value in tensors if value.dtype in (ir.DataType.INT64, ir.DataType.INT32)]
    found = Session(copy, optimized=False, threads=0, outputs=[*probed, *small]).run(feeds)
    shapes = {name: np.asarray(value).shape for name, value in feeds.items()}
    shapes |= {
        str(value.name): tuple(found[name].tolist())
        for name, value in zip(probed, tensors, strict=True)
        if name in found
    }
    numbers = {name: found[name] for name in small if name in found and found[name].size <= _SMALL}
    return shapes, numbers
