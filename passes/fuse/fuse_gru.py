"""A gated recurrent unit that was written out in its operators, as one.

    z, r = sigmoid(x[t] W_k + h[t-1] R_k + b_k);  h[t] = z h[t-1] + (1 - z) n,  t = 0..T-1
    n = tanh(x[t] W + (r h[t-1]) R + b)                       ->  GRU(x, W, R, b, , h[-1])
    n = tanh(x[t] W + b + r (h[t-1] R + d))                   ->  GRU{linear_before_reset=1}(x, W, R, [b d], , h[-1])

unrolled, or as the body of a Loop or Scan. Source: Cho et al., Learning Phrase Representations using RNN
Encoder-Decoder, 2014, equations 5 to 8; ONNX operator GRU, versions 7, 14 and 22.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import ClassVar

import onnx_ir as ir

from graphopt.events import Sites
from graphopt.pipeline import Context, Fidelity, Pass

from ._gru import gru_cells
from ._operator_cells import operator_cells
from ._recurrent_sites import sites


@dataclass(frozen=True)
class FuseGru(Pass):
    """Replaces the operators of a GRU, over as many steps as there are, by the operator.

    As ``fuse-lstm``, for both places of the reset gate. The mixture may be written z (h - n) + n, h + u (n - h) or as
    two products; where the gate is the share u = 1 - z of the new state, its matrices change sign, as
    1 - sigmoid(a) = sigmoid(-a).

    Kept: what ``fuse-lstm`` keeps. Loops that may make no trip get one more step, of zeros, whose result is left out:
    ONNX Runtime's GRU does not stand a length of 0.
    """

    name: ClassVar[str] = "fuse-gru"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site for each layer."""
        yield from sites(model, context, "GRU", lambda node: chain(gru_cells(node), operator_cells(node, "GRU")))
