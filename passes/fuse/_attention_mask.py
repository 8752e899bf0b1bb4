"""The mask of attention: whether it fits, which rows it can silence, and how it is written as one tensor.

A row of -inf alone is NaN after Softmax, and zeros after Attention (ONNX, operator set 23 with its errata). A row of
the least finite number alone is the mean of the values after Softmax, but zeros in ONNX Runtime's Attention, which
takes that number for -inf; so it becomes the number next to it, which swallows the scores just as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.ir import same_shape

from ._affine import Refusal
from ._attention_bounds import Bounds, BoundsReader, above_lowest, lowest
from ._attention_core import Mask, absorbs
from ._attention_operands import Dims
from ._attention_rows import column
from ._attention_windows import is_not_one, windowed
from ._attention_writer import Length, Writer

_LARGEST_CONSTANT = 1 << 22
_ORDINARY = 1e30


@dataclass(frozen=True, eq=False)
class MaskPlan:
    """What is known of the mask of one attention.

    Attributes:
        masks: the steps, none for no mask; their fills are -inf or swallow any score.
        dtype: of the scores.
        bounds: where its elements lie.
        dead: a row may be -inf throughout.
        alive: there is one step, and each query is proven to have a key that it does not touch.
        full: its last two dimensions are proven to be those of the scores.
        dims: its shape.
        rank: of the scores.
    """

    masks: tuple[Mask, ...]
    dtype: ir.DataType
    bounds: Bounds
    dead: bool
    alive: bool
    full: tuple[bool, bool]
    dims: Dims
    rank: int

    def write(
        self, writer: Writer, lengths: tuple[Length, Length, Length], harden: bool, rank: int, boolean: bool = False
    ) -> ir.Value | None:
        """One tensor that is added to the scores, of their last two dimensions; shared with other attentions.

        Args:
            writer: where to.
            lengths: of queries and keys, and of the batch.
            harden: replace the least finite number.
            rank: the least rank.
            boolean: the form takes which scores are kept, too.
        """
        if not self.masks:
            return None
        hardened = harden and self.bounds.low <= lowest(self.dtype)
        kept = self._kept(writer) if boolean else None
        whole = kept or writer.shared(
            (self.masks, hardened, self.dtype, lengths[2].place), lambda: self._whole(writer, hardened, lengths[2])
        )
        dims = self.dims
        if self.rank == 3 and len(dims) == 3 and dims[0] != 1:
            whole = writer.shared((whole, "heads"), lambda: writer.unsqueeze(whole, 1))
            dims = (dims[0], 1, *dims[1:])
        if all(self.full) and len(dims) >= rank:
            return whole
        places = tuple(length.place for length in lengths)
        return writer.shared((whole, self.full, places), lambda: self._expanded(writer, whole, lengths))

    def _kept(self, writer: Writer) -> ir.Value | None:
        """Which scores are kept, where the mask says no more: the others are as good as -inf."""
        (mask, *others) = self.masks
        condition, fill, inverted = mask.value, mask.fill, mask.inverted
        if fill is None:
            node = condition.producer()
            numbers = [gir.scalar(value) for value in node.inputs[1:]] if gir.is_op(node, "Where") and node else []
            if node is None or node.inputs[0] is None or 0 not in numbers or not same_shape(node.inputs[0], condition):
                return None
            inverted = numbers[0] != 0
            condition, fill = node.inputs[0], numbers[0 if inverted else 1]
        if others or mask.windows or not isinstance(fill, float):
            return None
        if fill != -np.inf and not (self.alive and absorbs(fill, self.dtype)):
            return None
        if not inverted:
            return condition
        return writer.shared(
            (condition, "not"), lambda: writer.op("Not", [condition], dtype=ir.DataType.BOOL, like=condition)
        )

    def _whole(self, writer: Writer, hardened: bool, batch: Length) -> ir.Value:
        whole: ir.Value | None = None
        for mask in self.masks:
            if mask.fill is None:
                value = windowed(mask, batch, writer) if mask.windows else mask.value
                if hardened and len(self.masks) == 1:
                    value, hardened = self._hardened(writer, value)
                whole = value if whole is None else writer.op("Add", [whole, value], dtype=self.dtype, dims=self.dims)
                continue
            rest = writer.constant(0.0, self.dtype) if whole is None else whole
            branches = [rest, writer.constant(mask.fill, self.dtype)]
            order = reversed(branches) if mask.inverted else branches
            whole = writer.op("Where", [mask.value, *order], dtype=self.dtype, dims=self.dims)
        assert whole is not None
        return self._raised(writer, whole) if hardened else whole

    def _expanded(self, writer: Writer, whole: ir.Value, lengths: tuple[Length, Length, Length]) -> ir.Value:
        sizes: list[int | Length] = [1, 1]
        for length, full in zip(lengths[:2], self.full, strict=True):
            known = 1 if full else length.size
            sizes.append(known if isinstance(known, int) else length)
        return writer.op("Expand", [whole, writer.sizes(sizes)], dtype=whole.dtype)

    def _hardened(self, writer: Writer, value: ir.Value) -> tuple[ir.Value, bool]:
        """Where(condition, 0, lowest) with another number; the second answer is False when that was all."""
        node = value.producer()
        if node is None or not gir.is_op(node, "Where"):
            return value, True
        branches, low = [], lowest(self.dtype)
        for branch in node.inputs[1:]:
            number = gir.scalar(branch)
            if number is not None and np.isfinite(number) and number <= low:
                tensor = gir.constant(branch)
                assert tensor is not None
                branches.append(writer.constant(above_lowest(self.dtype), self.dtype, len(tensor.shape)))
            elif branch is not None and BoundsReader().of(branch).low > low:
                branches.append(branch)
            else:
                return value, True
        return writer.op("Where", [node.inputs[0], *branches], dtype=self.dtype, like=value), False

    def _raised(self, writer: Writer, value: ir.Value) -> ir.Value:
        nearest = writer.constant(above_lowest(self.dtype), self.dtype)
        if not self.bounds.infinite:
            return writer.op("Max", [value, nearest], dtype=self.dtype, like=value)
        least = writer.constant(lowest(self.dtype), self.dtype)
        found = writer.op("Equal", [value, least], dtype=ir.DataType.BOOL)
        return writer.op("Where", [found, nearest, value], dtype=self.dtype, like=value)


def plan_mask(masks: tuple[Mask, ...], scores: Dims, alike: bool, dtype: ir.DataType, reader: BoundsReader) -> MaskPlan:
    """What is known of a mask.

    Args:
        masks: the steps.
        scores: the dimensions of the product of queries and keys.
        alike: keys and values are proven to have the same length.
        dtype: of the scores.
        reader: for what the masks hold.

    Raises:
        Refusal: it is not proven to broadcast to the scores, or its fill is no mask.
    """
    bounds, rank, fill = Bounds(0, 0), 0, None
    dims: list[int | str | None] = [1] * len(scores)
    steps = []
    for mask in masks:
        rank = max(rank, _fit(mask, scores, alike, dims))
        if mask.fill is None:
            found = reader.of(mask.value)
            if mask.value.dtype != dtype:
                raise Refusal("its mask is added in another element type")
            if fill is not None and max(-found.low, found.high) > -fill * 2.0**-25:
                raise Refusal(f"to scores that became {fill:g} another mask is added")
            bounds = bounds.plus(found, dtype) if steps else found
        elif mask.fill == -np.inf:
            bounds = bounds.joined(Bounds(0, 0, True))
        elif not absorbs(mask.fill, dtype):
            raise Refusal(f"masked scores become {mask.fill:g}, which others may come near")
        elif fill not in (None, mask.fill) or (
            mask.fill > lowest(dtype) and fill is None and bounds.low < mask.fill / 2
        ):
            # In a row without a key the higher of two such numbers would win.
            raise Refusal(f"masked scores become {mask.fill:g}, and by another mask come near that")
        else:
            fill = mask.fill
            mask = replace(mask, fill=above_lowest(dtype))
            bounds = bounds.joined(Bounds(above_lowest(dtype), 0))
        steps.append(mask)
    full = [dim is not None and dim == whole for dim, whole in zip(dims[-2:], scores[-2:], strict=True)]
    dead = bounds.infinite and not (all(map(_keeps_first, masks)) or (len(masks) == 1 and _keeps_a_key(masks[0])))
    alive = len(masks) == 1 and _has_a_key(masks[0])
    shape = tuple(dims[len(scores) - rank :])
    return MaskPlan(tuple(steps), dtype, bounds, dead, alive, (full[0], full[1]), shape, len(scores))


def _fit(mask: Mask, scores: Dims, alike: bool, dims: list[int | str | None]) -> int:
    """Check that a mask broadcasts to the scores; gives its rank, and notes the dimensions it has."""
    own = gir.dims(mask.value)
    if own is not None and mask.windows:
        own = (scores[0], *own[2:])
    if own is None or len(own) > len(scores):
        raise Refusal("the rank of its mask is not known" if own is None else "its mask adds a dimension")
    for back, (dim, whole) in enumerate(zip(reversed(own), reversed(scores), strict=False), start=1):
        if dim is not None and (dim == whole or (is_not_one(dim, whole) and whole is not None)):
            dims[-back] = whole
        elif dim != 1:
            # A last dimension that is neither 1 nor the keys' would not go with the values.
            if back > 1 or not alike or (isinstance(dim, int) and isinstance(whole, int)):
                names = ("keys", "queries", "heads" if len(scores) == 4 else "batch", "batch")
                raise Refusal(f"its mask is not proven to fit the scores: {dim} {names[back - 1]} for {whole}")
            dims[-back] = None if dims[-back] == 1 else dims[-back]
    return len(own)


def _keeps_first(mask: Mask) -> bool:
    """No query loses its first key."""
    low, high = column(mask.value)
    if mask.fill is None:
        return low > -_ORDINARY
    return high == 0 if mask.inverted else low == 1


def _keeps_a_key(mask: Mask) -> bool:
    """A constant mask with a key left in each row."""
    elements = gir.array(mask.value, _LARGEST_CONSTANT)
    if elements is None or elements.size == 0:
        return False
    kept = elements > -np.inf if mask.fill is None else elements.astype(bool) != mask.inverted
    return bool(np.atleast_1d(kept).any(axis=-1).all())


def _has_a_key(mask: Mask) -> bool:
    """Each query has a key that is not masked at all."""
    if mask.fill is not None:
        return _keeps_first(mask) or _keeps_a_key(mask)
    elements = gir.array(mask.value, _LARGEST_CONSTANT)
    if elements is None or elements.size == 0:
        return column(mask.value)[0] >= 0
    return bool((np.atleast_1d(elements) >= 0).any(axis=-1).all())
