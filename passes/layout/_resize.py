"""Resize, and Upsample before it, in another order of axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphopt import ir as gir

from ._form import View

_FIRST = 11  # a Resize of version 10 has no roi


@dataclass(frozen=True)
class Changes:
    """What becomes different in the node."""

    constants: Mapping[int, np.ndarray] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)


def resize(view: View) -> Changes | None:
    """Scales or sizes, which must be constant, in the other order.

    Interpolation by nearest neighbours only moves elements, in any number of dimensions. The linear one sums, and ONNX
    Runtime has it for the last two axes and for the two in the middle of four.
    """
    if view.version < _FIRST:
        return _upsample(view)
    mode = view.attribute("mode", "nearest")
    if view.attribute("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return None
    if view.attribute("antialias", 0) or mode not in ("nearest", "linear") or (mode == "linear" and not view.rounding):
        return None
    axes = view.attribute("axes")
    if axes is not None and not view.are_axes(axes):
        return None
    scales, sizes = view.input(2), view.input(3)
    tensor = sizes if sizes is not None else scales
    elements = gir.array(tensor, max_elements=view.rank)
    if tensor is None or elements is None or elements.shape != (len(axes) if axes is not None else view.rank,):
        return None
    if mode == "linear" and not _has_linear_kernel(
        view, range(view.rank) if axes is None else axes, elements, is_sizes=sizes is not None
    ):
        return None
    if axes is not None:
        return Changes({}, {"axes": view.places(axes)})
    return Changes({3 if sizes is not None else 2: elements[list(view.order)]})


def _has_linear_kernel(view: View, axes: Sequence[int], elements: np.ndarray, *, is_sizes: bool) -> bool:
    before = gir.dims(view.input(0))
    if before is None or view.rank != 4:
        return False
    resized = {
        view.place(axis)
        for axis, element in zip(axes, elements.tolist(), strict=True)
        if (before[axis] if is_sizes else 1) != element
    }
    return resized <= {2, 3} or resized <= {1, 2}


def _upsample(view: View) -> Changes | None:
    if view.node.op_type != "Upsample" or view.attribute("mode", "nearest") != "nearest" or view.version < 7:
        return None
    if view.version < 9:
        given = view.attribute("scales")
        if given is None or len(given) != view.rank:
            return None
        return Changes({}, {"scales": [given[axis] for axis in view.order]})
    elements = gir.array(view.input(1), max_elements=view.rank)
    if elements is None or elements.shape != (view.rank,):
        return None
    return Changes({1: elements[list(view.order)]})
