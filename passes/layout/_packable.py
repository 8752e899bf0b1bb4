"""How an operator is written when the channels around it are packed in blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._packed import Operator, blocks

_FLOATS = frozenset((ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE))


class Refused(Exception):
    """Why a convolution stays."""


@dataclass(frozen=True, eq=False)
class Packable:
    """How a node works on packed channels.

    Attributes:
        carried: inputs that are packed; results: outputs that are.
        thin: inputs with one channel, which is broadcast: they get one axis more and are not packed.
        constants: inputs that are written anew, by what makes their elements.
        operator: the function that takes the node's place; None where the operator stays.
        attributes: those that change in the operator that stays.
        inputs: those that the function has.
        costs: in bytes that could be moved instead, of the node as it is and of the packed one.
    """

    carried: tuple[int, ...]
    results: tuple[int, ...]
    thin: tuple[int, ...] = ()
    constants: Mapping[int, partial[np.ndarray]] = field(default_factory=dict)
    operator: Operator | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[int, ...] = (0,)
    costs: tuple[int, int] = (0, 0)

    def tensors(self, node: ir.Node) -> Iterator[ir.Value]:
        """What is packed around the node."""
        for index in self.carried:
            value = node.inputs[index]
            assert value is not None
            yield value
        yield from (node.outputs[index] for index in self.results)


@dataclass(frozen=True)
class Blocks:
    """What is asked for.

    Attributes:
        size: channels in a block.
        fill: blocks may be filled up; operators may also give another last bit.
    """

    size: int
    fill: bool

    def fits(self, channels: int | None, value: ir.Value | None) -> bool:
        """Whole blocks, or such as can be filled up."""
        if channels is None or value is None:
            return False
        return channels % self.size == 0 or (self.fill and value.dtype in _FLOATS)

    def filled(self, channels: int) -> int:
        """Channels with those that fill up."""
        return blocks(channels, self.size) * self.size


def channels_of(value: ir.Value | None) -> int | None:
    """The channels of N,C,H,W, when they are known."""
    sizes = gir.dims(value)
    if value is None or value.dtype is None or sizes is None or len(sizes) != 4:
        return None
    return sizes[1] if isinstance(sizes[1], int) and sizes[1] > 0 else None


def padding(node: ir.Node) -> dict[str, Any]:
    """The attributes of a Conv or pooling of images that say what stands around them."""
    mode = gir.attribute(node, "auto_pad", "NOTSET")
    if mode != "NOTSET":
        return {"auto_pad": mode}
    return {"pads": list(gir.attribute(node, "pads", (0, 0, 0, 0)))}
