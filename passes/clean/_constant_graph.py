"""Running the constant part of a body: one small model, one session, the runtime's own kernels.

The kernels are the ones the unfolded model would use, so folding is exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.execute.session import Session
from graphopt.ir import Body, constant, detached


def evaluate(body: Body, nodes: Sequence[ir.Node], wanted: Sequence[ir.Value]) -> dict[ir.Value, np.ndarray]:
    """Compute values that depend on constants only.

    Args:
        body: whose opsets are in force.
        nodes: the nodes that compute them, producers first.
        wanted: outputs of these nodes; tensors.

    Returns:
        the elements of those that could be computed; all of them unless ONNX Runtime refuses a node, in which
        case each is tried by itself.
    """
    if not wanted:
        return {}
    try:
        return _run(body, nodes, wanted)
    except GraphoptError:
        if len(wanted) == 1:
            return {}
    found: dict[ir.Value, np.ndarray] = {}
    for value in wanted:
        found.update(evaluate(body, _needed_for(value, nodes), [value]))
    return found


def _needed_for(value: ir.Value, nodes: Sequence[ir.Node]) -> list[ir.Node]:
    needed = {value.producer()}
    kept: list[ir.Node] = []
    for node in reversed(nodes):
        if node in needed:
            kept.append(node)
            needed.update(item.producer() for item in node.inputs if item is not None)
    return kept[::-1]


def _run(body: Body, nodes: Sequence[ir.Node], wanted: Sequence[ir.Value]) -> dict[ir.Value, np.ndarray]:
    copies: dict[ir.Value, ir.Value] = {}
    initializers: list[ir.Value] = []
    copied_nodes: list[ir.Node] = []
    for node in nodes:
        for value in node.inputs:
            if value is not None and value not in copies:
                tensor = constant(value)
                assert tensor is not None, f"'{value.name}' is no constant"
                copy = ir.Value(name=f"c{len(copies)}", const_value=detached(tensor), type=ir.TensorType(tensor.dtype))
                copies[value] = copy
                initializers.append(copy)
        twin = ir.Node(
            node.domain,
            node.op_type,
            [None if value is None else copies[value] for value in node.inputs],
            list(node.attributes.values()),
            num_outputs=len(node.outputs),
        )
        for before, after in zip(node.outputs, twin.outputs, strict=True):
            after.name = "" if before.name == "" else f"c{len(copies)}"
            after.type = before.type
            copies[before] = after
        copied_nodes.append(twin)
    outputs = [copies[value] for value in wanted]
    graph = ir.Graph(
        [], outputs, nodes=copied_nodes, initializers=initializers, opset_imports=dict(body.opsets), name="constants"
    )
    results = Session(ir.Model(graph, ir_version=10), optimized=False).run({})
    return {value: np.asarray(results[str(copies[value].name)]) for value in wanted}
