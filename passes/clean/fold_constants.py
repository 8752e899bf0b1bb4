"""f(c) -> f(c)'s value, for nodes whose inputs are all constant.

1. In topological order, mark the nodes that depend on constants only and may be folded (see ``FoldConstants``).
2. Run all of them at once, as one model, in ONNX Runtime with its optimisations off.
3. Replace each marked value that an unmarked node, a subgraph or an output uses by an initialiser.

Folding must not bloat the file: a result may be larger than what it replaces only up to ``max_bytes``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.events import Site, Sites
from graphopt.ir import (
    STANDARD_DOMAINS,
    bodies,
    constant,
    has_reference,
    is_op,
    new_initializer,
    replace,
    static_dims,
    subgraphs,
    where,
)
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

from ._constant_graph import evaluate

_RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
_SIZED_BY_DATA = ("NonZero", "Unique", "Compress", "Where", "StringSplit", "NonMaxSuppression", "TopK")
_STRING_BYTES = 16  # an estimate: the length of a string is not known before it is made


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Computes before the run what does not depend on the inputs.

    Kept, with the reason: DequantizeLinear of quantised weights (int8 weights would become float32), results that
    would grow the file by more than ``max_bytes``, results whose size cannot be known, weights in external files beyond
    ``max_bytes``, random generators, training-mode Dropout, operators with subgraphs, sequences, custom operators.

    Attributes:
        max_bytes: how much larger, in bytes, one result may be than the constants it makes superfluous.
    """

    name: ClassVar[str] = "fold-constants"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    needs_shapes: ClassVar[bool] = True
    max_bytes: int = 1 << 16

    def __post_init__(self) -> None:
        """A negative budget would refuse what costs nothing."""
        if self.max_bytes < 0:
            raise GraphoptError(f"max_bytes is {self.max_bytes}", "fold-constants", "0 or more", usage=True)

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per value that becomes a constant, and one per node that is kept though its inputs are constant."""
        for body in bodies(model):
            marked: dict[ir.Node, None] = {}
            for node in body.nodes():
                if not self._depends_on_constants_only(node, marked):
                    continue
                reason = self._refusal(node)
                if reason:
                    yield Site(where(node), reason)
                else:
                    marked[node] = None
            frontier = [value for node in marked for value in node.outputs if _is_needed(value, marked)]
            results = evaluate(body, list(marked), frontier)
            for value in frontier:
                yield self._site(value, results.get(value))

    @staticmethod
    def _depends_on_constants_only(node: ir.Node, marked: dict[ir.Node, None]) -> bool:
        if is_op(node, "Constant", "Identity") or node.graph is None:
            return False
        return (
            all(value is None or constant(value) is not None or value.producer() in marked for value in node.inputs)
            and any(subgraphs(node)) is False
        )

    def _refusal(self, node: ir.Node) -> str:
        """Why a node of constant inputs is not folded; "" when it is."""
        if node.domain not in STANDARD_DOMAINS:
            return f"operators of the domain {node.domain} are not folded"
        if has_reference(node):
            return "an attribute is a parameter of the function"
        if node.op_type in _RANDOM or (node.op_type == "Dropout" and len(node.inputs) > 2):
            return "it is random"
        if node.op_type == "DequantizeLinear":
            return "it keeps quantised weights small"
        if is_op(node, "Cast", "QuantizeLinear") and _is_packed(node.inputs[0]):
            return "it keeps weights of 4 bits small"
        for output in node.outputs:
            if output.type is not None and not isinstance(output.type, ir.TensorType):
                return "its result is no tensor"
        sources = [tensor for value in node.inputs if (tensor := constant(value)) is not None]
        if any(isinstance(tensor, ir.ExternalTensor) and tensor.nbytes > self.max_bytes for tensor in sources):
            return "its weights stay in their file"
        return self._size_refusal(node)

    def _size_refusal(self, node: ir.Node) -> str:
        replaced = sum(
            _bytes(value) or 0 for value in set(node.inputs) if value is not None and _only_user(value, node)
        )
        for output in node.outputs:
            size = _bytes(output)
            if size is None:
                inputs = sum(_bytes(value) or 0 for value in node.inputs)
                if is_op(node, *_SIZED_BY_DATA) and inputs * 8 <= self.max_bytes:
                    continue  # no more elements than its input times its rank
                return "the size of its result is not known before the run"
            if size > replaced + self.max_bytes:
                return f"its result is {size} bytes, {size - replaced} more than what it replaces"
        return ""

    @staticmethod
    def _site(value: ir.Value, result: np.ndarray | None) -> Site:
        node = value.producer()
        assert node is not None and node.graph is not None
        if result is None:
            return Site(where(node), "the runtime could not compute it")
        if result.dtype == object:
            elements: np.ndarray | ir.TensorProtocol = ir.StringTensor(
                [str(item).encode() for item in result.reshape(-1)], shape=ir.Shape(result.shape)
            )
        else:
            dtype = value.dtype
            elements = ir.tensor(result, dtype=dtype) if dtype is not None else result
        graph = node.graph
        size = "x".join(map(str, result.shape)) or "scalar"
        return Site(
            where(node),
            f"folded to a constant ({size})",
            lambda: replace(value, new_initializer(graph, elements, value.name or node.op_type)),
        )


def _is_packed(value: ir.Value | None) -> bool:
    """Whether elements of less than a byte are stored."""
    tensor = constant(value)
    return tensor is not None and tensor.dtype.itemsize < 1


def _is_needed(value: ir.Value, marked: dict[ir.Node, None]) -> bool:
    return value.is_graph_output() or any(user not in marked for user, _ in value.uses())


def _only_user(value: ir.Value, node: ir.Node) -> bool:
    return not value.is_graph_output() and all(user is node for user, _ in value.uses())


def _bytes(value: ir.Value | None) -> int | None:
    """Size in bytes, when it is known; an output that is left out has none."""
    if value is None or value.name == "":
        return 0
    tensor = constant(value)
    if tensor is not None and tensor.dtype is not ir.DataType.STRING:
        return tensor.nbytes
    shape = static_dims(value)
    if shape is None or value.dtype is None:
        return None
    item = _STRING_BYTES if value.dtype is ir.DataType.STRING else value.dtype.itemsize
    return math.ceil(math.prod(shape) * item)
