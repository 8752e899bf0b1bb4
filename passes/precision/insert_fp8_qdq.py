"""Operands of linear operators rounded to 8-bit floating point, for runtimes that multiply in it.

    MatMul(x, W)  ->  MatMul(Dequantize(Quantize(x, s, 0), s, 0), Dequantize(W8, t, 0))
    s = max |x| / largest        x on the feeds, one number per tensor
    t = max |W| / largest        one number, or one per output channel;  W8 = W / t rounded to 8 bits, once

The same for Gemm and Conv; biases stay float32. largest is 448 for e4m3fn (4 bits of exponent, 3 of mantissa) and
57344 for e5m2. A runtime that knows the form (TensorRT) multiplies in 8 bits; any other computes in float32 with
rounded operands, so ONNX Runtime's CPU provider tells what the result will be.

Source: Micikevicius et al., FP8 Formats for Deep Learning (2022), sections 3 and 4; QuantizeLinear and
DequantizeLinear: ONNX 19; NVIDIA ModelOpt's FP8 configuration (per tensor, largest magnitude).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.errors import GraphoptError
from graphopt.events import Event, Site, Sites
from graphopt.execute.feeds import random_feeds
from graphopt.execute.staged import Program, Staged
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

from ._forms import FLOAT
from ._measure import limits

FORMATS = {"e4m3fn": ir.DataType.FLOAT8E4M3FN, "e5m2": ir.DataType.FLOAT8E5M2}
OPSET = 19
MAX_FEEDS = 32
RANDOM_FEEDS = 2
_LINEAR = ("MatMul", "Gemm", "Conv")


@dataclass(frozen=True)
class InsertFp8Qdq(Pass):
    """Puts QuantizeLinear and DequantizeLinear with float8 numbers around the operands of MatMul, Gemm and Conv.

    The second operand must be a constant of two dimensions or more, the first float32 with a range seen on the feeds. A
    tensor that several operators use is rounded once. Weights are stored in 8 bits.

    Only for targets that like the form Float8, unless ``force`` is set: elsewhere it only costs time. From opset 19 on.

    Kept: nodes of subgraphs and local functions (nothing is measured there), operands that are quantised already,
    weights with NaN or infinities.

    Attributes:
        format: e4m3fn, or e5m2, which has more range and fewer bits.
        per_channel: one scale for each output channel of a weight in place of one for all.
        force: also for targets that are not known to compute in float8.
        min_sqnr_db: the budget: how many decibels the error of each output must stay below the output. One rounding to
            e4m3fn, which has 4 bits, is an error of about -31 dB.
    """

    name: ClassVar[str] = "insert-fp8-qdq"
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    needs_shapes: ClassVar[bool] = True
    once: ClassVar[bool] = True
    format: str = "e4m3fn"
    per_channel: bool = False
    force: bool = False
    min_sqnr_db: float = 15.0

    def __post_init__(self) -> None:
        """Options that mean nothing are refused."""
        if self.format not in FORMATS:
            raise GraphoptError(f"format is '{self.format}'", self.name, f"one of {', '.join(FORMATS)}", usage=True)
        if not 0 < self.min_sqnr_db < 200:
            hint = "decibels, above 0 and below 200"
            raise GraphoptError(f"min_sqnr_db is {self.min_sqnr_db:g}", self.name, hint, usage=True)

    def budget_db(self) -> float:
        """The option."""
        return self.min_sqnr_db

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per linear operator with a constant weight."""
        place = f"graph '{model.graph.name}'"
        if not self.force and not context.target.likes("Float8"):
            yield Site(place, f"the target {context.target.name} is not known to compute in float8")
            return
        version = model.opset_imports.get("", 0)
        if version < OPSET:
            yield Site(place, f"float8 needs opset {OPSET}, the model has {version}")
            return
        reasons = {node: self._refusal(node, model.graph) for node in gir.nodes(model) if _is_candidate(node)}
        wanted = [node.inputs[0] for node, reason in reasons.items() if not reason]
        try:
            largest = _largest(model, [value for value in wanted if value is not None], context)
        except GraphoptError as error:
            yield Site(place, f"nothing could be measured: {error.what}")
            return
        editor = _Editor(model.graph, FORMATS[self.format], per_channel=self.per_channel)
        for node, reason in reasons.items():
            source = node.inputs[0]
            reach = largest.get(str(source.name), 0.0) if source is not None else 0.0
            if not reason and not (np.isfinite(reach) and reach > 0):
                reason = f"'{source.name if source is not None else ''}' reaches {reach:g} on the feeds"
            if reason:
                yield Site(gir.where(node), reason)
            else:
                text = f"operands in float8 {self.format}, activations up to {reach:.3g}"
                yield Site(gir.where(node), text, partial(editor.edit, node, reach))

    def _refusal(self, node: ir.Node, main: ir.Graph) -> str:
        source, weight = node.inputs[0], node.inputs[1]
        tensor = gir.constant(weight)
        if node.graph is not main:
            return "nothing is measured inside subgraphs and functions"
        if source is None or source.dtype != FLOAT or tensor is None or tensor.dtype != FLOAT:
            return f"its element type is {source.dtype.name if source is not None and source.dtype else 'not known'}"
        if gir.is_op(source.producer(), "DequantizeLinear"):
            return "its first operand is quantised already"
        if gir.constant(source) is not None:
            return "both operands are constants"
        if not np.isfinite(tensor.numpy()).all():
            return f"the weight '{weight.name if weight is not None else ''}' holds NaN or infinities"
        return ""


