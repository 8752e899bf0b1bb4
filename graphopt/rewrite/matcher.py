"""Matching one pattern at one node, by backtracking over the few choices there are.

A match is searched from a root downwards: an operand either decides at once (a number, a value seen before,
an operator) or is a variable. Choices are: the order of the operands of a commutative operator, and whether
an operator that may be missing is there. Conditions are asked as soon as their variables are caught, so a
wrong order ends early. The steps of one search are limited, so a search takes constant time whatever the
graph is.

When no match is found but a condition said no on the way, a second search without conditions tells whether
the structure was there at all; only then is the refusal worth reporting, with the reason of the closest try.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any, TypeAlias

import onnx_ir as ir

from graphopt.ir import facts
from graphopt.ir.walk import Body

from .conditions import Condition
from .constants import is_near, is_vector, shape_objection
from .match import Match
from .paths import Step, fits, walk, ways_to
from .pattern import Operand, Output, Pattern, PatternNode
from .schema import COMMUTATIVE, defaults
from .syntax import Absent, AttributeTerm, AttributeVariable, Number, Variable, Vector
from .uses import FANOUT, first_uses, use_count

STEPS = 24
"""A search that has taken this many steps for each operator and operand of its pattern is given up."""

_TRIES = 8  # structural matches that are looked at for the best reason to report
_PERMUTED = 4  # operands of a commutative operator that are tried in every order

_Goal: TypeAlias = "tuple[Operand, ir.Value | None, ir.Node, int] | int"
_Goals: TypeAlias = "tuple[_Goal, _Goals] | None"


@dataclass(frozen=True, slots=True, eq=False)
class Refusal:
    """The structure of a pattern is at a node, but a condition does not hold."""

    root: ir.Node
    reason: str


class Matcher:
    """Matches one pattern, anchored at one of its operators.

    Args:
        pattern: what to look for.
        conditions: what must hold.
        kept: operators whose values may be used outside the match, because they stay.
        anchor: the operator from which candidates are reached.
        shared: true when inner values may be used elsewhere: the operators then stay too.
    """

    def __init__(
        self,
        pattern: Pattern,
        conditions: Sequence[Condition],
        kept: frozenset[int],
        anchor: int,
        shared: bool,
    ) -> None:
        self.pattern = pattern
        self.kept = kept
        self.shared = shared
        self.anchor = anchor
        self.ways = ways_to(pattern, anchor)
        self.root, self.up = self._nearest_root()
        self.joins = self._joins()
        self.early: dict[str, list[Condition]] = {}
        self.late: list[Condition] = []
        for condition in conditions:
            if condition.names and pattern.variables.issuperset(condition.names):
                for name in condition.names:
                    self.early.setdefault(name, []).append(condition)
            else:
                self.late.append(condition)
        self.conditions = tuple(conditions)
        self.limit = 64 + STEPS * sum(1 + len(node.operands) for node in pattern.nodes)
        self.public = frozenset((item.node, item.index) for item in pattern.outputs.values())

    def _nearest_root(self) -> tuple[int, tuple[Step, ...]]:
        roots = [
            (len(way), root, way)
            for root in self.pattern.roots
            if (way := self._way(self.anchor, root)) is not None
        ]
        _, root, way = min(roots)
        return root, way

    def _way(self, source: int, target: int) -> tuple[Step, ...] | None:
        return ways_to(self.pattern, target).get(source)

    def _joins(self) -> Mapping[int, tuple[Step, ...]]:
        """How the other roots are reached once the first is caught."""
        joins: dict[int, tuple[Step, ...]] = {}
        for root in self.pattern.roots:
            if root != self.root:
                way = self._way(self.root, root)
                assert way is not None, "the rule has checked that its outputs hang together"
                joins[root] = way
        return joins

    def anchors(self, node: ir.Node) -> Iterator[ir.Node]:
        """The nodes that could be the anchor of a match that contains a node."""
        for pattern_node in self.pattern.nodes:
            if (
                fits(pattern_node, node, node.graph)
                and (way := self.ways.get(pattern_node.index)) is not None
            ):
                yield from walk(self.pattern, way, pattern_node.index, node)

    def at(self, anchor: ir.Node, body: Body) -> Iterator[Search]:
        """A finished search for each node that could be the root of a match with this anchor."""
        for root in dict.fromkeys(walk(self.pattern, self.up, self.anchor, anchor)):
            yield Search(self, body, root)


class Search:
    """The search at one root.

    Attributes:
        match: what was found, or None.
        refusal: why a place with the right structure was refused, or None.
        steps: how much work it was.
        given_up: true when it took too many.
    """

    def __init__(self, matcher: Matcher, body: Body, root: ir.Node) -> None:
        self.matcher = matcher
        self.pattern = matcher.pattern
        self.body = body
        self.graph = root.graph
        self.steps = 0
        self.given_up = False
        self.match: Match | None = None
        self.refusal: Refusal | None = None
        self._doubted = False  # a condition has said no
        if self._search(root, lenient=False):
            self.match = self._state.copy()
        elif self._doubted:
            self._search(root, lenient=True)
            if self._best is not None:
                self.refusal = Refusal(root, self._best[1])

    def _search(self, root: ir.Node, lenient: bool) -> bool:
        self._limit = self.steps + self.matcher.limit
        self._lenient = lenient
        self._state = Match(self.pattern, self.body, self.graph)
        self._trail: list[tuple[dict[Any, Any], Any]] = []
        self._notes: list[str] = []
        self._tries = 0
        self._best: tuple[int, str] | None = None
        goals: _Goals = None
        for other in reversed(self.matcher.joins):
            goals = (other, goals)
        start = self.pattern.nodes[self.matcher.root]
        return fits(start, root, self.graph) and self._catch(start, root, goals)

    # bookkeeping

    def _set(self, table: dict[Any, Any], key: Any, item: Any) -> None:
        table[key] = item
        self._trail.append((table, key))

    def _undo(self, mark: int, notes: int) -> None:
        while len(self._trail) > mark:
            table, key = self._trail.pop()
            del table[key]
        del self._notes[notes:]

    def _doubt(self, reason: str | None) -> bool:
        """Hear what a condition says; true when the search may go on."""
        if reason is None:
            return True
        self._doubted = True
        self._notes.append(reason)
        return self._lenient

    # goals

    def _solve(self, goals: _Goals) -> bool:
        self.steps += 1
        if self.steps > self._limit:
            self.given_up = True
            return False
        if goals is None:
            return self._accept()
        goal, rest = goals
        mark, notes = len(self._trail), len(self._notes)
        found = self._root(goal, rest) if isinstance(goal, int) else self._operand(goal, rest)
        if not found:
            self._undo(mark, notes)
        return found

    def _root(self, root: int, rest: _Goals) -> bool:
        """Another root of the pattern: any node it can be reached at that is no root already."""
        if root in self._state.bound:
            return self._solve(rest)
        first = self._state.bound[self.matcher.root]
        taken = {self._state.bound.get(index) for index in self.pattern.roots}
        for node in dict.fromkeys(walk(self.pattern, self.matcher.joins[root], self.matcher.root, first)):
            if (
                node not in taken
                and node.graph is self.graph
                and self._catch(self.pattern.nodes[root], node, rest)
            ):
                return True
        return False

    def _operand(self, goal: tuple[Operand, ir.Value | None, ir.Node, int], rest: _Goals) -> bool:
        term, value, user, position = goal
        if isinstance(term, Variable):
            return self._variable(term, value, user, position) and self._solve(rest)
        if isinstance(term, Absent):
            return value is None and self._solve(rest)
        if value is None:
            return False
        if isinstance(term, Output):
            return self._output(term, value, user, position, rest)
        if isinstance(term, Vector):
            return is_vector(value, term.values) and self._solve(rest)
        return self._number(term, value, user, position) and self._solve(rest)

    def _variable(self, term: Variable, value: ir.Value | None, user: ir.Node, position: int) -> bool:
        state = self._state
        if term.name in state.values:
            return state.values[term.name] is value
        if value is None and not term.optional:
            return False
        self._set(state.values, term.name, value)
        self._set(state.places, term.name, (user, position))
        for condition in self.matcher.early.get(term.name, ()):
            if all(name in state.values for name in condition.names) and not self._doubt(
                condition.objection(state)
            ):
                return False
        return True

    def _number(self, term: Number, value: ir.Value, user: ir.Node, position: int) -> bool:
        tensor = facts.constant(value)
        if tensor is None or tensor.size != 1:
            return False
        found = facts.scalar(value)
        if not isinstance(found, (int, float)) or not is_near(found, term.value, tensor.dtype):
            return False
        return self._doubt(shape_objection(value, user, position))

    def _output(self, term: Output, value: ir.Value, user: ir.Node, position: int, rest: _Goals) -> bool:
        state = self._state
        target = self.pattern.nodes[term.node]
        if (bound := state.bound.get(term.node)) is not None:
            return (
                term.index < len(bound.outputs) and bound.outputs[term.index] is value and self._solve(rest)
            )
        if (passed := state.skipped.get(term.node)) is not None:
            return passed is value and self._solve(rest)
        producer = value.producer()
        if producer is not None and value.index() == term.index and fits(target, producer, self.graph):
            mark, notes = len(self._trail), len(self._notes)
            if self._catch(target, producer, rest):
                return True
            self._undo(mark, notes)
        if not target.call.skippable:
            return False
        self._set(state.skipped, term.node, value)
        return self._solve(((target.operands[0], value, user, position), rest))

    def _catch(self, target: PatternNode, node: ir.Node, rest: _Goals) -> bool:
        """Take a node for an operator of the pattern, then look at its operands."""
        mark, notes = len(self._trail), len(self._notes)
        self._set(self._state.bound, target.index, node)
        if self._label(target, node) and self._attributes(target, node):
            if all(name is None for name in target.targets[len(node.outputs) :]):
                for operands in self._orders(target, node):
                    inner = len(self._trail), len(self._notes)
                    if self._operands(target, node, operands, rest):
                        return True
                    self._undo(*inner)
        self._undo(mark, notes)
        return False

    def _label(self, target: PatternNode, node: ir.Node) -> bool:
        label = target.call.label
        if label is None:
            return True
        choice = (node.domain, node.op_type)
        if label in self._state.labels:
            return self._state.labels[label] == choice
        self._set(self._state.labels, label, choice)
        return True

    def _orders(self, target: PatternNode, node: ir.Node) -> Iterator[Sequence[int]]:
        """The orders in which operands of the pattern meet inputs of the node."""
        count = len(node.inputs)
        yield range(count)
        commutes = node.domain == "" and node.op_type in COMMUTATIVE
        if commutes and 2 <= count <= _PERMUTED and count == len(target.operands):
            orders = permutations(range(count))
            next(orders)
            yield from orders

    def _operands(self, target: PatternNode, node: ir.Node, order: Sequence[int], rest: _Goals) -> bool:
        """Put the operands on the list of goals, those that decide at once first."""
        terms = target.operands
        if terms and isinstance(last := terms[-1], Variable) and last.variadic:
            values = tuple(node.inputs[len(terms) - 1 :])
            if not self._list(last.name, values):
                return False
            terms = terms[:-1]
            order = order[: len(terms)]
        elif any(value is not None for value in node.inputs[len(terms) :]):
            return False
        goals = rest
        pairs = [(term, order[index] if index < len(order) else -1) for index, term in enumerate(terms)]
        for term, position in sorted(pairs, key=lambda pair: _DECIDES[type(pair[0])]):
            value = node.inputs[position] if 0 <= position < len(node.inputs) else None
            goals = ((term, value, node, position), goals)
        return self._solve(goals)

    def _list(self, name: str, values: tuple[ir.Value | None, ...]) -> bool:
        present = tuple(value for value in values if value is not None)
        if len(present) != len(values):
            return False
        if name in self._state.lists:
            return self._state.lists[name] == present
        self._set(self._state.lists, name, present)
        return True

    # attributes

    def _attributes(self, target: PatternNode, node: ir.Node) -> bool:
        if not target.call.attributes and not node.attributes:
            return True
        usual = defaults(node.domain, node.op_type, self.body.version(node.domain))
        for name, term in target.call.attributes:
            if not self._attribute(term, node.attributes.get(name) or usual.get(name)):
                return False
        if target.call.rest is None:
            spelled = {name for name, _ in target.call.attributes}
            for name, found in node.attributes.items():
                if name not in spelled and (
                    found.is_ref() or name not in usual or found.value != usual[name].value
                ):
                    return False
        return True

    def _attribute(self, term: AttributeTerm, found: ir.Attr | None) -> bool:
        if found is not None and found.is_ref():
            return False
        if not isinstance(term, AttributeVariable):
            return found is not None and _equal(term, found.value)
        if found is None and not term.optional:
            return False
        captured = self._state.captured
        if term.name in captured:
            known = captured[term.name]
            return (None if known is None else known.value) == (None if found is None else found.value)
        self._set(captured, term.name, found)
        return True

    # the end

    def _accept(self) -> bool:
        """The structure is there: ask the remaining conditions."""
        if not self._lenient:
            for condition in self.matcher.late:
                if not self._doubt(condition.objection(self._state)):
                    return False
            return self._doubt(self._escape())
        reasons = [*self._notes]
        reasons += [
            reason for item in self.matcher.late if (reason := item.objection(self._state)) is not None
        ]
        if (reason := self._escape()) is not None:
            reasons.append(reason)
        if reasons and (self._best is None or len(reasons) < self._best[0]):
            self._best = (len(reasons), reasons[0])
        self._tries += 1
        return self._tries >= _TRIES

    def _escape(self) -> str | None:
        """Why the inner nodes cannot go: something outside the match uses them."""
        if self.matcher.shared:
            return None
        state = self._state
        inside = set(state.bound.values())
        for index, node in state.bound.items():
            if index in self.matcher.kept:
                continue
            for position, value in enumerate(node.outputs):
                if (index, position) in self.matcher.public:
                    continue
                if value.is_graph_output():
                    return f"the inner value '{value.name}' is an output of the graph"
                count = use_count(value)
                if count > FANOUT or any(user not in inside for user, _ in first_uses(value)):
                    return f"the inner value '{value.name}' is used elsewhere too"
        return None


_DECIDES: Mapping[type, int] = {Variable: 0, Output: 1, Number: 2, Vector: 2, Absent: 3}
"""Operands are put on a stack, so the highest is looked at first."""


def _equal(wanted: AttributeTerm, found: Any) -> bool:
    if isinstance(wanted, tuple):
        return (
            isinstance(found, (tuple, list))
            and len(found) == len(wanted)
            and all(_equal(item, other) for item, other in zip(wanted, found, strict=True))
        )
    if isinstance(wanted, str) or isinstance(found, (str, bytes)):
        return wanted == found
    if not isinstance(found, (int, float)):
        return False
    return is_near(found, float(wanted), ir.DataType.FLOAT if isinstance(found, float) else ir.DataType.INT64)  # type: ignore[arg-type]
