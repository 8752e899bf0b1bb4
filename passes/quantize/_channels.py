"""Which channels of which values can only be scaled together, and by how little.

Every output channel of a linear operator is a variable: the number it is divided by. Operators that are positively
homogeneous in each channel, f(x / s) = f(x) / s, hand variables on; sums make theirs equal; concatenations put them
side by side. What is made of anything else, or goes into it, is pinned to 1. Values come with bounds of each channel
that hold for every input of the model: a Clip whose end is never reached may be scaled until it would be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._layers import Layer

PINNED = 0
"""The variable that is 1."""

ROUNDING = 1e-4
"""How far rounding may carry a sum over its bound, as a share of the magnitudes that were added."""


@dataclass(frozen=True, eq=False)
class Channels:
    """The channels of a value.

    Attributes:
        axis: where they are, from the front.
        ids: int64 [channels]: the variable that each is divided by.
        low, high: float64 [channels]: bounds for every input of the model; infinite when there are none.
    """

    axis: int
    ids: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True, eq=False)
class Link:
    """A layer between the variables of its input and those of its output."""

    layer: Layer
    inputs: np.ndarray
    outputs: np.ndarray


@dataclass(frozen=True, eq=False)
class Term:
    """A constant that is added to a value: it is divided as the value is."""

    node: ir.Node
    index: int
    axis: int
    rank: int
    ids: np.ndarray


@dataclass(eq=False)
class Cut:
    """A Clip from 0 to a number, which becomes ReLU and a Min with one number for each channel when they are scaled.

    Attributes:
        node: the Clip, or the Min that took its place.
        high: where it cuts.
        axis, rank: of the channels, and of the tensor.
        ids: the variables.
    """

    node: ir.Node
    high: float
    axis: int
    rank: int
    ids: np.ndarray


@dataclass
class Variables:
    """All variables of a graph.

    Attributes:
        links: the layers, in topological order.
        terms: the constants that are added.
        cuts: the Clips that may get an end for each channel.
        count: of the variables.
        equal: pairs of arrays of variables that are the same.
        limits: arrays of variables with the least and the largest number that each may be.
        pins: variables that are 1, and why.
    """

    links: list[Link] = field(default_factory=list)
    terms: list[Term] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    count: int = 1
    equal: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    limits: list[tuple[np.ndarray, np.ndarray, float]] = field(default_factory=list)
    pins: list[tuple[np.ndarray, str]] = field(default_factory=list)

    def new(self, size: int) -> np.ndarray:
        """Fresh variables."""
        self.count += size
        return np.arange(self.count - size, self.count)

    def pin(self, ids: np.ndarray, reason: str) -> None:
        """They are 1."""
        self.pins.append((ids, reason))

    def labels(self) -> np.ndarray:
        """The smallest variable that each one is equal to."""
        left = np.concatenate([a for a, _ in self.equal] + [ids for ids, _ in self.pins] + [np.zeros(0, np.int64)])
        right = np.concatenate(
            [b for _, b in self.equal] + [np.zeros_like(ids) for ids, _ in self.pins] + [np.zeros(0, np.int64)]
        )
        return components(self.count, left, right)


def components(count: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The smallest member of the connected component of each of so many numbers, given edges."""
    labels = np.arange(count)
    while True:
        least = np.minimum(labels[left], labels[right])
        found = labels.copy()
        np.minimum.at(found, labels[left], least)
        np.minimum.at(found, labels[right], least)
        found = found[found]
        if (found == labels).all():
            return labels
        labels = found


def no_reach(node: ir.Node) -> float:
    """No Clip gets an end for each channel."""
    return 1.0


