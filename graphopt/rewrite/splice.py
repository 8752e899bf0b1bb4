"""Putting the new nodes of a match into the graph and taking the old ones out."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import cast

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir import edits
from graphopt.ir.facts import where
from graphopt.ir.sweep import PURE_DOMAINS

from .match import Match
from .names import Names
from .order import Order
from .rule import Rewrite
from .tape import Tape
from .uses import FANOUT, first_uses, is_used, use_count

_TOUCHED = 1024  # users of a replaced value that are looked at again


def place(rule: Rewrite, match: Match, order: Order | None) -> ir.Node | None:
    """The node in front of which the new nodes may stand, None when there is no such place.

    One new value: in front of the node that computed it. All that it uses comes before, all users come
    behind. Several: in front of one of these nodes that is behind everything the match uses and in front of
    all users.
    """
    candidates = list(dict.fromkeys(match.bound[index] for index in rule.rewritten))
    if len(candidates) == 1:
        return candidates[0]
    assert order is not None, "rules with several outputs come with an order"
    inside = {node for index, node in match.bound.items() if index not in rule.kept}
    for candidate in candidates:
        if _inputs_before(match, candidate, inside, order) and _users_behind(rule, match, candidate, inside, order):
            return candidate
    return None


def _inputs_before(match: Match, candidate: ir.Node, inside: set[ir.Node], order: Order) -> bool:
    for node in inside:
        for value in node.inputs:
            producer = None if value is None else value.producer()
            if producer is None or producer in inside or producer.graph is not match.graph:
                continue
            if not order.is_before(producer, candidate):
                return False
    return True


def _users_behind(rule: Rewrite, match: Match, candidate: ir.Node, inside: set[ir.Node], order: Order) -> bool:
    for index in rule.rewritten:
        node = match.bound[index]
        if not order.is_before(node, candidate):
            continue  # its users come after it, so after the candidate too
        for value in node.outputs:
            if use_count(value) > FANOUT:
                return False
            for user, _ in first_uses(value):
                here = order.at(user, match.graph)
                if user not in inside and (here is None or not order.is_before(candidate, here)):
                    return False
    return True


def apply(rule: Rewrite, match: Match, model: ir.Model, names: Names, order: Order | None) -> list[ir.Node]:
    """Rewrite a match.

    Returns:
        the nodes around which the graph has changed: new ones, users of new values, and nodes that lost a
        user.
    """
    before = place(rule, match, order)
    assert before is not None and match.graph is not None, "the match was found a moment ago"
    tape = Tape(match, names, model.ir_version)
    written = rule.write(match, tape)
    _check_order(rule, match, tape, before, order)
    _import_domains(rule, match, model, tape)
    match.graph.insert_before(before, tape.nodes)
    _carry_metadata(match, tape)
    touched: dict[ir.Node, None] = dict.fromkeys(tape.nodes)
    taken: list[tuple[ir.Value, str | None]] = []
    for name, new in written.items():
        old = _output(match, name)
        if old is new:
            continue
        touched.update((user, None) for user, _ in first_uses(old, _TOUCHED))
        if new.producer() in tape.nodes:
            _describe(old, new)
            if not old.is_graph_output():
                taken.append((new, old.name))
        public = old.is_graph_output()
        edits.replace(old, new)
        if public:
            old.name = names.value(f"{new.name}_before")
    bystanders = [value.producer() for node in match.nodes for value in node.inputs if value is not None]
    touched.update((node, None) for node in bystanders if node is not None)
    gone = _erase(match)
    for value, old_name in taken:
        if old_name and not any(
            output.name == old_name for node in match.nodes if node not in gone for output in node.outputs
        ):
            value.name = old_name
    if order is not None:
        order.insert(tape.nodes, before, before in gone)
        order.forget(gone)
    return [node for node in touched if node.graph is not None]


def _check_order(rule: Rewrite, match: Match, tape: Tape, before: ir.Node, order: Order | None) -> None:
    """A build function may use any value of the match, with several outputs not one that comes too late."""
    if order is None or len(rule.rewritten) == 1:
        return
    new = set(tape.nodes)
    for node in tape.nodes:
        for value in node.inputs:
            producer = None if value is None else value.producer()
            if producer is None or producer in new or producer.graph is not match.graph:
                continue
            if not order.is_before(producer, before):
                for written in tape.nodes:
                    edits.release(written)
                name = "" if value is None else value.name
                raise GraphoptError(
                    f"the build function of a rule uses '{name}' before it is computed",
                    where(match.root),
                    f"rule {rule.label}",
                )


def _output(match: Match, name: str) -> ir.Value:
    output = match.pattern.outputs[name]
    return match.bound[output.node].outputs[output.index]


def _describe(old: ir.Value, new: ir.Value) -> None:
    """The new value inherits what is known about the one it stands for."""
    if new.type is None:
        new.type = old.type
    if new.shape is None and old.shape is not None:
        new.shape = old.shape.copy()
    for key, text in old.metadata_props.items():
        new.metadata_props.setdefault(key, text)


def _carry_metadata(match: Match, tape: Tape) -> None:
    """New nodes carry the metadata of the nodes they replace; where two differ, that of the later node."""
    merged: dict[str, str] = {}
    for node in match.nodes:
        merged.update(node.metadata_props)
    for node in tape.nodes:
        for key, text in merged.items():
            node.metadata_props.setdefault(key, text)


def _import_domains(rule: Rewrite, match: Match, model: ir.Model, tape: Tape) -> None:
    """A body that gets its first operator of a domain must import it; so must the model around it."""
    for node in tape.nodes:
        version = rule.domains.get(node.domain, 1)
        for opsets in (match.body.opsets, model.opset_imports):
            cast("MutableMapping[str, int]", opsets).setdefault(node.domain, version)


def _erase(match: Match) -> set[ir.Node]:
    """Remove the nodes of the match that nothing uses any more, then pure nodes that only they used."""
    gone: set[ir.Node] = set()
    inside = set(match.nodes)
    pending = list(match.nodes)
    while pending:
        node = pending.pop()
        if node.graph is None or any(is_used(value) for value in node.outputs):
            continue
        if node not in inside and node.domain not in PURE_DOMAINS:
            continue
        producers = [value.producer() for value in edits.captured_values(node)]
        edits.remove(node)
        gone.add(node)
        pending.extend(producer for producer in producers if producer is not None)
    return gone
