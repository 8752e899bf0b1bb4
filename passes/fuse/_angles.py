"""The cosines and sines of a rotary embedding as its operators take them: (batch, sequence, head / 2)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._halves import Found, Half, aligned, alignment, put
from ._rotary import Dims


@dataclass(frozen=True, eq=False)
class Angles:
    """A cosine or sine for each batch or for all, and for each place of the sequence.

    Attributes:
        half: how it is computed.
        batch: 1, or that of x.
        sequence: how it calls that of x.
        pairs: of a rotation by pairs.
    """

    half: Half
    batch: int | str | None
    sequence: int | str | None
    pairs: bool


def _both() -> dict[bool, Found]:
    return {pairs: Found(pairs) for pairs in (False, True)}


@dataclass(eq=False)
class Layout:
    """What has been written into one graph, so that layers share it.

    Attributes:
        found: halves that were proven and written, by whether they are of pairs.
        flat: angles as an operator takes them, by what they are half of, of pairs or not, the rank and the batch.
        batches: shapes to expand to, by batch.
    """

    found: dict[bool, Found] = field(default_factory=_both)
    flat: dict[tuple[ir.Value, bool, int, object], ir.Value] = field(default_factory=dict)
    batches: dict[object, ir.Value] = field(default_factory=dict)


def flat(angles: Angles, rank: int, x: ir.Value, batch: int | str | None, before: ir.Node, layout: Layout) -> ir.Value:
    """The angles as (batch of x, sequence, head / 2), rank 3, or without the batch, rank 2.

    Args:
        angles: what is to be written.
        rank: of the result.
        x: what is rotated, batch first.
        batch: the number of its batches, as far as it is known.
        before: the node in front of which it is written.
        layout: what has been written.
    """
    batch = batch if rank == 3 and angles.batch == 1 else angles.batch
    key = (angles.half.whole, angles.pairs, rank, x if batch is None else batch)
    if key not in layout.flat:
        value = _squeezed(angles, rank, before, layout)
        if rank == 3 and angles.batch == 1 and batch != 1:
            value = _expanded(value, batch, x, before, layout)
        layout.flat[key] = value
    return layout.flat[key]


def _squeezed(angles: Angles, rank: int, before: ir.Node, layout: Layout) -> ir.Value:
    """Without the dimension of the heads, and that of the batch if one is too many."""
    top = angles.half
    wanted: Dims = (angles.batch, angles.sequence, top.shape[-1])[3 - rank :]
    # The heads' dimension of 1 is often what an Unsqueeze has just added.
    while top.node is not None and top.node.op_type == "Unsqueeze" and top.below is not None:
        if alignment(top.below.shape, wanted) is None:
            break
        top = top.below
    own = None if top.value is None else gir.dims(top.value)
    if top.value is not None and own is not None and alignment(own, wanted) is not None:
        return aligned(top.value, own, wanted, before)
    return aligned(top.write(before, layout.found[angles.pairs].written), top.shape, wanted, before)


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
