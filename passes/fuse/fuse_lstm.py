"""A long short-term memory that was written out in its operators, as one.

    i, o, f, g = x[t] W_k + h[t-1] R_k + b_k;  c[t] = sigmoid(f) c[t-1] + sigmoid(i) tanh(g)
    h[t] = sigmoid(o) tanh(c[t]),  t = 0..T-1                            ->  LSTM(x, W, R, b, , h[-1], c[-1])

unrolled, or as the body of a Loop or Scan. Source: Hochreiter and Schmidhuber, Long Short-Term Memory, 1997, with the
forget gate of Gers et al., Learning to Forget, 2000; ONNX operator LSTM, versions 7, 14 and 22.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import ClassVar

import onnx_ir as ir

from graphopt.events import Sites
from graphopt.pipeline import Context, Fidelity, Pass

from ._cells import lstm_cells
from ._operator_cells import operator_cells
from ._recurrent_sites import sites


@dataclass(frozen=True)
class FuseLstm(Pass):
    """Replaces the operators of an LSTM, over as many steps as there are, by the operator.

    The gates may be sums of products, products of joined inputs, or columns of one product, in any order; the
    product of x may be one for all steps. Steps with the same matrices that hand on h and c become one operator; if
    what they read is a sequence step by step, that sequence is read, forwards or backwards, else what they read is
    put together. The sums of biases are computed beforehand, so the last bits change.

    Kept: peepholes, and gates that are no sums of products with constant matrices; element types other than float,
    for which runtimes have no kernel; steps that read what follows from the step before (a decoder's own output);
    values inside that are used elsewhere; a batch that is not proven to be one; loops with a condition of their own,
    or that give more than results and states.

    A loop may hold the operator over one step, too: what torch writes of nn.LSTMCell in a scripted loop.

    ONNX Runtime's kernel computes the gates to about 1e-8 of 1, so that a gate near 0 has fewer correct digits than one
    of Sigmoid. It bounds them, so NaN among the inputs can give numbers where the steps gave NaN. It does
    not stand an empty batch, known only at run time: the process ends.
    """

    name: ClassVar[str] = "fuse-lstm"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site for each layer."""
        yield from sites(model, context, "LSTM", lambda node: chain(lstm_cells(node), operator_cells(node, "LSTM")))
