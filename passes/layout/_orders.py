"""The cheapest order for every operator and tensor of a region.

Operators that work in any order choose theirs; all others, and inputs, outputs and inner graphs, keep the own one. The
cheapest choice is a minimum s-t cut: order A is the source's side, B the sink's, and a bundle costs its bytes (and a
node) when it is cut:

    producer -w-> a -inf-> each reader        w is paid if the producer is on side A and a reader on B
    each reader -inf-> b -w-> producer        or the other way round

(D. M. Greig, B. T. Porteous, A. H. Seheult, "Exact maximum a posteriori estimation for binary images", 1989.)
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ._cut import SINK, SOURCE, Network
from ._region import Bundle, Region


@dataclass(frozen=True, eq=False)
class Solution:
    """An order for every movable node and every bundle: 0 is A, 1 is B."""

    region: Region
    nodes: dict[ir.Node, int]
    produced: dict[Bundle, int]

    def is_cut(self, bundle: Bundle) -> bool:
        """It is read in an order in which it is not produced."""
        made = self.produced[bundle]
        return any(
            (self.nodes[node] if node is not None else kind) != made for node, kind in self.region.readers(bundle)
        )

    @property
    def cuts(self) -> list[Bundle]:
        """The bundles that need a transposition."""
        return [bundle for bundle in self.region.bundles if self.is_cut(bundle)]

    @property
    def cost(self) -> int:
        """In bytes."""
        forms = self.region.movable
        return sum(bundle.weight for bundle in self.cuts) + sum(
            forms[node].costs[kind != self.region.own[node]] for node, kind in self.nodes.items()
        )


def solve(region: Region, extra: int = 0) -> Solution:
    """The cheapest orders.

    Args:
        region: what is to be ordered.
        extra: added to the cost of every transposition: a large number makes them as few as can be.
    """
    network = Network()
    wishes = [False, True]
    spots: dict[ir.Node, int] = {}
    for node, form in region.movable.items():
        own = region.own[node]
        spots[node] = network.vertex()
        wishes.append(bool(own))
        if any(form.costs):
            at_a, at_b = form.costs if own == 0 else form.costs[::-1]
            network.edge(spots[node], SINK, at_a)
            network.edge(SOURCE, spots[node], at_b)
    infinite = 1 + region.most + extra * len(region.bundles)
    producers: list[int] = []
    for bundle in region.bundles:
        producer = _producer(region, bundle, spots)
        if producer is None:
            producer = network.vertex()
            wishes.append(bool(region.kinds[bundle.root]))
        producers.append(producer)
        ends = (SOURCE, SINK)
        readers = {spots[node] if node is not None else ends[kind] for node, kind in region.readers(bundle)}
        readers.discard(producer)
        weight = bundle.weight + extra
        if len(readers) == 1:
            network.edge(producer, readers.pop(), weight, weight)
        elif readers:
            ahead, behind = network.vertex(), network.vertex()
            wishes += [bool(region.kinds[bundle.root])] * 2
            network.edge(producer, ahead, weight)
            network.edge(behind, producer, weight)
            for reader in sorted(readers):
                network.edge(ahead, reader, infinite)
                network.edge(reader, behind, infinite)
    side = network.cut(prefer_sink=wishes)
    return Solution(
        region,
        {node: int(side[spot]) for node, spot in spots.items()},
        {bundle: int(side[spot]) for bundle, spot in zip(region.bundles, producers, strict=True)},
    )


def _producer(region: Region, bundle: Bundle, spots: dict[ir.Node, int]) -> int | None:
    """Where the bundle is produced; None when its producer can give it in either order."""
    node = bundle.root.producer()
    if node is not None and node in spots and node.outputs.index(bundle.root) in region.movable[node].results:
        return spots[node]
    if node is not None and (node in region.entries or region.is_other_transpose(node)):
        return None
    return SINK if region.kinds[bundle.root] else SOURCE
