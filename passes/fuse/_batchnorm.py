"""BatchNormalization that stands alone, as scale and shift per channel."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._affine import Refusal, Terms, finite, number


def inference_terms(node: ir.Node, version: int) -> Terms:
    """What a BatchNormalization multiplies each channel by and adds to it, in float64.

    Raises:
        Refusal: it is not in inference mode, or its parameters are not known.
    """
    name = gir.where(node)
    if gir.has_reference(node):
        raise Refusal(f"an attribute of {name} is a parameter of the function")
    trains = gir.attribute(node, "training_mode", 0) or (version < 7 and not gir.attribute(node, "is_test", 0))
    if trains or not gir.attribute(node, "spatial", 1) or any(output.name for output in node.outputs[1:]):
        raise Refusal(f"{name} does not normalise channels by constants")
    parameters: list[np.ndarray] = []
    for value, what in zip(node.inputs[1:5], ("scale", "bias", "mean", "variance"), strict=True):
        elements = gir.array(value)
        if elements is None:
            raise Refusal(f"the {what} of {name} is not a constant")
        parameters.append(finite(elements, f"the {what} of {name}"))
    scale, bias, mean, variance = parameters
    spread = variance + number(node, "epsilon", 1e-5)
    if any(item.ndim != 1 or item.shape != scale.shape for item in parameters) or (spread <= 0).any():
        raise Refusal(f"{name} has parameters that are no vectors, or no positive variance")
    scale = scale / np.sqrt(spread)
    return scale, bias - scale * mean
