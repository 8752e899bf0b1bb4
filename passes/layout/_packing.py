"""Which nodes of a graph work on packed channels: those with which the least is moved and computed.

A node that can (``_packable.py``) takes the source's side of a network when it stays as it is, the sink's when it is
packed. What is produced on one side and read on the other is converted once, at the price of its bytes; a convolution
that stays costs more than a packed one. The minimum cut is the cheapest choice for all of them together (the
construction is the one of ``_orders.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir

from graphopt import ir as gir

from ._cut import SINK, SOURCE, Network
from ._form import nominal_bytes
from ._packable import Packable, Refused, channels_of
from ._packed import DOMAIN
from ._packed_conv import from_plain
from ._packed_forms import Forms
from ._region import NODE


class Packing:
    """What could be packed in one graph.

    Attributes:
        nodes: all that hang together with a convolution, each with how it works on packed channels.
        refused: convolutions that cannot, with the reason.
    """

    def __init__(self, graph: ir.Graph, look: Forms) -> None:
        self.graph = graph
        self.look = look
        self.nodes: dict[ir.Node, Packable] = {}
        self.refused: dict[ir.Node, str] = {}
        self._seen: set[ir.Node | ir.Value] = set()
        for node in graph:
            if gir.is_op(node, "Conv"):
                self._grow(node)
        self._read_images()

    @property
    def convolutions(self) -> list[ir.Node]:
        """Those that can be packed."""
        return [node for node in self.nodes if gir.is_op(node, "Conv")]

    def _grow(self, start: ir.Node) -> None:
        pending = [start]
        while pending:
            node = pending.pop()
            if node.graph is not self.graph or node in self._seen:
                continue
            self._seen.add(node)
            try:
                found = self.look.of(node)
            except Refused as reason:
                self.refused[node] = str(reason)
                continue
            if found is None:
                continue
            self.nodes[node] = found
            for value in found.tensors(node):
                if value not in self._seen:
                    self._seen.add(value)
                    pending.extend(user for user, _ in value.uses())
                    pending.extend(item for item in (value.producer(),) if item is not None)

    def _read_images(self) -> None:
        """What nothing here could pack is read as it comes where a convolution can; nor is it packed again."""
        for node, form in self.nodes.items():
            value = node.inputs[0]
            if value is not None and form.carried and self.makes(value) is None and not _is_unpacked(value):
                self.nodes[node] = from_plain(node, self.look.blocks) or form

    def _gives(self, node: ir.Node | None) -> bool:
        return node is not None and bool(self.nodes[node].results)

    def makes(self, value: ir.Value) -> ir.Node | None:
        """The node that gives the value packed if it is packed itself."""
        node = value.producer()
        return node if node in self.nodes and self._gives(node) else None

    def readers(self, value: ir.Value) -> Iterator[ir.Node | None]:
        """Who reads the value, in the way that their side asks for; None for those who need it as it is."""
        if value.is_graph_output():
            yield None
        for node, index in value.uses():
            found = self.nodes.get(node)
            yield node if found is not None and index in found.carried else None

    def _values(self) -> dict[ir.Value, None]:
        return dict.fromkeys(value for node, form in self.nodes.items() for value in form.tensors(node))

    def _weight(self, value: ir.Value) -> int:
        channels = channels_of(value)
        assert channels is not None
        return NODE + nominal_bytes(value) * self.look.blocks.filled(channels) // channels

    def solve(self) -> dict[ir.Node, None]:
        """The nodes to pack; those that could as well stay go along, since kernels take in what follows them."""
        network = Network()
        spots = {node: network.vertex() for node in self.nodes}
        vertices = 2 + len(spots)
        values = self._values()
        infinite = (
            1 + sum(self._weight(value) for value in values) + sum(sum(form.costs) for form in self.nodes.values())
        )
        for node, form in self.nodes.items():
            if any(form.costs):
                network.edge(spots[node], SINK, form.costs[0])
                network.edge(SOURCE, spots[node], form.costs[1])
        for value in values:
            maker = self.makes(value)
            producer = SOURCE if maker is None else spots[maker]
            readers = {SOURCE if node is None else spots[node] for node in self.readers(value)} - {producer}
            if len(readers) == 1:
                network.edge(producer, readers.pop(), self._weight(value), self._weight(value))
            elif readers:
                ahead, behind = network.vertex(), network.vertex()
                vertices += 2
                network.edge(producer, ahead, self._weight(value))
                network.edge(behind, producer, self._weight(value))
                for reader in sorted(readers):
                    network.edge(ahead, reader, infinite)
                    network.edge(reader, behind, infinite)
        side = network.cut(prefer_sink=[True] * vertices)
        return {node: None for node in self.graph if node in spots and side[spots[node]]}

    def parts(self) -> list[Part]:
        """The nodes to pack, those together that share a tensor."""
        chosen = self.solve()
        number: dict[ir.Node, int] = {}
        found: list[Part] = []
        seen: set[ir.Value] = set()
        for start in chosen:
            if start in number:
                continue
            number[start] = len(found)
            pending = [start]
            while pending:
                node = pending.pop()
                for value in self.nodes[node].tensors(node):
                    if value in seen:
                        continue
                    seen.add(value)
                    for other in (self.makes(value), *self.readers(value)):
                        if other is not None and other in chosen and other not in number:
                            number[other] = len(found)
                            pending.append(other)
            found.append(Part(self, []))
        for node in chosen:
            found[number[node]].nodes.append(node)
        return found


@dataclass(eq=False)
class Part:
    """Nodes to pack that hang together, in the order in which they stand."""

    packing: Packing
    nodes: list[ir.Node]

    @property
    def first(self) -> ir.Node:
        """The first convolution; there is one, since nothing else saves anything."""
        return next((node for node in self.nodes if gir.is_op(node, "Conv")), self.nodes[0])

    @property
    def convolutions(self) -> int:
        """How many of the nodes are convolutions."""
        return sum(1 for node in self.nodes if gir.is_op(node, "Conv"))

    def conversions(self) -> tuple[int, int]:
        """How many Pack and Unpack are needed."""
        packs: set[ir.Value] = set()
        unpacks = 0
        for node in self.nodes:
            form = self.packing.nodes[node]
            values = [node.inputs[index] for index in form.carried]
            packs.update(value for value in values if value is not None and not self._makes(value))
            unpacks += sum(self.is_unpacked(node.outputs[index]) for index in form.results)
        return len(packs), unpacks

    @cached_property
    def _inside(self) -> set[ir.Node]:
        return set(self.nodes)

    def _makes(self, value: ir.Value) -> bool:
        return self.packing.makes(value) in self._inside

    def is_unpacked(self, value: ir.Value) -> bool:
        """Someone needs a value that is made packed as it was."""
        return any(reader not in self._inside for reader in self.packing.readers(value))

    def single(self) -> int:
        """How many conversions there would be with each convolution packed by itself."""
        forms = (self.packing.nodes[node] for node in self.nodes if gir.is_op(node, "Conv"))
        return sum(1 + len(form.carried) for form in forms)


def _is_unpacked(value: ir.Value) -> bool:
    """An earlier run has decided against more."""
    node = value.producer()
    return node is not None and node.domain == DOMAIN
