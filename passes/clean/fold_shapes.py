"""Shape arithmetic whose result inference can prove.

1. An integer tensor with all elements proven (Shape, Size, Gather, Concat ... of known dimensions) -> a constant.
2. Reshape(x, s), with every element of s a number, the same dimension of x, or one other -> a constant with 0
   ("copy the dimension") and one -1 ("the rest").
3. Two integer tensors proven to hold the same symbolic elements -> the earlier one.
4. Equal(s, c) of symbolic elements, where each pair is decided: two numbers, the same symbol, or a size of an input and
   a negative number (exporters ask for -1, "keep this size") -> a constant.

Elements are proven by graphopt.ir.infer: symbols are dimensions of the inputs. Reshape: ONNX operator, versions 5, 13,
14 (allowzero), 19 to 25.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from onnx_shape_inference import SYM_DATA_KEY

from graphopt.events import Site, Sites
from graphopt.ir import (
    attribute,
    bodies,
    constant,
    dims,
    has_reference,
    is_op,
    known_ints,
    new_initializer,
    rank,
    replace,
    where,
)
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

Element = int | str


@dataclass(frozen=True)
class FoldShapes(Pass):
    """Removes shape arithmetic whose result is known before the run.

    Kept: a Reshape with two or more sizes that only the run knows.
    """

    name: ClassVar[str] = "fold-shapes"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per value that becomes a constant or another value."""
        sizes = {dim for value in model.graph.inputs for dim in dims(value) or () if isinstance(dim, str)}
        for body in bodies(model):
            earlier: dict[tuple[object, ...], ir.Value] = {}
            for node in body.nodes():
                if is_op(node, "Constant", "Identity") or has_reference(node):
                    continue
                if is_op(node, "Reshape"):
                    yield from self._reshape(node)
                elif is_op(node, "Equal"):
                    yield from self._equal(node, sizes)
                for value in node.outputs:
                    if value.uses() or value.is_graph_output():
                        yield from self._known(value, node, earlier)

    def _known(self, value: ir.Value, node: ir.Node, earlier: dict[tuple[object, ...], ir.Value]) -> Sites:
        elements = known_ints(value)
        dtype, shape, graph = value.dtype, dims(value), node.graph
        if dtype is None or shape is None or graph is None or not dtype.is_integer():
            return
        if elements is not None and len(shape) <= 1:
            folded = np.array(elements, dtype=dtype.numpy()).reshape(() if not shape else (len(elements),))
            yield Site(
                where(node),
                f"known before the run: {_brief(list(elements))}",
                lambda: replace(value, new_initializer(graph, folded, value.name or "shape")),
            )
            return
        symbols = symbolic_elements(value)
        if symbols is None:
            return
        key = (graph, dtype, len(shape), tuple(symbols))
        first = earlier.setdefault(key, value)
        if first is not value and not value.is_graph_output():
            yield Site(where(node), f"the same as {where(first)}: {_brief(symbols)}", lambda: replace(value, first))

    def _equal(self, node: ir.Node, sizes: set[str]) -> Sites:
        left, right = _elements(node.inputs[0]), _elements(node.inputs[1])
        result, graph = node.outputs[0], node.graph
        if left is None or right is None or len(left) != len(right) or graph is None or rank(result) not in (0, 1):
            return
        decided = [_decide(first, second, sizes) for first, second in zip(left, right, strict=True)]
        if None in decided:
            return
        truth = np.array(decided, dtype=np.bool_).reshape(() if rank(result) == 0 else (len(decided),))
        yield Site(
            where(node),
            f"known before the run: {_brief([str(item) for item in decided])}",
            lambda: replace(result, new_initializer(graph, truth, result.name or "equal")),
        )

    def _reshape(self, node: ir.Node) -> Sites:
        source, target = node.inputs[0], node.inputs[1]
        if source is None or target is None or constant(target) is not None or attribute(node, "allowzero", 0):
            return
        wanted, given = symbolic_elements(target), dims(source)
        if wanted is None or given is None:
            return
        sizes: list[int] = []
        for index, element in enumerate(wanted):
            if isinstance(element, int):
                sizes.append(element)
            elif index < len(given) and given[index] == element:
                sizes.append(0)
            else:
                sizes.append(-1)
        if sizes.count(-1) > 1:
            yield Site(where(node), f"more than one size is known only in the run: {_brief(wanted)}")
            return
        if sizes.count(-1) > wanted.count(-1) and 0 in sizes:
            yield Site(where(node), f"an empty tensor has no size to work out beside a copied one: {_brief(wanted)}")
            return
        graph = node.graph
        assert graph is not None
        shape = np.array(sizes, dtype=np.int64)
        yield Site(
            where(node),
            f"its shape is known up to one size: {_brief(sizes)}",
            lambda: node.replace_input_with(1, new_initializer(graph, shape, f"{target.name}_folded")),
        )


def symbolic_elements(value: ir.Value) -> list[Element] | None:
    """The elements of an integer tensor of rank 0 or 1 as numbers and symbols, when all are proven, else None."""
    text = value.metadata_props.get(SYM_DATA_KEY)
    if text is None:
        return None
    elements = json.loads(text)
    return None if any(element in (None, "None", "") for element in elements) else elements


def _elements(value: ir.Value | None) -> list[Element] | None:
    numbers = known_ints(value)
    if numbers is not None:
        return list(numbers)
    return symbolic_elements(value) if value is not None else None


def _decide(first: Element, second: Element, sizes: set[str]) -> bool | None:
    """Whether two elements are equal in every run; None when that depends on the run."""
    if first == second:
        return True
    numbers = [item for item in (first, second) if isinstance(item, int)]
    if len(numbers) == 2:
        return False
    negative = bool(numbers) and numbers[0] < 0
    return False if negative and any(_is_no_less_than_0(item, sizes) for item in (first, second)) else None


def _is_no_less_than_0(element: Element, sizes: set[str]) -> bool:
    """Sums and products of sizes are sizes."""
    return isinstance(element, str) and all(term in sizes or term.isdigit() for term in re.split(r" \+ |\*", element))


def _brief(items: Sequence[Element]) -> str:
    text = ", ".join(map(str, items[:8]))
    return f"[{text}, ...]" if len(items) > 8 else f"[{text}]"
