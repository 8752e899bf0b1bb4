"""Channels of convolutions in multiples of what the hardware takes at once, with zeros.

    Conv(f(Conv(x; W, b)); V, c)  =  Conv(f(Conv(x; [W; 0], [b; 0])); [V 0], c)        f for each channel by itself

The channels that are added hold f(0), which is finite, and are multiplied by zero in the next convolution, so nothing
has to be cut off. Depthwise convolutions in between get more groups. Conv, ConvTranspose: ONNX operators, all versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Site, Sites
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

from ._chains import Chain, Fixed, grow, is_convolution, is_large_and_shared, outputs_of

FORM = "PaddedChannels"
_USUAL = 8


@dataclass(frozen=True)
class PadChannels(Pass):
    """Pads the channels between convolutions to a multiple, where all who make and read them can follow.

    The sums have more terms, all zero, and runtimes may then add them up in another order: equal up to rounding. An
    input that holds NaN or infinities makes the added channels NaN, and with them all results of the next convolution
    that were not already.

    Kept, with the reason: channels that reach an output, an inner graph, a Concat, a Reshape or another operator that
    counts them; grouped convolutions; weights that are not constant.

    Attributes:
        multiple: of which the number of channels is to be; 0 for 8 where the target likes padded channels, and for
            nothing where it does not.
    """

    name: ClassVar[str] = "pad-channels"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    multiple: int = 0

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per convolution that makes channels, and those that make the same ones with it."""
        multiple = self.multiple or (_USUAL if context.target.likes(FORM) else 0)
        if multiple < 2:
            return
        for body in gir.bodies(model):
            if body.version() < 7:  # operands broadcast by attribute
                continue
            seen: set[ir.Node] = set()
            for node in list(body.nodes()):
                if node in seen or not is_convolution(node):
                    continue
                try:
                    if outputs_of(node) % multiple == 0:
                        continue
                    found = Chain.of(node, body.version())
                except Fixed as reason:
                    yield Site(gir.where(node), str(reason))
                    continue
                seen.update(found.makers)
                yield _site(node, found, multiple)


def _site(node: ir.Node, found: Chain, multiple: int) -> Site:
    if found.obstacle:
        return Site(gir.where(node), found.obstacle)
    if any(is_large_and_shared(growth) for growth in found.growths):
        return Site(gir.where(node), "its weights are shared, and a copy would be large")
    count = -found.channels % multiple
    return Site(
        gir.where(node), f"{found.channels} channels become {found.channels + count}", partial(_pad, found, count)
    )


def _pad(found: Chain, count: int) -> None:
    grow(found.growths, count)
    for node in found.depthwise:
        node.attributes["group"] = ir.AttrInt64("group", found.channels + count)
    for value in found.values:
        if value.shape is not None:
            sizes = list(value.shape.dims)
            sizes[1] = found.channels + count
            value.shape = ir.Shape(sizes)
