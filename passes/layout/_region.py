"""A region: the tensors that one pair of transpositions ties together.

Given are a permutation p and its inverse. Two orders of axes, A and B = p of A, are open to every tensor of the region:
the own order of some is A, of those behind a Transpose by p it is B. A tensor and its transposed twin hold the same
numbers and are one *bundle*, produced once in one of the orders and read in one or both; where a reader's order is not
the producer's, one Transpose serves all such readers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from graphopt import ir as gir

from ._form import Form, Order, nominal_bytes

NODE = 4096  # bytes that could be moved in the time a node takes that moves none

Describe = Callable[[ir.Node, Order], Form | None]


@dataclass(frozen=True)
class Pair:
    """A permutation and its inverse; kind 0 is what a Transpose by ``there`` reads, kind 1 what it gives."""

    there: Order
    back: Order

    @classmethod
    def of(cls, order: Order) -> Pair:
        """The pair with the smaller permutation first."""
        inverse = inverted(order)
        return cls(min(order, inverse), max(order, inverse))

    def other(self, kind: int) -> Order:
        """The other order of a tensor of this kind."""
        return self.back if kind else self.there

    def kinds(self, order: Order | None) -> tuple[tuple[int, int], ...]:
        """The kinds of operand and result that a Transpose can have."""
        found = ((0, 1),) if order == self.there else ()
        return (*found, (1, 0)) if order == self.back else found


def inverted(order: Order) -> Order:
    """The permutation that undoes another."""
    return tuple(order.index(axis) for axis in range(len(order)))


def permutation(node: ir.Node) -> Order | None:
    """What a Transpose does; None for other nodes, and when it is not written in the node or moves nothing."""
    if not gir.is_op(node, "Transpose") or gir.has_reference(node) or not node.inputs or node.inputs[0] is None:
        return None
    given = gir.attribute(node, "perm")
    if given is None:
        rank = gir.rank(node.inputs[0])
        given = tuple(reversed(range(rank or 0)))
    order = tuple(int(axis) for axis in given)
    return order if sorted(order) == list(range(len(order))) and list(order) != sorted(order) else None


@dataclass(eq=False)
class Bundle:
    """One tensor under all its names in the region.

    Attributes:
        root: the value that is no result of one of the region's transpositions.
        members: the root, and what these make of it.
        weight: the cost of a transposition.
    """

    root: ir.Value
    members: list[ir.Value] = field(default_factory=list)
    weight: int = 0


class Region:
    """What hangs together with one Transpose.

    Attributes:
        kinds: of each value: 0 when its own order is A, 1 when it is B.
        movable: nodes that may work in either order; own: in which of the two each does as it stands.
        exits, entries: nodes that read, or give, a tensor of the region in any order and have no order else.
        transposes: the Transpose nodes between the orders, in the order in which they were found.
    """

    def __init__(self, start: ir.Node, pair: Pair, describe: Describe, ends: tuple[Describe, Describe]) -> None:
        assert start.graph is not None
        self.graph = start.graph
        self.pair = pair
        self.kinds: dict[ir.Value, int] = {}
        self.movable: dict[ir.Node, Form] = {}
        self.own: dict[ir.Node, int] = {}
        self.transposes: dict[ir.Node, None] = {}
        self.exits: dict[ir.Node, Form] = {}
        self.entries: dict[ir.Node, Form] = {}
        self._refused: set[ir.Node] = set()
        self._describe = describe
        self._grow(start)
        self.bundles = self._bundles()
        self.bundle_of = {value: bundle for bundle in self.bundles for value in bundle.members}
        self._find_ends(*ends)

    def _grow(self, start: ir.Node) -> None:
        pending = list(self._tie(start))
        while pending:
            value = pending.pop()
            producer = value.producer()
            nodes = [user for user, _ in value.uses() if user.graph is self.graph]
            if producer is not None and producer.graph is self.graph:
                nodes.append(producer)
            for node in nodes:
                if node in self.transposes or node in self.movable or node in self._refused:
                    continue
                if gir.is_op(node, "Transpose"):
                    pending.extend(self._tie(node))
                else:
                    pending.extend(self._admit(node, value))

    def _tie(self, transpose: ir.Node) -> Iterator[ir.Value]:
        """Make a Transpose one of the region's, when the kinds on both sides agree with it."""
        operand, result = transpose.inputs[0] if transpose.inputs else None, transpose.outputs[0]
        if operand is None or gir.constant(operand) is not None:
            return
        for kinds in self.pair.kinds(permutation(transpose)):
            if self.kinds.get(operand, kinds[0]) == kinds[0] and self.kinds.get(result, kinds[1]) == kinds[1]:
                self.transposes[transpose] = None
                yield from self._put(operand, kinds[0])
                yield from self._put(result, kinds[1])
                return

    def _put(self, value: ir.Value, kind: int) -> Iterator[ir.Value]:
        if value not in self.kinds:
            self.kinds[value] = kind
            yield value

    def _admit(self, node: ir.Node, value: ir.Value) -> Iterator[ir.Value]:
        """Take a node in that works in any order, with all it carries."""
        kind = self.kinds[value]
        form = self._describe(node, self.pair.other(kind))
        if form is None or not form.results:
            self._refused.add(node)
            return
        values = [node.inputs[index] for index in form.carried] + [node.outputs[index] for index in form.results]
        carried = [item for item in values if item is not None and item.name != ""]
        if value not in carried:
            return  # read as a parameter
        if any(self.kinds.get(item, kind) != kind for item in carried):
            self._refused.add(node)
            return
        self.movable[node], self.own[node] = form, kind
        for item in carried:
            yield from self._put(item, kind)

    def _bundles(self) -> list[Bundle]:
        found: dict[ir.Value, Bundle] = {}
        for value in self.kinds:
            root, producer = value, value.producer()
            while producer is not None and producer in self.transposes:
                operand = producer.inputs[0]
                assert operand is not None
                root, producer = operand, operand.producer()
                if root in found:
                    root = found[root].root
                    break
            bundle = found.setdefault(root, Bundle(root))
            found.setdefault(value, bundle)
            bundle.members.append(value)
        bundles = list(dict.fromkeys(found.values()))
        for bundle in bundles:
            bundle.weight = NODE + nominal_bytes(bundle.root)
        return bundles

    def _find_ends(self, describe_exit: Describe, describe_entry: Describe) -> None:
        for bundle in self.bundles:
            node = bundle.root.producer()
            if node is None or node.graph is not self.graph or node in self.movable or node in self.entries:
                continue
            order = self.pair.other(self.kinds[bundle.root])
            form = describe_entry(node, order)
            if form is not None and bundle.root is node.outputs[0]:
                self.entries[node] = form
        for value, kind in self.kinds.items():
            for node, index in value.uses():
                if node.graph is not self.graph or node in self.movable or node in self.entries or index != 0:
                    continue
                form = describe_exit(node, self.pair.other(kind))
                if form is not None and form.carried == (0,) and not form.results:
                    self.exits[node] = form

    def is_free_reader(self, node: ir.Node, index: int) -> bool:
        """It reads the tensor in any order, and keeps its own result."""
        return index == 0 and (node in self.exits or self.is_other_transpose(node))

    def is_other_transpose(self, node: ir.Node | None) -> bool:
        """A Transpose between other orders than the region's two: its permutation takes up any order."""
        if node is None or node.graph is not self.graph or node in self.transposes:
            return False
        return permutation(node) is not None

    def readers(self, bundle: Bundle) -> Iterator[tuple[ir.Node | None, int]]:
        """Who needs the bundle in a certain order: a movable node, or None for a fixed one, and the own kind there."""
        for value in bundle.members:
            kind = self.kinds[value]
            if value.is_graph_output():
                yield None, kind
            for node, index in value.uses():
                if node in self.transposes:
                    continue
                if node in self.movable and index in self.movable[node].carried:
                    yield node, kind
                elif node.graph is not self.graph or not self.is_free_reader(node, index):
                    yield None, kind

    @property
    def cost(self) -> int:
        """Of the graph as it is."""
        moved = sum(self.bundle_of[node.outputs[0]].weight for node in self.transposes)
        return moved + sum(form.costs[0] for form in self.movable.values())

    @property
    def most(self) -> int:
        """What no placement exceeds."""
        moved = sum(bundle.weight for bundle in self.bundles)
        return moved + sum(sum(form.costs) for form in self.movable.values())
