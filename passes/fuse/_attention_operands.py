"""Where the queries, keys and values of attention come from: scalings, transposes, repeated heads, split heads.

An operand is read from the product backwards. Each step is a ``Stage``: a tensor of which the operand is a view,

    operand = scale * repeat(transpose(value, perm))            value: any order of [batch, heads, length, size]
    operand = scale * repeat(split heads(value))                value: [batch, length, heads * size] (``flat``),
                                                                or [length, batch, heads * size] (``turned``)

so the attention operator can be fed from whichever stage suits it. Every step is proven by shapes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite

import onnx_ir as ir

from graphopt import ir as gir

from ._attention_packed import unpacked
from ._attention_repeats import Dims, before_repeat, producer

SPLIT = (0, 2, 1, 3)
"""From [batch, length, heads, size] to [batch, heads, length, size], and back."""

TURN = (2, 0, 1, 3)
"""From [batch, heads, length, size] to [length, batch, heads, size]."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A tensor that the operand is a view of.

    Attributes:
        value: the tensor.
        perm: the order of its axes in the operand.
        scale: what it is multiplied by.
        repeat: how often each head occurs, one after the other.
        flat: it is [batch, length, heads * size].
        turned: when it is flat: the length comes before the batch.
        part: which of how many parts of its last axis is meant, when it is flat and holds several operands.
        rotary: the RotaryEmbedding between it and the operand, when it is flat; that one can split heads, too.
    """

    value: ir.Value
    perm: tuple[int, ...]
    scale: float = 1.0
    repeat: int = 1
    flat: bool = False
    turned: bool = False
    part: tuple[int, int] | None = None
    rotary: ir.Node | None = None

    @property
    def straight(self) -> bool:
        """It has the operand's order of axes."""
        return not self.flat and self.perm == tuple(range(len(self.perm)))

    @property
    def length_axis(self) -> int:
        """Which of the value's axes is the length."""
        return (0 if self.turned else 1) if self.flat else self.perm[-2]


def stages(value: ir.Value, perm: tuple[int, ...]) -> list[Stage]:
    """The stages of an operand, the operand itself first."""
    found = [Stage(value, perm)]
    while True:
        before = _before(found[-1])
        if before is None:
            return found
        found.append(before)


def known_dims(found: Sequence[Stage]) -> Dims | None:
    """The operand's shape, [batch, heads, length, size], from all that is known of its stages.

    The heads are those of the first stage: repeated ones count.
    """
    first = gir.dims(found[0].value)
    if first is None or len(first) != len(found[0].perm):
        return None
    dims = [first[axis] for axis in found[0].perm]
    for stage in found[1:]:
        more = None if stage.flat else gir.dims(stage.value)
        if more is not None:
            for index, axis in enumerate(stage.perm):
                if dims[index] is None and (index != 1 or stage.repeat == 1):
                    dims[index] = more[axis]
    return tuple(dims)


def _before(stage: Stage) -> Stage | None:
    """The stage before one, or None."""
    node = stage.value.producer()
    if node is None or gir.has_reference(node):
        return None
    if gir.is_op(node, "Mul", "Div"):
        return _unscaled(stage, node)
    if stage.flat:
        return _unpacked(stage) if stage.turned and stage.part is None else None
    if stage.rotary is not None:
        return None
    if gir.is_op(node, "Transpose"):
        return _untransposed(stage, node)
    if gir.is_op(node, "Reshape"):
        found = _unsplit(stage, node) or _unfolded(stage, node) or _unrepeated(stage, node) or _unturned(stage, node)
        if found is not None:
            return found
    return _unpacked(stage) or _unrotated(stage, node)


def factor(node: ir.Node) -> tuple[ir.Value, float] | None:
    """For a multiplication or division by a number: what is scaled, and the factor."""
    if len(node.inputs) != 2:
        return None
    left, right = node.inputs
    for value, other in ((left, right), (right, left)):
        number, constant = gir.scalar(other), gir.constant(other)
        rank = gir.rank(value)
        if value is None or number is None or constant is None or gir.constant(value) is not None:
            continue
        if not isinstance(number, float) or rank is None or len(constant.shape) > rank:
            continue
        if node.op_type == "Mul":
            return value, number
        return (value, 1 / number) if value is left and number else None
    return None


def _unscaled(stage: Stage, node: ir.Node) -> Stage | None:
    found = factor(node)
    if found is None or not found[1] > 0 or not isfinite(stage.scale * found[1]) or not stage.scale * found[1]:
        return None
    return replace(stage, value=found[0], scale=stage.scale * found[1])


def _untransposed(stage: Stage, node: ir.Node) -> Stage | None:
    value, rank = node.inputs[0], len(stage.perm)
    order = tuple(gir.attribute(node, "perm", tuple(reversed(range(rank)))))
    if value is None or len(order) != rank:
        return None
    return replace(stage, value=value, perm=tuple(order[axis] for axis in stage.perm))


