"""Constants behind a normalisation go into its scale and bias.

    c * norm(x; s, b) = norm(x; c s, c b)        norm(x; s, b) + c = norm(x; s, b + c)

The new constants are computed in float64 and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Site, Sites
from graphopt.rewrite import Refused

from ._norms import spread

Align = Callable[[ir.Node, np.ndarray], np.ndarray]
"""Brings a constant operand behind a node to the shape of its scale, in float64, or raises ``Refused``."""


@dataclass(frozen=True)
class Absorb:
    """What is done behind the nodes of one operator.

    Attributes:
        op_type: the normalisation, with operands x, scale and, perhaps, bias.
        biased: false when the operator has no bias.
        needs_bias: true when it must have one.
        align: how constants are broadcast.
    """

    op_type: str
    align: Align
    biased: bool = True
    since: int = 1

    def sites(self, model: ir.Model) -> Sites:
        """One site for each constant operation behind a node."""
        for body in gir.bodies(model):
            if body.version() < self.since:
                continue
            for node in body.nodes():
                if gir.is_op(node, self.op_type):
                    site = self._site(node)
                    if site is not None:
                        yield site

    def _site(self, node: ir.Node) -> Site | None:
        found = self._behind(node)
        if found is None:
            return None
        user, constant = found
        name = gir.where(node)
        try:
            scale, bias = self._constants(node, user, constant)
        except Refused as refused:
            return Site(gir.where(user), f"not folded into {name}: {refused.reason}")

        def edit() -> None:
            graph = user.graph
            assert graph is not None
            inputs = [node.inputs[0], gir.new_initializer(graph, scale, f"{node.outputs[0].name}_scale")]
            if bias is not None:
                inputs.append(gir.new_initializer(graph, bias, f"{node.outputs[0].name}_bias"))
            new = ir.node(node.op_type, inputs, name=node.name)
            new.attributes.update(node.attributes)
            gir.replace_node(user, [new], [new.outputs[0]])

        return Site(gir.where(user), f"folded into {name}", edit)

    def _behind(self, node: ir.Node) -> tuple[ir.Node, np.ndarray] | None:
        """The operation with a constant that is the only user of the result, and that constant."""
        result = node.outputs[0]
        uses = result.uses()
        if len(uses) != 1 or result.is_graph_output():
            return None
        if any(item.uses() or item.is_graph_output() for item in node.outputs[1:]):
            return None
        ((user, place),) = uses
        operators = ("Mul", "Div", "Add", "Sub") if self.biased else ("Mul", "Div")
        if user.graph is not node.graph or not gir.is_op(user, *operators) or len(user.inputs) != 2:
            return None
        if place == 1 and user.op_type in ("Div", "Sub"):
            return None
        constant = gir.array(user.inputs[1 - place])
        return None if constant is None else (user, constant)

    def _constants(self, node: ir.Node, user: ir.Node, constant: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        scale, bias = (gir.array(node.inputs[index]) if len(node.inputs) > index else None for index in (1, 2))
        has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
        if scale is None or (has_bias and bias is None):
            raise Refused("its scale or bias is not constant")
        dtype = scale.dtype
        factor = self.align(node, constant)
        wide = spread(scale, factor.shape, "its scale")
        shift = np.zeros(factor.shape) if bias is None else spread(bias, factor.shape, "its bias")
        with np.errstate(all="ignore"):
            match user.op_type:
                case "Mul":
                    wide, shift = wide * factor, shift * factor
                case "Div":
                    wide, shift = wide / factor, shift / factor
                case "Add":
                    shift = shift + factor
                case _:
                    shift = shift - factor
            narrow = wide.astype(dtype), shift.astype(dtype)
        if not all(np.isfinite(item.astype(np.float64)).all() for item in narrow):
            raise Refused("the new scale or bias would not be finite")
        keeps_bias = has_bias or user.op_type in ("Add", "Sub")
        return narrow[0], narrow[1] if keeps_bias else None


def by_trailing_axes(node: ir.Node, constant: np.ndarray) -> np.ndarray:
    """For LayerNormalization and RMSNormalization: scale and bias have the shape of the normalised axes."""
    axis = int(gir.attribute(node, "axis", -1))
    shape, scale = gir.dims(node.inputs[0]), gir.array(node.inputs[1])
    if scale is None or gir.has_reference(node):
        raise Refused("its scale or axis is not known")
    if shape is None and axis >= 0:
        raise Refused("the rank of its input is not known")
    count = -axis if axis < 0 else len(shape or ()) - axis
    sizes: list[int] = []
    for index in range(-count, 0):
        size = shape[index] if shape is not None else None
        if not isinstance(size, int):
            size = scale.shape[index] if scale.ndim >= -index else 1
            if size == 1:  # it may be broadcast
                raise Refused("the size of what it normalises is not known")
        sizes.append(size)
    if constant.ndim > (count if shape is None else len(shape)):
        raise Refused("the constant would add a dimension")
    return spread(constant, tuple(sizes))


def by_channel(node: ir.Node, constant: np.ndarray) -> np.ndarray:
    """For InstanceNormalization and GroupNormalization: scale and bias have one element for each channel."""
    rank, scale = gir.rank(node.inputs[0]), gir.array(node.inputs[1])
    if scale is None:
        raise Refused("its scale is not known")
    if constant.ndim == 0:
        return np.broadcast_to(constant.astype(np.float64), scale.shape)
    if rank is None or constant.ndim > rank:
        raise Refused("its rank is not known" if rank is None else "the constant would add a dimension")
    whole = constant.reshape((1,) * (rank - constant.ndim) + constant.shape)
    if any(size != 1 for axis, size in enumerate(whole.shape) if axis != 1):
        raise Refused(f"the constant has shape {list(constant.shape)}, which is not one number for each channel")
    return spread(whole.reshape(-1), scale.shape)
