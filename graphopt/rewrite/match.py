"""What a pattern has caught: values, nodes, attributes and constants, by the names of the pattern."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.ir import facts
from graphopt.ir.walk import Body

from .pattern import Pattern
from .schema import defaults
from .syntax import Choice


class Refused(Exception):
    """Raised inside a condition: this match must not be rewritten, for a plain lower-case reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True, eq=False)
class Match:
    """A place where a pattern fits.

    ``match["x"]`` is the value that the variable ``x`` stands for, or the named result ``y`` of an operator.

    Attributes:
        pattern: what was looked for.
        body: the main graph or local function the place is in.
        graph: the very graph, which may be a subgraph.
        values: variables; None for an optional operand that is left out.
        lists: all the values of ``xs...``.
        captured: attributes by the name of their variable; None for an optional one that is left out.
        labels: which operator it was, (domain, type), by label.
        bound: the nodes, by index of the pattern's operator.
        skipped: what stands in for an operator that is missing (``Cast?(x)``).
        places: the node and operand number where each variable was met first.
    """

    pattern: Pattern
    body: Body
    graph: ir.Graph | None
    values: dict[str, ir.Value | None] = field(default_factory=dict)
    lists: dict[str, tuple[ir.Value, ...]] = field(default_factory=dict)
    captured: dict[str, ir.Attr | None] = field(default_factory=dict)
    labels: dict[str, Choice] = field(default_factory=dict)
    bound: dict[int, ir.Node] = field(default_factory=dict)
    skipped: dict[int, ir.Value] = field(default_factory=dict)
    places: dict[str, tuple[ir.Node, int]] = field(default_factory=dict)

    def copy(self) -> Match:
        """A match that further searching does not change."""
        return Match(
            self.pattern,
            self.body,
            self.graph,
            dict(self.values),
            dict(self.lists),
            dict(self.captured),
            dict(self.labels),
            dict(self.bound),
            dict(self.skipped),
            dict(self.places),
        )

    def get(self, name: str) -> ir.Value | None:
        """The value of a variable or of a named result; None for an operand that is left out.

        Raises:
            KeyError: the pattern has no such name.
        """
        if name in self.values:
            return self.values[name]
        output = self.pattern.names[name]
        if output.node in self.skipped:
            return self.skipped[output.node]
        return self.bound[output.node].outputs[output.index]

    def __getitem__(self, name: str) -> ir.Value:
        """Like ``get``, for a value that is there.

        Raises:
            Refused: the operand is left out.
        """
        value = self.get(name)
        if value is None:
            raise Refused(f"{name} is left out")
        return value

    def node(self, name: str) -> ir.Node:
        """The node that computes a named result; raises ``Refused`` when that is no node's."""
        producer = self[name].producer()
        if producer is None:
            raise Refused(f"{name} is not computed by a node")
        return producer

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """The nodes of the match, each once, operands before their users."""
        return tuple(dict.fromkeys(self.bound[index] for index in sorted(self.bound)))

    @property
    def root(self) -> ir.Node:
        """The last node of the pattern."""
        return self.bound[self.pattern.roots[-1]]

    @property
    def opset(self) -> int:
        """The version of the standard operator set in force at this place."""
        return self.body.version()

    def array(self, name: str) -> np.ndarray:
        """The elements of a constant; raises ``Refused`` when it is none."""
        elements = facts.array(self[name])
        if elements is None:
            raise Refused(f"{name} is not a constant")
        return elements

    def number(self, name: str) -> Any:
        """The element of a constant of one element; raises ``Refused`` when it is none."""
        number = facts.scalar(self[name])
        if number is None:
            raise Refused(f"{name} is not a constant of one element")
        return number

    def dims(self, name: str) -> tuple[int | str | None, ...]:
        """The shape; raises ``Refused`` when the rank is unknown."""
        found = facts.dims(self[name])
        if found is None:
            raise Refused(f"the rank of {name} is unknown")
        return found

    def dtype(self, name: str) -> ir.DataType:
        """The element type; raises ``Refused`` when it is unknown."""
        found = self[name].dtype
        if found is None:
            raise Refused(f"the element type of {name} is unknown")
        return found

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's Python value: ``attr("p")`` for ``{perm=p}``, ``attr("a.strides")`` for ``{**a}``.

        Args:
            name: the attribute variable, or the name behind ``**``, a dot and the attribute.
            default: the answer when it is left out and ONNX knows no default.

        Raises:
            Refused: the attribute is a parameter of the enclosing function, so its value depends on the call.
        """
        found = self._rest_attribute(name) if "." in name else self.captured[name]
        if found is None:
            return default
        if found.is_ref():
            raise Refused(f"the attribute {found.name} is a parameter of the function")
        return found.value

    def _rest_attribute(self, name: str) -> ir.Attr | None:
        rest, _, attribute = name.partition(".")
        node = self.bound.get(self.pattern.rests[rest])
        if node is None:
            return None
        found = node.attributes.get(attribute)
        if found is None:
            found = defaults(node.domain, node.op_type, self.body.version(node.domain)).get(attribute)
        return found

    def attrs(self, rest: str) -> Mapping[str, ir.Attr]:
        """The attributes that ``**rest`` has caught: those that the pattern does not spell out."""
        node = self.bound.get(self.pattern.rests[rest])
        if node is None:
            return {}
        spelled = {name for name, _ in self.pattern.nodes[self.pattern.rests[rest]].call.attributes}
        return {name: attribute for name, attribute in node.attributes.items() if name not in spelled}
