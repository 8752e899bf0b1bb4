"""y1 = f(a, b), y2 = f(a, b)  =>  use y1 for y2.

Each body is walked once in topological order with a table from "operator, attributes, inputs" to the first
node of that kind; tensors in attributes, and small constants among the inputs, count by content; the operands
of commutative operators in any order. A node inside a branch or a loop body finds the nodes of the graphs
around it, never those of another branch, and never the reverse. One dictionary look-up a node: linear. (Value
numbering: Cocke and Schwartz 1970, chapter 6.) All operator-set versions; Dropout computes nothing random
from version 7 on unless in training.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import onnx_ir as ir

from graphopt.events import Site, Sites
from graphopt.ir import Body, bodies, can_hand_over, constant, erase_if_dead, is_op, replace, where
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

from ._content import content_key
from ._determinism import Determinism
from ._scopes import Scopes

_COMMUTATIVE = ("Add", "Mul", "And", "Or", "Xor", "Equal", "BitwiseAnd", "BitwiseOr", "BitwiseXor")
_SMALL_BYTES = 1024  # larger constants are equal only when they are the same: share-initializers sees to that


@dataclass(frozen=True)
class EliminateCommonSubexpressions(Pass):
    """Computes what is computed several times only once.

    Kept: operators that draw random numbers, operators of domains nobody has described, nodes with graphs
    inside, and the second of two graph outputs: each output needs a value of its own. DequantizeLinear nodes are
    left as they are: runtimes make integer kernels of those that have a single user.
    """

    name: ClassVar[str] = "eliminate-common-subexpressions"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per node that repeats an earlier one."""
        determinism = Determinism(model)
        for body in bodies(model):
            keys = _Keys()
            scopes: Scopes[ir.Node] = Scopes()
            for node in scopes.walk(body.graph):
                if not isinstance(node, ir.Node) or not node.outputs or is_op(node, "Constant", "DequantizeLinear"):
                    continue
                key = keys.of(node)
                if key is None:
                    continue
                first = scopes.get(key)
                if first is None:
                    scopes.add(key, node)
                    continue
                reason = _reason_to_keep(node, first, body, determinism)
                if reason:
                    yield Site(where(node), reason)
                else:
                    yield Site(where(node), f"repeats {where(first)}", partial(_merge, node, first))


def _reason_to_keep(node: ir.Node, first: ir.Node, body: Body, determinism: Determinism) -> str:
    reason = determinism.reason_against(node, body)
    if reason:
        return reason
    if not all(can_hand_over(old, new) for old, new in zip(node.outputs, first.outputs, strict=True)):
        return f"repeats {where(first)}, but is an output of its graph that needs a value of its own"
    return ""


def _merge(node: ir.Node, first: ir.Node) -> None:
    for old, new in zip(node.outputs, first.outputs, strict=True):
        replace(old, new)
    erase_if_dead(node)


class _Keys:
    """What makes two nodes of a body compute the same."""

    def __init__(self) -> None:
        self._small: dict[ir.Value, Hashable] = {}

    def of(self, node: ir.Node) -> Hashable | None:
        """A key, or None for a node that nothing can equal."""
        attributes: list[Hashable] = []
        given = node.attributes.data
        for name in sorted(given) if len(given) > 1 else given:
            key = _attribute_key(given[name])
            if key is None:
                return None
            attributes.append((name, key))
        small = self._small
        inputs = [small[value] if value in small else self._input_key(value) for value in node.inputs]
        while inputs and inputs[-1] is None:
            inputs.pop()
        if is_op(node, *_COMMUTATIVE):
            inputs.sort(key=hash)
        present = tuple([output.name != "" for output in node.outputs])
        return node.domain, node.op_type, node.overload, tuple(attributes), tuple(inputs), present

    def _input_key(self, value: ir.Value | None) -> Hashable:
        """The value itself; for a small constant its content."""
        if value is None:
            return None
        tensor = constant(value)
        is_small = tensor is not None and tensor.nbytes <= _SMALL_BYTES
        key = self._small[value] = content_key(tensor) if tensor is not None and is_small else value
        return key


def _attribute_key(attribute: ir.Attr) -> Hashable | None:
    """The content of an attribute, or None when it is not compared (graphs, sparse tensors)."""
    if attribute.is_ref():
        return "the function's", attribute.ref_attr_name
    kind, value = attribute.type, attribute.value
    match kind:
        case ir.AttributeType.TENSOR:
            return kind, content_key(attribute.as_tensor())
        case ir.AttributeType.TENSORS:
            return kind, tuple(content_key(tensor) for tensor in attribute.as_tensors())
        case ir.AttributeType.FLOAT:
            return kind, float(value).hex()  # tells -0.0 from 0.0
        case ir.AttributeType.FLOATS:
            return kind, tuple(float(item).hex() for item in value)
        case ir.AttributeType.INT | ir.AttributeType.STRING:
            return kind, value
        case ir.AttributeType.INTS | ir.AttributeType.STRINGS:
            return kind, tuple(value)
        case ir.AttributeType.TYPE_PROTO:
            return kind, repr(value)
        case _:
            return None
