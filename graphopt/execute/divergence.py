"""Where two models part: the first tensor both have that differs.

Search upstream from a differing output: of the tensors both models have by name and that reach it, tap a
few, evenly spread in topological order, in both models. The earliest that differs takes the place of the
output; a tensor that agrees closes every path through it. Each round leaves about a tenth, so the runs grow
with the logarithm of the graph. At the end everything upstream of the tensor found agrees, which is what
makes it the first.

A tensor that only shares the name (a Conv that has taken in the BatchNormalization behind it) misleads only
if no agreeing tensor lies between it and the output.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir import load

from .compare import Difference, Tolerance, compare
from .rounding import Rounding
from .session import Evaluator, Session
from .signature import Feeds
from .taps import Taps
from .verify import allowances

_PROBES = 12


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first tensor in which two models differ.

    Attributes:
        tensor: its name.
        where: the node of the second model that computes it.
        difference: how it differs.
        agreed: the nearest tensors upstream that both models have, and that agree; empty when only inputs
            are.
        feed: which of the feeds shows it.
        output: the output through which it was found.
        runs: how many pairs of runs it took.
    """

    tensor: str
    where: str
    difference: Difference
    agreed: tuple[str, ...]
    feed: int
    output: str
    runs: int

    def __str__(self) -> str:
        origin = f", computed from {', '.join(map(repr, self.agreed[:4]))} which agree" if self.agreed else ""
        return f"'{self.tensor}' of {self.where} is the first to differ{origin}: {self.difference.reason}"


def first_divergence(
    a: ir.Model | str | Path,
    b: ir.Model | str | Path,
    feeds: Iterable[Feeds],
    tolerance: Tolerance | None = None,
    *,
    threads: int = 1,
) -> Divergence | None:
    """The first tensor that differs, or None when all outputs agree on all feeds.

    Args:
        a: the model that is right by definition.
        b: the model in question; it must load and run.
        feeds: the first one on which an output differs is used.
        tolerance: as for ``verify``.
        threads: threads within an operator.

    Raises:
        GraphoptError: one of the models does not load or run, or an output is missing.
    """
    left, right = _loaded(a), _loaded(b)
    rounding = None if tolerance is not None else Rounding(left)
    truth = Session(a, optimized=False, threads=threads)
    other = Session(b, optimized=False, threads=threads, evaluator=truth.evaluator)
    for index, feed in enumerate(feeds):
        expected, actual = truth.run(feed), other.run(feed)
        missing = sorted(set(expected) - set(actual))
        if missing:
            raise GraphoptError(f"the second model has no output '{missing[0]}'", "verify", "")
        wrong = [item for item in compare(expected, actual, allowances(expected, tolerance, rounding)) if not item.ok]
        if wrong:
            search = _Search(left, right, tolerance, rounding, threads, truth.evaluator)
            first = min(wrong, key=lambda item: search.order.get(item.name, 0))
            return search.upstream(first, feed, index)
    return None


def _loaded(model: ir.Model | str | Path) -> ir.Model:
    return load(model) if isinstance(model, (str, Path)) else model


class _Search:
    def __init__(
        self,
        a: ir.Model,
        b: ir.Model,
        tolerance: Tolerance | None,
        rounding: Rounding | None,
        threads: int,
        evaluator: Evaluator,
    ) -> None:
        self._taps = tuple(Taps(model, threads=threads, evaluator=evaluator) for model in (a, b))
        self._tolerance, self._rounding = tolerance, rounding
        self._common = set(self._taps[0].names) & set(self._taps[1].names)
        self._sources = _sources(a)
        self._places = {value.name: node for node in b.graph for value in node.outputs}
        self.order = {name: index for index, name in enumerate(self._taps[0].names)}

    def upstream(self, culprit: Difference, feed: Feeds, index: int) -> Divergence:
        output, runs = culprit.name, 1
        differing = {output: culprit}
        agreed: set[str] = set()
        while True:
            # from the output anew: what was just found to agree may cut off a tensor that differs
            reached, _ = self._reached(output, agreed)
            culprit = next(differing[name] for name in [*reached, output] if name in differing)
            reached, border = self._reached(culprit.name, agreed)
            if not reached:
                break
            runs += 1
            for item in self._probe(reached, feed):
                if item.ok:
                    agreed.add(item.name)
                else:
                    differing[item.name] = item
        node = self._places.get(culprit.name)
        place = f"{node.op_type} '{node.name or culprit.name}'" if node is not None else "the graph"
        return Divergence(culprit.name, place, culprit, tuple(border), index, output, runs)

    def _reached(self, name: str, agreed: set[str]) -> tuple[list[str], list[str]]:
        """Common tensors upstream of ``name`` behind no agreeing one; the agreeing ones that closed a path."""
        candidates, border, seen = set[str](), set[str](), {name}
        pending = list(self._sources.get(name, ()))
        while pending:
            tensor = pending.pop()
            if tensor in seen:
                continue
            seen.add(tensor)
            if tensor in agreed:
                border.add(tensor)
                continue
            if tensor in self._common:
                candidates.add(tensor)
            pending.extend(self._sources.get(tensor, ()))
        return sorted(candidates, key=self.order.__getitem__), sorted(border, key=self.order.__getitem__)

    def _probe(self, candidates: list[str], feed: Feeds) -> list[Difference]:
        """The differences of some of the candidates, in topological order."""
        count = min(len(candidates), _PROBES)
        chosen = [candidates[(2 * i + 1) * len(candidates) // (2 * count)] for i in range(count)]
        expected, actual = (taps.session(chosen).run(feed) for taps in self._taps)
        return compare(expected, actual, allowances(expected, self._tolerance, self._rounding))


def _sources(model: ir.Model) -> dict[str, tuple[str, ...]]:
    """For each tensor of the main graph, the tensors that its node reads, in its subgraphs too."""
    found: dict[str, tuple[str, ...]] = {}
    for node in model.graph:
        read = tuple(dict.fromkeys(value.name for value in _read(node) if value.name))
        found.update({output.name: read for output in node.outputs if output.name})
    return found


def _read(node: ir.Node) -> Iterator[ir.Value]:
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if not attribute.is_ref() and attribute.type == ir.AttributeType.GRAPH:
            for inner in attribute.as_graph():
                yield from (value for value in _read(inner) if value.graph is not attribute.as_graph())
