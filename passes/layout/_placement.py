"""Writing a region down in the orders that were found for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._form import Form, Order, Stored, View, rewritten
from ._orders import Solution
from ._region import Bundle, Region, inverted, permutation

Look = Callable[[ir.Node, Order], View]


class Placement:
    """Puts a solution into the graph.

    Nodes that work in another order than before are written anew; what they replace is removed. A Transpose stands
    right behind what produces its operand.
    """

    def __init__(self, solution: Solution, look: Look) -> None:
        self._region: Region = solution.region
        self._solution = solution
        self._look = look
        self._before = set(solution.region.kinds)
        self._made: dict[tuple[Bundle, int], ir.Value] = {}  # a bundle in an order
        self._constants: Stored = {}

    def write(self) -> None:
        """Change the graph."""
        region, solution = self._region, self._solution
        for bundle in region.bundles:
            own = region.kinds[bundle.root]
            if solution.produced[bundle] == own:
                self._made[bundle, own] = bundle.root
        moved = [node for node, kind in solution.nodes.items() if kind != region.own[node]]
        entries = [node for node in region.entries if self._is_turned(node.outputs[0])]
        exits = [node for node in region.exits if node.inputs[0] is not None and self._is_turned(node.inputs[0])]
        others = self._other_transposes()
        gone = {*moved, *entries, *exits, *others, *region.transposes}
        for node in self._in_order([*moved, *entries, *exits, *others]):
            if node in others:
                self._turn(node, others[node])
            elif node in region.exits:
                self._finish(node, region.exits[node])
            elif node in region.entries:
                self._rewrite(node, region.entries[node], region.kinds[node.outputs[0]])
            else:
                self._rewrite(node, region.movable[node], region.own[node])
        for bundle in region.bundles:
            for value in bundle.members:
                self._serve(bundle, value, gone)
        for node in gone:
            gir.erase_if_dead(node)  # with its producers, as soon as the last of their readers has gone

    def _in_order(self, nodes: list[ir.Node]) -> list[ir.Node]:
        """What makes a bundle before what reads it; looks at the region only, since a graph may have many."""
        ordered: dict[ir.Node, None] = {}
        waiting = set(nodes)
        pending = list(reversed(nodes))
        while pending:
            node = pending[-1]
            if node in waiting:
                waiting.discard(node)
                pending.extend(maker for maker in self._makers(node) if maker in waiting)
            else:
                ordered.setdefault(pending.pop())
        return list(ordered)

    def _makers(self, node: ir.Node) -> Iterator[ir.Node]:
        """Of the bundles a node reads."""
        for value in node.inputs:
            bundle = self._region.bundle_of.get(value) if value is not None else None
            maker = bundle.root.producer() if bundle is not None else None
            if maker is not None:
                yield maker

    def _is_turned(self, value: ir.Value) -> bool:
        """The bundle is produced in another order than this value's own."""
        region = self._region
        return self._solution.produced[region.bundle_of[value]] != region.kinds[value]

    def _other_transposes(self) -> dict[ir.Node, tuple[bool, bool]]:
        """Those between other orders whose operand or result is now in another order."""
        region = self._region
        found: dict[ir.Node, tuple[bool, bool]] = {}
        for value in region.kinds:
            for node, index in value.uses():
                if index == 0 and region.is_other_transpose(node) and self._is_turned(value):
                    found[node] = (True, False)
        for value in region.kinds:
            node = value.producer()
            if node is not None and region.is_other_transpose(node) and self._is_turned(value):
                found[node] = (node in found, True)
        return found

    def _turn(self, node: ir.Node, turned: tuple[bool, bool]) -> None:
        region = self._region
        operand, result = node.inputs[0], node.outputs[0]
        order = permutation(node)
        assert operand is not None and order is not None
        source = operand
        if turned[1]:
            order = tuple(order[axis] for axis in region.pair.other(region.kinds[result]))
        if turned[0]:
            place = inverted(region.pair.other(region.kinds[operand]))
            order = tuple(place[axis] for axis in order)
            source = self._get(region.bundle_of[operand], 1 - region.kinds[operand])
        if order == tuple(range(len(order))):
            new = source
        else:
            made = _transpose(source, order, result)
            gir.insert_before(node, made)
            made.name = node.name
            new = made.outputs[0]
        self._hand_over(result, new, turned=turned[1])

    def _rewrite(self, node: ir.Node, form: Form, kind: int) -> None:
        region = self._region
        view = self._look(node, region.pair.other(kind))
        operands: dict[int, ir.Value] = {}
        for index in form.carried:
            operand = node.inputs[index]
            assert operand is not None
            operands[index] = self._get(region.bundle_of[operand], 1 - kind)
        new = rewritten(form, node, view, operands, self._constants)
        gir.insert_before(node, new)
        for index in form.results:
            if node.outputs[index] in region.bundle_of:
                self._made[region.bundle_of[node.outputs[index]], 1 - kind] = new.outputs[index]

    def _finish(self, node: ir.Node, form: Form) -> None:
        """A node at the end: the same result from the operand as it is produced."""
        region, operand = self._region, node.inputs[0]
        assert operand is not None and node.graph is not None
        kind = region.kinds[operand]
        view = self._look(node, region.pair.other(kind))
        new = rewritten(form, node, view, {0: self._get(region.bundle_of[operand], 1 - kind)}, self._constants)
        gir.insert_before(node, new)
        result = new.outputs[0]
        if form.gather:
            indices = gir.new_initializer(node.graph, np.array(form.gather, np.int64), "axes")
            gather = ir.node("Gather", [result, indices], {"axis": 0})
            gir.insert_before(node, gather)
            result = gather.outputs[0]
            result.type, result.shape = node.outputs[0].type, node.outputs[0].shape
        self._hand_over(node.outputs[0], result)

    def _hand_over(self, old: ir.Value, new: ir.Value, *, turned: bool = False) -> None:
        """The result of a node at the border, which may be the root of another bundle of this region."""
        region = self._region
        if old in region.bundle_of:
            self._made[region.bundle_of[old], abs(region.kinds[old] - turned)] = new
        else:
            self._succeed(old, new)

    def _succeed(self, old: ir.Value, new: ir.Value) -> None:
        """Replace a value; what is new takes its name."""
        is_new = new.producer() is not None and new not in self._before
        (gir.succeed if is_new else gir.replace)(old, new)

    def _serve(self, bundle: Bundle, value: ir.Value, gone: set[ir.Node]) -> None:
        """Give those who read a value in its own order, and stay, what it is now."""
        region = self._region
        kind = region.kinds[value]
        if (bundle, kind) in self._made and self._made[bundle, kind] is value:
            return
        served = any(
            user not in gone and not (region.is_free_reader(user, index) and self._is_turned(value))
            for user, index in value.uses()
        )
        if served or value.is_graph_output():
            producer = value.producer()
            if producer in region.transposes and producer.inputs[0] is self._made.get((bundle, 1 - kind)):
                self._reuse(bundle, kind, producer)
            new = self._get(bundle, kind)
            if new is not value:
                self._succeed(value, new)

    def _reuse(self, bundle: Bundle, kind: int, transpose: ir.Node) -> None:
        """Keep a Transpose that does already what is needed; others than its old readers may read it now."""
        source = transpose.inputs[0]
        assert source is not None
        if (bundle, kind) not in self._made:
            self._made[bundle, kind] = transpose.outputs[0]
            self._region.graph.remove(transpose)
            self._put_behind(source, transpose)

    def _put_behind(self, source: ir.Value, node: ir.Node) -> None:
        graph, producer = self._region.graph, source.producer()
        if producer is not None and producer.graph is graph:
            gir.insert_after(producer, node)
        elif len(graph):
            gir.insert_before(graph[0], node)
        else:
            graph.append(node)

    def _get(self, bundle: Bundle, kind: int) -> ir.Value:
        """The bundle in an order, transposed once where it is not produced so."""
        if (bundle, kind) not in self._made:
            source = self._made[bundle, 1 - kind]
            pair, root = self._region.pair, bundle.root
            node = _transpose(source, pair.back if kind == 0 else pair.there, root)
            self._put_behind(source, node)
            self._made[bundle, kind] = node.outputs[0]
        return self._made[bundle, kind]


def _transpose(source: ir.Value, order: Order, like: ir.Value) -> ir.Node:
    node = ir.node("Transpose", [source], {"perm": list(order)})
    result = node.outputs[0]
    result.type = source.type or like.type
    if source.shape is not None and len(source.shape) == len(order):
        result.shape = ir.Shape([source.shape.dims[axis] for axis in order])
    result.name = f"{source.name}_transposed" if source.name else None
    return node
