"""c1 = c2 (element type, shape, every bit)  =>  use c1 for c2.

Constants are sorted into groups of equal content: by type and shape, then by a sample of 4 KiB, then by a
digest of all bytes, so that big tensors are read only when they are almost certainly equal. Then each body is
walked once, outer graphs before inner ones: the first of a group that is in scope stands for the later ones.
Independent of operator-set versions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import onnx_ir as ir

from graphopt.events import Site, Sites
from graphopt.ir import Body, bodies, constant, is_op, replace, where
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

from ._content import equal_groups
from ._scopes import Scopes


@dataclass(frozen=True)
class ShareInitializers(Pass):
    """Keeps one of several equal constants.

    An inner graph's constant gives way to one of a graph around it, never the reverse, and never to one of
    another branch. Constant nodes count as well: in local functions there is nothing else. Kept: the default
    of a graph input, which a caller may override, and a constant that is itself a graph output.
    """

    name: ClassVar[str] = "share-initializers"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per constant that equals an earlier one in its scope."""
        for body in bodies(model):
            groups = equal_groups(_constants(body), _tensor)
            group_of = {value: number for number, group in enumerate(groups) for value in group}
            if not group_of:
                continue
            scopes: Scopes[ir.Value] = Scopes()
            for item in scopes.walk(body.graph):
                for value in _defined_by(item):
                    group = group_of.get(value)
                    if group is None:
                        continue
                    first = scopes.get(group)
                    if value.is_graph_input():
                        yield Site(where(value), "the default of an input, which a caller may override")
                    elif value.is_graph_output():
                        yield Site(where(value), "it is a graph output")
                    elif first is None:
                        scopes.add(group, value)
                    else:
                        yield Site(where(value), f"the same as '{first.name}'", partial(_share, value, first))


def _constants(body: Body) -> Iterator[ir.Value]:
    for graph in body.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None and value.uses():
                yield value
        for node in graph:
            if is_op(node, "Constant") and constant(node.outputs[0]) is not None:
                yield node.outputs[0]


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    tensor = value.const_value if value.is_initializer() else constant(value)
    assert tensor is not None
    return tensor


def _defined_by(item: ir.Graph | ir.Node) -> list[ir.Value]:
    """The constants a graph or a node brings into scope."""
    if isinstance(item, ir.Graph):
        return list(item.initializers.values())
    return [item.outputs[0]] if is_op(item, "Constant") else []


def _share(value: ir.Value, first: ir.Value) -> None:
    replace(value, first)
    if value.is_initializer():
        assert value.graph is not None
        del value.graph.initializers[value.name or ""]
