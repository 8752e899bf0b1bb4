"""What is proven of an attention: its operands, their shapes, its mask, its cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from graphopt import ir as gir

from ._affine import Refusal
from ._attention_bounds import BoundsReader
from ._attention_causal import BandReader
from ._attention_core import Core
from ._attention_mask import MaskPlan, plan_mask
from ._attention_operands import Dims, Stage, known_dims, stages
from ._forms import SINGLE_OR_HALF

_MOST_PRIVATE = 200


@dataclass(frozen=True, eq=False)
class Cache:
    """Keys or values of earlier steps in front of the new ones: Concat(past, new) along the length.

    Attributes:
        past: [batch, heads, length, size].
        present: what the Concat gives, an output of the graph.
        new: the stages of the new ones.
    """

    past: ir.Value
    present: ir.Value
    new: list[Stage]


@dataclass(frozen=True, eq=False)
class Plan:
    """All that a form needs to know.

    Attributes:
        core: what is between the operands and the result.
        queries, keys, values: the stages of the operands.
        shape: of the queries, [batch, heads, length, size], or without heads.
        length: of the keys and values.
        repeat: how often keys' and values' heads are repeated, 1 where not both are alike.
        value_size: the last dimension of the values.
        mask: what is added to the scores.
        causal: which is only that query i is kept from the keys behind i, or behind i + past.
        caches: of keys and values, when the new ones can be given apart.
    """

    core: Core
    queries: list[Stage]
    keys: list[Stage]
    values: list[Stage]
    shape: Dims
    length: int | str | None
    repeat: int
    value_size: int | str | None
    mask: MaskPlan
    causal: bool
    caches: tuple[Cache, Cache] | None

    @property
    def dtype(self) -> ir.DataType:
        """The element type of the operands."""
        return self.mask.dtype

    @property
    def work(self) -> int | None:
        """The number of scores of one head, when known before the run."""
        queries = self.shape[-2]
        return queries * self.length if isinstance(queries, int) and isinstance(self.length, int) else None

    @property
    def zeroes(self) -> bool:
        """A row that is -inf throughout, which there may be, gives zeros."""
        return self.mask.dead and not self.causal and self.core.guarded

    @property
    def nans(self) -> bool:
        """A row that is -inf throughout, which there may be, gives NaN."""
        return self.mask.dead and not self.causal and not self.core.guarded


def plan(core: Core, reader: BoundsReader, bands: BandReader) -> Plan:
    """Look at the operands.

    Raises:
        Refusal: something is not proven; says what.
    """
    core.check()
    left, right = core.scores.inputs
    value = core.product.inputs[1]
    assert left is not None and right is not None and value is not None
    dtype = left.dtype or value.dtype
    if dtype is None or dtype not in SINGLE_OR_HALF or value.dtype != dtype:  # a scale of 32 bits is none for double
        raise Refusal("its element type is " + ("not known" if dtype is None else dtype.name.lower()))
    rank = gir.rank(left)
    if rank not in (3, 4) or gir.rank(right) != rank or gir.rank(value) != rank:
        raise Refusal("its operands are not proven to be all of rank 4, or all of rank 3")
    if gir.rank(core.softmax.inputs[0]) != rank:
        raise Refusal("its scores are not proven to have the rank of its operands")
    order = tuple(range(rank))
    queries, keys, values = stages(left, order), stages(right, (*order[:-2], rank - 1, rank - 2)), stages(value, order)
    values = [stage for stage in values if stage.scale == 1]
    query, key, val = known_dims(queries), known_dims(keys), known_dims(values)
    assert query is not None and key is not None and val is not None
    if 0 in (*query, *key, *val):
        raise Refusal("it is empty")
    if rank == 4 and key[1] == val[1] == 1 and isinstance(query[1], int):  # one for all, broadcast
        keys, values = ([replace(stage, repeat=query[1]) for stage in found] for found in (keys, values))
        key, val = ((dims[0], query[1], *dims[2:]) for dims in (key, val))
    for axis, name in enumerate(("batch", "heads")[: rank - 2]):
        if query[axis] is None or not query[axis] == key[axis] == val[axis]:
            raise Refusal(
                f"queries, keys and values are not proven to have the same {name}: "
                f"{query[axis]}, {key[axis]} and {val[axis]}"
            )
    if all(stage.perm == keys[0].perm and not stage.turned for stage in keys):
        raise Refusal("its keys do not come from a transpose")
    if core.silencer is not None and [(mask.value, mask.fill) for mask in core.masks] != [(core.silencer, None)]:
        raise Refusal("its rows are made zeros where another mask is -inf")
    alike = key[-2] is not None and key[-2] == val[-2]
    mask = plan_mask(core.masks, (*query[:-1], key[-2]), alike, dtype, reader)
    repeat = max(stage.repeat for stage in keys)
    if repeat != max(stage.repeat for stage in values):
        repeat = 1
    caches = _caches(core, keys, values, repeat) if rank == 4 and (mask.full[1] or not core.masks) else None
    past = (gir.dims(caches[0].past) or (None,) * rank)[2] if caches else 0
    causal = all(mask.full) and past is not None and bands.causal(core.masks, dtype) == past
    return Plan(core, queries, keys, values, query, key[-2], repeat, val[-1], mask, causal, caches)


def _caches(core: Core, keys: Sequence[Stage], values: Sequence[Stage], repeat: int) -> tuple[Cache, Cache] | None:
    key, value = _cache(keys, repeat), _cache(values, repeat)
    if key is None or value is None:
        return None
    makers = (key.present.producer(), value.present.producer())
    if any(maker is None or maker.graph is not core.product.graph for maker in makers):
        return None
    private = _private(core)
    if any(user not in private for item in (key, value) for user, _ in item.present.uses()):
        return None
    lengths = [dims[2] for dims in (known_dims(key.new), known_dims(value.new)) if dims is not None]
    return (key, value) if len(lengths) == 2 and lengths[0] is not None and lengths[0] == lengths[1] else None


def _cache(found: Sequence[Stage], repeat: int) -> Cache | None:
    """The last stage as a Concat of old and new."""
    stage = found[-1]
    node = stage.value.producer()
    if not stage.straight or stage.repeat != repeat or node is None or gir.has_reference(node):
        return None
    if not gir.is_op(node, "Concat") or len(node.inputs) != 2 or gir.attribute(node, "axis") not in (2, -2):
        return None
    past, new = node.inputs
    if past is None or new is None or not stage.value.is_graph_output():
        return None
    return Cache(past, stage.value, [item for item in stages(new, (0, 1, 2, 3)) if item.scale == 1])


def _private(core: Core) -> set[ir.Node]:
    """The nodes that only serve this attention, but for what comes before its queries and masks."""
    found: set[ir.Node] = set()
    kept = {value.producer() for value in (core.scores.inputs[0], *(mask.value for mask in core.masks)) if value}
    pending: list[ir.Node | None] = [core.product]
    while pending and len(found) < _MOST_PRIVATE:
        node = pending.pop()
        if node is None or node in kept or node in found or node.graph is not core.product.graph:
            continue
        users = (user for output in node.outputs for user, _ in output.uses())
        if node is core.product or not (
            any(output.is_graph_output() for output in node.outputs) or any(user not in found for user in users)
        ):
            found.add(node)
            pending.extend(value.producer() for value in node.inputs if value is not None)
    return found
