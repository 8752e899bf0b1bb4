"""Large channels of an activation made smaller, and the weights that read them larger, by the norm in front.

    y = Norm(x) * g + b,  y W    ->    y / s = Norm(x) * (g / s) + b / s,  (y / s) (s W)

    s_i = max|y_i|^alpha / max|W_i|^(1 - alpha)

so that one scale for all channels of y leaves the small ones some bits.

Source: Xiao et al., SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models (2023),
section 4. LayerNormalization: ONNX operator, from version 17 on; RMSNormalization from 23 on; com.microsoft's
SkipLayerNormalization adds before it normalises, which stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.calibrate import CalibrationData, Statistics, collect
from graphopt.calibrate.observers import ChannelRange
from graphopt.errors import GraphoptError
from graphopt.events import Site, Sites
from graphopt.execute.taps import Taps
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

from ._affine import TYPES, affine_of, weight_affine
from ._layers import FLOATS, Layer, read

_FACTORS = {
    ("", "LayerNormalization"): (1, 2),
    ("", "RMSNormalization"): (1,),
    ("com.microsoft", "SkipLayerNormalization"): (2, 3),
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): (2,),
}
"""Which operands of a norm multiply, or are added to, what it has normalised."""

_GRID = tuple(step / 10 for step in range(1, 10))
_GAIN = 0.7  # no more than that much of the error may be left
_SAMPLES, _ROWS = 8, 128
_REACH = 2.0**10


@dataclass(frozen=True)
class SmoothActivations(Pass):
    """Evens out the channels behind a LayerNormalization or RMSNormalization that only products with weights read.

    The float model stays the same up to rounding. Needs data. Kept, with the reason: norms whose result something else
    reads too (the residual sum of a post-norm transformer), whose factors are no constants, whose readers' weights are
    shared or of 16 bits, and those where it does not help.

    Layers behind layers are ``equalize-weights``'.

    Attributes:
        alpha: how much of the difficulty goes to the weights, above 0 and below 1; 0 looks for the best one of each
            norm: that with the least error of the products in 8 bits, with ranges of some samples on other samples.
        per_channel: weights will have a scale for each output channel.
    """

    name: ClassVar[str] = "smooth-activations"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True
    once: ClassVar[bool] = True
    alpha: float = 0.0
    per_channel: bool = True

    def __post_init__(self) -> None:
        """Options that mean nothing are refused."""
        if not 0 <= self.alpha < 1:
            raise GraphoptError(f"alpha is {self.alpha:g}", self.name, "0, or between 0 and 1", usage=True)

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site for each norm of the main graph with products behind it."""
        version = model.opset_imports.get("", 0)
        found = [place for node in model.graph if (place := _place(node, version)) is not None]
        places = [item for item in found if isinstance(item, _Place)]
        data = context.data
        if places and data is None:
            yield Site(f"graph '{model.graph.name}'", "the ranges of channels are those of data: give some")
            return
        try:
            seen = _observe(model, places, data, context) if places and data is not None else None
            taps = Taps(model, optimized=True) if seen is not None else None
            for item in found:
                if isinstance(item, Site):
                    yield item
                elif seen is not None and taps is not None and data is not None:
                    yield self._site(item, seen, _rows(taps, item, data))
        except GraphoptError as error:
            yield Site(f"graph '{model.graph.name}'", f"nothing could be measured: {error.what}")

    def _site(self, place: _Place, seen: Statistics, rows: list[np.ndarray]) -> Site:
        where = gir.where(place.norm)
        ends = seen.get(str(place.norm.outputs[0].name), ChannelRange)
        some, others = np.concatenate(rows[0::2]), np.concatenate(rows[1::2] or rows)
        if ends.low is None or ends.high is None or ends.broken or not some.size or not others.size:
            return Site(where, "its result is empty on the data, or holds NaN or infinities")
        low, high = some.min(axis=0), some.max(axis=0)
        tried = {alpha: _scales(place, low, high, alpha) for alpha in ([self.alpha] if self.alpha else _GRID)}
        errors = {alpha: self._error(place, others, scale, low, high) for alpha, scale in tried.items()}
        before = self._error(place, others, np.ones(len(low)), low, high)
        best = min(errors, key=lambda alpha: errors[alpha])
        scale = _scales(place, ends.low, ends.high, best)
        if np.abs(np.log2(scale)).max() < 0.01 or (not self.alpha and not errors[best] < _GAIN * before):
            return Site(where, "no scale makes the products behind it more accurate in 8 bits")
        gain = 10 * np.log10(before / errors[best]) if errors[best] > 0 < before else 0.0
        text = f"alpha {best:g}, up to {scale.max():.3g}: {gain:+.1f} dB in the products behind it"
        return Site(where, text, partial(_scale, place, scale))

    def _error(self, place: _Place, rows: np.ndarray, scale: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
        """Squared error of the products in 8 bits, by their squares."""
        affine = affine_of(float((low / scale).min()), float((high / scale).max()), TYPES["uint8"])
        codes = affine.rounded((rows / scale).astype(np.float32)).astype(np.float64)
        total = 0.0
        for layer in place.readers:
            weight = layer.matrix().astype(np.float64)
            scaled = (weight * scale[:, None]).astype(np.float32)
            rounded = weight_affine(scaled, TYPES["int8"], 1 if self.per_channel else None).rounded(scaled)
            truth = rows @ weight
            power = float((truth**2).sum())
            total += float(((codes @ rounded - truth) ** 2).sum()) / power if power else 0.0
        return total


@dataclass(frozen=True, eq=False)
class _Place:
    """A norm, its constant factors by index of operand, and the layers that read its result."""

    norm: ir.Node
    factors: tuple[int, ...]
    readers: tuple[Layer, ...]


def _place(node: ir.Node, version: int) -> _Place | Site | None:
    operands = _FACTORS.get(("" if node.domain in gir.STANDARD_DOMAINS else node.domain, node.op_type))
    if operands is None:
        return None
    result, where = node.outputs[0], gir.where(node)
    rank = gir.rank(result)
    uses = tuple(result.uses())
    layers = [read(use.node, version) if use.idx == 0 else None for use in uses]
    if not any(isinstance(layer, Layer) for layer in layers):
        return None
    readers = tuple(layer for layer in layers if isinstance(layer, Layer))
    others = [use.node for use, layer in zip(uses, layers, strict=True) if not isinstance(layer, Layer)]
    if others or result.is_graph_output():
        reason = next((layer for layer in layers if isinstance(layer, str)), "")
        also = gir.where(others[0]) if others else "the graph's outputs"
        return Site(where, reason or f"{also} reads its result too")
    if any(layer.node.graph is not node.graph or layer.node.op_type.startswith("Conv") for layer in readers):
        return Site(where, "a subgraph or a convolution reads its result")
    if rank is None or gir.attribute(node, "axis", -1) not in (-1, rank - 1):
        return Site(where, "it normalises more than the last axis")
    if result.dtype not in FLOATS:
        return Site(where, "its element type is not float32")
    factors = tuple(index for index in operands if index < len(node.inputs) and node.inputs[index] is not None)
    for index in factors:
        elements = gir.array(node.inputs[index])
        if elements is None or elements.shape != (readers[0].inputs,) or not np.isfinite(elements).all():
            return Site(where, "its factors are no constants of one number for each channel")
    return _Place(node, factors, readers)


def _observe(model: ir.Model, places: list[_Place], data: CalibrationData, context: Context) -> Statistics:
    requests = {str(place.norm.outputs[0].name): [ChannelRange(-1)] for place in places}
    known = context.statistics
    if known is not None and known.covers(requests):
        return known
    return collect(model, data, requests, events=context.events)


def _rows(taps: Taps, place: _Place, data: CalibrationData) -> list[np.ndarray]:
    """Some vectors of a norm's result, evenly spread, by sample: float64 [rows, channels]."""
    name = str(place.norm.outputs[0].name)
    session = taps.session([name])
    parts: list[np.ndarray] = []
    for sample in data.take(_SAMPLES):
        rows = np.asarray(session.run(sample)[name], np.float64).reshape(-1, place.readers[0].inputs)
        parts.append(rows[:: max(1, len(rows) // _ROWS)][:_ROWS])
    return parts


def _scales(place: _Place, low: np.ndarray, high: np.ndarray, alpha: float) -> np.ndarray:
    """What each channel is divided by; their geometric mean is 1."""
    activation = np.maximum(np.abs(low), np.abs(high))
    weight = np.max([np.abs(layer.matrix()).max(axis=1) for layer in place.readers], axis=0).astype(np.float64)
    usable = (activation > 0) & (weight > 0)
    if not usable.any():
        return np.ones(len(low))
    powers = np.zeros(len(low))
    powers[usable] = alpha * np.log2(activation[usable]) - (1 - alpha) * np.log2(weight[usable])
    powers[usable] -= powers[usable].mean()
    return np.clip(2.0**powers, 1 / _REACH, _REACH)


def _scale(place: _Place, scale: np.ndarray) -> None:
    norm, graph = place.norm, place.norm.graph
    assert graph is not None
    for index in place.factors:
        value = norm.inputs[index]
        elements = gir.array(value)
        assert value is not None and elements is not None
        new = (elements.astype(np.float64) / scale).astype(elements.dtype)
        norm.replace_input_with(index, gir.new_initializer(graph, new, value.name or "scale"))
    for layer in place.readers:
        layer.scale(np.ones(layer.outputs), scale)
