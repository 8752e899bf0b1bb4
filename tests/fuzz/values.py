"""Tensors of the generator: their shapes, and small elements, under every assignment of sizes to the symbols."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

Shape = tuple[int, ...]
ONNX_TYPES = {"f": TensorProto.FLOAT, "i": TensorProto.INT64, "b": TensorProto.BOOL, "h": TensorProto.FLOAT16,
              "d": TensorProto.DOUBLE, "l": TensorProto.INT32, "s": TensorProto.INT8, "u": TensorProto.UINT8}  # fmt: skip
NUMPY_TYPES = {"f": np.float32, "i": np.int64, "b": np.bool_, "h": np.float16, "d": np.float64, "l": np.int32,
               "s": np.int8, "u": np.uint8}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor under every assignment.

    Attributes:
        name: in its graph.
        kind: f (float32), i (int64), b (bool); h (float16), d (double), l (int32), s (int8), u (uint8).
        shapes: one per assignment.
        elements: one array per assignment, for small integer tensors; else None.
    """

    name: str
    kind: str
    shapes: tuple[Shape, ...]
    elements: tuple[np.ndarray, ...] | None = None

    @property
    def rank(self) -> int:
        """Equal under all assignments."""
        return len(self.shapes[0])

    def size(self, axis: int) -> tuple[int, ...]:
        """One axis under every assignment."""
        return tuple(shape[axis] for shape in self.shapes)


@dataclass
class Fuzzed:
    """A model, and feeds it should run on."""

    model: onnx.ModelProto
    feeds: list[dict[str, np.ndarray]]


def broadcast(first: Sequence[Shape], second: Sequence[Shape]) -> list[Shape] | None:
    """The result of broadcasting under every assignment, or None."""
    try:
        return [np.broadcast_shapes(left, right) for left, right in zip(first, second, strict=True)]
    except ValueError:
        return None


def mapped(
    elements: Sequence[np.ndarray] | None, function: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, ...] | None:
    """The elements under every assignment, changed."""
    return None if elements is None else tuple(np.asarray(function(item)) for item in elements)


def column(sizes: Sequence[int]) -> list[np.ndarray]:
    """Sizes as one-element vectors."""
    return [np.array([size], np.int64) for size in sizes]


def flat(shape: Shape, axis: int) -> Shape:
    """As the matrix that Flatten makes."""
    return int(np.prod(shape[:axis], dtype=np.int64)), int(np.prod(shape[axis:], dtype=np.int64))


def positions(size: int, start: int, end: int, step: int) -> range:
    """What a Slice takes of an axis, by the words of the ONNX specification."""
    start, end = (bound + size if bound < 0 else bound for bound in (start, end))
    if step > 0:
        return range(min(max(start, 0), size), min(max(end, 0), size), step)
    if not size:
        return range(0)
    return range(min(max(start, 0), size - 1), min(max(end, -1), size - 1), step)


def reshaped(shape: Shape, target: Sequence[int]) -> Shape | None:
    """The result of Reshape, None where it is an error."""
    if any(size == 0 and axis >= len(shape) for axis, size in enumerate(target)) or min(target, default=0) < -1:
        return None
    sizes = [shape[axis] if size == 0 else size for axis, size in enumerate(target)]
    total = int(np.prod(shape, dtype=np.int64))
    if -1 in sizes:
        if sizes.count(-1) > 1:
            return None
        rest = int(np.prod([size for size in sizes if size != -1], dtype=np.int64))
        if rest == 0 or total % rest:
            return None
        sizes[sizes.index(-1)] = total // rest
    return tuple(sizes) if int(np.prod(sizes, dtype=np.int64)) == total else None
