"""A model in narrow floating point, simulated in float32: numbers are rounded where a narrow model would hold them.

    node(x, W) -> y   becomes   y = r(node(r(x), r(W)))        r: Cast to the narrow type and back

That is what kernels do that compute inside in float32 and store in 16 bits (tensor cores, and ONNX Runtime's CPU
provider, which has few others). It runs wherever float32 runs, for types without kernels too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._forms import FLOAT, Form


class Rounder:
    """Rounds values of one graph, each once.

    Args:
        graph: is edited.
        narrow: the type to round to.
    """

    def __init__(self, graph: ir.Graph, narrow: ir.DataType) -> None:
        self._graph = graph
        self._narrow = narrow
        self._rounded: dict[ir.Value, ir.Value] = {}
        self._count = 0

    def rounded(self, value: ir.Value) -> ir.Value:
        """The value rounded, still float32."""
        if value not in self._rounded:
            self._rounded[value] = self._constant(value) or self.pair(value, value)
        return self._rounded[value]

    def settle(self, value: ir.Value) -> None:
        """Round a value for all that use it."""
        users, is_output = tuple(value.uses()), value.is_graph_output()
        made = self.pair(value, value)
        for user, index in users:
            user.replace_input_with(index, made)
        if is_output:
            name = value.name
            value.name = f"{name}.graphopt.exact"
            made.name = name
            for index, output in enumerate(self._graph.outputs):
                if output is value:
                    self._graph.outputs[index] = made
        self._rounded[value] = self._rounded[made] = made

    def pair(self, value: ir.Value, behind: ir.Value) -> ir.Value:
        """Cast and Cast back, placed right behind the node of a value."""
        there = ir.node("Cast", [value], {"to": self._narrow})
        back = ir.node("Cast", there.outputs, {"to": FLOAT})
        self._count += 1
        for node, dtype, suffix in ((there, self._narrow, "narrow"), (back, FLOAT, "rounded")):
            node.outputs[0].type = ir.TensorType(dtype)
            node.outputs[0].name = f"{value.name}.graphopt.{suffix}.{self._count}"
        producer = behind.producer()
        if producer is not None and producer.graph is self._graph:
            self._graph.insert_after(producer, (there, back))
        else:
            self._graph.insert_before(self._graph[0], (there, back))
        return back.outputs[0]

    def _constant(self, value: ir.Value) -> ir.Value | None:
        tensor = gir.constant(value)
        if tensor is None:
            return None
        with np.errstate(all="ignore"):
            elements = tensor.numpy().astype(self._narrow.numpy()).astype(np.float32)
        return gir.new_initializer(self._graph, elements, f"{value.name}_rounded")


def simulated(model: ir.Model, forms: Mapping[str, Form], narrow: ir.DataType) -> ir.Model:
    """A copy in which some nodes of the main graph compute with rounded numbers.

    Args:
        model: is not changed.
        forms: the nodes, by the name of their first output, with the operands and results to round.
        narrow: the type.
    """
    copy = gir.copy_model(model)
    rounder = Rounder(copy.graph, narrow)
    for node in tuple(copy.graph):
        chosen = forms.get(key(node))
        if chosen is None:
            continue
        _round_operands(node, chosen.operands, rounder)
        for index in chosen.results:
            if node.outputs[index].name:
                rounder.settle(node.outputs[index])
    return copy


def shadowed(model: ir.Model, forms: Mapping[str, Form], narrow: ir.DataType) -> tuple[ir.Model, dict[str, str]]:
    """A copy in which nodes have a shadow that does the same with rounded operands and result, fed with exact ones.

    Returns:
        the copy, and the name of the shadow of each result.
    """
    copy = gir.copy_model(model)
    rounder = Rounder(copy.graph, narrow)
    shadows: dict[str, str] = {}
    for node in tuple(copy.graph):
        chosen = forms.get(key(node))
        if chosen is None:
            continue
        twin = ir.node(node.op_type, node.inputs, node.attributes, domain=node.domain, num_outputs=len(node.outputs))
        for mine, its in zip(twin.outputs, node.outputs, strict=True):
            mine.name = f"{its.name}.graphopt.shadow" if its.name else ""
            mine.type, mine.shape = its.type, its.shape
        copy.graph.insert_after(node, twin)
        _round_operands(twin, chosen.operands, rounder)
        for index in chosen.results:
            if node.outputs[index].name:
                made = rounder.pair(twin.outputs[index], twin.outputs[index])
                shadows[str(node.outputs[index].name)] = str(made.name)
    return copy, shadows


def key(node: ir.Node) -> str:
    """What a node of the main graph is known by in copies of it."""
    return next((str(value.name) for value in node.outputs if value.name), "")


def _round_operands(node: ir.Node, positions: Iterable[int], rounder: Rounder) -> None:
    for index in positions:
        value = node.inputs[index]
        if value is not None:
            node.replace_input_with(index, rounder.rounded(value))
