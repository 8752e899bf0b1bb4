"""The edits that give nodes of a graph another floating-point type, one node at a time, with casts only at borders.

A node's narrow operands are: the narrow value itself, where the operand is a cast up from it; a constant converted
once; or a Cast, one for each value, right behind its node. Its narrow results get a Cast up that takes their names,
for whoever still wants float32; when nobody does it is dead. So no pair of casts is ever left.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._forms import FLOAT, Form


class Narrower:
    """Edits one graph.

    Args:
        graph: the main graph.
        narrow: the type.
    """

    def __init__(self, graph: ir.Graph, narrow: ir.DataType) -> None:
        self._graph = graph
        self._narrow = narrow
        self._known: dict[ir.Value, ir.Value] = {}

    def node(self, old: ir.Node, form: Form) -> None:
        """Put the narrow form of a node in its place."""
        operands = [
            self._narrowed(value) if index in form.operands and value is not None else value
            for index, value in enumerate(old.inputs)
        ]
        attributes = dict(old.attributes)
        if gir.is_op(old, "Cast") and form.results:
            attributes["to"] = ir.AttrInt64("to", self._narrow)
        elif gir.is_op(old, "ConstantOfShape"):
            value = gir.attribute(old, "value")
            zero = np.zeros(1, np.float32) if value is None else value.numpy()
            attributes["value"] = ir.AttrTensor("value", self._tensor(zero))
        new = ir.Node(
            old.domain,
            old.op_type,
            operands,
            tuple(attributes.values()),
            overload=old.overload,
            num_outputs=len(old.outputs),
            name=old.name,
        )
        made: list[ir.Node] = [new]
        results: list[ir.Value | None] = []
        for index, (before, after) in enumerate(zip(old.outputs, new.outputs, strict=True)):
            after.shape, after.type = before.shape, before.type
            if index not in form.results or not (before.uses() or before.is_graph_output()):
                after.name = before.name if before.name == "" else None
                results.append(after if before.uses() or before.is_graph_output() else None)
                if index in form.results:
                    after.type = ir.TensorType(self._narrow)
                continue
            after.type = ir.TensorType(self._narrow)
            wide = ir.node("Cast", [after], {"to": FLOAT}).outputs[0]
            wide.shape, wide.type = before.shape, before.type
            producer = wide.producer()
            assert producer is not None
            made.append(producer)
            results.append(wide)
            self._known[wide] = after
        gir.replace_node(old, made, results)

    def _narrowed(self, value: ir.Value) -> ir.Value:
        if value not in self._known:
            self._known[value] = self._source(value) or self._constant(value) or self._cast(value)
        return self._known[value]

    def _source(self, value: ir.Value) -> ir.Value | None:
        """What the value is a cast up of."""
        node = value.producer()
        source = node.inputs[0] if gir.is_op(node, "Cast") and node is not None else None
        return source if source is not None and source.dtype == self._narrow else None

    def _constant(self, value: ir.Value) -> ir.Value | None:
        tensor = gir.constant(value)
        if tensor is None:
            return None
        return gir.new_initializer(self._graph, self._tensor(tensor.numpy()), f"{value.name}_{self._label}")

    def _tensor(self, elements: np.ndarray) -> ir.TensorProtocol:
        with np.errstate(all="ignore"):
            return ir.tensor(elements.astype(self._narrow.numpy()), dtype=self._narrow)

    def _cast(self, value: ir.Value) -> ir.Value:
        cast = ir.node("Cast", [value], {"to": self._narrow})
        made = cast.outputs[0]
        made.shape, made.type = value.shape, ir.TensorType(self._narrow)
        producer = value.producer()
        if producer is not None and producer.graph is self._graph:
            self._graph.insert_after(producer, cast)
        else:
            self._graph.insert_before(self._graph[0], cast)
        return made

    @property
    def _label(self) -> str:
        return self._narrow.name.lower()

    def wants_narrow(self, value: ir.Value) -> bool:
        """True for an input of the graph that everything casts down, or only asks for its sizes."""
        users = [user for user, _ in value.uses()]
        downs = [user for user in users if self._is_cast_down(user)]
        return bool(downs) and all(user in downs or gir.is_op(user, "Shape", "Size") for user in users)

    def input(self, value: ir.Value) -> None:
        """Give an input of the graph the narrow type."""
        value.type = ir.TensorType(self._narrow)
        for user, _ in tuple(value.uses()):
            if self._is_cast_down(user):
                gir.replace(user.outputs[0], value)

    def _is_cast_down(self, node: ir.Node) -> bool:
        return gir.is_op(node, "Cast") and node.graph is self._graph and gir.attribute(node, "to") == self._narrow

    def output(self, value: ir.Value) -> None:
        """Give an output of the graph, now a cast up, the narrow type."""
        source = self._source(value)
        assert source is not None
        value.type = source.type
        gir.replace(value, source)
