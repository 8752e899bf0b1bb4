"""Products that are not in the main graph: nothing is measured there, so they stay as they are, and it is said."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Site
from graphopt.integers import Integers


def inner_products(model: ir.Model, integers: Integers) -> Iterator[Site]:
    """A site for each product in a subgraph or a local function.

    Args:
        model: the model.
        integers: of the target.
    """
    functions = {function.graph for function in model.functions.values()}
    for node in gir.nodes(model):
        if (
            node.graph is model.graph
            or node.domain not in gir.STANDARD_DOMAINS
            or node.op_type not in integers.products
        ):
            continue
        place = "a local function" if node.graph in functions else "a subgraph"
        if node.op_type == "MatMul" and not any(gir.constant(value) is not None for value in node.inputs):
            continue  # of two activations, it would not be computed on integers in the main graph either
        yield Site(gir.where(node), f"kept as it is: it lies in {place}, where nothing is measured")
