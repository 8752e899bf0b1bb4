"""Where a part of a tensor comes from, back over a Split and the moves before it."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from graphopt import ir as gir


@dataclass(frozen=True, slots=True)
class Part:
    """A range of indices along an axis."""

    axis: int
    start: int
    end: int


def split_off(split: ir.Node, value: ir.Value) -> Part | None:
    """Which part of its input an output of a Split is."""
    rank = gir.rank(split.inputs[0])
    axis = gir.attribute(split, "axis", 0)
    if rank is None or gir.has_reference(split) or not -rank <= axis < rank:
        return None
    start = 0
    for output in split.outputs:
        shape = gir.dims(output)
        size = shape[axis] if shape else None
        if not isinstance(size, int):
            return None
        if output is value:
            return Part(axis % rank, start, start + size)
        start += size
    return None


def ahead_of(move: ir.Node, part: Part) -> Part | None:
    """Where a part of a move's result is in its input; None for a move that tears it apart.

    The moves are Transpose, and Reshape that leaves the last axis as it is or only cuts it.
    """
    before, after = gir.dims(move.inputs[0]), gir.dims(move.outputs[0])
    if not before or not after or gir.has_reference(move):
        return None
    if gir.is_op(move, "Transpose"):
        perm = gir.attribute(move, "perm", tuple(reversed(range(len(before)))))
        return Part(perm[part.axis], part.start, part.end)
    last, rest = len(before) - 1, after[part.axis + 1 :]
    width = before[-1]
    numbers = [size for size in rest if isinstance(size, int)]
    if not gir.is_op(move, "Reshape") or not isinstance(width, int) or len(numbers) != len(rest):
        return None
    if not rest and width == after[-1]:
        return Part(last, part.start, part.end)
    inner = prod(numbers)
    if before[:-1] != after[: part.axis] or None in before or after[part.axis] != width // max(inner, 1):
        return None
    return Part(last, part.start * inner, part.end * inner)
