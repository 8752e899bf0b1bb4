"""The onnx package's own evaluator: complete, and slow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.errors import GraphoptError

from .loadable import Loadable
from .signature import Port, port


def essence(text: str) -> str:
    """One line of a runtime's message, without its code numbers and source paths."""
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"/\S*onnxruntime\S*\.(cc|h):\d+ ", "", text)
    text = " ".join(text.split()).rstrip(". ")
    return text if len(text) <= 300 else f"{text[:140]} ... {text[-155:]}"


class Reference:
    """A model in the reference evaluator, with the interface of a session.

    Args:
        source: the model.
        outputs: tensors to give out instead of its outputs.

    Attributes:
        inputs, outputs: the signature.

    Raises:
        GraphoptError: the evaluator does not know the IR version or an operator in that version.
    """

    def __init__(self, source: Loadable, outputs: Sequence[str] | None = None) -> None:
        from onnx.reference import ReferenceEvaluator

        proto = source.whole()
        if proto.ir_version > onnx.IR_VERSION:
            raise GraphoptError(f"IR version {proto.ir_version} is unknown", source.name, "re-export the model")
        model = ir.from_proto(proto)
        self.inputs = tuple(port(item, required=not item.is_initializer()) for item in model.graph.inputs)
        known = {item.name: port(item) for item in model.graph.outputs}
        names = [str(item.name) for item in model.graph.outputs] if outputs is None else outputs
        self.outputs = tuple(known.get(name) or Port(name, "tensor", None, None) for name in names)
        self._name = source.name
        try:
            self._evaluator = ReferenceEvaluator(proto)
        except Exception as error:
            message = essence(f"{type(error).__name__}: {error}")
            raise GraphoptError(f"onnx.reference cannot take it: {message}", f"loading {self._name}", "") from error

    def run(self, feeds: dict[str, Any]) -> dict[str, Any]:
        """The outputs by name, for feeds that fit."""
        names = [item.name for item in self.outputs]
        try:
            with np.errstate(all="ignore"):
                found = self._evaluator.run(names, feeds)
        except Exception as error:
            message = essence(f"{type(error).__name__}: {error}")
            raise GraphoptError(f"onnx.reference fails: {message}", f"running {self._name}", "") from error
        return dict(zip(names, found, strict=True))
