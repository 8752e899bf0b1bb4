"""What an input is for, read off the nodes that use it: what random numbers must respect.

From the input forward, past operators that only move or re-type elements, to the operators that give them a
meaning: rows of an embedding (Gather), a number compared with constants (a sampling rate), a condition or
mask, a size, an axis. A name speaks where the graph does not (``attention_mask``, ``position_ids``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

_MOVES = frozenset(
    (
        "Cast",
        "CastLike",
        "Unsqueeze",
        "Squeeze",
        "Reshape",
        "Flatten",
        "Identity",
        "Transpose",
        "Expand",
        "Slice",
        "Split",
        "Tile",
        "Concat",
        "Gather",
        "Pad",
        "Optional",
        "OptionalGetElement",
        "Trilu",
    )
)
_KINDS: dict[tuple[str, int], tuple[str, int]] = {
    ("Reshape", 1): ("whole shape", 0),
    ("Expand", 1): ("fixed", 1),
    ("Tile", 1): ("fixed", 1),
    ("ConstantOfShape", 0): ("fixed", 2),
    ("TopK", 1): ("fixed", 1),
    ("Slice", 1): ("fixed", 0),
    ("Slice", 2): ("fixed", 2**31 - 1),
    ("Slice", 3): ("axes", 0),
    ("Slice", 4): ("fixed", 1),
    ("Pad", 1): ("fixed", 1),
    ("Pad", 3): ("axes", 0),
    ("Unsqueeze", 1): ("axes", 0),
    ("Squeeze", 1): ("axes", 0),
    ("Range", 0): ("fixed", 0),
    ("Range", 1): ("fixed", 8),
    ("Range", 2): ("fixed", 1),
    ("CumSum", 1): ("fixed", 0),
    ("OneHot", 1): ("fixed", 8),
    ("Resize", 1): ("fixed", 0),
    ("Resize", 2): ("fixed", 1),
    ("Upsample", 1): ("fixed", 1),
    ("NonMaxSuppression", 2): ("fixed", 4),
    ("NonMaxSuppression", 3): ("unit", 0),
    ("NonMaxSuppression", 4): ("unit", 0),
    ("Loop", 0): ("fixed", 2),
    ("Loop", 1): ("true", 0),
    ("LSTM", 4): ("fixed", 1),
    ("GRU", 4): ("fixed", 1),
    ("RNN", 4): ("fixed", 1),
    ("Dropout", 2): ("false", 0),
    ("Where", 0): ("mask", 0),
    ("If", 0): ("choice", 0),
    ("Not", 0): ("mask", 0),
    ("And", 0): ("mask", 0),
    ("And", 1): ("mask", 0),
    ("Or", 0): ("mask", 0),
    ("Or", 1): ("mask", 0),
    ("Compress", 1): ("mask", 0),
    ("BatchNormalization", 4): ("positive", 0),
    ("QuantizeLinear", 1): ("positive", 0),
    ("DequantizeLinear", 1): ("positive", 0),
    ("Trilu", 1): ("fixed", 0),
    ("DFT", 1): ("fixed", 8),
    ("STFT", 1): ("fixed", 4),
    ("STFT", 3): ("fixed", 8),
    ("Split", 1): ("fixed", 1),
    ("HannWindow", 0): ("fixed", 8),
    ("HammingWindow", 0): ("fixed", 8),
    ("BlackmanWindow", 0): ("fixed", 8),
    ("ReverseSequence", 1): ("fixed", 1),
    ("Multinomial", 0): ("unit", 0),
    ("Bernoulli", 0): ("unit", 0),
}
_REDUCTION_AXES = re.compile(r"Reduce\w+\Z")
_MASK = re.compile(r"mask(?!ed)", re.IGNORECASE)
_POSITION = re.compile(r"position|cache_pos", re.IGNORECASE)
_SEGMENT = re.compile(r"token_type|segment", re.IGNORECASE)
_RATE = re.compile(r"\A(sr|fs)\Z|sampl\w*_?rate", re.IGNORECASE)
_FLAG = re.compile(r"use_cache", re.IGNORECASE)
_LOOKS_FAR = 400  # nodes: a meaning is found near the input or not at all


@dataclass(slots=True)
class Role:
    """What an input is for.

    Attributes:
        kind: ``number`` (nothing special), ``index`` (0 .. rows - 1), ``position`` (0, 1, 2, ...),
            ``segment`` (0 or 1), ``mask`` (0 or 1), ``choice`` (one of ``choices``), ``fixed`` (``value``
            everywhere), ``axes`` (0, 1, 2, ...), ``whole shape`` (-1 and ones), ``unit`` (between 0 and 1),
            ``positive``, ``true``, ``false``.
        rows: for indices, how many rows there are; None when they are not known before the run.
        choices: the numbers the input is compared with.
        value: of ``fixed``.
        sizes: sizes of the input's own axes that an operator with constant weights demands.
    """

    kind: str = "number"
    rows: int | None = None
    choices: tuple[int, ...] = ()
    value: int = 0
    sizes: dict[int, int] = field(default_factory=dict)


def role(value: ir.Value) -> Role:
    """The role of a graph input."""
    found = _Trace()
    found.follow(value)
    result = found.role
    result.sizes = _sizes(value)
    name = value.name or ""
    integer = value.dtype is not None and value.dtype.is_integer()
    if result.kind == "number" and value.dtype == ir.DataType.BOOL:
        result.kind = "false" if _FLAG.search(name) else "mask"
    if result.kind in ("number", "index") and (integer or value.dtype == ir.DataType.BOOL or result.kind == "number"):
        if _MASK.search(name) and result.kind == "number":
            result.kind = "mask"
        elif integer and _POSITION.search(name):
            result.kind = "position"
        elif integer and _SEGMENT.search(name):
            result.kind = "segment"
        elif integer and _RATE.search(name) and not result.choices:
            result.kind, result.choices = "choice", (16000, 8000)
    return result


class _Trace:
    """Breadth-first from an input; the nearest meaning wins, rows are the fewest seen anywhere."""

    def __init__(self) -> None:
        self.role = Role()

    def follow(self, start: ir.Value) -> None:
        pending, seen = [(start, 0)], {id(start)}
        visited = 0
        while pending and visited < _LOOKS_FAR:
            value, offset = pending.pop(0)
            for node, slot in value.uses():
                visited += 1
                onward = self._meet(node, slot, offset, value is start)
                if onward is None:
                    continue
                for output in node.outputs:
                    if id(output) not in seen:
                        seen.add(id(output))
                        pending.append((output, onward))

    def _meet(self, node: ir.Node, slot: int, offset: int, direct: bool) -> int | None:
        """Learn from one use; the offset to go on with behind the node, or None where the trail ends."""
        operator = node.op_type
        if (operator, slot) in (
            ("Gather", 1),
            ("GatherElements", 1),
            ("ScatterElements", 1),
            ("GatherND", 1),
            ("ScatterND", 1),
        ):
            self._rows(_rows(node), offset)
        elif operator == "OneHot" and slot == 0:
            self._rows(_number(node.inputs[1]), offset)
        elif operator in ("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"):
            other = _number(node.inputs[1 - slot])
            if operator == "Equal" and other is not None:
                self._learn("choice")
                if other - offset not in self.role.choices:
                    self.role.choices += (other - offset,)
        elif operator in ("Add", "Sub"):
            other = _number(node.inputs[1 - slot])
            if operator == "Sub" and slot == 1 and other == 1:
                return self._inverted(node)
            if other is not None and not (operator == "Sub" and slot == 1):
                return offset + (other if operator == "Add" else -other)
        elif operator == "Cast" and node.attributes["to"].as_int() == ir.DataType.BOOL:
            self._learn("mask")
        elif (operator, slot) in _KINDS:
            kind, value = _KINDS[operator, slot]
            if kind in ("mask", "choice", "positive", "unit") or direct or self.role.kind == "number":
                self._learn(kind, value)
        elif _REDUCTION_AXES.match(operator) and slot == 1:
            self._learn("axes")
        elif operator in _MOVES and (slot == 0 or operator == "Concat"):
            return offset
        return None

    def _inverted(self, node: ir.Node) -> None:
        """``(1 - x) * -10000`` makes x an attention mask."""
        for user, slot in node.outputs[0].uses():
            factor = _number(user.inputs[1 - slot]) if user.op_type == "Mul" else None
            if factor is not None and factor <= -1000:
                self._learn("mask")

    def _learn(self, kind: str, value: int = 0) -> None:
        if self.role.kind == "number":
            self.role.kind = kind
            self.role.value = value
        if kind == "choice" and self.role.kind == "choice" and not self.role.choices and value:
            self.role.choices = (value,)

    def _rows(self, rows: int | None, offset: int) -> None:
        if self.role.kind in ("number", "mask"):
            self.role.kind = "index"
        if rows is not None:
            left = max(rows - max(offset, 0), 1)
            self.role.rows = left if self.role.rows is None else min(self.role.rows, left)


def _rows(node: ir.Node) -> int | None:
    """How many rows an index may point at."""
    data = node.inputs[0]
    if data is None or data.shape is None:
        return None
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    if node.op_type.endswith("ND"):
        axis = 0
    if not -len(data.shape) <= axis < len(data.shape):
        return None
    size = data.shape[axis]
    return size if isinstance(size, int) else None


def _number(value: ir.Value | None) -> int | None:
    """The one element of a constant, rounded; None for anything else."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.size != 1 or tensor.dtype == ir.DataType.STRING:
        return None
    element = float(np.asarray(tensor.numpy()).astype(np.float64).reshape(()))
    return int(element) if np.isfinite(element) and abs(element) < 2**62 else None


def _sizes(value: ir.Value) -> dict[int, int]:
    """Sizes of the input's axes that a Conv, MatMul or Gemm with constant weights demands."""
    if value.shape is None:
        return {}
    found: dict[int, int] = {}
    last = len(value.shape) - 1
    for node, slot in value.uses():
        weights = node.inputs[1] if slot == 0 and len(node.inputs) > 1 else None
        shape = weights.const_value.shape if weights is not None and weights.const_value is not None else None
        if shape is None or not all(isinstance(size, int) for size in shape.dims):
            continue
        sizes = [int(size) for size in shape.dims if isinstance(size, int)]
        if node.op_type == "Conv" and last >= 2:
            found[1] = sizes[1] * (node.attributes["group"].as_int() if "group" in node.attributes else 1)
        elif node.op_type == "MatMul" and len(sizes) >= 2:
            found[last] = sizes[-2]
        elif (
            node.op_type == "Gemm"
            and len(sizes) == 2
            and not ("transA" in node.attributes and node.attributes["transA"].as_int())
        ):
            found[last] = sizes[1 if "transB" in node.attributes and node.attributes["transB"].as_int() else 0]
    return found
