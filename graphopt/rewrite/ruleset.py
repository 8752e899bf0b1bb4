"""Applying many rules to a whole model in time linear in the graph.

1. Index the nodes by operator. Each rule is anchored at its rarest operator and queues the nodes of that
   operator.
2. Take a queued node, from the earliest rule that has one, and match the rule there (``matcher``).
3. After an edit, queue again only anchors that can be reached from a changed node along the pattern, because
   any new match contains a changed node.

A refused match is not tried again. Reasons are given once per place.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.events import Site, Sites
from graphopt.ir.facts import STANDARD_DOMAINS, where
from graphopt.ir.walk import Body, bodies

from .match import Match
from .matcher import Matcher
from .names import Names
from .order import Order
from .rule import Rewrite
from .search import Search
from .splice import apply, place
from .syntax import Choice

_RULES, _RULE_SETS = 1024, 256  # that are kept ready, in a process
_EDITS_PER_NODE = 10  # more edits than that, and the rules go round in circles


@dataclass(frozen=True, eq=False)
class RuleSet:
    """Rules that are applied together; where two fit, the earlier one comes first.

    Attributes:
        rules: the rules.
    """

    rules: tuple[Rewrite, ...]

    def __init__(self, rules: Iterable[Rewrite]) -> None:
        object.__setattr__(self, "rules", tuple(rules))

    def sites(self, model: ir.Model) -> Sites:
        """Every place where a rule fits, in the main graph, subgraphs and local functions.

        Yields:
            a site with an edit where a rule can be applied, to be answered with whether it was; a site
            without where the structure is there but the rule refuses.

        Raises:
            GraphoptError: the rules undo each other and never end.
        """
        return Worklist(self.rules, model).sites()


@lru_cache(_RULE_SETS)
def _interested(rules: tuple[Rewrite, ...]) -> Mapping[Choice, Sequence[int]]:
    """Which rules, by number, have an operator in their pattern."""
    found: dict[Choice, list[int]] = {}
    for number, rule in enumerate(rules):
        for choice in sorted({choice for node in rule.source.nodes for choice in node.choices}):
            found.setdefault(choice, []).append(number)
    return found


@lru_cache(_RULES)
def _matcher(rule: Rewrite, anchor: int) -> Matcher:
    """The rule made ready for matching from one of its operators: it depends on no model."""
    return Matcher(rule.source, rule.conditions, rule.kept, anchor, rule.shared)


class Worklist:
    """One run of some rules over one model.

    Attributes:
        searches: how many times a rule was tried at a node.
        steps: the work done in these.
        given_up: searches that took too many steps.
    """

    def __init__(self, rules: Iterable[Rewrite], model: ir.Model) -> None:
        self.rules = tuple(rules)
        self.model = model
        self.searches = self.steps = self.given_up = 0
        self._bodies: dict[ir.Graph, Body] = {}
        self._interested = _interested(self.rules)
        self._index: dict[Choice, list[ir.Node]] = {}
        self._number: dict[ir.Node, int] = {}
        self._nodes = 0
        self._names: dict[Body, Names] = {}
        self._orders: dict[Body, Order] = {}
        self._ordered = any(len(rule.rewritten) > 1 for rule in self.rules)
        self._collect()
        self._anchors = [self._rarest(rule) for rule in self.rules]
        self._queues: list[deque[ir.Node]] = [deque() for _ in self.rules]
        self._waiting: list[set[ir.Node]] = [set() for _ in self.rules]
        self._busy: list[int] = []
        self._seed()
        self._left_out: set[tuple[int, tuple[ir.Node, ...]]] = set()
        self._told: set[tuple[int, ir.Node, str]] = set()

    def _collect(self) -> None:
        # An operator that the model defines itself is not the one that the rules are about.
        own = {(domain, name) for domain, name, _ in self.model.functions if domain in STANDARD_DOMAINS}
        for body in bodies(self.model):
            for node in body.nodes():
                self._nodes += 1
                choice = (node.domain, node.op_type)
                if choice in self._interested and choice not in own:
                    self._number[node] = self._nodes
                    self._index.setdefault(choice, []).append(node)
                    assert node.graph is not None, "it was met in a graph"
                    self._bodies[node.graph] = body

    def _rarest(self, rule: Rewrite) -> int:
        """The operator of the pattern to begin at: that of which the model has the fewest."""

        def count(index: int) -> int:
            return sum(len(self._index.get(choice, ())) for choice in rule.source.nodes[index].choices)

        candidates = [node.index for node in rule.source.nodes if not node.call.skippable]
        return min(candidates, key=lambda index: (count(index), -index))

    def _matcher(self, number: int) -> Matcher:
        return _matcher(self.rules[number], self._anchors[number])

    def _seed(self) -> None:
        for number, rule in enumerate(self.rules):
            choices = rule.source.nodes[self._anchors[number]].choices
            found = [node for choice in choices for node in self._index.get(choice, ())]
            for node in sorted(found, key=self._number.__getitem__) if len(choices) > 1 else found:
                self._push(number, node)

    def _push(self, number: int, node: ir.Node) -> None:
        if node not in self._waiting[number]:
            self._waiting[number].add(node)
            if not self._queues[number]:
                heapq.heappush(self._busy, number)
            self._queues[number].append(node)

    def _pop(self) -> tuple[int, ir.Node] | None:
        if not self._busy:
            return None
        number = self._busy[0]
        node = self._queues[number].popleft()
        if not self._queues[number]:
            heapq.heappop(self._busy)
        self._waiting[number].discard(node)
        return number, node

    def sites(self) -> Sites:
        """See ``RuleSet.sites``."""
        edits_left = _EDITS_PER_NODE * self._nodes + 1000
        while (item := self._pop()) is not None:
            number, anchor = item
            rule = self.rules[number]
            for search in self._searches(number, anchor):
                site, match = self._site(number, search)
                if site is None:
                    continue
                applied = yield site
                if match is None:
                    continue
                if not applied:
                    self._left_out.add((number, match.nodes))
                    continue
                edits_left -= 1
                if edits_left < 0:
                    raise GraphoptError("rewrite rules undo each other and never end", f"rule {rule.label}")

    def _searches(self, number: int, anchor: ir.Node) -> Iterator[Search]:
        """The searches at an anchor, begun over after an edit that leaves it in the graph."""
        body = self._bodies.get(anchor.graph) if anchor.graph is not None else None
        first, last = self.rules[number].matches
        if body is None or not first <= body.version() <= last:
            return
        matcher = self._matcher(number)
        for root in matcher.roots(anchor):
            search = Search(matcher, body, root)
            self.searches += 1
            self.steps += search.steps
            self.given_up += search.given_up
            yield search
            if search.match is not None and any(node.graph is None for node in search.match.nodes):
                self._push(number, anchor)
                return

    def _site(self, number: int, search: Search) -> tuple[Site | None, Match | None]:
        rule = self.rules[number]
        if search.refusal is not None:
            return self._kept(number, search.refusal.root, search.refusal.reason), None
        match = search.match
        if match is None or (number, match.nodes) in self._left_out:
            return None, None
        reason = rule.objection(match, self.model.opset_imports)
        if reason is None and place(rule, match, self._order(match)) is None:
            reason = "its inputs and the users of its outputs leave no place for the new nodes"
        if reason is not None:
            return self._kept(number, match.root, reason), None
        return Site(where(match.root), rule.says, lambda: self._edit(rule, match)), match

    def _kept(self, number: int, root: ir.Node, reason: str) -> Site | None:
        key = (number, root, reason)
        if key in self._told:
            return None
        self._told.add(key)
        name = self.rules[number].name
        return Site(where(root), f"{name}: {reason}" if name else reason)

    def _order(self, match: Match) -> Order | None:
        if not self._ordered:
            return None
        if match.body not in self._orders:
            self._orders[match.body] = Order(match.body)
        return self._orders[match.body]

    def _edit(self, rule: Rewrite, match: Match) -> None:
        if match.body not in self._names:
            self._names[match.body] = Names(match.body)
        touched = apply(rule, match, self.model, self._names[match.body], self._order(match))
        for node in touched:
            for number in self._interested.get((node.domain, node.op_type), ()):
                for anchor in self._matcher(number).anchors(node):
                    self._push(number, anchor)
