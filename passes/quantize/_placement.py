"""Which values become codes, and which nodes compute on them.

1. Products with weights are the anchors. An anchor's activation becomes codes; so does its result where its integer
   kernel gives nothing else.
2. A result is taken behind the activation that follows it (ReLU, Clip): the ends of the codes' range then do what the
   activation did.
3. What computes without weights (Add, Concat, pools) or only moves numbers joins when all its operands are codes
   anyway, and its result goes on into codes. The residual sum of a transformer does not: products of matrices may end
   in floats, so its operands are floats. That of a convolutional network does.
4. Values that a moving operator connects share one scale.

Krishnamoorthi (2018), section 3; Wu et al., Integer Quantization for Deep Learning Inference (2020), section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import onnx_ir as ir

from graphopt import ir as gir
from graphopt.integers import Integers

from ._roles import FLOAT, Roles, roles


@dataclass
class Placement:
    """What becomes integer.

    Attributes:
        joined: the nodes that compute on codes, in topological order, with the roles of their operands.
        kept: products that stay float, and why.
        results: what is quantised of a joined node's result: its own output, or that of the activation behind it.
        values: all values that become codes, in topological order.
        only_codes: those that nobody has as floats: computed by a joined node.
        same: the value whose scale a moving operator's result takes.
        names: of the operands of joined nodes as they were found; edits of neighbours exchange the operands.
    """

    joined: dict[ir.Node, Roles] = field(default_factory=dict)
    kept: dict[ir.Node, str] = field(default_factory=dict)
    results: dict[ir.Node, ir.Value] = field(default_factory=dict)
    values: dict[ir.Value, None] = field(default_factory=dict)
    only_codes: set[ir.Value] = field(default_factory=set)
    same: dict[ir.Value, ir.Value] = field(default_factory=dict)
    names: dict[tuple[ir.Node, int], str] = field(default_factory=dict)

    def origin(self, value: ir.Value) -> ir.Value:
        """The value whose scale a value has."""
        while value in self.same:
            value = self.same[value]
        return value


def place(model: ir.Model, integers: Integers, refuses: Callable[[ir.Node], str]) -> Placement:
    """Decide for a model's main graph.

    Args:
        model: with shapes and types inferred.
        integers: of the target.
        refuses: the reason for which a node stays float whatever its operands are; "" for none.
    """
    found = Placement()
    anchors: dict[ir.Node, Roles] = {}
    demanded: set[ir.Value] = set()
    for node in model.graph:
        role = roles(node, integers)
        if isinstance(role, Roles) and role.kind == "product":
            reason = refuses(node) or _taken(role)
            if reason:
                found.kept[node] = reason
            else:
                anchors[node] = role
                demanded.update(value for index in role.activations if (value := node.inputs[index]) is not None)
        elif isinstance(role, str) and node.op_type in integers.products:
            found.kept[node] = role
    for value in model.graph.inputs:
        if value in demanded:
            found.values[value] = None
    for node in model.graph:
        role = anchors.get(node)
        if role is None:
            role = _joins(node, integers, found.values, refuses)
        if role is not None:
            found.joined[node] = role
            for index in role.activations:
                operand = node.inputs[index]
                assert operand is not None
                found.names[node, index] = str(operand.name)
            if role.needs_result or _goes_on(node, integers, anchors):
                result = result_of(node, integers) if role.kind != "moving" else node.outputs[0]
                found.results[node] = result
                found.values[result] = None
                found.only_codes.add(result)
                if role.kind == "moving":
                    for output in node.outputs:
                        found.values[output] = None
                        found.only_codes.add(output)
                        source = node.inputs[0]
                        assert source is not None
                        found.same[output] = source
        for output in node.outputs:
            if output in demanded:
                found.values[output] = None
    _leave_ends(found)
    return found


def _leave_ends(found: Placement) -> None:
    """What joined the products, but hands its result to floats only, stays float: codes would only cost accuracy."""
    for node, role in reversed(tuple(found.joined.items())):
        if role.kind == "product":
            continue
        results = [*node.outputs, found.results[node]]
        if any(use.node in found.joined for value in results for use in value.uses()):
            continue
        del found.joined[node], found.results[node]
        for value in results:
            found.values.pop(value, None)
            found.only_codes.discard(value)
            found.same.pop(value, None)


def _taken(role: Roles) -> str:
    for index in role.activations:
        source = role.node.inputs[index]
        if source is not None and gir.is_op(source.producer(), "DequantizeLinear"):
            return "it is quantised already"
    return ""


def _joins(
    node: ir.Node, integers: Integers, codes: Collection[ir.Value], refuses: Callable[[ir.Node], str]
) -> Roles | None:
    role = roles(node, integers)
    if not isinstance(role, Roles) or role.kind == "product":
        return None
    if not all(node.inputs[index] in codes for index in role.activations) or refuses(node):
        return None
    return role


def _goes_on(node: ir.Node, integers: Integers, anchors: Collection[ir.Node]) -> bool:
    """Whether codes are wanted of a result that may be floats: none but anchors read it."""
    result = result_of(node, integers)
    uses = tuple(result.uses())
    return bool(uses) and not result.is_graph_output() and all(use.node in anchors and not use.idx for use in uses)


def result_of(node: ir.Node, integers: Integers) -> ir.Value:
    """The value of a node's result that is quantised: behind the activation that codes make superfluous."""
    value = node.outputs[0]
    uses = tuple(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return value
    user = uses[0].node
    clamps = user.op_type in integers.clamping and gir.is_op(user, "Relu", "Clip") and uses[0].idx == 0
    if clamps and user.graph is value.graph and user.outputs[0].dtype == FLOAT and _has_ends(user):
        return user.outputs[0]
    return value


def _has_ends(node: ir.Node) -> bool:
    return node.op_type == "Relu" or all(value is None or gir.scalar(value) is not None for value in node.inputs[1:])


def clamp_ends(node: ir.Node) -> tuple[float, float]:
    """The ends of a Relu, or of a Clip with constant ends."""
    if node.op_type == "Relu":
        return 0.0, float("inf")
    ends = [gir.attribute(node, "min", -float("inf")), gir.attribute(node, "max", float("inf"))]
    for index, value in enumerate(node.inputs[1:3]):
        if value is not None:
            ends[index] = gir.scalar(value)
    return float(ends[0]), float(ends[1])
