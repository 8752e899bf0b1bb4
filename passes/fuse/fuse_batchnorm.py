"""Fold batch normalisation into the linear operator before or after it.

With a = scale / sqrt(var + epsilon) and c = bias - a * mean, per channel::

    BatchNormalization(linear(x; W, b))  =  linear(x; a W, a b + c)
    linear(BatchNormalization(x); W, b)  =  linear(x; W a, b + W c)      where no zero is padded

Source: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference, 2018, section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Sites
from graphopt.pipeline import Context, Fidelity, Pass

from ._affine import Affine, Refusal
from ._batchnorm import terms, trains
from ._fold import Folding


@dataclass(frozen=True)
class FuseBatchnorm(Pass):
    """Folds BatchNormalization into the Conv, ConvTranspose, Gemm or MatMul before or after it.

    Inference form only, in every opset. A linear operator after it takes it up only where that is exact: a
    convolution must not pad, since the padding ring is zero behind the normalisation and not before it.

    Keeps it when its parameters or the weights are not constant, when the tensor in between is used elsewhere
    or is an output, when var + epsilon is not positive, and when the new weights would overflow. Weights above
    1 MiB that others use too are not copied.
    """

    name: ClassVar[str] = "fuse-batchnorm"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """Two sweeps; see ``_fold``."""
        return Folding(_read, lonely="no linear operator before or after it").sites(model)


def _read(node: ir.Node, body: gir.Body) -> Affine | None:
    if not gir.is_op(node, "BatchNormalization"):
        return None
    if gir.has_reference(node):
        raise Refusal("an attribute of it is a parameter of the function")
    if trains(node, body.version()):
        raise Refusal("it is in training mode")
    if not gir.attribute(node, "spatial", 1):
        raise Refusal("it normalises each position on its own (spatial = 0)")
    source = node.inputs[0]
    assert source is not None
    return Affine(node, source, lambda: terms(node), along_axis_1=True)
