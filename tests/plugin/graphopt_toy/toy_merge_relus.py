"""Relu(Relu(x)) = Relu(x)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import onnx_ir

from graphopt import Context, Fidelity, Pass, Site, Sites
from graphopt.ir import is_op, nodes, replace, where


@dataclass(frozen=True)
class ToyMergeRelus(Pass):
    """Drops a Relu whose input is the output of a Relu.

    Options:
        longest: merge at most so many; an option, so that there is one.
    """

    name = "toy-merge-relus"
    fidelity = Fidelity.EXACT
    longest: int = 100

    def apply(self, model: onnx_ir.Model, context: Context) -> Sites:
        """Consider every Relu."""
        merged = 0
        for node in nodes(model):
            if not is_op(node, "Relu"):
                continue
            value = node.inputs[0]
            if value is None or not is_op(value.producer(), "Relu"):
                yield Site(where(node), "its input is no Relu")
            elif merged == self.longest:
                yield Site(where(node), f"{self.longest} have been merged")
            else:
                edit = partial(replace, node.outputs[0], value)
                merged += yield Site(where(node), "its input is a Relu", edit)
