"""Loop(1, true, v){body} = body(0, true, v), each scan output a stack of one;  Loop(0, c, v){body} = v.

A Loop makes no trip when its trip count is 0 or its condition starts false. It makes one trip when the count
is 1 and the condition starts true (or is left out), or when the condition starts true and the body always
ends it. The body then moves to where the Loop stands, as in inline-if, with the iteration number 0 and the
initial values for its inputs; scan outputs get their leading axis by Unsqueeze (axes an attribute before
version 13, an input from there on). All versions of Loop (1, 11, 13, 16, 19, 21, 23, 24, 25).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from graphopt.events import Site, Sites
from graphopt.ir import Body, bodies, erase_if_dead, insert_before, is_op, known_ints, new_initializer, replace, where
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

from ._inlining import known_bool, spill


@dataclass(frozen=True)
class InlineLoop(Pass):
    """Replaces a Loop of one trip by its body, and a Loop of none by its initial values.

    Kept: a Loop of no trip whose scan outputs are used (they are empty, with a shape only the runtime knows),
    and a Loop that gives a carried value no initial one.
    """

    name: ClassVar[str] = "inline-loop"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    needs_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per Loop."""
        for body in bodies(model):
            for node in body.nodes():
                if is_op(node, "Loop"):
                    yield self._site(node, body)

    def _site(self, node: ir.Node, body: Body) -> Site:
        attribute = node.attributes.get("body")
        if attribute is None or attribute.is_ref():
            return Site(where(node), "its body is a parameter of the function")
        inner = attribute.as_graph()
        carried = len(inner.inputs) - 2
        if len(node.inputs) != carried + 2 or any(value is None for value in node.inputs[2:]):
            return Site(where(node), "it gives a carried value no initial one")
        trips = _trips(node, inner)
        if trips is None:
            return Site(where(node), "how many trips it makes is not known before the run")
        if trips == "many":
            return Site(where(node), "it makes more than one trip")
        if trips == 1:
            return Site(where(node), "it makes one trip, body inlined", partial(_inline, node, inner, body.version()))
        if any(output.uses() or output.is_graph_output() for output in node.outputs[carried:]):
            return Site(where(node), "it makes no trip, but its empty scan outputs are used")
        return Site(where(node), "it makes no trip, removed", partial(_skip, node, carried))


def _trips(node: ir.Node, inner: ir.Graph) -> Literal[0, 1, "many"] | None:
    counts = known_ints(node.inputs[0])
    count = counts[0] if counts else None
    has_count, has_condition = node.inputs[0] is not None, node.inputs[1] is not None
    starts = known_bool(node.inputs[1]) if has_condition else True
    if count == 0 or starts is False:
        return 0
    if starts is None or (has_count and (count is None or count < 0)):
        return None
    if count == 1:
        return 1
    if has_condition and known_bool(inner.outputs[0]) is False:
        return 1
    return "many" if count is not None and not has_condition else None


def _inline(node: ir.Node, inner: ir.Graph, version: int) -> None:
    graph = node.graph
    assert graph is not None
    carried = len(inner.inputs) - 2
    number, condition = inner.inputs[:2]
    arguments: list[ir.Value | None] = [
        _first_of(graph, number, np.int64(0), "iteration"),
        _first_of(graph, condition, np.bool_(True), "condition"),
        *node.inputs[2:],
    ]
    stand_ins = dict(zip(inner.inputs, arguments, strict=True))
    results = [stand_ins.get(value, value) for value in inner.outputs[1:]]
    for value, stand_in in stand_ins.items():
        if stand_in is not None:
            for user, index in value.uses():
                user.replace_input_with(index, stand_in)
    spill(inner, node)
    for position, (old, new) in enumerate(zip(node.outputs, results, strict=True)):
        if not (old.uses() or old.is_graph_output()):
            continue
        assert new is not None
        if position < carried:
            replace(old, new)
        else:
            _stack(node, old, new, version)
    erase_if_dead(node)


def _first_of(graph: ir.Graph, value: ir.Value, element: np.generic, hint: str) -> ir.Value | None:
    """What the body's input is in the first trip, when the body reads it, of the rank the body expects."""
    if not (value.uses() or value.is_graph_output()):
        return None
    rank = len(value.shape) if value.shape is not None else 0
    return new_initializer(graph, np.full((1,) * rank, element), hint)


def _stack(node: ir.Node, old: ir.Value, new: ir.Value, version: int) -> None:
    """``old`` = ``new`` with a leading axis, computed behind the moved nodes."""
    graph = node.graph
    assert graph is not None
    if version < 13:
        unsqueeze = ir.node("Unsqueeze", [new], {"axes": [0]})
    else:
        unsqueeze = ir.node("Unsqueeze", [new, new_initializer(graph, np.array([0]), "axes")])
    unsqueeze.outputs[0].type = old.type
    _insert_behind(new, node, unsqueeze)
    replace(old, unsqueeze.outputs[0])


def _insert_behind(value: ir.Value, loop: ir.Node, node: ir.Node) -> None:
    graph = loop.graph
    assert graph is not None
    producer = value.producer()
    if producer is not None and producer.graph is graph:
        graph.insert_after(producer, node)
    else:
        insert_before(loop, node)


def _skip(node: ir.Node, carried: int) -> None:
    for old, new in zip(node.outputs[:carried], node.inputs[2:], strict=True):
        assert new is not None
        replace(old, new)
    erase_if_dead(node)
