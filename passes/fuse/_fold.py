"""Folding ``scale * x + shift`` into the linear operator before or after it.

Two sweeps over each body reach the fixed point: forwards, each affine operator goes into the linear operator
that feeds it; backwards, each that is left goes into the linear operator it feeds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Site, Sites

from ._affine import Affine, Refusal
from ._linear import OPERATORS, Linear
from ._neighbours import consuming, only_user, producing


@dataclass(frozen=True)
class Folding:
    """What to fold, and where to.

    Attributes:
        read: a node as an affine operator, or None; raises ``Refusal``.
        ahead: the linear operators that may take up what stands before them.
        lonely: the reason to give for an affine operator with nothing linear beside it; None for silence.
    """

    read: Callable[[ir.Node, gir.Body], Affine | None]
    ahead: frozenset[str] = frozenset(OPERATORS)
    lonely: str | None = None

    def sites(self, model: ir.Model) -> Sites:
        """All places of a model, each once."""
        for body in gir.bodies(model):
            kept: dict[ir.Node, str | None] = {}
            for node in body.nodes():
                try:
                    affine = self.read(node, body)
                    if affine is None:
                        continue
                    site = _into_producer(affine, body)
                except Refusal as refusal:
                    site, kept[node] = None, str(refusal)
                if site is not None:
                    yield site
                else:
                    kept.setdefault(node, None)
            for node, reason in reversed(kept.items()):
                if node.graph is None:
                    continue
                site = None
                try:
                    affine = self.read(node, body)
                    if affine is not None:
                        site = self._into_consumer(affine, body)
                except Refusal as refusal:
                    reason = reason or str(refusal)
                if site is None and (reason or self.lonely):
                    site = Site(gir.where(node), reason or self.lonely or "")
                if site is not None:
                    yield site

    def _into_consumer(self, affine: Affine, body: gir.Body) -> Site | None:
        user = only_user(affine.result)
        if user is None:
            return None
        if user.op_type in self.ahead:
            return _into_consumer(affine, body)
        shift = self.read(user, body)
        after = only_user(shift.result) if shift is not None and gir.is_op(user, "Add", "Sub") else None
        if shift is None or after is None or after.op_type not in self.ahead:
            return None
        return _past_shift(affine, shift, body)


def _into_producer(affine: Affine, body: gir.Body) -> Site | None:
    """``s * linear(x) + t``."""
    found = producing(affine.source, body.version())
    if found is None:
        return None
    name = gir.where(found.node)
    if only_user(found.result) is not affine.node:
        raise Refusal(f"the result of {name} is also used elsewhere")
    scale, shift = affine.vectors(found.rank, found.axis, found.outputs)
    if found.tail is found.node and found.node.op_type == "MatMul" and (scale == 1).all():
        return None  # MatMul + Add is the form that a bias has
    old = found.bias()
    weights = found.scaled(found.by_output(scale))
    bias = None
    if old is not None or shift.any():
        bias = found.rounded_bias((0.0 if old is None else old) * scale + shift)

    def edit() -> None:
        gir.succeed(affine.result, found.assign(weights, bias))
        gir.erase_if_dead(affine.node)

    return Site(gir.where(affine.node), f"folded into {name} before it", edit)


def _into_consumer(affine: Affine, body: gir.Body) -> Site | None:
    """``linear(s * x + t)``."""
    found = consuming(affine.result, body.version())
    if found is None:
        return None
    name = gir.where(found.node)
    if gir.attribute(found.node, "transA", 0):
        raise Refusal(f"{name} transposes its input")
    scale, shift = affine.vectors(found.rank, found.axis, found.inputs)
    if not affine.along_axis_1:
        _broadcasts_nothing(affine, found, max(scale.size, shift.size))
    bias = None
    if shift.any():
        _covers_no_border(found)
        old = found.bias()
        gain = found.response(np.broadcast_to(shift, (found.inputs,)))
        bias = found.rounded_bias(gain if old is None else gain + old)
    weights = found.scaled(found.by_input(scale))

    def edit() -> None:
        found.assign(weights, bias)
        gir.replace(affine.result, affine.source)
        gir.erase_if_dead(affine.node)

    return Site(gir.where(affine.node), f"folded into {name} after it", edit)


def _past_shift(affine: Affine, shift: Affine, body: gir.Body) -> Site | None:
    """``linear(s * x + t; W, b) = linear(x + t / s; s W, b)``, where the shift itself could not go."""
    found = consuming(shift.result, body.version())
    if found is None or (shift.node.inputs[0] is not shift.source and shift.node.op_type == "Sub"):
        return None
    scale, nothing = affine.vectors(found.rank, found.axis, found.inputs)
    _, term = shift.vectors(found.rank, found.axis, found.inputs)
    if nothing.any() or not scale.all():
        return None
    _broadcasts_nothing(affine, found, scale.size)
    _broadcasts_nothing(shift, found, term.size)
    weights = found.scaled(found.by_input(scale))
    term = term / scale * (-1 if shift.node.op_type == "Sub" else 1)
    with np.errstate(all="ignore"):
        constant = term.astype(found.weights.dtype).reshape(-1, *(1,) * (found.weights.ndim - 2))
    if not np.isfinite(constant).all():
        raise Refusal(f"the new constant of {gir.where(shift.node)} would overflow")

    def edit() -> None:
        graph = shift.node.graph
        assert graph is not None
        place = 1 if shift.node.inputs[0] is shift.source else 0
        old = shift.node.inputs[place]
        name = old.name if old is not None and old.name else "shift"
        shift.node.replace_input_with(place, gir.new_initializer(graph, constant, name))
        found.assign(weights, None)
        shift.result.name = None  # it no longer holds what the name stood for
        gir.replace(affine.result, affine.source)
        gir.erase_if_dead(affine.node)

    return Site(gir.where(affine.node), f"folded into {gir.where(found.node)} past {gir.where(shift.node)}", edit)


def _broadcasts_nothing(affine: Affine, found: Linear, size: int) -> None:
    """A constant with more dimensions or channels than the tensor would have made it larger."""
    shape = gir.dims(affine.source)
    constants = [value for value in affine.node.inputs if value is not affine.source]
    added = max((gir.rank(value) or 0 for value in constants), default=0)
    if size == 1 and added == 0:
        return
    if shape is None or (size > 1 and shape[found.axis] != found.inputs):
        raise Refusal("the shape of its input is not known")
    if len(shape) < added:
        raise Refusal("its constant would add a dimension")


def _covers_no_border(found: Linear) -> None:
    """A shift of the input reaches all outputs alike only where every weight meets an element."""
    node = found.node
    if node.op_type == "ConvTranspose":
        raise Refusal(f"at the borders of {gir.where(node)} not every weight takes part")
    if node.op_type != "Conv":
        return
    mode = gir.attribute(node, "auto_pad", "NOTSET")
    point = all(size == 1 for size in found.weights.shape[2:])
    padded = any(gir.attribute(node, "pads", ())) if mode == "NOTSET" else mode != "VALID" and not point
    if padded:
        raise Refusal(f"{gir.where(node)} pads its input with zeros, which a shift does not reach")
