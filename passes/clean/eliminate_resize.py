"""Resize(x) = x where nothing is resized.

    Resize{mode}(x, roi, scales)        ->  x    every scale is 1
    Resize{mode}(x, roi, _, sizes)      ->  x    the sizes are those of x
    Upsample{mode}(x, scales)           ->  x    every scale is 1

Resize: ONNX, versions 10, 11, 13, 18 and 19. With scale 1 each coordinate is its own origin, (i + 1/2) / 1 - 1/2 = i,
so interpolation of any mode takes the element itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.events import Site, Sites
from graphopt.ir import array, attribute, bodies, can_hand_over, has_reference, is_op, replace, same_shape, where
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

_PLAIN = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")


@dataclass(frozen=True)
class EliminateResize(Pass):
    """Removes Resize and Upsample whose result is their input.

    Kept: a cut-out (``tf_crop_and_resize``), and ``tf_half_pixel_for_nn``, which moves elements by one half even at
    scale 1; scales of nearly 1, though they may give the same shape; and what names a graph output that its input
    cannot stand for.
    """

    name: ClassVar[str] = "eliminate-resize"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per node that resizes nothing."""
        for body in bodies(model):
            for node in body.nodes():
                if not is_op(node, "Resize", "Upsample") or has_reference(node) or not _does_nothing(node):
                    continue
                source, result = node.inputs[0], node.outputs[0]
                assert source is not None
                coordinates = attribute(node, "coordinate_transformation_mode", "half_pixel")
                if coordinates not in _PLAIN:
                    yield Site(where(node), f"it resizes nothing, but {coordinates} may move elements")
                elif can_hand_over(result, source):
                    yield Site(where(node), "resizes nothing, removed", lambda r=result, s=source: replace(r, s))
                else:
                    yield Site(where(node), "it names a graph output")


def _does_nothing(node: ir.Node) -> bool:
    operands = [value if value is not None and not _is_empty(value) else None for value in node.inputs]
    if not operands or operands[0] is None:
        return False
    if len(operands) > 3 and operands[3] is not None:
        stretches = attribute(node, "keep_aspect_ratio_policy", "stretch") == "stretch"
        return stretches and same_shape(operands[0], node.outputs[0])
    scales = operands[2] if len(operands) > 2 else None
    if len(operands) == 2:
        scales = operands[1]
    if scales is None:
        given = attribute(node, "scales") if len(node.inputs) == 1 else None
        return given is not None and all(scale == 1 for scale in given)
    factors = array(scales, max_elements=16)
    return factors is not None and bool((factors == 1).all())


def _is_empty(value: ir.Value) -> bool:
    """True for the empty constant by which opset 11 leaves out scales and sizes."""
    elements = array(value, max_elements=16)
    return elements is not None and elements.size == 0
