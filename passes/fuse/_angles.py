"""The angles of a rotary embedding: proven to be the same for both halves of a head, and laid out for one.

Cosines and sines are often laid out twice, for both halves of a head. That the two are equal is proven by going back
to where one value was concatenated with itself, or to a constant; the half is computed by the same steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._affine import Refusal
from ._rotary import is_last

_ELEMENTWISE = frozenset({"Cos", "Sin", "Cast", "Identity", "Neg"})
_SCALED = frozenset({"Mul", "Div", "Add", "Sub"})
_REARRANGING = frozenset({"Unsqueeze", "Squeeze", "Gather", "GatherND", "Slice"})
_DEPTH = 12  # steps from the multiplication back to the concatenation; exporters write about six


@dataclass(frozen=True, eq=False)
class Half:
    """How the first half of a value's last axis is computed.

    Attributes:
        whole: the value whose half it is.
        shape: what is known of the half's shape.
        value: an existing value that is it; or
        elements: the constant that is it; or
        node: the step that is repeated, with ``below`` in the place of operand ``place``.
    """

    whole: ir.Value
    shape: tuple[int | str | None, ...]
    value: ir.Value | None = None
    elements: np.ndarray | None = None
    node: ir.Node | None = None
    place: int = 0
    below: Half | None = None

    def write(self, before: ir.Node, made: dict[ir.Value, ir.Value]) -> ir.Value:
        """The half as a value; new nodes are put in front of ``before``, unless they are among those made."""
        if self.value is not None:
            return self.value
        if self.whole in made:
            return made[self.whole]
        if self.elements is not None:
            assert before.graph is not None
            made[self.whole] = gir.new_initializer(before.graph, self.elements, f"{self.whole.name}_half")
            return made[self.whole]
        assert self.node is not None and self.below is not None
        inputs = list(self.node.inputs)
        inputs[self.place] = self.below.write(before, made)
        new = ir.node(self.node.op_type, inputs)
        new.attributes.update(self.node.attributes)
        made[self.whole] = put(new, before, self.whole.dtype, self.shape)
        return made[self.whole]


def put(new: ir.Node, before: ir.Node, dtype: ir.DataType | None, shape: tuple[int | str | None, ...]) -> ir.Value:
    """Insert a node, with what is known of its result."""
    gir.insert_before(before, [new])
    new.metadata_props.update(before.metadata_props)
    if dtype is not None:
        new.outputs[0].type = ir.TensorType(dtype)
    new.outputs[0].shape = ir.Shape(shape)
    return new.outputs[0]


def half(value: ir.Value, proven: dict[ir.Value, Half], depth: int = _DEPTH) -> Half:
    """The first half of a value's last axis.

    Args:
        value: the whole.
        proven: halves found before; what is found is added.
        depth: how many more steps back may be looked at.

    Raises:
        Refusal: the second half is not proven to be the same.
    """
    if value not in proven:
        found = _half(value, proven, depth)
        if found is None:
            raise Refusal(f"the two halves of {gir.where(value)} are not proven to be equal")
        proven[value] = found
    return proven[value]


def _half(value: ir.Value, proven: dict[ir.Value, Half], depth: int) -> Half | None:
    shape = gir.dims(value)
    if not shape or not isinstance(shape[-1], int) or shape[-1] % 2 or not depth:
        return None
    size = (*shape[:-1], shape[-1] // 2)
    elements = gir.array(value)
    if elements is not None:
        first, second = (np.ascontiguousarray(part) for part in np.split(elements, 2, axis=-1))
        return Half(value, size, elements=first) if first.tobytes() == second.tobytes() else None
    node = value.producer()
    if node is None or node.domain not in gir.STANDARD_DOMAINS or gir.has_reference(node):
        return None
    if node.op_type == "Concat" and len(node.inputs) == 2 and node.inputs[0] is node.inputs[1] and is_last(node):
        return Half(value, size, value=node.inputs[0])
    place = _through(node, len(shape))
    below = node.inputs[place] if place is not None else None
    if place is None or below is None:
        return None
    return Half(value, size, node=node, place=place, below=half(below, proven, depth - 1))


def _through(node: ir.Node, rank: int) -> int | None:
    """The operand whose two halves are equal only if those of the result are made from it alike."""
    if node.op_type in _ELEMENTWISE:
        return 0
    if node.op_type in _SCALED and len(node.inputs) == 2:
        sizes = [tensor.size if (tensor := gir.constant(value)) is not None else 0 for value in node.inputs]
        return next((1 - place for place, size in enumerate(sizes) if size == 1), None)
    if node.op_type not in _REARRANGING:
        return None
    below = gir.rank(node.inputs[0])
    last = rank if node.op_type == "Unsqueeze" else below
    kept = _axes(node, last)
    if kept is None or last is None or any(axis in (-1, last - 1) for axis in kept):
        return None
    return 0


def _axes(node: ir.Node, rank: int | None) -> tuple[int, ...] | None:
    """The axes that such a node changes, where they are known."""
    if node.op_type == "Gather":
        return (int(gir.attribute(node, "axis", 0)),) if rank is not None and rank > 1 else None
    if node.op_type == "GatherND":
        indices, batches = gir.dims(node.inputs[1]), int(gir.attribute(node, "batch_dims", 0))
        return tuple(range(batches + indices[-1])) if indices and isinstance(indices[-1], int) else None
    place = 3 if node.op_type == "Slice" else 1
    found = gir.attribute(node, "axes") or (gir.known_ints(node.inputs[place]) if len(node.inputs) > place else None)
    return None if found is None else tuple(found)


@dataclass(frozen=True, eq=False)
class Angles:
    """A cosine or sine, as four dimensions: (batch or 1, 1, sequence, head / 2).

    Attributes:
        half: how it is computed.
        rank: its own rank, 2 to 4.
        batch: 1, or that of x.
    """

    half: Half
    rank: int
    batch: int | str | None


@dataclass(eq=False)
class Layout:
    """What has been written into one graph, so that layers share it.

    Attributes:
        proven: halves of values, so that a table is compared once.
        halves: see ``Half.write``.
        flat: angles as an operator takes them, by what they are half of, the rank and the batch.
        batches: shapes to expand to, by batch.
    """

    proven: dict[ir.Value, Half] = field(default_factory=dict)
    halves: dict[ir.Value, ir.Value] = field(default_factory=dict)
    flat: dict[tuple[ir.Value, int, object], ir.Value] = field(default_factory=dict)
    batches: dict[object, ir.Value] = field(default_factory=dict)


def flat(angles: Angles, rank: int, x: ir.Value, before: ir.Node, layout: Layout) -> ir.Value:
    """The angles as (batch of x, sequence, head / 2), rank 3, or without the batch, rank 2."""
    shape = gir.dims(x)
    assert shape is not None
    batch = shape[0] if rank == 3 and angles.batch == 1 else angles.batch
    key = (angles.half.whole, rank, x if batch is None else batch)
    if key not in layout.flat:
        value = _squeezed(angles, rank, before, layout)
        if rank == 3 and angles.batch == 1 and batch != 1:
            value = _expanded(value, batch, x, before, layout)
        layout.flat[key] = value
    return layout.flat[key]


def _squeezed(angles: Angles, rank: int, before: ir.Node, layout: Layout) -> ir.Value:
    """Without the dimension of the heads, and that of the batch if one is too many."""
    top = angles.half
    # The heads' dimension of 1 is often what an Unsqueeze has just added.
    if angles.rank == 4 and top.node is not None and top.node.op_type == "Unsqueeze" and top.below is not None:
        added = gir.known_ints(top.node.inputs[1]) if len(top.node.inputs) > 1 else None
        if added in ((1,), (-3,)):
            top = top.below
    value = top.write(before, layout.halves)
    extra = len(top.shape) - rank
    if not extra:
        return value
    axes = [0, 1] if extra == 2 else [1] if len(top.shape) == 4 else [0]
    assert before.graph is not None
    constant = gir.new_initializer(before.graph, np.array(axes, np.int64), "axes")
    node = ir.node("Squeeze" if extra > 0 else "Unsqueeze", [value, constant])
    return put(node, before, value.dtype, (angles.batch, *top.shape[-2:])[3 - rank :])


def _expanded(value: ir.Value, batch: int | str | None, x: ir.Value, before: ir.Node, layout: Layout) -> ir.Value:
    """The angles of one batch for all batches of x."""
    owner = x if batch is None else batch
    graph = before.graph
    assert graph is not None
    if owner not in layout.batches:
        if isinstance(batch, int):
            layout.batches[owner] = gir.new_initializer(graph, np.array([batch, 1, 1], np.int64), "batch")
        else:
            ones = gir.new_initializer(graph, np.ones(2, np.int64), "ones")
            count = put(ir.node("Shape", [x], {"start": 0, "end": 1}), before, ir.DataType.INT64, (1,))
            shape = ir.node("Concat", [count, ones], {"axis": 0})
            layout.batches[owner] = put(shape, before, ir.DataType.INT64, (3,))
    own = gir.dims(value) or ()
    return put(ir.node("Expand", [value, layout.batches[owner]]), before, value.dtype, (batch, *own[1:]))
