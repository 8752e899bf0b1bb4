"""Writing down nodes that work on packed channels, with the conversions around them."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir
from onnx_ir.convenience import convert_attribute

from graphopt import ir as gir

from ._packable import Packable, channels_of
from ._packed import DOMAIN, VERSION, Operator, blocks, pack, unpack
from ._packing import Part

_FUNCTIONS = 8  # the IR version from which on a model has functions


class PartWriter:
    """Puts nodes that work on packed channels in the place of those that do not."""

    def __init__(self, part: Part, model: ir.Model, body: gir.Body) -> None:
        self._part = part
        self._packing = part.packing
        self._nodes = part.nodes
        self._model = model
        self._body = body
        self._graph = part.packing.graph
        self._block = part.packing.look.blocks.size
        self._packed: dict[ir.Value, ir.Value] = {}
        self._constants: dict[object, ir.Value] = {}

    def write(self) -> None:
        """Change the graph."""
        unpacked: dict[ir.Value, ir.Value] = {}
        for node in self._nodes:
            form = self._packing.nodes[node]
            new = self._rewritten(node, form)
            gir.insert_before(node, new)
            for index, (old, value) in enumerate(zip(node.outputs, new.outputs, strict=True)):
                if index not in form.results:
                    unpacked[old] = value
                    continue
                self._packed[old] = value
                if self._part.is_unpacked(old):
                    unpacked[old] = self._converted(unpack(self._channels(old), self._block), value, old, node)
        for old, value in unpacked.items():
            gir.succeed(old, value)
        for node in reversed(self._nodes):
            gir.erase_if_dead(node)

    def _channels(self, value: ir.Value) -> int:
        channels = channels_of(value)
        assert channels is not None
        return channels

    def _rewritten(self, node: ir.Node, form: Packable) -> ir.Node:
        inputs = list(node.inputs)
        for index in form.carried:
            inputs[index] = self._get(inputs[index])
        for index in form.thin:
            inputs[index] = self._widened(inputs[index], node)
        for index, make in form.constants.items():
            inputs[index] = self._constant(inputs[index], make)
        if form.operator is not None:
            new = self._call(form.operator, [inputs[index] for index in form.inputs], node.name)
        else:
            changed = [item for name, item in node.attributes.items() if name not in form.attributes]
            changed += [convert_attribute(name, value) for name, value in form.attributes.items()]
            new = ir.Node(
                node.domain, node.op_type, inputs, changed, num_outputs=len(node.outputs), version=node.version
            )
            new.name = node.name
        new.metadata_props.update(node.metadata_props)
        for index, (before, after) in enumerate(zip(node.outputs, new.outputs, strict=True)):
            after.type = before.type
            if index in form.results:
                after.name = f"{before.name}_packed" if before.name else None
                after.shape = self._shape(before)
            else:
                after.shape = before.shape
        return new

    def _call(self, operator: Operator, inputs: list[ir.Value | None], name: str | None) -> ir.Node:
        key = (DOMAIN, operator.name, "")
        if key not in self._model.functions:
            self._model.functions[key] = operator.function(self._packing.look.version)
            self._model.ir_version = max(self._model.ir_version, _FUNCTIONS)
        owner = self._body.function if self._body.function is not None else self._model.graph
        for opsets in (self._model.graph.opset_imports, owner.opset_imports):
            opsets[DOMAIN] = VERSION
        attributes = [convert_attribute(name, value) for name, value in sorted(operator.call_attributes.items())]
        return ir.Node(DOMAIN, operator.name, inputs, attributes, num_outputs=1, name=name)

    def _get(self, value: ir.Value | None) -> ir.Value:
        """The value packed; converted right where it is made, once."""
        assert value is not None
        if value not in self._packed:
            self._packed[value] = self._converted(pack(self._channels(value), self._block), value, value, None)
        return self._packed[value]

    def _converted(self, operator: Operator, source: ir.Value, like: ir.Value, before: ir.Node | None) -> ir.Value:
        hint = f"{like.name}_{operator.kind.lower()}" if like.name else None
        node = self._call(operator, [source], hint)
        result = node.outputs[0]
        result.type, result.shape = like.type, like.shape if operator.gives_plain else self._shape(like)
        result.name = f"{hint}ed" if hint else None
        producer = source.producer()
        if before is not None:
            gir.insert_before(before, node)
        elif producer is not None and producer.graph is self._graph:
            gir.insert_after(producer, node)
        else:
            gir.insert_before(self._graph[0], node)
        return result

    def _widened(self, value: ir.Value | None, before: ir.Node) -> ir.Value:
        assert value is not None
        if self._packing.look.version < 13:
            node = ir.node("Unsqueeze", [value], {"axes": [4]})
        else:
            axes = gir.new_initializer(self._graph, np.array([4], np.int64), "axes")
            node = ir.node("Unsqueeze", [value, axes])
        result = node.outputs[0]
        result.type = value.type
        result.shape = ir.Shape([*value.shape.dims, 1]) if value.shape is not None else None
        gir.insert_before(before, node)
        return result

    def _constant(self, value: ir.Value | None, make: partial[np.ndarray]) -> ir.Value:
        tensor = gir.constant(value)
        assert value is not None and tensor is not None
        key = (value, make.func, tuple(make.keywords.items()))
        if key not in self._constants:
            elements = ir.Tensor(make(tensor.numpy()), tensor.dtype)
            self._constants[key] = gir.new_initializer(self._graph, elements, f"{value.name}_packed")
        return self._constants[key]

    def _shape(self, value: ir.Value) -> ir.Shape | None:
        channels = channels_of(value)
        if value.shape is None or channels is None:
            return None
        batch, _, *rest = value.shape.dims
        return ir.Shape([batch, blocks(channels, self._block), *rest, self._block])
