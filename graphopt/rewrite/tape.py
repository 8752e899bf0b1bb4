"""Where a rule writes its new nodes and constants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir import edits
from graphopt.ir.facts import where
from graphopt.ir.walk import Body

from .match import Match
from .names import Names
from .schema import legal, make_attribute, schema
from .types import result_type


class Tape:
    """Records new nodes in the order in which they will stand in the graph, before the root of the match.

    New values get names after the one they stand for, and element types as far as these follow from the
    operands.

    Attributes:
        nodes: what was written so far.
    """

    def __init__(self, match: Match, names: Names, ir_version: int) -> None:
        assert match.graph is not None, "the nodes of the match are in a graph"
        self.nodes: list[ir.Node] = []
        self._graph = match.graph
        self._root = match.root
        self._names = names
        self._body: Body = match.body
        self._hint = next((value.name for value in match.root.outputs if value.name), None) or "value"
        # A local function has no initialisers; before IR version 4 each had to be a graph input, which
        # callers can override.
        self._inline = self._body.function is not None or ir_version < 4

    def op(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        domain: str = "",
        attributes: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> ir.Value:
        """Write a node with one result: ``tape.op("Conv", x, w, attributes=match.attrs("a"), group=2)``.

        Args:
            op_type: the operator.
            inputs: its operands; None for one that is left out.
            domain: of the operator.
            attributes: Python values or ``onnx_ir.Attr``; one that is None is left out.
            more: more attributes, which win over ``attributes``.

        Raises:
            GraphoptError: the operator does not exist like this in the operator set of the place.
        """
        return self.ops(op_type, *inputs, outputs=1, domain=domain, attributes=attributes, **more)[0]

    def ops(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        outputs: int,
        domain: str = "",
        attributes: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> tuple[ir.Value, ...]:
        """Write a node with several results; otherwise like ``op``."""
        version = self._body.version(domain)
        given = {name: value for name, value in {**(attributes or {}), **more}.items() if value is not None}
        operands = list(inputs)
        while operands and operands[-1] is None:
            operands.pop()
        count = len(operands)
        if not legal(domain, op_type, version, frozenset(given), False, count, count, outputs):
            known = schema(domain, op_type, version)
            since = "it does not exist there" if known is None else "its operands or attributes are others there"
            raise GraphoptError(
                f"a rule writes {op_type} in a way that opset {version} does not have: {since}",
                where(self._root),
                "state the least operator set in the rule: Rewrite(..., opset=...)",
            )
        node = ir.Node(
            domain,
            op_type,
            operands,
            [make_attribute(domain, op_type, version, name, value) for name, value in given.items()],
            num_outputs=outputs,
            name=self._names.node(f"{self._root.name or self._hint}_{op_type}"),
        )
        types = [None if value is None else value.dtype for value in operands]
        for index, value in enumerate(node.outputs):
            value.name = self._names.value(f"{self._hint}_{op_type}")
            found = result_type((domain, op_type), version, types, index)
            if found is not None:
                value.type = ir.TensorType(found)
        self.nodes.append(node)
        return tuple(node.outputs)

    def constant(
        self,
        elements: np.ndarray | ir.TensorProtocol | float | list[int] | list[float],
        hint: str = "constant",
        like: ir.Value | None = None,
    ) -> ir.Value:
        """A new constant, as initialiser where the graph may have one, else by a Constant node.

        Args:
            elements: a tensor, an array, a number or a list of numbers. Python integers become int64.
            hint: what the name ends in.
            like: a value whose element type the constant gets.
        """
        dtype = None if like is None else like.dtype
        if isinstance(elements, (np.ndarray, float, int, list)):
            array = np.asarray(elements)
            if dtype is not None:
                array = array.astype(dtype.numpy())
            elif not isinstance(elements, np.ndarray) and array.dtype.kind == "f":
                array = array.astype(np.float32)
            tensor: ir.TensorProtocol = ir.Tensor(np.ascontiguousarray(array).reshape(array.shape))
        else:
            tensor = elements
        name = self._names.value(f"{self._hint}_{hint}")
        if not self._inline:
            return edits.new_initializer(self._graph, tensor, name)
        value = self.op("Constant", value=tensor)
        value.name = name
        value.shape = ir.Shape(tensor.shape.numpy())
        return value
