"""Writes an attention as one operator.

- Attention, of ONNX from operator set 23 on: [batch, heads, length, size], or [batch, length, heads * size] when the
  splitting of heads goes too; grouped heads; caches.
- com.microsoft::MultiHeadAttention: queries [batch, length, heads * size]; no grouped heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._affine import Refusal
from ._attention_operands import SPLIT, Stage
from ._attention_plan import Plan, flat, merged_size, straight
from ._attention_writer import Length, Writer
from ._forms import Form, Place

ATTENTION = Form("Attention", since=23)
MULTI_HEAD = Form("com.microsoft::MultiHeadAttention")


def choose(plan: Plan, place: Place, zero: bool) -> Form:
    """The form to write: the one measured to be the fastest here, the standard one where none was measured.

    Args:
        plan: what is known of the attention.
        place: where it is.
        zero: a query without a key may as well get zeros for NaN.

    Raises:
        Refusal: there is something against both; says what.
    """
    reasons, fitting = [], []
    for form in (ATTENTION, MULTI_HEAD):
        name = _measured_as(plan, form)
        reason = place.objection(form) or place.target.objection(name, plan.work) or objection(plan, form, zero)
        if reason is None and form is MULTI_HEAD and plan.repeat > 1 and fitting:
            reason = "MultiHeadAttention has no grouped heads: keys and values would be repeated"
        if reason is None:
            ratio = place.target.profile.ratio(name, plan.work)
            fitting.append((1.0 if ratio is None else ratio, len(fitting), form))
        else:
            reasons.append(reason)
    if not fitting:
        raise Refusal("; ".join(reasons))
    return min(fitting)[2]


def _measured_as(plan: Plan, form: Form) -> str:
    """What the profile calls the form: an Attention that splits heads itself spares the transposes around it."""
    if form is ATTENTION and _operands(plan, _sources(plan))[1]:
        return f"{form.name}:heads"
    return form.name


def objection(plan: Plan, form: Form, zero: bool) -> str | None:
    """Why a form is not the same function, or None."""
    if form is ATTENTION:
        if plan.nans and not zero:
            return "a query whose keys are all masked by -inf gets NaN, which Attention would make zeros"
        if not _widened(plan) and plan.core.softmax.outputs[0].dtype != plan.dtype:
            return "its Softmax is computed in another element type"
        return None
    if plan.zeroes:
        return "a query whose keys are all masked by -inf gets zeros, which MultiHeadAttention would make NaN"
    if plan.core.softcap or plan.core.softmax.outputs[0].dtype != plan.dtype:
        return "MultiHeadAttention has no soft cap and no wider Softmax"
    if flat(plan.queries, 1) is None or not isinstance(_heads(plan), int):
        return "MultiHeadAttention needs queries that are not split into heads"
    if not isinstance(plan.value_size, int):
        return "the size of the values is not known"
    if (flat(plan.keys, 1) is None or flat(plan.values, 1) is None) and plan.value_size != plan.shape[-1]:
        return "MultiHeadAttention needs keys and values of the same size"
    return None


def _widened(plan: Plan) -> bool:
    return plan.dtype == ir.DataType.FLOAT16 and plan.core.softmax.outputs[0].dtype == ir.DataType.FLOAT


def _heads(plan: Plan) -> int | str | None:
    return plan.shape[1] if len(plan.shape) == 4 else 1


def _rounded(number: float) -> float:
    """As an attribute holds it."""
    return float(np.float32(number))


def write(plan: Plan, form: Form, writer: Writer) -> None:
    """Put the operator in the place of what it stands for."""
    if form is ATTENTION:
        _write_attention(plan, writer)
    else:
        _write_multi_head(plan, writer)


def _write_attention(plan: Plan, writer: Writer) -> None:
    operands, is_flat = _operands(plan, _sources(plan))
    key_scale = plan.keys[-1].scale if plan.caches else operands[1].scale
    attributes: dict[str, Any] = {"scale": _rounded(operands[0].scale * key_scale * plan.core.scale)}
    if plan.core.softcap:
        attributes["softcap"] = _rounded(plan.core.softcap)
    if _widened(plan):
        attributes["softmax_precision"] = ir.DataType.FLOAT.value
    heads = _heads(plan)
    if is_flat and isinstance(heads, int):
        attributes |= {"q_num_heads": heads, "kv_num_heads": heads // plan.repeat}
    read = [_read(stage, writer, is_flat) for stage in operands]
    mask = plan.mask.write(writer, _lengths(plan, operands), harden=True, rank=2)
    past = [cache.past for cache in plan.caches or ()]
    results = writer.ops("Attention", [*read, mask, *past], attributes, outputs=1 + len(past))
    for result in results:
        result.type = ir.TensorType(plan.dtype)
    _hand_over(plan, writer, results[0], is_flat)
    for cache, present in zip(plan.caches or (), results[1:], strict=True):
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
    attributes = {"num_heads": _heads(plan), "scale": _rounded(query.scale * key.scale * plan.core.scale)}
    operands = [*read, None, None, mask] if mask is not None else read
    result = writer.op(MULTI_HEAD.name, operands, attributes, dtype=plan.dtype)
    _hand_over(plan, writer, result, True)


def _sources(plan: Plan) -> list[tuple[list[Stage], int]]:
    """Queries, keys and values, and how often each head is repeated; those before a cache have the cache's heads."""
    if plan.caches:
        return [(plan.queries, 1), (plan.caches[0].new, 1), (plan.caches[1].new, 1)]
    return [(plan.queries, 1), (plan.keys, plan.repeat), (plan.values, plan.repeat)]


