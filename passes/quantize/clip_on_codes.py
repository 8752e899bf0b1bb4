"""A Min with constants between codes is a Min of codes.

    Q2(Min(DQ1(Q1(x)), c))    ->    Min(Q2(x), Q2(c))

QuantizeLinear is monotone, so it changes places with Min; the first pair of nodes was there to round x, and is not
needed. Where Q2 begins at the end at which Q1 did (0 behind a ReLU), it does for x what Q1 did. Min of 8-bit integers:
ONNX operator, from version 12 on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Site, Sites
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

_CODES = {ir.DataType.UINT8: (0, 255), ir.DataType.INT8: (-128, 127)}


@dataclass(frozen=True)
class ClipOnCodes(Pass):
    """Computes on integers the Min with one end for each channel that ``equalize-weights`` makes of a Clip.

    Runs behind ``insert-qdq``, which leaves it in float32. One rounding less than before: the result differs from the
    one it was given by what a rounding is worth, and is the nearer one to the float model.

    Kept, with the reason: codes or floats on the way that are also used elsewhere; types other than uint8 and int8; a
    second range that begins below the first.

    Attributes:
        min_sqnr_db: as for ``insert-qdq``.
    """

    name: ClassVar[str] = "clip-on-codes"
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    min_sqnr_db: float = 5.0

    def budget_db(self) -> float:
        """As for ``insert-qdq``."""
        return self.min_sqnr_db

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site for each Min between codes."""
        for body in gir.bodies(model):
            for node in body.nodes():
                found = _match(node)
                if isinstance(found, _Cut):
                    if body.version() < 12:
                        yield Site(gir.where(node), "Min of 8-bit integers needs opset 12: convert-opset raises it")
                    else:
                        yield Site(gir.where(node), "computed on codes", partial(_edit, found))
                elif found is not None:
                    yield Site(gir.where(node), found)


@dataclass(frozen=True, eq=False)
class _Cut:
    """QuantizeLinear, DequantizeLinear, Min, QuantizeLinear; the constant, and the numbers of the last map."""

    first: ir.Node
    least: ir.Node
    last: ir.Node
    ends: np.ndarray
    scale: float
    zero: int


def _match(node: ir.Node) -> _Cut | str | None:
    if not gir.is_op(node, "Min") or len(node.inputs) != 2:
        return None
    back, last = _quantised_side(node), _only_user(node.outputs[0])
    if back is None or not gir.is_op(last, "QuantizeLinear") or last is None:
        return None
    ends = gir.array(next(value for value in node.inputs if value is not back.outputs[0]))
    first = back.inputs[0].producer() if back.inputs[0] is not None else None
    if ends is None or not gir.is_op(first, "QuantizeLinear") or first is None:
        return None
    if _only_user(first.outputs[0]) is not back or _only_user(back.outputs[0]) is not node:
        return "the codes before it are also used elsewhere"
    before, after = _map(first), _map(last)
    if before is None or after is None or _map(back) != before:
        return "the codes have no single constant scale, or are not uint8 or int8"
    if np.isnan(ends).any():
        return "an end is NaN"
    starts = [(_CODES[kind][0] - zero) * scale for scale, zero, kind in (before, after)]
    if starts[1] < starts[0] - 0.49 * after[0]:
        return "the codes behind it begin below those before it"
    return _Cut(first, node, last, ends, after[0], after[1])


def _quantised_side(node: ir.Node) -> ir.Node | None:
    for value in node.inputs:
        producer = value.producer() if value is not None else None
        if gir.is_op(producer, "DequantizeLinear"):
            return producer
    return None


def _only_user(value: ir.Value) -> ir.Node | None:
    uses = tuple(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def _map(node: ir.Node) -> tuple[float, int, ir.DataType] | None:
    """Scale, zero point and type of a QuantizeLinear or DequantizeLinear; None unless they are constant numbers."""
    scale = gir.scalar(node.inputs[1])
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    kind = zero.dtype if zero is not None else ir.DataType.UINT8
    number = 0 if zero is None else gir.scalar(zero)
    if scale is None or number is None or kind is None or kind not in _CODES:
        return None
    return scale, number, kind


def _edit(cut: _Cut) -> None:
    kind = _map(cut.last)
    graph = cut.least.graph
    assert kind is not None and graph is not None
    low, high = _CODES[kind[2]]
    codes = np.clip(np.rint(cut.ends / np.float32(cut.scale)) + cut.zero, low, high).astype(kind[2].numpy())
    quantise = ir.node("QuantizeLinear", [cut.first.inputs[0], *cut.last.inputs[1:]], dict(cut.last.attributes))
    least = ir.node("Min", [quantise.outputs[0], gir.new_initializer(graph, codes, "ends_quantized")])
    old = cut.last.outputs[0]
    for new in (quantise, least):
        new.outputs[0].type, new.outputs[0].shape = old.type, old.shape
    gir.insert_before(cut.last, [quantise, least])
    gir.replace(old, least.outputs[0])
    for node in (cut.last, cut.least):
        gir.erase_if_dead(node)