def _unsplit(stage: Stage, node: ir.Node) -> Stage | None:
    """[batch, length, heads * size] -> [batch, length, heads, size]."""
    value = node.inputs[0]
    whole, split = gir.dims(value), gir.dims(stage.value)
    if value is None or stage.perm != SPLIT or whole is None or split is None or len(whole) != 3 or len(split) != 4:
        return None
    batch, length, heads, size = split
    if None in (batch, length) or not isinstance(heads, int) or not isinstance(size, int):
        return None
    if whole != (batch, length, heads * size):
        return None
    return replace(stage, value=value, flat=True)


def _unturned(stage: Stage, node: ir.Node) -> Stage | None:
    """[length, batch, heads * size] -> [length, batch * heads, size] -> Transpose -> [batch, heads, length, size].

    torch.nn.MultiheadAttention.
    """
    turn = producer(node.inputs[0], "Transpose")
    merge = producer(turn.inputs[0], "Reshape") if turn is not None else None
    after = gir.dims(stage.value)
    if turn is None or merge is None or stage.repeat != 1 or after is None or len(after) != 4 or None in after:
        return None
    order, merged, value = tuple(gir.attribute(turn, "perm", ())), gir.dims(turn.inputs[0]), merge.inputs[0]
    if stage.perm[:2] != (0, 1) or order != (1, *((0, 2) if stage.perm[2] == 2 else (2, 0))):
        return None
    batch, heads, length, size = (after[axis] for axis in stage.perm)
    if value is None or not isinstance(heads, int) or not isinstance(size, int):
        return None
    rows = gir.dims(value)
    if merged != (length, times(batch, heads), size) or rows is None or len(rows) != 3:
        return None
    if (rows[0], rows[2]) != (length, heads * size):  # then the batch is the same, too
        return None
    return replace(stage, value=value, flat=True, turned=True)


def times(dim: int | str | None, count: int) -> int | str | None:
    """A dimension several times, as shape inference writes it."""
    if dim is None or isinstance(dim, int):
        return None if dim is None else dim * count
    number, mark, rest = dim.partition("*")
    if not re.fullmatch(r"[A-Za-z0-9_*]+", dim):
        return None
    return f"{int(number) * count}*{rest}" if mark and number.isdigit() else (dim if count == 1 else f"{count}*{dim}")


def _unpacked(stage: Stage) -> Stage | None:
    """[batch, length, 3 * heads * size] -> [batch, heads, length, size], or one third of [length, batch, ...]."""
    found = unpacked(stage.value) if stage.turned or (stage.straight and len(stage.perm) == 4) else None
    if found is None:
        return None
    value, index, count = found
    return replace(stage, value=value, flat=True, part=(index, count))


def _unrotated(stage: Stage, node: ir.Node) -> Stage | None:
    """RotaryEmbedding of split heads, which is linear."""
    value = node.inputs[0] if gir.is_op(node, "RotaryEmbedding") else None
    if value is None or not stage.straight or len(stage.perm) != 4:
        return None
    if [user.graph for user, _ in stage.value.uses()] != [node.graph]:
        return None
    if stage.value.is_graph_output() or not isinstance((gir.dims(value) or (None, None))[1], int):
        return None
    inner = stages(value, stage.perm)[-1]
    if not inner.flat or inner.repeat != 1 or inner.rotary is not None:
        return None
    return replace(inner, scale=inner.scale * stage.scale, repeat=stage.repeat, rotary=node)


def _unfolded(stage: Stage, node: ir.Node) -> Stage | None:
    """Reshape(Transpose{0, 2, 1}(Reshape(x))): batch and heads folded into one while the last two axes swap."""
    swap = producer(node.inputs[0], "Transpose")
    if swap is None or tuple(gir.attribute(swap, "perm", ())) != (0, 2, 1):
        return None
    fold = producer(swap.inputs[0], "Reshape")
    after = gir.dims(stage.value)
    if fold is None or after is None or len(after) != 4:
        return None
    value, folded = fold.inputs[0], gir.dims(fold.outputs[0])
    before = gir.dims(value)
    unswapped = (*after[:2], after[3], after[2])
    if value is None or before is None or folded is None or None in after or folded[1:] != unswapped[2:]:
        return None
    perm = tuple((0, 1, 3, 2)[axis] for axis in stage.perm)
    if before == unswapped:
        return replace(stage, value=value, perm=perm)
    if perm == (0, 1, 2, 3) and stage.repeat == 1:
        found = before_repeat(value, unswapped, 1)
        if found is not None:
            return replace(stage, value=found[0], perm=perm, repeat=found[1])
    return None


def _unrepeated(stage: Stage, node: ir.Node) -> Stage | None:
    """[.., heads, ..] -> [.., heads, 1, ..] -> [.., heads, n, ..] -> [.., heads * n, ..]."""
    expanded, merged = node.inputs[0], gir.dims(stage.value)
    if expanded is None or merged is None or len(merged) != 4 or stage.repeat != 1:
        return None
    found = before_repeat(expanded, merged, stage.perm[1])
    return None if found is None else replace(stage, value=found[0], repeat=found[1])
