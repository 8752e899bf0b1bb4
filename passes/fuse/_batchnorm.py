"""BatchNormalization as scale and shift per channel."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._affine import Refusal, Terms, finite, number


def trains(node: ir.Node, version: int) -> bool:
    """Below opset 7 is_test tells the mode, up to 13 the number of outputs, then training_mode."""
    more = [output for output in node.outputs[1:] if output.uses() or output.is_graph_output()]
    if version < 7:
        return bool(more) or not gir.attribute(node, "is_test", 0)
    if version < 14:
        return bool(more) or any(output.name for output in node.outputs[1:])
    return bool(more) or bool(gir.attribute(node, "training_mode", 0))


def terms(node: ir.Node, owner: str = "its") -> Terms:
    """What a BatchNormalization multiplies each channel by and adds to it, in float64.

    Args:
        node: in inference mode.
        owner: whose parameters reasons speak of.

    Raises:
        Refusal: its parameters are not known, are no vectors, or hold no positive variance.
    """
    parameters: list[np.ndarray] = []
    for value, what in zip(node.inputs[1:5], ("scale", "bias", "mean", "variance"), strict=True):
        elements = gir.array(value)
        if elements is None:
            raise Refusal(f"{owner} {what} is not a constant")
        parameters.append(finite(elements, f"{owner} {what}"))
    scale, bias, mean, variance = parameters
    if any(item.ndim != 1 or item.shape != scale.shape for item in parameters):
        raise Refusal(f"{owner} parameters are not vectors of one length")
    spread = variance + number(node, "epsilon", 1e-5)
    if (spread <= 0).any():
        raise Refusal(f"{owner} variance plus epsilon is not positive")
    scale = scale / np.sqrt(spread)
    return scale, bias - scale * mean


def inference_terms(node: ir.Node, version: int) -> Terms:
    """The terms of a BatchNormalization that stands alone.

    Raises:
        Refusal: it is not in inference mode, or its parameters are not known.
    """
    name = gir.where(node)
    if gir.has_reference(node):
        raise Refusal(f"an attribute of {name} is a parameter of the function")
    if trains(node, version) or not gir.attribute(node, "spatial", 1) or any(item.name for item in node.outputs[1:]):
        raise Refusal(f"{name} does not normalise channels by constants")
    return terms(node, f"{name}'s")
