"""A pattern made ready for matching: its anchor, the ways to it, and when each condition is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from .conditions import Condition
from .paths import Step, Walker, fits, ways_to
from .pattern import Pattern

STEPS = 24
"""A search that has taken this many steps for each operator and operand of its pattern is given up."""


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
        self.walker = Walker(pattern, frozenset() if shared else self._inner())

    def _inner(self) -> frozenset[tuple[int, int]]:
        every = {
            (node.index, number)
            for node in self.pattern.nodes
            for number in range(len(node.targets))
            if node.index not in self.kept
        }
        return frozenset(every - self.public)

    def _nearest_root(self) -> tuple[int, tuple[Step, ...]]:
        roots = [
            (len(way), root, way) for root in self.pattern.roots if (way := self._way(self.anchor, root)) is not None
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
            if fits(pattern_node, node, node.graph) and (way := self.ways.get(pattern_node.index)) is not None:
                yield from self.walker.walk(way, pattern_node.index, node)

    def roots(self, anchor: ir.Node) -> list[ir.Node]:
        """The nodes that could be the root of a match with this anchor."""
        return list(dict.fromkeys(self.walker.walk(self.up, self.anchor, anchor)))