def _operands(plan: Plan, sources: Sequence[tuple[list[Stage], int]]) -> tuple[list[Stage], bool]:
    """Where to read from, and whether heads are not split there: only when that spares the transpose behind, too."""
    if len(plan.shape) == 3:
        return [straight(item, repeat) for item, repeat in sources], True
    if isinstance(_heads(plan), int) and _turn(plan) is not None:
        found = [flat(item, repeat) for item, repeat in sources]
        operands = [stage for stage in found if stage is not None]
        if len(operands) == len(found):
            return operands, True
    return [straight(item, repeat) for item, repeat in sources], False


def _read(stage: Stage, writer: Writer, is_flat: bool) -> ir.Value:
    """The operand, from its stage."""
    value = stage.value
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


def _lengths(plan: Plan, operands: Sequence[Stage]) -> tuple[Length, Length]:
    """Of queries and keys."""
    query, key = operands[:2]
    return (
        Length(plan.shape[-2], query.value, 1 if query.flat else query.perm[-2]),
        Length(plan.length, key.value, 1 if key.flat else key.perm[-2]),
    )


def _turn(plan: Plan) -> ir.Node | None:
    """The Transpose that puts the heads behind the length again."""
    result = plan.core.product.outputs[0]
    uses = tuple(result.uses())
    if len(uses) != 1 or result.is_graph_output() or not isinstance(plan.value_size, int):
        return None
    node = uses[0][0]
    if not gir.is_op(node, "Transpose") or node.graph is not plan.core.product.graph or gir.has_reference(node):
        return None
    return node if tuple(gir.attribute(node, "perm", ())) == SPLIT else None


def _hand_over(plan: Plan, writer: Writer, result: ir.Value, is_flat: bool) -> None:
    """Let the result take the place of the product's."""
    product, heads, size = plan.core.product, _heads(plan), plan.value_size
    writer.insert(product)
    if not is_flat or len(plan.shape) == 3:
        gir.succeed(product.outputs[0], result)
        gir.erase_if_dead(product)
        return
    assert isinstance(heads, int) and isinstance(size, int)
    batch, _, length, _ = plan.shape
    result.shape = ir.Shape((batch, length, heads * size))
    turn = _turn(plan)
    done = [] if turn is None else _merge(turn.outputs[0], result)
    if turn is None or turn.outputs[0].uses() or turn.outputs[0].is_graph_output():
        dims = (batch, length, heads, size)
        split = writer.op("Reshape", [result, writer.ints([0, 0, heads, size])], dtype=plan.dtype, dims=dims)
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
