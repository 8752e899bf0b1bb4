"""Where an operator for attention reads its operands, and which Transpose behind it goes too."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphopt import ir as gir

from ._attention_operands import SPLIT, TURN, Stage
from ._attention_plan import Plan


def sources(plan: Plan) -> list[tuple[list[Stage], int]]:
    """Queries, keys and values, and how often each head is repeated; those before a cache have the cache's heads."""
    if plan.caches:
        return [(plan.queries, 1), (plan.caches[0].new, 1), (plan.caches[1].new, 1)]
    return [(plan.queries, 1), (plan.keys, plan.repeat), (plan.values, plan.repeat)]


def operands_of(plan: Plan) -> tuple[list[Stage], bool]:
    """Where to read from, and whether heads are not split there: only when that spares the transpose behind, too."""
    if len(plan.shape) == 3:
        return [straight(item, repeat) for item, repeat in sources(plan)], True
    if isinstance(heads_of(plan), int) and turn_of(plan) is not None:
        found = [flat(item, repeat) for item, repeat in sources(plan)]
        operands = [stage for stage in found if stage is not None]
        if len(operands) == len(found):
            return operands, True
    return [straight(item, repeat) for item, repeat in sources(plan)], False


def turn_of(plan: Plan) -> ir.Node | None:
    """The Transpose that puts the heads behind the length again."""
    result = plan.core.product.outputs[0]
    uses = tuple(result.uses())
    if len(uses) != 1 or result.is_graph_output() or not isinstance(plan.value_size, int):
        return None
    node = uses[0][0]
    if not gir.is_op(node, "Transpose") or node.graph is not plan.core.product.graph or gir.has_reference(node):
        return None
    return node if tuple(gir.attribute(node, "perm", ())) in (SPLIT, TURN) else None


def heads_of(plan: Plan) -> int | str | None:
    """How many heads the queries have."""
    return plan.shape[1] if len(plan.shape) == 4 else 1


def is_widened(plan: Plan) -> bool:
    """The Softmax of half precision is computed in single precision."""
    return plan.dtype == ir.DataType.FLOAT16 and plan.core.softmax.outputs[0].dtype == ir.DataType.FLOAT


def straight(found: Sequence[Stage], repeat: int) -> Stage:
    """The stage to take an operand [batch, heads, length, size] from; it may have to be transposed."""
    fitting = [stage for stage in found if stage.repeat == repeat and not stage.flat]
    return next((stage for stage in reversed(fitting) if stage.straight), fitting[-1])


def flat(found: Sequence[Stage], repeat: int) -> Stage | None:
    """The stage to take [batch, length, heads * size] from; it may have to be reshaped, or transposed."""
    if len(found[0].perm) == 3:
        return straight(found, repeat)
    for stage in reversed(found):
        if stage.repeat == repeat and stage.flat:
            return stage
        if stage.repeat == repeat and stage.perm == SPLIT and merged_size(stage.value) is not None:
            return stage
    return None


def merged_size(value: ir.Value) -> int | None:
    """heads * size of [batch, length, heads, size]."""
    dims = gir.dims(value)
    if dims is None or not isinstance(dims[2], int) or not isinstance(dims[3], int):
        return None
    return dims[2] * dims[3]
