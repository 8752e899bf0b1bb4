"""Walking a model: every graph and every node, wherever they hide.

A model is a few *bodies*: the main graph and the local functions. A body holds a graph, and the nodes of
that graph may hold subgraphs (the branches of an If, the body of a Loop or Scan), to any depth. The opset
imports belong to the body: a function has its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

GRAPH_TYPES = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
"""The types of the attributes that hold graphs."""


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs in a node's own attributes, one level deep."""
    for attribute in node.attributes.data.values():
        kind = attribute.type
        if kind not in GRAPH_TYPES or attribute.is_ref():
            continue
        if kind == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        else:
            yield from attribute.as_graphs()


@dataclass(frozen=True, eq=False)
class Body:
    """The main graph or one local function of a model.

    Attributes:
        graph: the outermost graph.
        opsets: operator-set version by domain; ``""`` is the default domain.
        function: the local function, or None for the main graph.
    """

    graph: ir.Graph
    opsets: Mapping[str, int]
    function: ir.Function | None = None

    def version(self, domain: str = "") -> int:
        """The version of an operator set in force here; 0 when the body does not import the domain."""
        return self.opsets.get(domain, 0)

    def graphs(self) -> Iterator[ir.Graph]:
        """The outermost graph, then the nested ones, outer before inner."""
        pending = [self.graph]
        while pending:
            graph = pending.pop()
            yield graph
            for node in graph:
                if has_subgraphs(node):
                    pending.extend(subgraphs(node))

    def nodes(self) -> Iterator[ir.Node]:
        """Every node, a node before the nodes inside it.

        The graph may be edited while the iteration is under way: removed nodes are not entered, nodes
        inserted ahead of the current one are visited.
        """
        stack: list[Iterator[ir.Node]] = [iter(self.graph)]
        while stack:
            for node in stack[-1]:
                yield node
                for item in node.attributes.data.values():  # has_subgraphs without the call: every pass walks so
                    if item.type in GRAPH_TYPES:
                        break
                else:
                    continue
                if node.graph is not None:
                    stack.extend(iter(graph) for graph in subgraphs(node))
                    break
            else:
                stack.pop()


def has_subgraphs(node: ir.Node) -> bool:
    """True when an attribute of the node holds graphs."""
    for item in node.attributes.data.values():  # noqa: SIM110  asked of every node in every walk: no generator
        if item.type in GRAPH_TYPES:
            return True
    return False


def bodies(model: ir.Model) -> Iterator[Body]:
    """The main graph, then the local functions in their order of definition."""
    yield Body(model.graph, model.graph.opset_imports)
    for function in model.functions.values():
        yield Body(function.graph, function.opset_imports, function)


def callers_first(functions: Sequence[Body], roots: Sequence[Body]) -> Iterator[tuple[Body, list[ir.Node]]]:
    """The local functions, a caller before those it calls, each with the nodes that call it.

    Functions that nothing calls come too, with no nodes. ONNX does not allow a function to call itself.
    """
    by_key = {body.function.identifier(): body for body in functions if body.function is not None}
    calls: dict[ir.OperatorIdentifier, list[ir.Node]] = {key: [] for key in by_key}
    callees: dict[ir.OperatorIdentifier, list[ir.OperatorIdentifier]] = {}
    for body in (*roots, *functions):
        called = [node for node in body.nodes() if node.op_identifier() in by_key]
        for node in called:
            calls[node.op_identifier()].append(node)
        if body.function is not None:
            callees[body.function.identifier()] = [node.op_identifier() for node in called]
    waiting = dict.fromkeys(by_key, 0)
    for keys in callees.values():
        for key in keys:
            waiting[key] += 1
    ready = [key for key, count in waiting.items() if count == 0]
    while ready:
        key = ready.pop(0)
        yield by_key[key], calls[key]
        for callee in callees[key]:
            waiting[callee] -= 1
            if waiting[callee] == 0:
                ready.append(callee)


def graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """Every graph of the model: main, local functions' and nested."""
    for body in bodies(model):
        yield from body.graphs()


def nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Every node of the model, those of local functions and subgraphs too; safe under edits."""
    for body in bodies(model):
        yield from body.nodes()


def count_nodes(model: ir.Model) -> int:
    """Nodes of the model, without Constant nodes, with those of subgraphs and local functions."""
    return sum(1 for node in nodes(model) if node.op_type != "Constant")
