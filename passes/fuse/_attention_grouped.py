"""Writes causal attention with grouped heads, or with a cache, as com.microsoft::GroupQueryAttention.

    GroupQueryAttention{num_heads, kv_num_heads, scale}(q, k, v, past keys, past values, all - 1 of each batch, all)

where ``all`` is how many keys there are with the past ones. Source: ONNX Runtime 1.31, contrib operators: heads of a
multiple of 8; after a cache, one new token, or a batch of one; an empty batch ends the process, so its size must be
known.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._attention_operands import Stage
from ._attention_plan import Plan
from ._attention_writer import Length, Writer

_HEAD_SIZE = 8


def grouped_objection(plan: Plan, is_flat: bool) -> str | None:
    """Why the operator is not the same function, or None."""
    batch, _, length, size = plan.shape if len(plan.shape) == 4 else (None,) * 4
    if not is_flat or plan.core.softcap or plan.core.softmax.outputs[0].dtype != plan.dtype:
        return "GroupQueryAttention needs operands that are not split into heads, and has no wider Softmax"
    if not isinstance(size, int) or size % _HEAD_SIZE or plan.value_size != size:
        return f"GroupQueryAttention needs heads of keys and values whose size is a multiple of {_HEAD_SIZE}"
    if not isinstance(batch, int):
        return "ONNX Runtime's GroupQueryAttention ends the process on an empty batch: its size must be known"
    if plan.caches is None and plan.length != length:
        return "GroupQueryAttention needs as many new keys as queries"
    if plan.caches is not None and batch != 1 and length != 1:
        return "after a cache, GroupQueryAttention takes several new tokens only in a batch of one"
    return None


def is_grouped(plan: Plan) -> bool:
    """It is what the operator is made for."""
    return plan.causal and (plan.repeat > 1 or plan.caches is not None)


def lengths_of(plan: Plan, query: Stage, writer: Writer) -> tuple[ir.Value, ir.Value]:
    """The last position of each batch, and the number of keys."""
    batch, length = plan.shape[0], plan.shape[-2]
    assert isinstance(batch, int)
    past = plan.caches[0].past if plan.caches is not None else None
    before = (gir.dims(past) or (None,) * 4)[2] if past is not None else 0
    if isinstance(length, int) and isinstance(before, int):
        return writer.int32(np.full(batch, length + before - 1)), writer.int32(np.asarray(length + before))

    def last() -> ir.Value:
        minus = writer.op("Sub", [counted(), writer.int32(np.asarray([1]))], dtype=ir.DataType.INT32, dims=(1,))
        return writer.op("Expand", [minus, writer.ints([batch])], dtype=ir.DataType.INT32, dims=(batch,))

    def counted() -> ir.Value:
        return writer.shared((*key, "all"), count)

    def count() -> ir.Value:
        numbers = [Length(length, query.value, query.length_axis)]
        if past is not None:
            numbers.insert(0, Length(before, past, 2))
        number, *more = (writer.ints([n.size]) if isinstance(n.size, int) else writer.length(n) for n in numbers)
        if more:
            number = writer.op("Add", [number, *more], dtype=ir.DataType.INT64, dims=(1,))
        return writer.op("Cast", [number], {"to": ir.DataType.INT32.value}, dtype=ir.DataType.INT32, dims=(1,))

    def total() -> ir.Value:
        if writer.version >= 13:
            return writer.op("Squeeze", [counted(), writer.ints([0])], dtype=ir.DataType.INT32, dims=())
        return writer.op("Squeeze", [counted()], {"axes": [0]}, dtype=ir.DataType.INT32, dims=())

    # Layers whose sizes are proven to be the same share them.
    key = ("keys", batch, query.value if length is None else length, past if before is None else before)
    return writer.shared((*key, "last"), last), writer.shared((*key, "total"), total)
