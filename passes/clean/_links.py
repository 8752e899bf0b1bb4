"""Two nodes in a row, the second reading the first's result: what the merge passes look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.events import Site, Sites
from graphopt.ir import (
    Body,
    attribute,
    bodies,
    erase_if_dead,
    has_reference,
    is_op,
    known_ints,
    new_initializer,
    replace,
    replace_node,
    where,
)


@dataclass(frozen=True)
class Link:
    """``second(first(source, ...), ...)`` in a body."""

    body: Body
    first: ir.Node
    second: ir.Node

    @property
    def version(self) -> int:
        """The version of the standard operator set."""
        return self.body.version()

    @property
    def source(self) -> ir.Value:
        """What the first node reads."""
        value = self.first.inputs[0]
        assert value is not None
        return value

    @property
    def middle(self) -> ir.Value:
        """What the first node hands to the second."""
        return self.first.outputs[0]

    @property
    def result(self) -> ir.Value:
        """What the second node gives."""
        return self.second.outputs[0]

    @property
    def is_private(self) -> bool:
        """True when the merge makes the first node superfluous."""
        return len(self.middle.uses()) == 1 and not self.middle.is_graph_output()


@dataclass(frozen=True)
class Merge:
    """An edit that makes one node of two, and what to say about it."""

    text: str
    edit: Callable[[], object]


Plan = Merge | str | None
"""A merge, the reason why there is none, or None for a pair that is no candidate."""


def sites(model: ir.Model, firsts: Sequence[str], seconds: Sequence[str], plan: Callable[[Link], Plan]) -> Sites:
    """One site for each linked pair of such operators that the plan has something to say about.

    Longer chains shrink on the way: the merged pair is the first of the next link.
    """
    for link in _links(model, firsts, seconds):
        if has_reference(link.first) or has_reference(link.second):
            yield Site(where(link.second), "an attribute is a parameter of the function")
            continue
        try:
            outcome = plan(link)
        except UnknownParameterError as unknown:
            outcome = str(unknown)
        if isinstance(outcome, Merge):
            yield Site(where(link.second), outcome.text, outcome.edit)
        elif outcome is not None:
            yield Site(where(link.second), outcome)


def _links(model: ir.Model, firsts: Sequence[str], seconds: Sequence[str]) -> Iterator[Link]:
    for body in bodies(model):
        for node in body.nodes():
            if not is_op(node, *seconds) or not node.inputs or node.inputs[0] is None:
                continue
            producer = node.inputs[0].producer()
            if producer is not None and is_op(producer, *firsts) and producer.inputs and producer.inputs[0] is not None:
                yield Link(body, producer, node)


def bypass(link: Link) -> None:
    """The pair does nothing: its source takes the place of its result."""
    replace(link.result, link.source)
    erase_if_dead(link.second)


def skip_first(link: Link) -> None:
    """Let the second node read the first one's source."""
    link.second.replace_input_with(0, link.source)
    erase_if_dead(link.first)


def substitute(link: Link, node: ir.Node) -> None:
    """Put a node that reads the source in the place of the second."""
    node.name = link.second.name
    for before, after in zip(link.second.outputs, node.outputs, strict=True):
        after.shape, after.type = before.shape, before.type
    replace_node(link.second, [node], list(node.outputs))


Parameter = tuple[int, ...] | None


class UnknownParameterError(Exception):
    """A parameter is an input that is not known before the run."""


def parameter(node: ir.Node, name: str, position: int, *, is_input: bool) -> Parameter:
    """A list of integers that is an attribute or, from some version on, an input.

    Returns:
        the integers; None when the parameter is left out.

    Raises:
        UnknownParameterError: it is an input that is computed, or that a caller may override.
    """
    if not is_input:
        value = attribute(node, name)
        return None if value is None else tuple(value)
    given = node.inputs[position] if position < len(node.inputs) else None
    if given is None:
        return None
    known = known_ints(given)
    if known is None:
        raise UnknownParameterError(f"its {name} are not known before the run")
    return known


def set_parameter(node: ir.Node, name: str, position: int, integers: Sequence[int], *, is_input: bool) -> None:
    """Write a list of integers where ``parameter`` reads it."""
    if not is_input:
        node.attributes[name] = ir.AttrInt64s(name, list(integers))
        return
    set_input(node, position, constant_ints(node, integers, name))


def set_input(node: ir.Node, position: int, value: ir.Value) -> None:
    """Set an input, lengthening the list where needed; a constant that only served this node goes."""
    if position >= len(node.inputs):
        node.resize_inputs(position + 1)
    before = node.inputs[position]
    node.replace_input_with(position, value)
    erase_if_dead(before.producer() if before is not None else None)


def constant_ints(node: ir.Node, integers: Sequence[int], hint: str) -> ir.Value:
    """A new int64 constant in the node's graph."""
    assert node.graph is not None
    return new_initializer(node.graph, np.array(integers, dtype=np.int64), hint)
