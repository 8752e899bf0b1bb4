"""A model in narrow floating point, simulated in float32: numbers are rounded where a narrow model would hold them.

    node(x, W) -> y   becomes   y = r(node(r(x), r(W)))        r: Cast to the narrow type and back

That is what kernels do that compute inside in float32 and store in 16 bits (tensor cores, and ONNX Runtime's CPU
provider, which has few others). It runs wherever float32 runs, for types without kernels too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.execute.staged import Program

from ._forms import FLOAT, Form

_EXACT, _NARROW, _ROUNDED, _SHADOW = (f".graphopt.{word}" for word in ("exact", "narrow", "rounded", "shadow"))


class Simulator:
    """Makes programs out of one model.

    Args:
        model: with the types of its tensors known; is not changed while programs are made of it.
        narrow: the type.

    Attributes:
        exact: the model as it is.
    """

    def __init__(self, model: ir.Model, narrow: ir.DataType) -> None:
        self.exact = Program.of(model)
        self._narrow = narrow
        self._keys = [key(node) for node in model.graph]
        self._values = {str(value.name): value for value in model.graph.initializers.values()}
        self._rounded: dict[str, onnx.TensorProto] = {}

    def simulated(self, forms: Mapping[str, Form]) -> Program:
        """The model with some nodes computing with rounded numbers.

        Args:
            forms: the nodes, by the name of their first output, with the operands and results to round.
        """
        return self.exact.with_nodes(self._simulated(forms), self._rounded)

    def _simulated(self, forms: Mapping[str, Form]) -> Iterator[onnx.NodeProto]:
        known: dict[str, str] = {}
        for name, node in zip(self._keys, self.exact.nodes, strict=True):
            found = forms.get(name)
            if found is None:
                yield node
                continue
            yield from self._operands(node, found, known)
            twin = self._twin(node, found, known)
            settled = [index for index in found.results if node.output[index]]
            for index in settled:
                twin.output[index] += _EXACT
            yield twin
            for index in settled:
                result = node.output[index]
                yield _cast(result + _EXACT, result + _NARROW, self._narrow)
                yield _cast(result + _NARROW, result, FLOAT)
                known[result] = result

    def shadowed(self, forms: Mapping[str, Form]) -> tuple[Program, dict[str, str]]:
        """The model where nodes have a shadow that does the same with rounded operands, made from exact ones.

        Returns:
            the program, and for each shadow's result, which is not rounded yet, the name of the exact one.
        """
        shadows: dict[str, str] = {}
        nodes = tuple(self._shadowed(forms, shadows))
        return self.exact.with_nodes(nodes, self._rounded), shadows

    def _shadowed(self, forms: Mapping[str, Form], shadows: dict[str, str]) -> Iterator[onnx.NodeProto]:
        known: dict[str, str] = {}
        for name, node in zip(self._keys, self.exact.nodes, strict=True):
            yield node
            found = forms.get(name)
            if found is None:
                continue
            yield from self._operands(node, found, known)
            twin = self._twin(node, found, known)
            twin.name = f"{node.name}{_SHADOW}" if node.name else ""
            for index, result in enumerate(node.output):
                if result:
                    twin.output[index] += _SHADOW
            shadows.update({twin.output[index]: node.output[index] for index in found.results if node.output[index]})
            yield twin

    def _operands(self, node: onnx.NodeProto, found: Form, known: dict[str, str]) -> Iterator[onnx.NodeProto]:
        """The casts that round the operands of a node, those that are not there yet."""
        for name in (node.input[index] for index in found.operands):
            if not name or name in known:
                continue
            known[name] = name + _ROUNDED
            tensor = gir.constant(self._values.get(name))
            if tensor is None:
                yield _cast(name, name + _NARROW, self._narrow)
            elif name + _NARROW not in self._rounded:
                with np.errstate(all="ignore"):
                    elements = ir.tensor(tensor.numpy().astype(self._narrow.numpy()), self._narrow, name=name + _NARROW)
                self._rounded[name + _NARROW] = ir.serde.serialize_tensor(elements)
            yield _cast(name + _NARROW, name + _ROUNDED, FLOAT)

    def _twin(self, node: onnx.NodeProto, found: Form, known: Mapping[str, str]) -> onnx.NodeProto:
        twin = onnx.NodeProto()
        twin.CopyFrom(node)
        for index in found.operands:
            twin.input[index] = known.get(node.input[index], "")
        return twin


def key(node: ir.Node) -> str:
    """What a node of the main graph is known by in copies of it."""
    return next((str(value.name) for value in node.outputs if value.name), "")


def _cast(source: str, result: str, to: ir.DataType) -> onnx.NodeProto:
    attribute = onnx.AttributeProto(name="to", type=onnx.AttributeProto.INT, i=to)
    return onnx.NodeProto(op_type="Cast", input=[source], output=[result], attribute=[attribute])
