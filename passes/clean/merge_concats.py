"""Concat(..., Concat(a, b), ...) = Concat(..., a, b, ...)  on the same axis.

A Concat takes in, to any depth, each Concat of the same axis whose result only it reads, and reads once.
Users are met before producers, so a tree of Concats collapses at once and its inputs are written once:
linear. All versions (axis 1 by default before version 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import onnx_ir as ir

from graphopt.events import Site, Sites
from graphopt.ir import attribute, bodies, has_reference, is_op, rank, replace_node, where
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass


@dataclass(frozen=True)
class MergeConcats(Pass):
    """Makes one Concat of a tree of Concats.

    Kept: an inner Concat on another axis, or whose result is used elsewhere or is a graph output.
    """

    name: ClassVar[str] = "merge-concats"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per outermost Concat that reads a Concat."""
        for body in bodies(model):
            for graph in body.graphs():
                for node in reversed(tuple(graph)):
                    if is_op(node, "Concat") and node.graph is not None and _joins(node):
                        yield _site(node)


def _joins(node: ir.Node) -> bool:
    return any(value is not None and is_op(value.producer(), "Concat") for value in node.inputs)


def _site(node: ir.Node) -> Site:
    reasons: list[str] = []
    taken_in = 0
    inputs: list[ir.Value | None] = []
    pending = list(reversed(node.inputs))
    while pending:
        value = pending.pop()
        inner = value.producer() if value is not None else None
        if inner is None or not is_op(inner, "Concat"):
            inputs.append(value)
            continue
        reason = _reason_against(inner, node)
        if reason:
            reasons.append(reason)
            inputs.append(value)
        else:
            taken_in += 1
            pending.extend(reversed(inner.inputs))
    if taken_in:
        return Site(where(node), f"joins all {len(inputs)} parts at once", partial(_join, node, inputs))
    return Site(where(node), reasons[0])


def _reason_against(inner: ir.Node, outer: ir.Node) -> str:
    if has_reference(inner) or has_reference(outer):
        return "an axis is a parameter of the function"
    if inner.graph is not outer.graph or len(inner.outputs[0].uses()) > 1 or inner.outputs[0].is_graph_output():
        return "the part that is a Concat is used elsewhere"
    axes = [attribute(node, "axis", 1) for node in (inner, outer)]
    size = rank(outer.outputs[0]) or rank(inner.outputs[0])
    if size is not None:
        axes = [axis % size for axis in axes]
    return "" if axes[0] == axes[1] else "the part that is a Concat joins another axis"


def _join(node: ir.Node, inputs: list[ir.Value | None]) -> None:
    joined = ir.node("Concat", inputs, {"axis": attribute(node, "axis", 1)}, name=node.name)
    joined.outputs[0].shape, joined.outputs[0].type = node.outputs[0].shape, node.outputs[0].type
    replace_node(node, [joined], [joined.outputs[0]])
