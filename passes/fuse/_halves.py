"""The angles of a rotary embedding are laid out twice: proven, and the half computed by the same steps.

Cosines and sines are often laid out for both halves of a head, or for both elements of each pair. That the two are
equal is proven by going back to where one value was put beside itself, or to a constant.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._affine import Refusal
from ._rotary import Dims, is_last

_ELEMENTWISE = frozenset({"Cos", "Sin", "Cast", "Identity", "Neg"})
_SCALED = frozenset({"Mul", "Div", "Add", "Sub"})
_REARRANGING = frozenset({"Unsqueeze", "Squeeze", "Gather", "GatherND", "Slice"})
_MOST_AXES = 12  # of both, for every choice is tried
_DEPTH = 12  # steps from the multiplication back to where it is put twice; exporters write about six


@dataclass(eq=False)
class Found:
    """What was proven and written of one way of laying out.

    Attributes:
        pairs: element by element, rather than half by half.
        proven: halves by the whole value, so that a table is compared once.
        written: the values of halves, by the whole value.
    """

    pairs: bool
    proven: dict[ir.Value, Half] = field(default_factory=dict)
    written: dict[ir.Value, ir.Value] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Half:
    """How one of two equal halves of a value's last axis is computed.

    Attributes:
        whole: the value whose half it is.
        shape: what is known of the half's shape.
        value: an existing value that is it, maybe with other axes of size 1; or
        elements: the constant that is it; or
        node: the step that is repeated, with ``below`` in the place of operand ``place``.
    """

    whole: ir.Value
    shape: Dims
    value: ir.Value | None = None
    elements: np.ndarray | None = None
    node: ir.Node | None = None
    place: int = 0
    below: Half | None = None

    def write(self, before: ir.Node, made: dict[ir.Value, ir.Value]) -> ir.Value:
        """The half as a value; new nodes are put in front of ``before``, unless they are among those made."""
        if self.whole in made:
            return made[self.whole]
        if self.value is not None:
            own = gir.dims(self.value)
            made[self.whole] = aligned(self.value, self.shape if own is None else own, self.shape, before)
        elif self.elements is not None:
            assert before.graph is not None
            made[self.whole] = gir.new_initializer(before.graph, self.elements, f"{self.whole.name}_half")
        else:
            assert self.node is not None and self.below is not None
            inputs = list(self.node.inputs)
            inputs[self.place] = self.below.write(before, made)
            new = ir.node(self.node.op_type, inputs)
            new.attributes.update(self.node.attributes)
            made[self.whole] = put(new, before, self.whole.dtype, self.shape)
        return made[self.whole]


def put(new: ir.Node, before: ir.Node, dtype: ir.DataType | None, shape: Dims) -> ir.Value:
    """Insert a node, with what is known of its result."""
    gir.insert_before(before, [new])
    new.metadata_props.update(before.metadata_props)
    if dtype is not None:
        new.outputs[0].type = ir.TensorType(dtype)
    new.outputs[0].shape = ir.Shape(shape)
    return new.outputs[0]


def aligned(value: ir.Value, own: Dims, wanted: Dims, before: ir.Node) -> ir.Value:
    """A value with axes of size 1 dropped and added, so that it has the wanted shape."""
    if own == wanted:
        return value
    steps = alignment(own, wanted)
    assert steps is not None, "asked before"
    assert before.graph is not None
    dropped, added = steps
    if dropped:
        axes = gir.new_initializer(before.graph, np.array(dropped, np.int64), "axes")
        left = tuple(size for axis, size in enumerate(own) if axis not in dropped)
        value = put(ir.node("Squeeze", [value, axes]), before, value.dtype, left)
    if added:
        axes = gir.new_initializer(before.graph, np.array(added, np.int64), "axes")
        value = put(ir.node("Unsqueeze", [value, axes]), before, value.dtype, wanted)
    return value


def alignment(own: Dims, wanted: Dims) -> tuple[list[int], list[int]] | None:
    """The fewest axes of size 1 to drop, and those to add then; None where this does not give the wanted shape."""
    if not own and not wanted:
        return [], []
    if len(own) + len(wanted) > _MOST_AXES:
        return None
    found: list[tuple[list[int], list[int]]] = []
    if own and wanted and own[-1] == wanted[-1] and own[-1] is not None:
        rest = alignment(own[:-1], wanted[:-1])
        if rest is not None:
            found.append(rest)
    if own and own[-1] == 1 and (rest := alignment(own[:-1], wanted)) is not None:
        found.append(([*rest[0], len(own) - 1], rest[1]))
    if wanted and wanted[-1] == 1 and (rest := alignment(own, wanted[:-1])) is not None:
        found.append((rest[0], [*rest[1], len(wanted) - 1]))
    return min(found, key=lambda steps: len(steps[0]) + len(steps[1]), default=None)


def half(value: ir.Value, found: Found, depth: int = _DEPTH) -> Half:
    """One of the two equal halves of a value's last axis.

    Args:
        value: the whole.
        found: halves found before; what is found is added.
        depth: how many more steps back may be looked at.

    Raises:
        Refusal: the second half is not proven to be the same.
    """
    if value not in found.proven:
        result = _half(value, found, depth)
        if result is None:
            what = "elements of each pair" if found.pairs else "halves"
            raise Refusal(f"the two {what} of {gir.where(value)} are not proven to be equal")
        found.proven[value] = result
    return found.proven[value]


def _half(value: ir.Value, found: Found, depth: int) -> Half | None:
    shape = gir.dims(value)
    if not shape or not isinstance(shape[-1], int) or shape[-1] % 2 or not depth:
        return None
    size = (*shape[:-1], shape[-1] // 2)
    elements = gir.array(value)
    if elements is not None:
        parts = (elements[..., ::2], elements[..., 1::2]) if found.pairs else np.split(elements, 2, axis=-1)
        first, second = (np.ascontiguousarray(part) for part in parts)
        return Half(value, size, elements=first) if first.tobytes() == second.tobytes() else None
    node = value.producer()
    if node is None or node.domain not in gir.STANDARD_DOMAINS or gir.has_reference(node):
        return None
    once = _once(node, size) if found.pairs else _beside_itself(node)
    if once is not None:
        return Half(value, size, value=once)
    place = _through(node, len(shape))
    below = node.inputs[place] if place is not None else None
    if place is None or below is None:
        return None
    return Half(value, size, node=node, place=place, below=half(below, found, depth - 1))


def _beside_itself(node: ir.Node) -> ir.Value | None:
    """The value that a Concat puts beside itself."""
    twice = node.op_type == "Concat" and len(node.inputs) == 2 and node.inputs[0] is node.inputs[1] and is_last(node)
    return node.inputs[0] if twice else None


def _once(reshape: ir.Node, size: Dims) -> ir.Value | None:
    """The value each element of which stands twice in a row: it got one more axis, along which it was repeated."""
    repeat = reshape.inputs[0].producer() if reshape.op_type == "Reshape" and reshape.inputs[0] is not None else None
    if repeat is None or not gir.is_op(repeat, "Expand", "Tile", "Concat"):
        return None
    source = _beside_itself(repeat) if repeat.op_type == "Concat" else repeat.inputs[0]
    if source is None:
        return None
    before, after = gir.dims(source), gir.dims(repeat.outputs[0])
    if not before or not after or None in after or before != (*after[:-1], 1) or after[-1] != 2:
        return None
    unsqueeze = source.producer()
    if gir.is_op(unsqueeze, "Unsqueeze") and unsqueeze is not None and unsqueeze.inputs[0] is not None:
        source = unsqueeze.inputs[0]
    return source if _fits(source, size) else None


def _fits(value: ir.Value, size: Dims) -> bool:
    """True if a value has that shape, give or take axes of size 1."""
    own = gir.dims(value)
    return own is not None and None not in own and alignment(own, size) is not None


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
