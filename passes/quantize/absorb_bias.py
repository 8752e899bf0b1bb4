"""What a channel always has above zero goes into the biases of the layers that read it.

    relu(W1 x + b1),  W2 r + b2    ->    relu(W1 x + b1 - c),  W2 r + (b2 + W2 c)        where W1 x + b1 >= c > 0

is equal where the condition holds, and the activation needs only the range that is left.

Source: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction (2019), section 4.1.3,
which takes c = max(0, beta - 3 gamma) of a folded BatchNormalization. Here mean and deviation are measured, and c is no
more than the least number that was.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.calibrate import ChannelMean, Statistics, collect
from graphopt.calibrate.observers import ChannelRange
from graphopt.errors import GraphoptError
from graphopt.events import Site, Sites
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

from ._layers import Layer, read

_WORTH = 0.02  # of the activation's range


@dataclass(frozen=True)
class AbsorbBias(Pass):
    """Takes from the bias in front of a ReLU what no number of its channel is below, and gives it to the next layers.

    It is the same model for inputs on which the channel stays above what was taken, which holds for all the data seen;
    elsewhere ReLU cuts at c where it cut at 0. No form of it is equal for every input: the budget holds it to the data.

    The result of a Relu only, or of a Clip from 0 whose other end the data did not reach. Its readers have to be Conv
    without padding (zeros that pad would count as c), Gemm or MatMul with constant weights and a bias. Needs data.

    Attributes:
        deviations: c = mean - so many standard deviations, and at most the least number seen.
        min_sqnr_db: a float model further from the original than that is refused.
    """

    name: ClassVar[str] = "absorb-bias"
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True
    once: ClassVar[bool] = True
    deviations: float = 3.0
    min_sqnr_db: float = 40.0

    def __post_init__(self) -> None:
        """Options that mean nothing are refused."""
        if not self.deviations >= 0:
            hint = "at least 0"
            raise GraphoptError(f"deviations is {self.deviations:g}", self.name, hint, usage=True)

    def budget_db(self) -> float:
        """A float model is expected to stay close."""
        return self.min_sqnr_db

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site for each activation in the main graph whose channels stay above zero."""
        version = model.opset_imports.get("", 0)
        found = [place for node in model.graph if (place := _place(node, version)) is not None]
        places = [item for item in found if isinstance(item, _Place)]
        if found and context.data is None:
            yield Site(f"graph '{model.graph.name}'", "what a channel always has is learnt from data: give some")
            return
        requests = {str(item.source.name): [ChannelMean(item.axis), ChannelRange(item.axis)] for item in places}
        try:
            statistics = collect(model, context.data, requests) if context.data is not None and places else None
        except GraphoptError as error:
            yield Site(f"graph '{model.graph.name}'", f"nothing could be measured: {error.what}")
            return
        for item in found:
            if isinstance(item, Site):
                yield item
            elif statistics is not None:
                amount = self._amount(item, statistics)
                if amount is not None:
                    count = int(np.count_nonzero(amount))
                    text = f"up to {amount.max():.3g} of {count} channels given to the layers behind"
                    yield Site(gir.where(item.maker.node), text, partial(_absorb, item, amount))

    def _amount(self, place: _Place, statistics: Statistics) -> np.ndarray | None:
        """What is taken of each channel, float64; None where nothing much is."""
        name = str(place.source.name)
        seen, ends = statistics.get(name, ChannelMean), statistics.get(name, ChannelRange)
        if seen.broken or ends.low is None or ends.high is None:
            return None
        amount = np.minimum(ends.low, seen.mean - self.deviations * np.sqrt(seen.variance))
        amount = np.where(ends.high < place.high, np.maximum(amount, 0.0), 0.0)
        amount = np.where(amount > _WORTH * max(float(ends.high.max()), 0.0), amount, 0.0)
        return amount if amount.any() else None


@dataclass(frozen=True, eq=False)
class _Place:
    """A layer, the value before its ReLU, and the layers that read the result."""

    maker: Layer
    source: ir.Value
    axis: int
    high: float
    readers: tuple[Layer, ...]


def _place(node: ir.Node, version: int) -> _Place | Site | None:
    if not gir.is_op(node, "Relu", "Clip"):
        return None
    source, result = node.inputs[0], node.outputs[0]
    producer = source.producer() if source is not None else None
    maker = read(producer, version) if producer is not None and producer.graph is node.graph else None
    if source is None or not isinstance(maker, Layer) or len(maker.node.inputs) < 3 or maker.node.inputs[2] is None:
        return None
    high = _high(node, version)
    if high is None or len(tuple(source.uses())) != 1 or source.is_graph_output() or result.is_graph_output():
        return None
    readers: list[Layer] = []
    for use in result.uses():
        reader = read(use.node, version) if use.node.graph is node.graph and use.idx == 0 else None
        if not isinstance(reader, Layer):
            return None
        reason = _refusal(reader)
        if reason:
            return Site(gir.where(maker.node), reason)
        readers.append(reader)
    axis = 1 if maker.node.op_type.startswith("Conv") else -1
    return _Place(maker, source, axis, high, tuple(readers)) if readers else None


def _high(node: ir.Node, version: int) -> float | None:
    """Where a ReLU or a Clip from 0 ends; None for other Clips."""
    if node.op_type == "Relu":
        return float("inf")
    if version < 11:
        low, high = gir.attribute(node, "min", -1.0), gir.attribute(node, "max", float("inf"))
    else:
        low = gir.scalar(node.inputs[1]) if len(node.inputs) > 1 else None
        given = node.inputs[2] if len(node.inputs) > 2 else None
        high = float("inf") if given is None else gir.scalar(given)
    return float(high) if low == 0 and high is not None else None


def _refusal(reader: Layer) -> str:
    node = reader.node
    if node.op_type == "ConvTranspose":
        return f"at the borders of {gir.where(node)} not every weight takes part"
    if node.op_type == "MatMul" or len(node.inputs) < 3 or node.inputs[2] is None:
        return f"{gir.where(node)} has no bias"
    if node.op_type == "Gemm" and (gir.attribute(node, "alpha", 1.0) != 1 or gir.attribute(node, "beta", 1.0) != 1):
        return f"{gir.where(node)} has an alpha or beta"
    mode = gir.attribute(node, "auto_pad", "NOTSET")
    point = all(size == 1 for size in (gir.static_dims(node.inputs[1]) or (0, 0, 0))[2:])
    padded = any(gir.attribute(node, "pads", ())) if mode == "NOTSET" else mode != "VALID" and not point
    if node.op_type == "Conv" and padded:
        return f"{gir.where(node)} pads its input with zeros, which are no such channel"
    return ""


def _absorb(place: _Place, amount: np.ndarray) -> None:
    _shift(place.maker.node, -amount)
    for reader in place.readers:
        _shift(reader.node, reader.response(amount))


def _shift(node: ir.Node, numbers: np.ndarray) -> None:
    """Add one number for each output channel to a bias."""
    value, graph = node.inputs[2], node.graph
    elements = gir.array(value)
    assert value is not None and elements is not None and graph is not None
    new = np.asarray(elements.astype(np.float64) + numbers, elements.dtype)
    node.replace_input_with(2, gir.new_initializer(graph, new, value.name or "bias"))
