"""Swish, which is also called SiLU, and the sigmoid form of GELU, as one operator.

    x Sigmoid(x)    ->  Swish(x)                               from opset 24 on
                    ->  com.microsoft::QuickGelu{alpha=1}(x)   below
    x Sigmoid(a x)  ->  Swish{alpha=a}(x)                      from opset 24 on
                    ->  com.microsoft::QuickGelu{alpha=a}(x)   below; a = 1.702 in CLIP

Source: Ramachandran, Zoph and Le, Searching for Activation Functions, 2017; Hendrycks and Gimpel, Gaussian Error
Linear Units, 2016, section 2. Swish: ONNX, version 24.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.events import Site, Sites
from graphopt.pipeline import Context, Fidelity, Pass

from ._forms import FLOATING, SINGLE_OR_HALF, Form, Place, sites_at
from ._polynomial import Reading, product, variables


@dataclass(frozen=True)
class FuseSwish(Pass):
    """Replaces x Sigmoid(a x) by Swish or QuickGelu, the first of them that the opset has and the target runs well.

    The product with a may be written with Mul, Div and Neg in any order. A number a that 32 bits do not hold is
    rounded to them for float and float16, as the graph's own number is; NaN and infinity come out as they did.

    Keeps it when the Sigmoid is used elsewhere too, for bfloat16, for double where a needs its bits, and where
    neither operator may be written.
    """

    name: ClassVar[str] = "fuse-swish"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site for each Sigmoid that is multiplied by what it is of."""
        yield from sites_at(model, context.target, ("Sigmoid",), _site)


def _site(node: ir.Node, place: Place) -> Site | None:
    argument = node.inputs[0]
    if argument is None:
        return None
    for x in variables(argument, node.graph):
        reading = Reading(node.graph, x)
        found = reading.of(argument)
        if found is None or set(found) != {(1, 0)}:
            continue
        whole = product(x, node.outputs[0], {(1, 1): 1.0}, x.dtype)
        if whole is not None:
            return place.site(whole.last, _forms(found[1, 0]), x, reading.objection or whole.objection())
    return None


def _forms(factor: float) -> tuple[Form, ...]:
    single = float(np.float32(factor))
    types = FLOATING if single == factor else SINGLE_OR_HALF
    remark = "" if single == 1 else f" with alpha={single:.4g}"
    return (
        Form("Swish", 24, {} if single == 1 else {"alpha": single}, types, remark),
        Form("com.microsoft::QuickGelu", 1, {"alpha": single}, types, remark),
    )
