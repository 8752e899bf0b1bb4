"""Ways through a pattern, and walking them in a graph: from any node of a match to its anchor or root.

A step goes up (from a value to an operator that uses it), down (from an operand to the operator that computes
it) or sideways (from an operand to another operator with the same operand). Walking a way through a graph
looks at ``FANOUT`` users of a value at most, so it takes constant time.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import onnx_ir as ir

from .pattern import Output, Pattern, PatternNode
from .schema import COMMUTATIVE
from .syntax import Variable
from .uses import FANOUT, first_uses, use_count

UP, DOWN, SIDE = "up", "down", "side"
_COST = {UP: 1, DOWN: 1, SIDE: 10}  # sideways goes through a value with any number of users


@dataclass(frozen=True, slots=True)
class Step:
    """One step between neighbouring operators of a pattern.

    Attributes:
        kind: ``up``, ``down`` or ``side``.
        target: the operator it leads to.
        here: the operand (``down``, ``side``) or the output (``up``) it leaves by.
        there: the operand (``up``, ``side``) or the output (``down``) it arrives at.
    """

    kind: str
    target: int
    here: int
    there: int


def steps_from(pattern: Pattern) -> list[list[Step]]:
    """All steps that leave each operator."""
    steps: list[list[Step]] = [[] for _ in pattern.nodes]
    places: dict[str, list[tuple[int, int]]] = {}
    for node in pattern.nodes:
        for position, operand in enumerate(node.operands):
            if isinstance(operand, Output):
                steps[node.index].append(Step(DOWN, operand.node, position, operand.index))
                steps[operand.node].append(Step(UP, node.index, operand.index, position))
            elif isinstance(operand, Variable) and not operand.variadic:
                places.setdefault(operand.name, []).append((node.index, position))
    for uses in places.values():
        for first, here in uses:
            steps[first].extend(Step(SIDE, second, here, there) for second, there in uses if second != first)
    return steps


def ways_to(pattern: Pattern, target: int) -> dict[int, tuple[Step, ...]]:
    """The cheapest way from each operator to one of them; operators without a way are left out."""
    steps = steps_from(pattern)
    arriving: list[list[tuple[int, Step]]] = [[] for _ in pattern.nodes]
    for source, leaving in enumerate(steps):
        for step in leaving:
            arriving[step.target].append((source, step))
    best: dict[int, tuple[Step, ...]] = {}
    queue: list[tuple[int, int, int, tuple[Step, ...]]] = [(0, 0, target, ())]
    count = 0
    while queue:
        cost, _, index, way = heapq.heappop(queue)
        if index in best:
            continue
        best[index] = way
        for source, step in arriving[index]:
            if source not in best:
                count += 1
                heapq.heappush(queue, (cost + _COST[step.kind], count, source, (step, *way)))
    return best


def fits(pattern_node: PatternNode, node: ir.Node, graph: ir.Graph | None) -> bool:
    """True when a node of the graph is one of the operators that the pattern asks for."""
    return (node.domain, node.op_type) in pattern_node.choices and node.graph is graph and not node.overload


class Walker:
    """Walks ways through the graph.

    Args:
        pattern: whose ways.
        inner: outputs of the pattern, as (operator, number), that nothing outside of a match may use. A value with
            too many users is none of these.
    """

    def __init__(self, pattern: Pattern, inner: frozenset[tuple[int, int]]) -> None:
        self._nodes = pattern.nodes
        self._inner = inner

    def walk(self, way: tuple[Step, ...], start: int, node: ir.Node) -> Iterator[ir.Node]:
        """The nodes at the end of a way that begins at a node, also past operators that may be missing."""
        return islice(self._walk(way, self._nodes[start], node, None), FANOUT)

    def _walk(
        self, way: tuple[Step, ...], at: PatternNode, node: ir.Node | None, value: ir.Value | None
    ) -> Iterator[ir.Node]:
        """``node`` stands for the operator ``at``; when that is missing, ``value`` passes through it."""
        if not way:
            if node is not None:
                yield node
            return
        step, rest = way[0], way[1:]
        target = self._nodes[step.target]
        for leaving in _leave(step, node, value):
            if step.kind == DOWN:
                producer = leaving.producer()
                graph = node.graph if node is not None else None
                if producer is not None and fits(target, producer, graph or producer.graph):
                    yield from self._walk(rest, target, producer, None)
                passes = True
            else:
                if step.kind == UP and (at.index, step.here) in self._inner and use_count(leaving) > FANOUT:
                    continue
                for user, position in first_uses(leaving):
                    if (position == step.there or _commutes(user)) and fits(target, user, user.graph):
                        yield from self._walk(rest, target, user, None)
                passes = step.there == 0
            if target.call.skippable and passes:
                yield from self._walk(rest, target, None, leaving)


def _leave(step: Step, node: ir.Node | None, value: ir.Value | None) -> Iterator[ir.Value]:
    """The values by which a step leaves a node."""
    if node is None:
        assert value is not None
        yield value
    elif step.kind == UP:
        if step.here < len(node.outputs):
            yield node.outputs[step.here]
    elif _commutes(node):
        yield from dict.fromkeys(operand for operand in node.inputs[:FANOUT] if operand is not None)
    elif step.here < len(node.inputs) and (operand := node.inputs[step.here]) is not None:
        yield operand


def _commutes(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type in COMMUTATIVE
