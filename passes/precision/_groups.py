"""Groups of nodes that compute in a narrow type, and whether they are worth the casts around them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graphopt import ir as gir

from ._forms import HEAVY, Form, Kind


@dataclass(eq=False)
class Choice:
    """What becomes of one node.

    Attributes:
        node: the node.
        form: its narrow form; None for a node that has none.
        reason: why it stays; "" when it is narrowed.
        sqnr_db: its local error; None where it was not measured (it does not round).
        share_small: which part of its numbers lies below the normal range of the type.
    """

    node: ir.Node
    form: Form | None
    reason: str = ""
    sqnr_db: float | None = None
    share_small: float = 0.0

    def holds_narrow(self, value: ir.Value) -> bool:
        """True for a result of the node that is narrow."""
        if self.reason or self.form is None:
            return False
        return any(self.node.outputs[index] is value for index in self.form.results)


def small_groups(choices: Sequence[Choice], *, keep_io: bool) -> Iterator[Choice]:
    """The nodes of groups without a heavy operator that need more casts around them than they have nodes.

    Args:
        choices: of all nodes of a graph.
        keep_io: the graph's inputs and outputs stay wide.
    """
    for group in _groups(choices):
        if any(choice.node.op_type in HEAVY for choice in group):
            continue
        if len(_borders(group, keep_io)) > len(group):
            yield from group


def _borders(group: Sequence[Choice], keep_io: bool) -> set[ir.Value]:
    """The values that need a cast."""
    members = {choice.node for choice in group}
    found: set[ir.Value] = set()
    for choice in group:
        assert choice.form is not None
        for index in choice.form.operands:
            value = choice.node.inputs[index]
            if value is None or gir.constant(value) is not None or value.producer() in members:
                continue
            if keep_io or not value.is_graph_input():
                found.add(value)
        for index in choice.form.results:
            value = choice.node.outputs[index]
            if any(user not in members for user, _ in value.uses()) or (keep_io and value.is_graph_output()):
                found.add(value)
    return found


def _groups(choices: Sequence[Choice]) -> list[list[Choice]]:
    """Narrow nodes connected by narrow values."""
    chosen = {
        choice.node: choice
        for choice in choices
        if not choice.reason and choice.form is not None and choice.form.kind is not Kind.READING
    }
    leader = {node: node for node in chosen}

    def find(node: ir.Node) -> ir.Node:
        while leader[node] is not node:
            leader[node] = leader[leader[node]]
            node = leader[node]
        return node

    for node, choice in chosen.items():
        assert choice.form is not None
        for index in choice.form.operands:
            value = node.inputs[index]
            producer = value.producer() if value is not None else None
            if value is not None and producer in chosen and chosen[producer].holds_narrow(value):
                leader[find(producer)] = find(node)
    groups: dict[ir.Node, list[Choice]] = {}
    for node, choice in chosen.items():
        groups.setdefault(find(node), []).append(choice)
    return list(groups.values())
