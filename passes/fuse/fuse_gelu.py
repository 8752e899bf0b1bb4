"""Every dialect of GELU as one operator.

    x (1 + Erf(x / sqrt(2))) / 2                               ->  Gelu(x)                      from opset 20 on
                                                               ->  com.microsoft::Gelu(x)       below
    x (1 + Tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2          ->  Gelu{approximate="tanh"}(x)  from opset 20 on
                                                               ->  com.microsoft::FastGelu(x)   below

Source: Hendrycks and Gimpel, Gaussian Error Linear Units, 2016, section 2. Gelu: ONNX, version 20.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sqrt
from typing import ClassVar

import onnx_ir as ir

from graphopt.events import Site, Sites
from graphopt.pipeline import Context, Fidelity, Pass

from ._forms import SINGLE_OR_HALF, Form, Place, sites_at
from ._polynomial import Polynomial, Reading, is_near, product, variables

_SLOPE = sqrt(2 / pi)
_ARGUMENTS: dict[str, Polynomial] = {
    "Erf": {(1, 0): sqrt(0.5)},
    "Tanh": {(1, 0): _SLOPE, (3, 0): _SLOPE * 0.044715},
}
_FORMS = {
    "Erf": (Form("Gelu", 20), Form("com.microsoft::Gelu", types=SINGLE_OR_HALF)),
    # FastGelu holds its numbers in 32 bits, whatever the element type.
    "Tanh": (
        Form("Gelu", 20, {"approximate": "tanh"}, remark=", the tanh form"),
        Form("com.microsoft::FastGelu", types=SINGLE_OR_HALF),
    ),
}
_CLOSE = 500.0  # numbers up to a hundredth off are worth a word


@dataclass(frozen=True)
class FuseGelu(Pass):
    """Replaces x (1 + Erf(x / sqrt(2))) / 2 and its tanh approximation by the operator of the same function.

    The polynomials may be written in any order and with any of Add, Sub, Mul, Div, Neg and Pow; 1 - Erf(-x) is
    understood. Where the half is missing, because it went into the weights that follow, a multiple of GELU is written.
    The erf form stays the erf form, and what is the tanh form already becomes the tanh form: no
    function is replaced by another. NaN and infinity come out as they did.

    Keeps it when a result after Erf or Tanh is used elsewhere, for bfloat16, for which ONNX Runtime's CPU provider has
    no kernel, and where the opset has no Gelu and the target takes no such operator of com.microsoft.
    """

    name: ClassVar[str] = "fuse-gelu"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site for each Erf or Tanh that is part of a GELU."""
        yield from sites_at(model, context.target, ("Erf", "Tanh"), _site)


def _site(node: ir.Node, place: Place) -> Site | None:
    argument = node.inputs[0]
    if argument is None:
        return None
    wanted = _ARGUMENTS[node.op_type]
    for x in variables(argument, node.graph):
        reading = Reading(node.graph, x)
        found = reading.of(argument)
        sign = _sign(found, wanted)
        if found is None or sign is None:
            continue
        half = {(1, 0): 0.5, (1, 1): 0.5 * sign}
        whole = product(x, node.outputs[0], half, _dtype(x, node), multiples=True)
        if whole is not None:
            right = is_near(found, _times(wanted, sign), _dtype(x, node))
            objection = reading.objection if right else _misses(node, found, wanted)
            return place.site(whole.last, _FORMS[node.op_type], x, objection or whole.objection(), whole.factor)
    return None


def _times(polynomial: Polynomial, factor: float) -> Polynomial:
    return {key: factor * number for key, number in polynomial.items()}


def _sign(found: Polynomial | None, wanted: Polynomial) -> float | None:
    """Whether the argument is the wanted one, or its negative, give or take a hundredth; None when neither."""
    for sign in (1.0, -1.0):
        if is_near(found, _times(wanted, sign), None, _CLOSE):
            return sign
    return None


def _misses(node: ir.Node, found: Polynomial, wanted: Polynomial) -> str:
    pairs = [f"{abs(found[key]):.7g}, not {number:.7g}" for key, number in wanted.items()]
    return f"the numbers in its {node.op_type} are not those of GELU: {' and '.join(pairs)}"


def _dtype(x: ir.Value, node: ir.Node) -> ir.DataType | None:
    return x.dtype or node.outputs[0].dtype
