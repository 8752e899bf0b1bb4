"""How much rounding a model may show: its depth and its coarsest numbers, read off the graph.

The depth of a tensor is the number of operators on the longest path to it; operators inside the bodies of an
If, Loop or Scan count once. The coarsest floating type that numbers pass through sets the unit. A model that
quantises what it computes rounds to steps far above it: there a difference in the last bit may move a number
by a step, so the tolerance is that of an 8-bit grid and integers may be one apart.

Operators that squeeze numbers into a range (Sigmoid, Softmax) round relative to the range, not to what they
give out: a sigmoid of -20 is 2e-9, with an error of 1e-7.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx_ir as ir

from .compare import EXACT, Tolerance, tolerance

_QUANTISERS = frozenset(("QuantizeLinear", "DynamicQuantizeLinear"))
_QUANTISED = Tolerance(scale=0.05, integers=1)
_BOUNDED = frozenset(("Sigmoid", "Softmax", "Tanh", "HardSigmoid", "Erf", "Sin", "Cos", "Softsign"))
_SHAPE_ONLY = frozenset(
    (
        "Constant",
        "Shape",
        "Size",
        "Reshape",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Identity",
        "Slice",
        "Gather",
        "Concat",
        "Split",
        "Expand",
        "Tile",
    )
)


class Rounding:
    """What a model's rounding explains.

    Args:
        model: the model that is right by definition.
    """

    def __init__(self, model: ir.Model) -> None:
        self._depths = depths(model)
        self._deepest = max(self._depths.values(), default=1)
        self._coarsest = _coarsest(model)
        self._bounded = _bounded(model)
        self._quantises = any(
            node.op_type in _QUANTISERS and node.inputs and not _is_weight(node.inputs[0]) for node in _nodes(model)
        )

    def tolerance(self, name: str, dtype: np.dtype) -> Tolerance:
        """The tolerance for a tensor of the main graph.

        Args:
            name: the tensor; one that the model does not have is taken for its deepest.
            dtype: its element type.
        """
        if self._quantises and dtype.kind not in "bOUST":
            return _QUANTISED
        own = _eps(dtype)
        if own == 0.0:
            return EXACT
        coarsest = max((np.dtype(kind) for kind in (dtype, self._coarsest)), key=_eps)
        found = tolerance(coarsest, self._depths.get(name, self._deepest))
        return replace(found, atol=found.scale) if name in self._bounded else found


def depths(model: ir.Model) -> dict[str, int]:
    """The depth of each tensor that the main graph's nodes give out; moving elements about does not count."""
    found: dict[str, int] = {}
    for node in model.graph:
        _enter(node, found)
    return found


def _bounded(model: ir.Model) -> set[str]:
    """Tensors that an operator with a range of about 1 gives out, moved about or not."""
    found: set[str] = set()
    for node in model.graph:
        first = node.inputs[0] if node.inputs else None
        if node.op_type in _BOUNDED or (node.op_type in _SHAPE_ONLY and first is not None and first.name in found):
            found.update(output.name for output in node.outputs if output.name)
    return found


def _enter(node: ir.Node, found: dict[str, int]) -> int:
    start = max((found.get(value.name or "", 0) for value in node.inputs if value is not None), default=0)
    depth = start + (node.op_type not in _SHAPE_ONLY)
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            depth = max(depth, max((_enter(inner, found) for inner in attribute.as_graph()), default=0) + 1)
    for output in node.outputs:
        if output.name:
            found[output.name] = depth
    return depth


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    for graph in model.graphs():
        yield from graph


def _is_weight(value: ir.Value | None) -> bool:
    return value is None or value.const_value is not None


def _eps(dtype: np.dtype | None) -> float:
    if dtype is None:
        return 0.0
    try:
        return float(ml_dtypes.finfo(dtype).eps)
    except ValueError:
        return 0.0


def _coarsest(model: ir.Model) -> np.dtype | None:
    """The coarsest floating type that computed numbers have; weights stored coarsely and cast up are none."""
    kinds: set[ir.DataType] = set()
    for node in _nodes(model):
        for output in node.outputs:
            if output.dtype is not None and node.op_type != "Constant":
                kinds.add(output.dtype)
        if node.op_type == "Cast":
            kinds.add(ir.DataType(node.attributes["to"].as_int()) if "to" in node.attributes else ir.DataType.FLOAT)
        else:
            kinds.update(
                value.dtype
                for value in node.inputs
                if value is not None and value.dtype is not None and node.op_type != "DequantizeLinear"
            )
    floating = [np.dtype(kind.numpy()) for kind in kinds if kind.is_floating_point()]
    return max(floating, key=_eps, default=None)
