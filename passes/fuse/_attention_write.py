"""Writes the operator in the place of what it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._attention_forms import CAUSAL, GROUPED, MULTI_HEAD
from ._attention_grouped import lengths_of
from ._attention_operands import SPLIT, TURN, Stage
from ._attention_plan import Plan
from ._attention_sources import flat, heads_of, is_widened, merged_size, operands_of, straight, turn_of
from ._attention_writer import Length, Writer
from ._forms import Form


def _rounded(number: float) -> float:
    """As an attribute holds it."""
    return float(np.float32(number))


def write(plan: Plan, form: Form, writer: Writer) -> None:
    """Put the operator in the place of what it stands for."""
    if form is MULTI_HEAD:
        _write_multi_head(plan, writer)
        return
    operands, is_flat = operands_of(plan)
    read = [_read(stage, writer, is_flat) for stage in operands]
    key_scale = plan.keys[-1].scale if plan.caches else operands[1].scale
    attributes: dict[str, Any] = {"scale": _rounded(operands[0].scale * key_scale * plan.core.scale)}
    caches = plan.caches or ()
    past = [cache.past for cache in caches]
    heads = heads_of(plan)
    if form is GROUPED:
        assert isinstance(heads, int)
        attributes |= {"num_heads": heads, "kv_num_heads": heads // plan.repeat}
        given = [*read, *(past or (None, None)), *lengths_of(plan, operands[0], writer)]
    else:
        if plan.core.softcap:
            attributes["softcap"] = _rounded(plan.core.softcap)
        if is_widened(plan):
            attributes["softmax_precision"] = ir.DataType.FLOAT.value
        if is_flat and isinstance(heads, int):
            attributes |= {"q_num_heads": heads, "kv_num_heads": heads // plan.repeat}
        attributes |= form.attributes
        mask = (
            None
            if form is CAUSAL
            else plan.mask.write(writer, _lengths(plan, operands), harden=True, rank=2, boolean=True)
        )
        given = [*read, mask, *past]
    results = writer.ops(form.name, given, attributes, outputs=1 + len(past))
    for result in results:
        result.type = ir.TensorType(plan.dtype)
    _hand_over(plan, writer, results[0], is_flat)
    for cache, present in zip(caches, results[1:], strict=True):
        concat = cache.present.producer()
        gir.succeed(cache.present, present)
        gir.erase_if_dead(concat)


def _write_multi_head(plan: Plan, writer: Writer) -> None:
    query = flat(plan.queries, 1)
    key, value = flat(plan.keys, 1), flat(plan.values, 1)
    assert query is not None
    are_flat = key is not None and value is not None
    if key is None or value is None:
        key, value = straight(plan.keys, 1), straight(plan.values, 1)
    read = [_read(query, writer, True), _read(key, writer, are_flat), _read(value, writer, are_flat)]
    # Several masks are made equally deep; one stays as it is.
    mask = plan.mask.write(writer, _lengths(plan, [query, key]), harden=len(plan.mask.masks) > 1, rank=4)
    attributes = {"num_heads": heads_of(plan), "scale": _rounded(query.scale * key.scale * plan.core.scale)}
    operands = [*read, None, None, mask] if mask is not None else read
    result = writer.op(MULTI_HEAD.name, operands, attributes, dtype=plan.dtype)
    _hand_over(plan, writer, result, True)


def _read(stage: Stage, writer: Writer, is_flat: bool) -> ir.Value:
    """The operand, from its stage."""
    value = stage.value
    if stage.turned:
        value = writer.turned(value)
    if stage.part is not None:
        value = writer.part(value, *stage.part)
    if stage.rotary is not None:
        return _rotated(stage.rotary, value, writer)
    if stage.flat or stage.straight:
        return value
    if is_flat and len(stage.perm) == 4:
        dims, size = gir.dims(value), merged_size(value)
        assert dims is not None and size is not None
        return writer.op("Reshape", [value, writer.ints([0, 0, size])], dtype=value.dtype, dims=(*dims[:2], size))
    return writer.op("Transpose", [value], {"perm": stage.perm}, dtype=value.dtype)


def _rotated(node: ir.Node, value: ir.Value, writer: Writer) -> ir.Value:
    """RotaryEmbedding of heads that are not split yet."""
    split = gir.dims(node.inputs[0])
    assert split is not None
    attributes = {name: item.value for name, item in node.attributes.items()} | {"num_heads": split[1]}
    operands = [value, *node.inputs[1:]]
    return writer.op("RotaryEmbedding", operands, attributes, dtype=value.dtype, like=value)


def _lengths(plan: Plan, operands: Sequence[Stage]) -> tuple[Length, Length, Length]:
    """Of queries and keys, and the batch."""
    query, key = operands[:2]
    return (
        Length(plan.shape[-2], query.value, query.length_axis),
        Length(plan.length, key.value, key.length_axis),
        Length(plan.shape[0], query.value, (1 if query.turned else 0) if query.flat else query.perm[0]),
    )


def _hand_over(plan: Plan, writer: Writer, result: ir.Value, is_flat: bool) -> None:
    """Let the result take the place of the product's."""
    product, heads, size = plan.core.product, heads_of(plan), plan.value_size
    writer.insert(product)
    if not is_flat or len(plan.shape) == 3:
        gir.succeed(product.outputs[0], result)
        gir.erase_if_dead(product)
        return
    assert isinstance(heads, int) and isinstance(size, int)
    batch, _, length, _ = plan.shape
    result.shape = ir.Shape((batch, length, heads * size))
    turn = turn_of(plan)
    is_turned = turn is not None and tuple(gir.attribute(turn, "perm")) == TURN
    rows = writer.turned(result) if is_turned else result
    writer.insert(product)
    done = [] if turn is None else _merge(turn.outputs[0], rows)
    if turn is None or turn.outputs[0].uses() or turn.outputs[0].is_graph_output():
        dims = (length, batch, heads, size) if is_turned else (batch, length, heads, size)
        split = writer.op("Reshape", [rows, writer.ints([0, 0, heads, size])], dtype=plan.dtype, dims=dims)
        if turn is None:
            split = writer.op("Transpose", [split], {"perm": SPLIT}, dtype=plan.dtype)
        writer.insert(product)
        gir.succeed(product.outputs[0] if turn is None else turn.outputs[0], split)
    for node in (*done, turn, product):
        if node is not None and node.graph is not None:
            gir.erase_if_dead(node)


def _merge(turned: ir.Value, result: ir.Value) -> list[ir.Node]:
    """Let what reshapes [batch, length, heads, size] take [batch, length, heads * size]; gives who is done with."""
    done = []
    for user, _ in tuple(turned.uses()):
        shape = user.inputs[1] if gir.is_op(user, "Reshape") and not gir.has_reference(user) else None
        if shape is None or shape is turned:
            continue
        dims = gir.dims(user.outputs[0])
        if dims is not None and None not in dims and dims == gir.dims(result):
            gir.succeed(user.outputs[0], result)
            user.replace_input_with(0, result)
            done.append(user)
            continue
        sizes = gir.known_ints(shape)
        if sizes is not None and (gir.attribute(user, "allowzero", 0) or 0 not in sizes[2:]):
            user.replace_input_with(0, result)
    return done
