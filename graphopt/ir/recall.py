"""What shape inference has found out, kept for the next time.

A node whose operator, attributes and inputs are what they were gives what it gave: only nodes behind an edit are
worked out again. This holds for symbols too. The name of a size that a node has introduced stands for that output of
that node, so it is given to no other, in no later inference of the model.

Nodes inside local functions are not remembered: each call means other values. Nor are those with graphs inside.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_shape_inference import SYM_DATA_KEY, ShapeInferenceContext

from .sizes import named

Elements = list[int | ir.SymbolicDim]
_KEY = "graphopt.inferred"
_FEW = 64


class Context(ShapeInferenceContext):
    """The package's context: its sizes remember their arithmetic, and elements can be given back and taken away."""

    def create_child(
        self, opset_imports: Mapping[str, int] | None = None, *, resolved_attrs: dict[str, ir.Attr] | None = None
    ) -> Context:
        """A context for another body, or a later time, that gives no symbol a name in use here."""
        imports = self.opset_imports if opset_imports is None else opset_imports
        return Context(imports, "override", resolved_attrs, allocator=self._allocator)

    def new_symbolic_dim(self) -> ir.SymbolicDim:
        """A size that nothing is known of."""
        return named(super().new_symbolic_dim().value or "")

    @staticmethod
    def _check_no_anonymous_dims(shape: ir.Shape) -> None:
        """As the package does, without asking a number for the protocol of symbols."""
        if any(not isinstance(dim, int) and dim.value is None for dim in shape.dims):
            raise ValueError("a size has no name")

    def set_symbolic_value(self, value: ir.Value, data: Elements) -> None:
        """Note elements, as the package does, whose general way to a tensor asks what everything might be."""
        self._symbolic_values[value] = data
        value.metadata_props[SYM_DATA_KEY] = json.dumps([item if isinstance(item, int) else str(item) for item in data])
        shape = value.shape
        if shape is None or len(shape) > 1 or value.const_value is not None:
            return
        if not all(isinstance(item, int) for item in data):
            return
        dtype = ir.DataType.INT64 if value.dtype is None else value.dtype
        array = np.array(data[0] if len(shape) == 0 and data else data, dtype.numpy())
        value.const_value = ir.Tensor(array, dtype, name=value.name)

    def noted(self, value: ir.Value) -> Elements | None:
        """The elements that inference has noted of a value; what is a constant in the file is not looked at."""
        return self._symbolic_values.get(value)

    def note_again(self, value: ir.Value, elements: Elements, text: str) -> None:
        """Note elements that were worked out before."""
        self._symbolic_values[value] = elements
        value.metadata_props[SYM_DATA_KEY] = text


@dataclass(slots=True, eq=False)
class Fact:
    """All that inference knows of a value.

    Attributes:
        shape, dims: the shape, and its sizes at that time.
        kind: of the type.
        tensor: the constant, as inferred or as the file has it; None for weights, whose elements no rule reads.
        origin: the attribute of a Constant node; None for other values.
        elements, text: symbolic elements, and how ``onnx_shape_inference`` writes them.
    """

    shape: ir.Shape | None
    dims: tuple[int | ir.SymbolicDim, ...] | None
    kind: object
    tensor: ir.TensorProtocol | None
    origin: ir.Attr | None = None
    elements: Elements | None = None
    text: str = ""

    def equals(self, other: Fact) -> bool:
        """True when a rule would conclude the same from both."""
        return self is other or (
            self.dims == other.dims
            and self.kind == other.kind
            and _same(self.tensor, other.tensor)
            and self.origin is other.origin
            and self.elements == other.elements
        )

    def give_to(self, value: ir.Value, context: Context) -> None:
        """Let a node's output be known again; its type is looked at beforehand."""
        value.shape = self.shape
        value.const_value = self.tensor
        if self.elements is not None:
            context.note_again(value, self.elements, self.text)
        elif value.metadata_props:
            value.metadata_props.pop(SYM_DATA_KEY, None)


def kind(of: ir.TypeProtocol | None) -> object:
    """What tells types apart; they are changed in place, so the object itself does not."""
    if of is None:
        return None
    return of.dtype if type(of) is ir.TensorType else repr(of)


def _is_weight(tensor: ir.TensorProtocol) -> bool:
    """Of floating-point numbers, rules read single ones and a scale for each axis."""
    return tensor.dtype.is_floating_point() and tensor.size > _FEW


def _same(first: ir.TensorProtocol | None, second: ir.TensorProtocol | None) -> bool:
    if first is second:
        return True
    if first is None or second is None or first.dtype != second.dtype or not first.size == second.size <= _FEW:
        return False
    return first.dtype != ir.DataType.STRING and first.shape == second.shape and first.tobytes() == second.tobytes()