class Reader:
    """What is known of the channels of a graph's values, node by node in topological order.

    Args:
        graph: with shapes and types inferred.
        version: of the operator set in force.
        reach: how far a Clip may be scaled that gets an end for each channel; 1 where it may not.
    """

    def __init__(self, graph: ir.Graph, version: int, reach: Callable[[ir.Node], float] = no_reach) -> None:
        self.variables = Variables()
        self.reach = reach
        self._version = version
        self._found: dict[ir.Value, Channels] = {}
        self._graph = graph

    @property
    def version(self) -> int:
        """Of the operator set in force."""
        return self._version

    def channels(self, value: ir.Value | None) -> Channels | None:
        """What is known of a value."""
        return self._found.get(value) if value is not None else None

    def note(self, value: ir.Value, found: Channels) -> None:
        """Remember a value's channels, when their number is that of its shape."""
        self._found[value] = found

    def bounds(self, value: ir.Value | None, axis: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Of the channels of a value, known or not."""
        found = self.channels(value)
        if found is not None and found.axis == axis and len(found.ids) == size:
            return found.low, found.high
        return np.full(size, -np.inf), np.full(size, np.inf)

    def pin_operands(self, node: ir.Node, reason: str) -> None:
        """What a node reads is not scaled."""
        for value in node.inputs:
            self.pin_value(value, reason)

    def pin_value(self, value: ir.Value | None, reason: str) -> None:
        """A value is not scaled."""
        found = self.channels(value)
        if found is not None:
            self.variables.pin(found.ids, reason)

    def close(self, value: ir.Value) -> None:
        """A value that leaves the graph is not scaled."""
        if value.is_graph_output():
            reason = f"'{value.name}' is an output of the graph" if value.uses() else ""
            self.pin_value(value, reason)
        elif value in self._found and any(use.node.graph is not self._graph for use in value.uses()):
            self.pin_value(value, f"'{value.name}' is also read in a subgraph")

    def layer(self, layer: Layer) -> None:
        """New variables for the output channels of a layer."""
        node, source = layer.node, layer.node.inputs[0]
        before, rank = self.channels(source), gir.rank(source)
        axis = 1 if node.op_type.startswith("Conv") else (rank or 0) - 1
        inputs = np.zeros(layer.inputs, np.int64)
        if before is not None and before.axis == axis and len(before.ids) == layer.inputs:
            inputs = before.ids
        elif before is not None:
            self.variables.pin(before.ids, f"{gir.where(node)} mixes them along another axis")
        outputs = self.variables.new(layer.outputs)
        self.variables.links.append(Link(layer, inputs, outputs))
        axis = axis if node.op_type != "Gemm" else 1
        if axis < 0 or (node.op_type == "MatMul" and rank is None):
            self.variables.pin(outputs, f"the rank of what {gir.where(node)} gives is not known")
            return
        low, high = _linear_bounds(layer, *self.bounds(source, axis, layer.inputs))
        self.note(node.outputs[0], Channels(axis, outputs, low, high))


def _linear_bounds(layer: Layer, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of a layer's output: positive weights take an end of the input to the same end, negative ones to the other."""
    nothing = np.full(layer.outputs, -np.inf), np.full(layer.outputs, np.inf)
    if not np.isfinite(low).any() and not np.isfinite(high).any():
        return nothing
    if layer.node.op_type != "Conv":
        return nothing
    elements = gir.array(layer.node.inputs[1])
    assert elements is not None
    shape = layer.magnitudes.shape
    weights = elements.astype(np.float64).reshape(shape[0], shape[1], shape[2], -1)
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)  # padding puts zeros among them
    positive, negative = np.maximum(weights, 0).sum(axis=3), np.minimum(weights, 0).sum(axis=3)
    bias = gir.array(layer.node.inputs[2]) if len(layer.node.inputs) > 2 else None
    numbers = np.zeros(layer.outputs) if bias is None else bias.astype(np.float64)

    def reach(ends: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ends, others = ends.reshape(shape[0], 1, shape[2]), others.reshape(shape[0], 1, shape[2])
        with np.errstate(invalid="ignore"):  # 0 * inf: the weight is 0, and so is the product
            first, second = (
                np.nan_to_num(positive * ends, nan=0.0, posinf=np.inf, neginf=-np.inf),
                np.nan_to_num(negative * others, nan=0.0, posinf=np.inf, neginf=-np.inf),
            )
            slack = ROUNDING * (np.abs(first) + np.abs(second)).sum(axis=2).reshape(-1)
        return (first + second).sum(axis=2).reshape(-1), slack + ROUNDING * np.abs(numbers)

    top, slack = reach(high, low)
    bottom, slack_below = reach(low, high)
    return bottom + numbers - slack_below, top + numbers + slack
