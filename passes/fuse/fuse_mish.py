"""Mish as one operator.

    x Tanh(Softplus(x))      ->  Mish(x)    from opset 18 on
    x Tanh(Log(1 + Exp(x)))  ->  Mish(x)

Source: Misra, Mish: A Self Regularized Non-Monotonic Activation Function, 2019. Mish: ONNX, version 18.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Site, Sites
from graphopt.pipeline import Context, Fidelity, Pass

from ._forms import Form, Place, sites_at
from ._polynomial import Reading, product, variables

_MISH = Form("Mish", 18)


@dataclass(frozen=True)
class FuseMish(Pass):
    """Replaces x Tanh(Softplus(x)) by Mish.

    With Log(1 + Exp(x)) in place of Softplus, Mish is at least as exact: where Exp overflows, both give
    x Tanh(inf) = x; where 1 + Exp(x) drops bits of Exp(x), the graph is off by up to x times half a unit of 1 in the
    last place, and Mish is not. NaN and infinity come out as they did.

    Keeps it below opset 18, when a result in between is used elsewhere, and for bfloat16.
    """

    name: ClassVar[str] = "fuse-mish"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site for each Tanh of a Softplus that is multiplied by what it is of."""
        yield from sites_at(model, context.target, ("Tanh",), _site)


def _site(tanh: ir.Node, place: Place) -> Site | None:
    x, objection = _softplus_of(tanh)
    if x is None:
        return None
    whole = product(x, tanh.outputs[0], {(1, 1): 1.0}, x.dtype)
    if whole is None:
        return None
    return place.site(whole.last, (_MISH,), x, objection or whole.objection())


def _softplus_of(tanh: ir.Node) -> tuple[ir.Value | None, str | None]:
    """What the operand of a Tanh is the Softplus of, and why a constant in it may not be the number 1."""
    value = tanh.inputs[0]
    node = None if value is None else value.producer()
    if node is None or node.graph is not tanh.graph:
        return None, None
    if gir.is_op(node, "Softplus"):
        return node.inputs[0], None
    total = node.inputs[0] if gir.is_op(node, "Log") else None
    for value in variables(total, node.graph) if total is not None else ():
        power = value.producer()
        reading = Reading(node.graph, value)
        if gir.is_op(power, "Exp") and power is not None and reading.of(total) == {(1, 0): 1.0, (0, 0): 1.0}:
            return power.inputs[0], reading.objection
    return None, None
