"""What a model is made of, as numbers: nodes by operator, constants, parameters, bytes, opset.

Counted so that "before" and "after" can be set side by side whatever an exporter likes to write:

- every graph counts: the main one, the branches and bodies inside its nodes, and each local function once
  (however often it is called);
- a Constant node is no node: it is an initialiser written another way, and is counted as one;
- a tensor that several values share is counted for each of them, as it is in a file;
- a call of a packed operator (``graphopt.packed``, written by ``pack-channels``) is one node: the body of its function
  says what it means, and a lowering replaces it by a kernel;
- nothing is read: sizes come from shapes and types, so a model with 100 GB of external data costs nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import onnx_ir as ir

from ..ir.facts import constant
from ..ir.walk import bodies, graphs, nodes

STANDARD_DOMAINS = frozenset(("", "ai.onnx"))

PACKED = "graphopt.packed"
"""The domain of operators on channels in blocks."""


@dataclass(frozen=True, slots=True)
class ModelStats:
    """The numbers of one model; ``as_json`` is one half of a run folder's ``stats.json``.

    Attributes:
        nodes: all nodes but the Constant ones.
        initializers: constants the model holds, Constant nodes among them.
        parameters: elements in these constants.
        bytes: the size of their elements (the weights), packed types packed; a file adds its structure.
        operators: nodes by operator, most frequent first; ``domain::Operator`` outside the standard domain.
        opset: version of the standard operator set, or None for a model that imports none.
    """

    nodes: int
    initializers: int
    parameters: int
    bytes: int
    operators: dict[str, int]
    opset: int | None

    def as_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return asdict(self)


def stats(model: ir.Model) -> ModelStats:
    """Counts a model; the model is not touched and no weight is read.

    Args:
        model: any model, valid or not.

    Returns:
        The numbers, the same for the same model.
    """
    operators: Counter[str] = Counter(
        _operator(node)
        for body in bodies(model)
        if body.function is None or body.function.domain != PACKED
        for node in body.nodes()
        if not _is_constant(node)
    )
    sizes = [(tensor.size, tensor.nbytes) for tensor in _tensors(model)]
    return ModelStats(
        nodes=operators.total(),
        initializers=len(sizes),
        parameters=sum(elements for elements, _ in sizes),
        bytes=sum(size for _, size in sizes),
        operators=dict(sorted(operators.items(), key=lambda item: (-item[1], item[0]))),
        opset=model.opset_imports.get("", model.opset_imports.get("ai.onnx")),
    )


def _operator(node: ir.Node) -> str:
    if node.domain == PACKED:
        return f"{PACKED}::{node.op_type.partition('_')[0]}"  # what follows are its attributes
    return node.op_type if node.domain in STANDARD_DOMAINS else f"{node.domain}::{node.op_type}"


def _is_constant(node: ir.Node) -> bool:
    return node.op_type == "Constant" and node.domain in STANDARD_DOMAINS


def _tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """The tensors a model holds: initialisers of every graph, and what Constant nodes give."""
    for graph in graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
    for node in nodes(model):
        if _is_constant(node) and node.outputs:
            tensor = _constant_tensor(node)
            if tensor is not None:
                yield tensor


def _constant_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    """What a Constant node gives; None where a call of its function decides, or it is sparse or malformed."""
    try:
        return constant(node.outputs[0])
    except (TypeError, ValueError, NotImplementedError):
        return None