@dataclass(slots=True, eq=False)
class Entry:
    """A node as it was, and what followed.

    Attributes:
        operator, attributes, inputs: the node.
        outputs: what became known of its outputs.
        failed: whether its rule has.
    """

    operator: ir.OperatorIdentifier
    attributes: tuple[ir.Attr, ...]
    inputs: tuple[Fact | None, ...]
    outputs: tuple[Fact, ...]
    failed: bool

    def holds_for(self, node: ir.Node, attributes: tuple[ir.Attr, ...], inputs: tuple[Fact | None, ...]) -> bool:
        """True when the node is what it was."""
        if len(inputs) != len(self.inputs) or len(attributes) != len(self.attributes):
            return False
        for new, old in zip(inputs, self.inputs, strict=True):
            if new is not old and (new is None or old is None or not new.equals(old)):
                return False
        for item, before in zip(attributes, self.attributes, strict=True):
            if item is not before:
                return False
        values = node.outputs
        if node.op_identifier() != self.operator or len(values) != len(self.outputs):
            return False
        for value, fact in zip(values, self.outputs, strict=True):  # noqa: SIM110  asked of every node: no generator
            if kind(value.type) != fact.kind:
                return False
        return True


class Memory:
    """What is remembered of one model, between two inferences and during one.

    Attributes:
        context: of this inference.
    """

    def __init__(self, graph: ir.Graph, opsets: Mapping[str, int]) -> None:
        self.graph = graph
        self.opsets = dict(opsets)
        self.context = Context(self.opsets, policy="override")
        self._before: dict[ir.Node, Entry] = {}
        self._now: dict[ir.Node, Entry] = {}
        self._facts: dict[ir.Value, Fact] = {}
        self._shared: dict[tuple[object, object], Fact] = {}

    @classmethod
    def of(cls, model: ir.Model) -> Memory:
        """The model's memory, ready for an inference; a new one for a copy, or under other operator sets."""
        graph = model.graph
        found: Memory | None = graph.meta.get(_KEY)
        if found is None or found.graph is not graph or found.opsets != dict(graph.opset_imports):
            found = graph.meta[_KEY] = cls(graph, graph.opset_imports)
        found.context = found.context.create_child(found.opsets)
        found._before, found._now, found._facts = {**found._before, **found._now}, {}, {}
        return found

    @staticmethod
    def erase(model: ir.Model) -> None:
        """Forget everything."""
        model.graph.meta.pop(_KEY, None)

    def close(self) -> None:
        """End an inference: what was not met again is gone."""
        self._before, self._facts = {}, {}

    def has(self, node: ir.Node) -> bool:
        """Whether the node was met before."""
        return node in self._before or node in self._now

    def inputs(self, node: ir.Node) -> tuple[Fact | None, ...]:
        """What is known of the node's inputs."""
        facts = self._facts
        found: list[Fact | None] = []
        for value in node.inputs:
            fact = facts.get(value) if value is not None else None
            if fact is None and value is not None:
                fact = self._fact(value)
                if value.is_initializer() and not value.is_graph_input():
                    facts[value] = fact  # what is bound to an input of a loop's body changes, a constant does not
            found.append(fact)
        return tuple(found)

    def _fact(self, value: ir.Value) -> Fact:
        """What is known at this moment; one object for all values of which nothing but type and shape is known."""
        shape, tensor, elements, producer = value.shape, value.const_value, self.context.noted(value), value.producer()
        origin = None
        if producer is None:
            if tensor is not None and _is_weight(tensor) and value.is_initializer():
                tensor = None
        elif producer.op_type == "Constant":
            origin = next(iter(producer.attributes.data.values()), None)
        dims = None if shape is None else shape.dims
        type_ = kind(value.type)
        if tensor is None and elements is None and origin is None:
            found = self._shared.get((dims, type_))
            if found is None:
                found = self._shared[dims, type_] = Fact(shape, dims, type_, None)
            return found
        text = value.metadata_props[SYM_DATA_KEY] if elements is not None else ""
        return Fact(shape, dims, type_, tensor, origin, elements, text)

    def recall(self, node: ir.Node, attributes: tuple[ir.Attr, ...], inputs: tuple[Fact | None, ...]) -> Entry | None:
        """Let the node's outputs be known as they were, when nothing about it has changed."""
        entry = self._now.get(node) or self._before.get(node)
        if entry is None or not entry.holds_for(node, attributes, inputs):
            return None
        for value, fact in zip(node.outputs, entry.outputs, strict=True):
            fact.give_to(value, self.context)
            self._facts[value] = fact
        self._now[node] = entry
        return entry

    def keep(
        self, node: ir.Node, attributes: tuple[ir.Attr, ...], inputs: tuple[Fact | None, ...], failed: bool
    ) -> None:
        """Remember what has just been worked out."""
        outputs = tuple([self._fact(value) for value in node.outputs])
        self._facts.update(zip(node.outputs, outputs, strict=True))
        self._now[node] = Entry(node.op_identifier(), attributes, inputs, outputs, failed)

    def drop(self, node: ir.Node) -> None:
        """Nothing is known of the node's outputs that could be looked up."""
        for value in node.outputs:
            self._facts.pop(value, None)
