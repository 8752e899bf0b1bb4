"""Expand(Expand(x, s), t) = Expand(x, broadcast(s, t)).

Broadcasting is associative, so constant targets combine without anything known of x. Where t alone holds
every size of s that is not 1, and only there, no new constant is needed. Versions 8 and 13.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.events import Sites
from graphopt.ir import known_ints
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

from ._links import Link, Merge, Plan, constant_ints, set_input, sites, skip_first


@dataclass(frozen=True)
class MergeExpands(Pass):
    """Makes one Expand of two in a row whose target shapes are known.

    Kept: computed target shapes, and a first Expand whose result is used elsewhere where that would need a
    new constant.
    """

    name: ClassVar[str] = "merge-expands"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per Expand of an Expand."""
        return sites(model, ("Expand",), ("Expand",), _plan)


def _plan(link: Link) -> Plan:
    first, second = known_ints(link.first.inputs[1]), known_ints(link.second.inputs[1])
    if first is None or second is None:
        return "a target shape is not known before the run"
    try:
        merged = np.broadcast_shapes(first, second)
    except ValueError:
        return "the two target shapes do not fit together"
    if merged == second:
        return Merge("expands what the Expand before reads", partial(skip_first, link))
    if not link.is_private:
        return "the tensor in between is used elsewhere"
    return Merge("one Expand of two", partial(_expand, link, merged))


def _expand(link: Link, target: tuple[int, ...]) -> None:
    set_input(link.second, 1, constant_ints(link.second, target, "shape"))
    skip_first(link)
