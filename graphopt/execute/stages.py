"""Going through a model stage by stage, with all samples at each: for work that changes a node by what it gives.

Running the whole model again after each change costs the square of its length. Here the values that later nodes need
are kept for each sample instead, and only the nodes up to the next stage are run, as they are at that moment.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.ir import captured_values, nodes

from .session import Session
from .signature import Feeds


class Stages:
    """A walk through the main graph of a model.

    The model may be edited while one walks, except for what was run already: new nodes and other constants behind the
    stage take effect, as long as they only need values that were needed before.

    Args:
        model: in topological order.
        samples: feeds; what is kept of them grows and shrinks with the graph's live values.
        threads: threads within an operator; 0 leaves the number to the runtime.
    """

    def __init__(self, model: ir.Model, samples: Iterable[Feeds], *, threads: int = 0) -> None:
        self._model = model
        self._threads = threads
        self._done: set[ir.Node] = set()
        inputs = {str(value.name) for value in model.graph.inputs}
        self._kept: list[dict[str, Any]] = [
            {name: array for name, array in sample.items() if name in inputs and array is not None}
            for sample in samples
        ]

    def run(self, node: ir.Node) -> list[np.ndarray]:
        """Run everything up to a node that was not run yet; the first result of the node, one array for each sample.

        The arrays are what later stages work with: changing one in place changes what they see.

        Raises:
            GraphoptError: the model does not run on a sample.
        """
        part: list[ir.Node] = []
        later: list[ir.Node] = []
        reached = False
        for item in self._model.graph:
            if item in self._done:
                continue
            (later if reached else part).append(item)
            reached = reached or item is node
        made = {value for item in part for value in item.outputs}
        needed = {value for item in part for value in captured_values(item) if not _is_inner(value, item)}
        wanted = {value for item in later for value in captured_values(item)}
        given = [value for value in needed if value not in made and not _is_constant(value)]
        results = [value for value in made if value in wanted or value is node.outputs[0]]
        model = self._part(part, given, results, needed)
        session = Session(model, optimized=True, threads=self._threads)
        alive = {str(value.name) for value in wanted}
        target = str(node.outputs[0].name)
        found: list[np.ndarray] = []
        names = {str(value.name) for value in given}
        for kept in self._kept:
            kept.update(session.run({name: kept[name] for name in names if name in kept}))
            found.append(np.array(kept[target]))
            kept[target] = found[-1]
            for name in [name for name in kept if name not in alive]:
                del kept[name]
        self._done.update(part)
        return found

    def _part(
        self, part: list[ir.Node], given: list[ir.Value], results: list[ir.Value], needed: Iterable[ir.Value]
    ) -> ir.Model:
        graph = self._model.graph
        own = [value for value in needed if value.is_initializer() and value.graph is graph]
        view = ir.GraphView(
            given, results, nodes=part, initializers=own, name="stage", opset_imports=graph.opset_imports
        )
        called = {item.op_identifier() for item in nodes(self._model)}
        functions = [function for key, function in self._model.functions.items() if key in called]
        proto = ir.serde.serialize_model(ir.Model(view, ir_version=self._model.ir_version, functions=functions))  # type: ignore[arg-type]
        made = ir.serde.deserialize_model(proto)
        for value in made.graph.inputs:
            seen = self._kept[0].get(str(value.name)) if self._kept else None
            if value.type is None and isinstance(seen, np.ndarray):  # nobody has inferred the model's types
                value.type = ir.TensorType(ir.DataType.from_numpy(seen.dtype))
        return made


def _is_constant(value: ir.Value) -> bool:
    return value.is_initializer() and not value.is_graph_input()


def _is_inner(value: ir.Value, node: ir.Node) -> bool:
    """Whether a value that a node's subgraphs read is their own."""
    return value.graph is not None and node.graph is not None and value.graph is not node.graph
