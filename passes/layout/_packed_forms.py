"""Which operators work on packed channels, and how.

Convolutions, poolings and means over an image become functions (``_packed.py``). Elementwise operators and Concat stay
what they are: one axis more behind changes nothing, and constants get it too. Channels that fill up the last block have
to stay finite (``_channelwise.py``); they meet weights of zero, and Unpack cuts them off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._agnostic import agnostic
from ._channelwise import operands
from ._form import View, is_standard
from ._packable import Blocks, Packable, channels_of, padding
from ._packed import Operator, packed_operand
from ._packed_conv import convolution

_POOLS = frozenset(("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"))
_REDUCTIONS = frozenset(("ReduceMax", "ReduceMean"))
_BEHIND = (0, 2, 3, 1)  # any order that moves the channels shows whether an operator minds


@dataclass(frozen=True)
class Forms:
    """Looks at nodes of one graph.

    Attributes:
        blocks: what is asked for.
        version: of the standard operators.
    """

    blocks: Blocks
    version: int

    def of(self, node: ir.Node) -> Packable | None:
        """How the node works on packed channels; None when it does not.

        Raises:
            Refused: it is a Conv, and should.
        """
        if not is_standard(node) or gir.has_reference(node):
            return None
        if node.op_type == "Conv":
            return convolution(node, self.blocks)
        if node.op_type in _POOLS:
            return self._pool(node)
        if node.op_type in _REDUCTIONS:
            return self._reduction(node)
        if node.op_type == "Resize":
            return self._resize(node)
        return self._concat(node) if node.op_type == "Concat" else self._elementwise(node)

    def _pool(self, node: ir.Node) -> Packable | None:
        if len(node.outputs) > 1 or gir.attribute(node, "storage_order", 0):
            return None
        attributes: dict[str, Any] = {}
        if not node.op_type.startswith("Global"):
            attributes = {
                name: item.value for name, item in node.attributes.items() if name not in ("auto_pad", "pads")
            }
            attributes = {
                name: list(value) if isinstance(value, tuple) else value for name, value in attributes.items()
            }
            attributes = {"strides": [1, 1], **attributes, **padding(node)}
        return self._of_one(node, node.op_type, attributes, {})

    def _reduction(self, node: ir.Node) -> Packable | None:
        given = node.inputs[1] if len(node.inputs) > 1 else None
        as_input = self.version >= 18
        axes = gir.known_ints(given) if as_input else gir.attribute(node, "axes")
        if axes is None or sorted(axis % 4 for axis in axes) != [2, 3]:
            return None
        keeps = int(gir.attribute(node, "keepdims", 1))
        constants = {1: ("axes", np.array([2, 3], np.int64))} if as_input else {}
        attributes = {"keepdims": keeps} if as_input else {"axes": [2, 3], "keepdims": keeps}
        return self._of_one(node, node.op_type, attributes, constants, gives_plain=not keeps)

    def _resize(self, node: ir.Node) -> Packable | None:
        if self.version < 11 or operands(node, 0, self.version) is None:
            return None
        scales = gir.array(node.inputs[2], max_elements=4)
        if scales is None or scales.size != 4 or scales.reshape(-1)[0] != 1:
            return None
        attributes = {name: item.value for name, item in node.attributes.items()}
        constants = {2: ("scales", scales)}
        if node.inputs[1] is not None:  # only tf_crop_and_resize reads it
            constants[1] = ("", np.zeros(0, np.float32))
        return self._of_one(node, "Resize", attributes, constants)

    def _of_one(
        self,
        node: ir.Node,
        kind: str,
        attributes: Mapping[str, Any],
        constants: Mapping[int, tuple[str, np.ndarray]],
        *,
        gives_plain: bool = False,
    ) -> Packable | None:
        """An operator that treats each channel by itself, as a function."""
        channels = channels_of(node.inputs[0])
        if channels is None or not self.blocks.fits(channels, node.inputs[0]) or node.outputs[0].dtype is None:
            return None
        filled = self.blocks.filled(channels)
        operator = Operator(
            kind, kind, self.blocks.size, filled, filled, attributes, constants,
            gives_plain=gives_plain, real=channels if gives_plain else 0,
        )  # fmt: skip
        return Packable((0,), () if gives_plain else (0,), operator=operator)

    def _concat(self, node: ir.Node) -> Packable | None:
        axis = int(gir.attribute(node, "axis", 1)) % 4
        counts = [channels_of(value) for value in node.inputs]
        constants = any(gir.constant(value) is not None for value in node.inputs)
        if constants or not all(count is not None and count % self.blocks.size == 0 for count in counts):
            return None
        return Packable(tuple(range(len(counts))), (0,), attributes={"axis": axis})

    def _elementwise(self, node: ir.Node) -> Packable | None:
        """Operators in which no attribute depends on the order of axes."""
        form = agnostic(node, View(node, _BEHIND, self.version, self.blocks.fill))
        channels = channels_of(node.outputs[0]) if node.outputs else None
        if form is None or channels is None or form.attributes or form.constants or form.gather:
            return None
        if any(channels_of(value) != channels for value in node.outputs) or len(form.results) != len(node.outputs):
            return None
        counts = {index: channels_of(node.inputs[index]) for index in form.carried}
        if any(count not in (1, channels) for count in counts.values()):
            return None
        carried = tuple(index for index, count in counts.items() if count == channels)
        fills: dict[int, float] = {}
        if channels % self.blocks.size:
            found = operands(node, channels, self.version)
            if not self.blocks.fits(channels, node.outputs[0]) or found is None or set(found[0]) != set(carried):
                return None
            if not all(self.blocks.fits(channels, node.inputs[index]) for index in carried):
                return None
            fills = {growth.index: growth.fill for growth in found[1]}
        constants = {
            index: partial(packed_operand, channels=channels, block=self.blocks.size, fill=fills.get(index, 0.0))
            for index in form.permuted
        }
        thin = tuple(index for index in counts if index not in carried)
        return Packable(carried, form.results, thin, constants) if carried else None
