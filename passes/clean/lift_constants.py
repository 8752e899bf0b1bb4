"""Constant{value=c} -> initialiser c.

One form for constants, so that every other pass has one place to look. Local functions keep Constant nodes (a
FunctionProto has no initialisers), and so does a constant that is a graph output.
Constant: ONNX operator, versions 1 to 25; the attributes value, value_float(s), value_int(s), value_string(s).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.events import Site, Sites
from graphopt.ir import Body, bodies, constant, is_op, new_initializer, replace, where
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass


@dataclass(frozen=True)
class LiftConstants(Pass):
    """Turns Constant nodes into initialisers.

    Kept: in the outermost graph of a local function, graph outputs, sparse constants, values that are a
    function's parameter.
    """

    name: ClassVar[str] = "lift-constants"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per Constant node."""
        for body in bodies(model):
            for node in body.nodes():
                if is_op(node, "Constant"):
                    yield self._site(node, body)

    def _site(self, node: ir.Node, body: Body) -> Site:
        result = node.outputs[0]
        if body.function is not None and node.graph is body.graph:
            return Site(where(node), "a local function cannot hold initialisers")
        if result.is_graph_output():
            return Site(where(node), "it is a graph output")
        if "sparse_value" in node.attributes:
            return Site(where(node), "it is sparse")
        tensor = constant(result)
        graph = node.graph
        if tensor is None or graph is None:
            return Site(where(node), "its value is a parameter of the function")
        return Site(
            where(node),
            "made an initialiser",
            lambda: replace(result, new_initializer(graph, tensor, result.name or "")),
        )
