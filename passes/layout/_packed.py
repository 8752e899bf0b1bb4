"""The operators of the domain ``graphopt.packed``, each a local function that says in ONNX what it means.

    Pack(x)        N,C,H,W -> N,C/16,H,W,16      channels missing from the last block are zeros
    Unpack(x)      N,C/16,H,W,16 -> N,C,H,W
    Conv(x, w, b)  =  Pack(Conv(Unpack(x), Unpack(w), Unpack(b)))        w: OIHW16i16o, b: O16o; likewise the poolings

A runtime of ONNX runs the functions' bodies, a compiler that knows the domain puts its own kernel in their place: all
it needs is at the call, in the type (up to the first ``_``) and the attributes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

DOMAIN = "graphopt.packed"
VERSION = 1

_BEHIND = (0, 2, 3, 1, 4)  # N,C/16,H,W,16 -> N,H,W,C/16,16
_IN_FRONT = (0, 3, 1, 2, 4)
_SHORT = {"dilations": "d", "group": "g", "kernel_shape": "k", "pads": "p", "strides": "s"}
_USUAL: dict[str, Any] = {
    "ceil_mode": 0,
    "count_include_pad": 0,
    "dilations": [1, 1],
    "group": 1,
    "keepdims": 1,
    "pads": [0, 0, 0, 0],
    "storage_order": 0,
    "strides": [1, 1],
}


def blocks(channels: int, block: int) -> int:
    """How many blocks hold the channels."""
    return -(-channels // block)


@dataclass(frozen=True, eq=False)
class Operator:
    """What a function of the domain does.

    Attributes:
        kind: the first part of its name: an operator of ONNX, or what differs from it.
        op_type: of ONNX.
        block: channels in a block.
        channels: of the operand; filled up to whole blocks if it is packed.
        results: channels of the result, likewise.
        attributes: of the operator, all that have a meaning, also those with a default.
        constants: operands of the operator that stand in the body, by index, with the name of the call's attribute.
        weights: sizes of the unpacked weights, or None when there are none.
        has_bias: the third operand is there.
        reads_plain, gives_plain: the operand, the result, is N,C,H,W; of a plain result ``real`` channels are there.
        real: channels without those that fill up.
    """

    kind: str
    op_type: str
    block: int
    channels: int
    results: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[int, tuple[str, np.ndarray]] = field(default_factory=dict)
    weights: tuple[int, ...] | None = None
    has_bias: bool = False
    reads_plain: bool = False
    gives_plain: bool = False
    real: int = 0

    @property
    def name(self) -> str:
        """The same for the same function, and for no other."""
        sizes = "x".join(map(str, dict.fromkeys((self.real or self.channels, self.results))))
        parts = [self.kind, f"b{self.block}", f"c{sizes}"]
        for name, value in sorted(self.call_attributes.items()):
            if name not in ("block", "channels") and _USUAL.get(name) != value:
                parts.append(f"{_SHORT.get(name, f'{name}_')}{_text(value)}")
        if self.weights is not None and not self.has_bias:
            parts.append("nobias")
        return "_".join(parts)

    @property
    def call_attributes(self) -> dict[str, Any]:
        """What the call says."""
        given = {name: _plain(value) for name, value in self.attributes.items()}
        constants = {name: elements.tolist() for name, elements in self.constants.values() if name}
        channels = {"channels": self.real} if self.real else {}
        return {**given, **constants, **channels, "block": self.block}

    def function(self, version: int) -> ir.Function:
        """The function, in a version of ONNX's operators from 11 on."""
        tape = _Tape()
        operands = [ir.Value(name=name) for name in ("x", "w", "b")[: self._count]]
        inner: list[ir.Value | None] = [self._unpacked(tape, operands[0])]
        if self.weights is not None:
            inner += self._parameters(tape, operands[1:])
        if self.constants:
            inner += [None] * max(self.constants)
            for index, (_, elements) in self.constants.items():
                inner[index] = tape.constant(elements)
        result = tape.op(self.op_type, *inner, **self.attributes) if self.op_type else inner[0]
        assert result is not None
        result = result if self.gives_plain else self._packed(tape, result)
        result.name = "y"
        graph = ir.Graph(operands, [result], nodes=tape.nodes, opset_imports={"": version}, name=self.name)
        declared = [ir.Attr(name, ir.AttributeType.UNDEFINED, None) for name in sorted(self.call_attributes)]
        return ir.Function(DOMAIN, self.name, graph=graph, attributes=declared)

    @property
    def _count(self) -> int:
        return 1 if self.weights is None else 2 + self.has_bias

    def _unpacked(self, tape: _Tape, value: ir.Value) -> ir.Value:
        if self.reads_plain:
            return value
        flat = tape.op("Reshape", tape.op("Transpose", value, perm=_BEHIND), tape.ints(0, 0, 0, self.channels))
        if self.real and self.real != self.channels:
            flat = tape.op("Slice", flat, tape.ints(0), tape.ints(self.real), tape.ints(3))
        return tape.op("Transpose", flat, perm=(0, 3, 1, 2))

    def _packed(self, tape: _Tape, value: ir.Value) -> ir.Value:
        flat = tape.op("Transpose", value, perm=(0, 2, 3, 1))
        if self.real and self.real != self.results:
            flat = tape.op("Pad", flat, tape.ints(0, 0, 0, 0, 0, 0, 0, self.results - self.real))
        split = tape.op("Reshape", flat, tape.ints(0, 0, 0, self.results // self.block, self.block))
        return tape.op("Transpose", split, perm=_IN_FRONT)

    def _parameters(self, tape: _Tape, values: Sequence[ir.Value]) -> list[ir.Value]:
        assert self.weights is not None
        order = (0, 4, 1, 2, 3) if self.reads_plain else (0, 5, 1, 4, 2, 3)
        found = [tape.op("Reshape", tape.op("Transpose", values[0], perm=order), tape.ints(*self.weights))]
        return [*found, *(tape.op("Reshape", bias, tape.ints(self.weights[0])) for bias in values[1:])]


def pack(channels: int, block: int) -> Operator:
    """From N,C,H,W."""
    filled = blocks(channels, block) * block
    return Operator("Pack", "", block, channels, filled, reads_plain=True, real=channels)


def unpack(channels: int, block: int) -> Operator:
    """To N,C,H,W."""
    filled = blocks(channels, block) * block
    return Operator("Unpack", "", block, filled, channels, gives_plain=True, real=channels)


def packed_weights(weights: np.ndarray, block: int, *, depthwise: bool, reads_plain: bool) -> np.ndarray:
    """OIHW as OIHW16i16o; depthwise as OIHW1i16o, with one I; for an operand that is not packed as OIHW16o."""
    outputs, inputs, *kernel = weights.shape
    rows = blocks(outputs, block)
    whole = depthwise or reads_plain
    columns, width = (inputs, 1) if whole else (blocks(inputs, block), block)
    filled = np.zeros((rows * block, columns * width, *kernel), weights.dtype)
    filled[:outputs, :inputs] = weights
    split = filled.reshape(rows, block, columns, width, *kernel).transpose(0, 2, 4, 5, 3, 1)
    return np.ascontiguousarray(split[:, :, :, :, 0] if reads_plain else split)


def packed_bias(bias: np.ndarray, block: int) -> np.ndarray:
    """O as O16o."""
    rows = blocks(bias.size, block)
    filled = np.zeros(rows * block, bias.dtype)
    filled[: bias.size] = bias
    return filled.reshape(rows, block)


def packed_operand(elements: np.ndarray, channels: int, block: int, fill: float) -> np.ndarray:
    """A constant that is broadcast to N,C,H,W, for N,C/16,H,W,16; without axes of size 1 in front."""
    whole = elements.reshape((1,) * (4 - elements.ndim) + elements.shape)
    if whole.shape[1] == 1 != channels:
        split = whole[..., None]
    else:
        count = blocks(channels, block)
        widths = [(0, count * block - channels if axis == 1 else 0) for axis in range(4)]
        filled = np.pad(whole, widths, constant_values=np.asarray(fill, whole.dtype))
        first, _, *rest = filled.shape
        split = filled.reshape(first, count, block, *rest).transpose(0, 1, 3, 4, 2)
    while split.ndim and split.shape[0] == 1:
        split = split[0]
    return np.ascontiguousarray(split)


class _Tape:
    """Nodes of a function's body."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []

    def op(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        given = list(inputs)
        while given[-1:] == [None]:
            given.pop()
        node = ir.node(op_type, given, {name: _plain(value) for name, value in attributes.items()})
        self.nodes.append(node)
        return node.outputs[0]

    def ints(self, *numbers: int) -> ir.Value:
        return self.constant(np.array(numbers, np.int64))

    def constant(self, elements: np.ndarray) -> ir.Value:
        return self.op("Constant", value=ir.tensor(elements))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "x".join(_text(item) for item in value)
    return f"{value}".replace("-", "m").replace(".", "d").replace("+", "")
