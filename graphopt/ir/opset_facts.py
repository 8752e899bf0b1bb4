"""What the rules of the opset conversion may know about a model."""

from __future__ import annotations

import onnx_ir as ir

from .facts import dims
from .shapes import infer
from .walk import nodes


class Unconvertible(Exception):
    """Why a node has no counterpart in the wished-for opset."""


class Facts:
    """Types and ranks of tensors as inference proves them, made when first asked for; the model is not touched."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._inferred: dict[int, ir.Value] | None = None

    def _known(self, value: ir.Value) -> ir.Value | None:
        if self._inferred is None:
            shadow = self._model.clone()
            infer(shadow)
            self._inferred = {
                id(ours): theirs
                for node, copied in zip(nodes(self._model), nodes(shadow), strict=True)
                for ours, theirs in zip((*node.inputs, *node.outputs), (*copied.inputs, *copied.outputs), strict=True)
                if ours is not None and theirs is not None
            }
        return self._inferred.get(id(value))

    def dtype(self, value: ir.Value) -> ir.DataType | None:
        """The element type, or None."""
        found = value if value.const_value is not None else self._known(value)
        return None if found is None else (found.const_value.dtype if found.const_value is not None else found.dtype)

    def type(self, value: ir.Value) -> ir.TypeProtocol | None:
        """The whole type, or None."""
        found = value if value.const_value is not None else self._known(value)
        if found is not None and found.const_value is not None:
            return ir.TensorType(found.const_value.dtype)
        return None if found is None else found.type

    def dims(self, value: ir.Value) -> tuple[int | str | None, ...] | None:
        """The proven shape, or None."""
        return dims(self._known(value))
