"""The core of attention around a Softmax: from the product of queries and keys to the product with the values.

Looked for, where ``?`` may be missing::

    MatMul(guard?(Cast?(Softmax(Cast?(masks(scale * softcap?(scale * MatMul(q, k^T))))))), v)
    masks:  x + mask,  Where(keep, x, -inf),  Where(drop, -1e9, x),  any number of them;
            Reshape(Reshape(x, [batch, windows, heads, length, length]) + mask, [batch * windows, ...]), of Swin
    guard:  Where(IsNaN(p), 0, p), as both exporters of torch write scaled_dot_product_attention, or
            Where(ReduceMax(mask) = -inf, 0, p), as ONNX writes Attention out
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import onnx_ir as ir

from graphopt import ir as gir

from ._affine import Refusal
from ._attention_operands import factor, times

_MOST_STEPS = 12
_MOST_MASKS = 4
_FILLS_FROM = -1e8


@dataclass(frozen=True, slots=True)
class Mask:
    """One step of the mask.

    Attributes:
        value: what is added to the scores; or, when ``fill`` is given, which of them are kept.
        fill: what the others become.
        inverted: ``value`` says which are not kept.
        windows: ``value`` is [1, windows, heads or 1, ..] and so for every so many of the batch; 0 for none.
    """

    value: ir.Value
    fill: float | None = None
    inverted: bool = False
    windows: int = 0


@dataclass(frozen=True, eq=False)
class Core:
    """What is computed between the operands and the result.

    Attributes:
        softmax: the Softmax.
        product: the last MatMul; its result is the attention's.
        scores: the first MatMul.
        scale: of the scores.
        softcap: ``softcap * tanh(scores / softcap)`` before the masks; 0 for none.
        masks: from the scores on.
        guarded: rows of NaN become zeros.
        silencer: the mask whose rows of -inf become zeros, where it is written like this.
        cast: the scores are widened for the Softmax.
        between: the values that go, but for the first MatMul's operands.
    """

    softmax: ir.Node
    product: ir.Node
    scores: ir.Node
    scale: float = 1.0
    softcap: float = 0.0
    masks: tuple[Mask, ...] = ()
    guarded: bool = False
    silencer: ir.Value | None = None
    cast: bool = False
    between: tuple[ir.Value, ...] = ()

    def check(self) -> None:
        """Raises ``Refusal`` where the scores would be computed anyway, or twice."""
        for value in self.between:
            users = {user for user, _ in value.uses()}
            guards = {user for user in users if gir.is_op(user, "IsNaN")}
            if value.is_graph_output() or len(users - guards) != 1 or (guards and not self.guarded):
                node = value.producer()
                raise Refusal(f"the result of {gir.where(node or value)} is also used elsewhere")


def cores(product: ir.Node, version: int) -> Iterator[Core]:
    """The attentions that a MatMul may be the end of; more than one where the scores are a sum of products."""
    core = _to_softmax(product)
    if core is None or gir.has_reference(core.softmax):
        return
    value = core.softmax.inputs[0]
    rank = gir.rank(value)
    axis = gir.attribute(core.softmax, "axis", -1 if version >= 13 else 1)
    if value is not None and (axis == -1 or (rank is not None and axis == rank - 1)):
        yield from _above(value, core, _MOST_STEPS)


def _to_softmax(product: ir.Node) -> Core | None:
    """From the product with the values up to the Softmax."""
    value, other = product.inputs
    guarded, cast = False, False
    silencer: ir.Value | None = None
    between: list[ir.Value] = []
    while value is not None and value is not other:
        between.append(value)
        node = value.producer()
        if node is None or node.graph is not product.graph:
            return None
        if gir.is_op(node, "Softmax"):
            return Core(node, product, node, guarded=guarded, silencer=silencer, cast=cast, between=tuple(between))
        if gir.is_op(node, "Cast") and not cast:
            cast, value = True, node.inputs[0]
        elif gir.is_op(node, "Where") and not guarded and gir.scalar(node.inputs[1]) == 0:
            silencer = _silencer(node.inputs[0])
            if silencer is None and not _is_guard(node):
                return None
            guarded, value = True, node.inputs[2]
        else:
            return None
    return None


def _is_guard(where: ir.Node) -> bool:
    """Where(IsNaN(p), 0, p)."""
    condition, _, kept = where.inputs
    node = condition.producer() if condition is not None else None
    return (
        node is not None
        and gir.is_op(node, "IsNaN")
        and node.inputs[0] is kept
        and len(node.outputs[0].uses()) == 1
        and not node.outputs[0].is_graph_output()
    )


def _silencer(condition: ir.Value | None) -> ir.Value | None:
    """The mask of ReduceMax(mask, axis -1) = -inf."""
    node = condition.producer() if condition is not None else None
    if node is None or not gir.is_op(node, "Equal"):
        return None
    for value, other in (node.inputs, reversed(tuple(node.inputs))):
        most = value.producer() if value is not None else None
        if most is None or not gir.is_op(most, "ReduceMax") or gir.scalar(other) != float("-inf"):
            continue
        rank, given = gir.rank(most.inputs[0]), most.inputs[1] if len(most.inputs) > 1 else None
        axes = gir.attribute(most, "axes") if given is None else gir.known_ints(given)
        if gir.has_reference(most) or rank is None or not gir.attribute(most, "keepdims", 1) or axes is None:
            continue
        if tuple(axes) in ((-1,), (rank - 1,)):
            return most.inputs[0]
    return None


def _above(value: ir.Value, core: Core, steps: int) -> Iterator[Core]:
    """From the Softmax up to the product of queries and keys; what comes first is met last."""
    node = value.producer()
    if node is None or steps == 0 or node.graph is not core.softmax.graph or gir.has_reference(node):
        return
    core = replace(core, between=(*core.between, value))
    if gir.is_op(node, "MatMul"):
        if gir.constant(node.inputs[1]) is None:  # weights are no keys
            yield replace(core, scores=node)
    elif gir.is_op(node, "Add") and len(core.masks) < _MOST_MASKS:
        for inner, mask in (node.inputs, reversed(tuple(node.inputs))):
            if inner is not None and mask is not None and core.scale == 1 and not core.softcap:
                yield from _above(inner, replace(core, masks=(Mask(mask), *core.masks)), steps - 1)
    elif gir.is_op(node, "Where"):
        yield from _filled(node, core, steps)
    elif gir.is_op(node, "Reshape"):
        yield from _windowed(node, core, steps)
    elif gir.is_op(node, "Cast"):
        inner = node.inputs[0]
        if inner is not None and core.cast and not core.masks:
            yield from _above(inner, core, steps - 1)
    elif gir.is_op(node, "Mul", "Div"):
        yield from _scaled(node, core, steps)


def _windowed(node: ir.Node, core: Core, steps: int) -> Iterator[Core]:
    """A mask that is added to [batch, windows, heads, length, length]."""
    wide, after = node.inputs[0], gir.dims(node.outputs[0])
    add, split = wide.producer() if wide is not None else None, gir.dims(wide)
    if add is None or wide is None or split is None or after is None or not gir.is_op(add, "Add"):
        return
    if len(split) != 5 or len(after) != 4 or None in after or core.scale != 1 or core.softcap:
        return
    windows, sizes = split[1], split[2:]
    if not isinstance(windows, int) or after != (times(split[0], windows), *sizes):
        return
    for inner, mask in (add.inputs, reversed(tuple(add.inputs))):
        fold, own = inner.producer() if inner is not None else None, gir.dims(mask)
        if inner is None or mask is None or fold is None or own is None or not gir.is_op(fold, "Reshape"):
            continue
        fits = len(own) == 5 and own[:2] == (1, windows) and own[2] in (1, sizes[0]) and own[3:] == sizes[1:]
        if fits and gir.static_dims(mask) and gir.dims(fold.inputs[0]) == after and fold.inputs[0] is not None:
            more = Mask(mask, windows=windows)
            core = replace(core, masks=(more, *core.masks), between=(*core.between, wide, inner))
            yield from _above(fold.inputs[0], core, steps - 2)
            return


def _filled(node: ir.Node, core: Core, steps: int) -> Iterator[Core]:
    """Where(keep, scores, fill), where no score comes near the fill."""
    condition, *branches = node.inputs
    if condition is None or core.scale != 1 or core.softcap:
        return
    for inner, other, inverted in ((*branches, False), (*reversed(branches), True)):
        fill = gir.scalar(other)
        if inner is not None and isinstance(fill, float):
            mask = Mask(condition, fill, inverted)
            yield from _above(inner, replace(core, masks=(mask, *core.masks)), steps - 1)


def absorbs(fill: float, dtype: ir.DataType) -> bool:
    """True when a score plus the fill is as good as the fill."""
    return fill <= (_FILLS_FROM if dtype != ir.DataType.FLOAT16 else -6e4)


def _scaled(node: ir.Node, core: Core, steps: int) -> Iterator[Core]:
    found = factor(node)
    if found is None or not found[1] > 0:
        return
    inner, number = found
    tanh = inner.producer()
    if core.softcap == 0 and core.scale == 1 and tanh is not None and gir.is_op(tanh, "Tanh"):
        before = tanh.inputs[0]
        divide = before.producer() if before is not None else None
        capped = factor(divide) if divide is not None and gir.is_op(divide, "Mul", "Div") else None
        if before is not None and capped is not None and abs(capped[1] * number - 1) < 1e-3:
            core = replace(core, softcap=number, between=(*core.between, inner, before))
            yield from _above(capped[0], core, steps - 2)
        return
    yield from _above(inner, replace(core, scale=core.scale * number), steps - 1)
