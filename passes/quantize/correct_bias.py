"""Rounding weights and activations shifts what a channel gives on average; its bias takes the shift back.

    b  ->  b - (E[y_quantised] - E[y_float])        per output channel, over samples and positions, less what is chance

Products are corrected in topological order, each on what the already corrected ones before it give, so that a shift
that an earlier correction has removed is not removed twice. No node is added: int32 biases get other codes, and a sum
with a constant behind a product gets another constant.

Source: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction (2019), section 4.2 and
appendix D (empirical bias correction).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.calibrate import SampleMeans
from graphopt.errors import GraphoptError
from graphopt.events import Event, Site, Sites
from graphopt.execute.stages import Stages
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

from ._means import SAMPLES, output_axis, shift_of, taken
from ._weights import bias_codes


@dataclass(frozen=True)
class CorrectBias(Pass):
    """Takes back the shift of each channel's mean that quantisation made.

    Runs behind ``insert-qdq`` in one recipe: that notes what each product gave on average in float32. Needs data.

    Attributes:
        min_sqnr_db: as for ``insert-qdq``.
    """

    name: ClassVar[str] = "correct-bias"
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    once: ClassVar[bool] = True
    min_sqnr_db: float = 5.0

    def budget_db(self) -> float:
        """As for ``insert-qdq``."""
        return self.min_sqnr_db

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site for each quantised product."""
        products = [node for node in model.graph if gir.is_op(node, "Conv", "ConvTranspose", "Gemm", "MatMul")]
        quantised = [node for node in products if _is_quantised(node)]
        if not quantised:
            return
        place = f"graph '{model.graph.name}'"
        if context.data is None:
            yield Site(place, "means over random feeds say nothing: give data")
            return
        stages = Stages(model, context.data.spread(SAMPLES))
        for number, node in enumerate(quantised, 1):
            before, holder = taken(node), _holder(node)
            if before is None:
                yield Site(gir.where(node), "what it gave in float32 is not known: insert-qdq notes it, in one recipe")
                continue
            if holder is None:
                yield Site(gir.where(node), "it has no bias")
                continue
            try:
                results = stages.run(node)
            except GraphoptError as error:
                yield Site(gir.where(node), f"nothing could be measured: {error.what}")
                return
            seen = SampleMeans(output_axis(node))
            for array in results:
                seen.see(array)
            if seen.rows is None or len(seen.rows) != len(before) or len(before) < 2:
                yield Site(gir.where(node), f"{len(before)} samples tell nothing of its means")
                continue
            shift = shift_of(before, seen.rows)
            size = float(np.sqrt(np.mean(before**2))) or 1.0
            text = f"its mean had moved by {float(np.sqrt(np.mean(shift**2))) / size:.2%}"
            if (yield Site(gir.where(node), text, partial(_shift, *holder, shift))) and holder[0] is node:
                for array in results:
                    _add(array, -shift, output_axis(node))
            facts = {"stage": "correcting biases", "done": number, "total": len(quantised)}
            context.events(Event("progress", facts))


def _add(array: np.ndarray, numbers: np.ndarray, axis: int) -> None:
    """Add a number to each channel, in place."""
    shape = [1] * array.ndim
    shape[axis] = -1
    array += numbers.reshape(shape).astype(array.dtype)


def _is_quantised(node: ir.Node) -> bool:
    source = node.inputs[0]
    return source is not None and gir.is_op(source.producer(), "DequantizeLinear")


def _holder(node: ir.Node) -> tuple[ir.Node, int] | None:
    """The node and the operand that is the bias of a product: its own, or that of the sum behind it."""
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        return node, 2
    output = node.outputs[0]
    uses = tuple(output.uses())
    if len(uses) != 1 or output.is_graph_output() or not gir.is_op(uses[0].node, "Add"):
        return None
    user = uses[0].node
    other = 1 - uses[0].idx
    constant = gir.constant(user.inputs[other])
    weight = node.inputs[1]
    dims = gir.dims(weight)
    channels = dims[-1] if dims else None
    if constant is None or list(constant.shape) != [channels] or user.graph is not node.graph:
        return None
    return user, other


def _shift(node: ir.Node, index: int, shift: np.ndarray) -> None:
    """Subtract numbers, one for each channel, from a bias: from its codes, or from a float constant."""
    value = node.inputs[index]
    assert value is not None
    back = value.producer()
    graph = node.graph
    assert graph is not None
    if gir.is_op(back, "DequantizeLinear"):
        assert back is not None
        codes, scale = gir.array(back.inputs[0]), gir.array(back.inputs[1])
        assert codes is not None
        assert scale is not None
        moved = codes.astype(np.int64) - bias_codes(shift, scale)
        limit = np.iinfo(np.int32)
        stored = np.clip(moved, limit.min, limit.max).astype(np.int32)
        back.replace_input_with(0, gir.new_initializer(graph, stored, f"{_stem(back.inputs[0])}_corrected"))
        return
    elements = gir.array(value)
    assert elements is not None
    corrected = (elements - shift).astype(elements.dtype)
    node.replace_input_with(index, gir.new_initializer(graph, corrected, f"{value.name}_corrected"))


def _stem(value: ir.Value | None) -> str:
    return value.name or "bias" if value is not None else "bias"
