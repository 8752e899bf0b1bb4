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

from .attributes import attributes_of, same
from .constants import is_near, is_vector, shape_objection
from .match import Match
from .matcher import Matcher
from .paths import fits
from .pattern import Operand, Output, PatternNode
from .schema import COMMUTATIVE
from .syntax import Absent, Number, Variable, Vector
from .uses import FANOUT, first_uses, use_count

_TRIES = 8  # structural matches that are looked at for the best reason to report
_PERMUTED = 4  # operands of a commutative operator that are tried in every order

_Goal: TypeAlias = "tuple[Operand, ir.Value | None, ir.Node, int] | int"
_Goals: TypeAlias = "tuple[_Goal, _Goals] | None"


@dataclass(frozen=True, slots=True, eq=False)
class Refusal:
    """The structure of a pattern is at a node, but a condition does not hold."""

    root: ir.Node
    reason: str


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
        for other in reversed(list(self.matcher.joins)):
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
        for node in dict.fromkeys(self.matcher.walker.walk(self.matcher.joins[root], self.matcher.root, first)):
            if node not in taken and node.graph is self.graph and self._catch(self.pattern.nodes[root], node, rest):
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
            if all(name in state.values for name in condition.names) and not self._doubt(condition.objection(state)):
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
            return term.index < len(bound.outputs) and bound.outputs[term.index] is value and self._solve(rest)
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
        named = target.targets[len(node.outputs) :]
        if self._label(target, node) and self._attributes(target, node) and not any(named):
            for operands in self._orders(target, node):
                inner = len(self._trail), len(self._notes)
                if self._operands(target, node, operands, rest):
                    return True
                self._undo(*inner)
        self._undo(mark, notes)
        return False

    def _attributes(self, target: PatternNode, node: ir.Node) -> bool:
        if not target.call.attributes and not node.attributes:
            return True
        found = attributes_of(target, node, self.body.version(node.domain))
        if found is None:
            return False
        captured = self._state.captured
        for name, attribute in found:
            if name not in captured:
                self._set(captured, name, attribute)
            elif not same(captured[name], attribute):
                return False
        return True

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

    # the end

    def _accept(self) -> bool:
        """The structure is there: ask the remaining conditions."""
        if not self._lenient:
            for condition in self.matcher.late:
                if not self._doubt(condition.objection(self._state)):
                    return False
            return self._doubt(self._escape())
        reasons = [*self._notes]
        reasons += [reason for item in self.matcher.late if (reason := item.objection(self._state)) is not None]
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
