"""The channels between layers scaled so that the weights on both sides of each use as much of their layer's range.

    f(W1 x + b1),  W2    ->    f(W1 / s x + b1 / s),  W2 s          f(x / s) = f(x) / s for s > 0, channel by channel

    s_i = sqrt(r1_i r2_i) / r2_i        r1_i, r2_i: the largest weights that make and that read channel i

over all layers until nothing moves. A weight with one scale for all its channels then rounds none of them to nothing.

Source: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction (2019), section 4.1;
chains, sums and several readers as groups of equal variables: ``_channels.py``; the solution: ``_balance.py``.
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

from ._balance import Group, balanced, groups
from ._channels import PINNED, Cut, Term, Variables
from ._clip_choice import chosen_clips
from ._homogeneous import variables_of

_WORTH = 0.05  # powers of two: less changes no code


@dataclass(frozen=True)
class EqualizeWeights(Pass):
    """Balances the weights of each channel between the layers that make it and those that read it.

    Layers are Conv (depthwise too), ConvTranspose, Gemm and MatMul with constant weights. Between them may be ReLU,
    LeakyReLU, PRelu, pools, means, moves of axes, gates, sums and concatenations: what is added is scaled alike, with
    all that makes and reads it. BatchNormalization has to be folded before.

    The numbers stay the same for every input. A Clip whose end a channel may reach keeps the channel's scale; where
    bounds of its input prove that it cannot, the channel may grow until it would (behind a depthwise convolution of
    clipped numbers that is often so). To put ReLU in the place of ReLU6 would allow more, and would be another model;
    ``clip_reach`` allows as much and keeps the model: Clip(x, 0, h) becomes Min(Relu(x), h / s), which
    ``clip-on-codes`` computes on integers once the model is quantised. In float32 it is the slower form.

    Kept, with the reason: what an operator reads that is not positively homogeneous, outputs of the model, and what
    subgraphs read; weights that are shared, of 16 bits, or not finite.

    For weights with one scale for a whole tensor. With a scale for each channel it has nothing to gain in weights, and
    moves the ranges of activations.

    Attributes:
        exact: scales are whole powers of two: no rounding, as long as nothing leaves the range of float32.
        clip_reach: by how much the channels of a Clip from 0 are scaled at most, each getting an end of its own (opset
            8); more takes from the activation what it gives the weights. 1 keeps Clips whole.
        clips: which Clips ``clip_reach`` is for, by their names or those of their outputs. By default, with data those
            few beside the layers whose rounding costs most (each takes a little time), and without data all.
        clip_share: how much of all that rounding costs, the layers beside those few make.
    """

    name: ClassVar[str] = "equalize-weights"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True
    once: ClassVar[bool] = True
    exact: bool = False
    clip_reach: float = 1.0
    clips: tuple[str, ...] = ()
    clip_share: float = 0.75

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site for each group of channels that are scaled together."""
        named = set(self.clips)
        if self.clip_reach > 1 and not named and context.data is not None:
            everywhere = variables_of(model.graph, model.opset_imports.get("", 0), lambda node: self.clip_reach)
            if everywhere.cuts:
                named = chosen_clips(model, everywhere, context.data, self.clip_share, context.events) or {""}

        def reach(node: ir.Node) -> float:
            return self.clip_reach if not named or named & {node.name, *(out.name for out in node.outputs)} else 1.0

        for body in gir.bodies(model):
            for graph in tuple(body.graphs()):
                yield from self._graph(variables_of(graph, body.version(), reach))

    def _graph(self, variables: Variables) -> Sites:
        if len(variables.links) < 2:
            return
        labels = variables.labels()
        found = groups(variables, labels)
        powers = balanced(variables, found, labels, whole=self.exact)
        for group in found:
            place = gir.where(group.makers[0].layer.node)
            change = np.where(group.member, powers, 0.0)
            reach = float(np.abs(change).max())
            if reach >= _WORTH:
                count = int(np.count_nonzero(np.abs(change) >= _WORTH))
                users = ", ".join(gir.where(link.layer.node) for link in group.readers[:3])
                more = f" and {len(group.readers) - 3} more" if len(group.readers) > 3 else ""
                text = f"{count} channels scaled by up to {2**reach:.3g}, against {users}{more}"
                yield Site(place, text, partial(_scale, group, variables, change))
            elif reason := _reason(group, variables, labels):
                yield Site(place, reason)


def _reason(group: Group, variables: Variables, labels: np.ndarray) -> str:
    """Why a group is kept, where all of it is; "" for the last layer of a graph."""
    if (labels[group.member] != PINNED).any():
        return ""
    tied = "they are added to or joined with others that cannot be scaled"
    return next((reason for ids, reason in variables.pins if group.member[ids].any()), tied)


def _scale(group: Group, variables: Variables, change: np.ndarray) -> None:
    """Divide the channels of a group."""
    numbers: np.ndarray = 2.0**change
    for link in dict.fromkeys((*group.makers, *group.readers)):
        link.layer.scale(numbers[link.outputs], numbers[link.inputs])
    for term in variables.terms:
        if group.member[term.ids].any():
            _divide(term, numbers[term.ids])
    for cut in variables.cuts:
        if group.member[cut.ids].any():
            _divide_cut(cut, numbers[cut.ids])


def _divide(term: Term, numbers: np.ndarray) -> None:
    value, graph = term.node.inputs[term.index], term.node.graph
    elements = gir.array(value)
    assert value is not None and elements is not None and graph is not None
    shape = (len(numbers), *(1,) * (term.rank - term.axis - 1))
    new = np.asarray((elements.astype(np.float64).reshape(-1) / numbers).reshape(shape), elements.dtype)
    term.node.replace_input_with(term.index, gir.new_initializer(graph, new, value.name or "term"))


def _divide_cut(cut: Cut, numbers: np.ndarray) -> None:
    """Divide the end of each channel: of the Clip, or of the Min that an earlier edit has made of it."""
    if (numbers == 1).all():
        return
    node, graph = cut.node, cut.node.graph
    assert graph is not None
    source = node.inputs[0]
    assert source is not None
    if node.op_type == "Clip":
        shape = (len(numbers), *(1,) * (cut.rank - cut.axis - 1))
        rectified = ir.node("Relu", [source])
        ends = gir.new_initializer(graph, np.full(shape, cut.high, _numpy(source)), "ends")
        cut.node = ir.node("Min", [rectified.outputs[0], ends])
        for new in (rectified, cut.node):
            new.outputs[0].type, new.outputs[0].shape = source.type, source.shape
        gir.insert_before(node, [rectified, cut.node])
        gir.succeed(node.outputs[0], cut.node.outputs[0])
        gir.erase_if_dead(node)
    ends = cut.node.inputs[1]
    elements = gir.array(ends)
    assert ends is not None and elements is not None
    new = (elements.astype(np.float64) / numbers.reshape(elements.shape)).astype(elements.dtype)
    cut.node.replace_input_with(1, gir.new_initializer(graph, new, "ends"))


def _numpy(value: ir.Value) -> np.dtype:
    return np.dtype(np.float64) if value.dtype == ir.DataType.DOUBLE else np.dtype(np.float32)
