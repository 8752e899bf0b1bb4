"""Fold Mul, Add, Sub and Div by constants into the linear operator before or the convolution after them.

linear(x; W, b) * s + t  =  linear(x; s W, s b + t)          s, t: one number, or one per output channel
conv(x * s; W, b)        =  conv(x; W s, b)                  zero stays zero, so padding does no harm
conv(x + t; W, b)        =  conv(x; W, b + W t)              where conv does not pad
conv(x * s + t; W, b)    =  conv(x + t / s; W s, b)          where it does, so that t must stay
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Sites
from graphopt.pipeline import Context, Fidelity, Pass

from ._affine import FLOATS, Affine, Refusal, Terms, finite
from ._fold import Folding

_LARGEST = 1 << 16  # elements; no tensor has more channels, larger constants are tables
_AHEAD = frozenset(("Conv", "ConvTranspose"))


@dataclass(frozen=True)
class FuseAffine(Pass):
    """Folds Mul, Add, Sub and Div by per-channel constants into the weights of a linear operator beside them.

    Into the Conv, ConvTranspose, Gemm or MatMul before them, or the Conv or ConvTranspose after them; a shift
    before a convolution only when that does not pad.

    Keeps them when the constant is not one number per channel or would make the tensor larger by
    broadcasting, when the tensor in between is used elsewhere or is an output, and when the new weights would
    overflow.

    The first Add behind a MatMul stays: that is its bias. So does what stands before a Gemm or MatMul: mostly the
    end of a decomposed LayerNormalization, which runtimes recognise only as a whole. Weights above 1 MiB that
    others use too are not copied. From opset 7 on.
    """

    name: ClassVar[str] = "fuse-affine"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """Two sweeps; see ``_fold``."""
        return Folding(_read, _AHEAD).sites(model)


def _read(node: ir.Node, body: gir.Body) -> Affine | None:
    if not gir.is_op(node, "Mul", "Add", "Sub", "Div") or body.version() < 7 or len(node.inputs) != 2:
        return None
    left, right = node.inputs
    if left is None or right is None:
        return None
    source, operand = (right, left) if gir.constant(left) is not None else (left, right)
    tensor = gir.constant(operand)
    if tensor is None or gir.constant(source) is not None or tensor.size > _LARGEST or tensor.dtype not in FLOATS:
        return None
    if node.op_type == "Div" and operand is left:
        return None
    return Affine(node, source, lambda: _terms(node, operand))


def _terms(node: ir.Node, operand: ir.Value) -> Terms:
    elements = gir.array(operand)
    assert elements is not None
    wide = finite(elements, "its constant")
    one, zero = np.ones(()), np.zeros(())
    match node.op_type:
        case "Mul":
            return wide, zero
        case "Div":
            if not wide.all():
                raise Refusal("its constant divides by zero")
            return 1.0 / wide, zero
        case "Add":
            return one, wide
        case _ if operand is node.inputs[0]:
            return -one, wide
        case _:
            return one, -wide