def _is_candidate(node: ir.Node) -> bool:
    if not gir.is_op(node, *_LINEAR):
        return False
    tensor = gir.constant(node.inputs[1])
    return tensor is not None and len(tensor.shape) >= 2 and tensor.size > 0


def _largest(model: ir.Model, values: list[ir.Value], context: Context) -> dict[str, float]:
    """The largest magnitude of each tensor on the feeds; NaN where one was NaN."""
    if context.data is not None:
        feeds = list(islice(context.data.for_model(model), MAX_FEEDS))
    else:
        feeds = random_feeds(model, seed=context.seed, count=RANDOM_FEEDS, vary=True)
        context.events(Event("note", {"text": "the ranges of activations are those of random feeds, not for accuracy"}))
    found: dict[str, float] = {}

    def see(name: str, tensor: np.ndarray) -> None:
        reach = float(np.abs(tensor).max(initial=0.0))
        found[name] = np.nan if np.isnan(reach) or np.isnan(found.get(name, 0.0)) else max(found.get(name, 0.0), reach)

    inner = {str(value.name) for value in values if value.producer() is not None}
    staged = Staged(Program.of(model), inner)
    for feed in feeds:
        for value in values:
            given = feed.get(str(value.name))
            given = value.const_value.numpy() if given is None and value.const_value is not None else given
            if value.producer() is None and given is not None:
                see(str(value.name), given)
        for name, tensor in staged.run(feed):
            if name in inner:
                see(name, tensor)
    return found


class _Editor:
    """Edits one graph; a tensor that several nodes use is rounded once."""

    def __init__(self, graph: ir.Graph, kind: ir.DataType, *, per_channel: bool) -> None:
        self._graph = graph
        self._kind = kind
        self._ends, _ = limits(kind)
        self._per_channel = per_channel
        self._rounded: dict[ir.Value, ir.Value] = {}
        self._weights: dict[tuple[ir.Value, int | None], ir.Value] = {}

    def edit(self, node: ir.Node, reach: float) -> None:
        """Round both operands of a node."""
        source, weight = node.inputs[0], node.inputs[1]
        assert source is not None and weight is not None
        if source not in self._rounded:
            self._rounded[source] = self._activation(source, reach)
        axis = _channel_axis(node) if self._per_channel else None
        if (weight, axis) not in self._weights:
            self._weights[weight, axis] = self._weight(weight, axis)
        node.replace_input_with(0, self._rounded[source])
        node.replace_input_with(1, self._weights[weight, axis])

    def _activation(self, source: ir.Value, reach: float) -> ir.Value:
        scale = gir.new_initializer(self._graph, np.float32(reach / self._ends), f"{source.name}_scale")
        zero = gir.new_initializer(self._graph, self._tensor(np.zeros(())), f"{source.name}_zero")
        there = ir.node("QuantizeLinear", [source, scale, zero])
        there.outputs[0].type, there.outputs[0].shape = ir.TensorType(self._kind), source.shape
        back = self._back(there.outputs[0], scale, zero, {}, source.shape)
        producer = source.producer()
        if producer is not None and producer.graph is self._graph:
            gir.insert_after(producer, (there, back))
        else:
            gir.insert_before(self._graph[0], (there, back))
        return back.outputs[0]

    def _weight(self, weight: ir.Value, axis: int | None) -> ir.Value:
        elements = gir.array(weight)
        assert elements is not None
        others = tuple(index for index in range(elements.ndim) if index != axis) if axis is not None else None
        reach = np.abs(elements).max(axis=others, keepdims=True).astype(np.float64)
        scale = np.where(reach > 0, reach / self._ends, 1.0).astype(np.float32)
        scaled = np.clip(elements / scale, -self._ends, self._ends)
        flat = scale.reshape(-1) if axis is not None else scale.reshape(())
        stored = gir.new_initializer(self._graph, self._tensor(scaled), f"{weight.name}_float8")
        steps = gir.new_initializer(self._graph, flat, f"{weight.name}_scale")
        zero = gir.new_initializer(self._graph, self._tensor(np.zeros(flat.shape)), f"{weight.name}_zero")
        back = self._back(stored, steps, zero, {} if axis is None else {"axis": axis}, weight.shape)
        gir.insert_before(self._graph[0], back)
        return back.outputs[0]

    def _back(
        self, value: ir.Value, scale: ir.Value, zero: ir.Value, attributes: Mapping[str, int], shape: ir.Shape | None
    ) -> ir.Node:
        node = ir.node("DequantizeLinear", [value, scale, zero], dict(attributes))
        node.outputs[0].type, node.outputs[0].shape = ir.TensorType(FLOAT), shape
        return node

    def _tensor(self, elements: np.ndarray) -> ir.TensorProtocol:
        return ir.tensor(elements.astype(np.float32).astype(self._kind.numpy()), dtype=self._kind)


def _channel_axis(node: ir.Node) -> int:
    """The axis of a weight along which the outputs lie."""
    if gir.is_op(node, "Conv"):
        return 0
    if gir.is_op(node, "Gemm"):
        return 0 if gir.attribute(node, "transB", 0) else 1
    tensor = gir.constant(node.inputs[1])
    assert tensor is not None
    return len(tensor.shape) - 1
