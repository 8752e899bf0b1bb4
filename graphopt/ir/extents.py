"""How large the values of a model are in a run whose inputs have known sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from .facts import dims, is_op
from .shapes import infer
from .tensors import copy_model
from .walk import bodies, has_subgraphs, subgraphs

ASSUMED = 64
"""Size of a dimension that nothing is known of: like a short sequence or a batch."""

_STRING_BYTES = 16


@dataclass(frozen=True)
class Extent:
    """How large a value is.

    Attributes:
        bytes: of its elements.
        shape: the size of each dimension; None where it is not known.
        dtype: of its elements; None when it is no tensor.
        known: whether nothing of this was guessed.
    """

    bytes: int
    shape: tuple[int, ...] | None = None
    dtype: ir.DataType | None = None
    known: bool = False


def extents(model: ir.Model, shapes: Mapping[str, Sequence[int]], assumed: int = ASSUMED) -> dict[ir.Value, Extent]:
    """How large what each node computes is, and what the bodies of loops are given.

    By inference on a copy whose inputs have sizes. Arguments as for ``schedules``.
    """
    copy = copy_model(model)
    _give_sizes(copy.graph.inputs, shapes, assumed)
    infer(copy)
    owners = owners_of(copy)
    found: dict[ir.Value, Extent] = {}
    for body, twin in zip(bodies(model), bodies(copy), strict=True):
        for graph, same in zip(body.graphs(), twin.graphs(), strict=True):
            owner = owners.get(same)
            if is_op(owner, "Loop", "Scan"):
                given = _operands(owner, len(same.inputs))
                for value, its, operand in zip(graph.inputs, same.inputs, given, strict=True):
                    found[value] = _extent(its, assumed) or _guess((operand,), assumed)
        for node, same in zip(body.nodes(), twin.nodes(), strict=True):
            for value, its in zip(node.outputs, same.outputs, strict=True):
                if value.name or value.uses():
                    found[value] = _extent(its, assumed) or _guess(same.inputs, assumed)
    return found


def _give_sizes(inputs: Sequence[ir.Value], shapes: Mapping[str, Sequence[int]], assumed: int) -> None:
    """Numbers in the place of symbols: those of the given shapes, the same for a symbol that is met again."""
    sizes: dict[str, int] = {}
    for value in inputs:
        declared = dims(value)
        given = shapes.get(value.name or "")
        if declared is None:
            declared = tuple(given) if given is not None else None
        if declared is None:
            continue
        fits = given is not None and len(given) == len(declared)
        numbers = [int(size) for size in given] if given is not None and fits else None
        for axis, dim in enumerate(declared):
            if isinstance(dim, str) and numbers is not None:
                sizes.setdefault(dim, numbers[axis])
        value.shape = ir.Shape(
            [
                dim if isinstance(dim, int) else numbers[axis] if numbers is not None else sizes.get(dim or "", assumed)
                for axis, dim in enumerate(declared)
            ]
        )


def _operands(owner: ir.Node | None, count: int) -> list[ir.Value | None]:
    """What the inputs of a loop's body are at first, as far as that tells their size."""
    given: list[ir.Value | None] = list(owner.inputs) if owner is not None else []
    return (given + [None] * count)[:count]


def _extent(value: ir.Value, assumed: int) -> Extent | None:
    """The size, with the assumed one for symbols that inference made up; None when rank or type are not known."""
    shape = dims(value)
    if shape is None or not isinstance(value.type, ir.TensorType):
        return None
    sizes = tuple(dim if isinstance(dim, int) else assumed for dim in shape)
    dtype = value.type.dtype
    known = all(isinstance(dim, int) for dim in shape) and dtype is not ir.DataType.STRING
    if dtype is ir.DataType.STRING:
        return Extent(_STRING_BYTES * math.prod(sizes), sizes, dtype, known)
    if dtype is ir.DataType.UNDEFINED:
        return None
    return Extent(math.ceil(math.prod(sizes) * dtype.bitwidth / 8), sizes, dtype, known)


def _guess(values: Iterable[ir.Value | None], assumed: int) -> Extent:
    """As much as the largest of the values."""
    sizes = [extent.bytes for value in values if value is not None and (extent := _extent(value, assumed)) is not None]
    return Extent(max(sizes, default=0))


def owners_of(model: ir.Model) -> dict[ir.Graph, ir.Node]:
    """The node in which each subgraph lies."""
    found: dict[ir.Graph, ir.Node] = {}
    for body in bodies(model):
        for node in body.nodes():
            if has_subgraphs(node):
                found.update(dict.fromkeys(subgraphs(node), node))
    return found
