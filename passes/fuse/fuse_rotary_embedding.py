"""Write rotary position embeddings as one operator.

    x cos + concat(-x2, x1) sin,  x = concat(x1, x2),  cos = concat(c, c),  sin = concat(s, s)
    concat(x1 c - x2 s, x2 c + x1 s)
        ->  RotaryEmbedding(x, c, s)                                    from opset 23 on
        ->  com.microsoft::RotaryEmbedding(x, [0], c, s)                where the target takes it
    concat(RotaryEmbedding(x', c, s), x''),  x = concat(x', x'')
        ->  RotaryEmbedding{rotary_embedding_dim=size of x'}(x, c, s)

where x is batch x heads x sequence x head, and c, s are sequence x head / 2, for each batch or for all.

Source: Su et al., RoFormer, 2021, equation 34 (rotated by halves, as in Llama); ONNX RotaryEmbedding, version 23.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Site, Sites
from graphopt.pipeline import Context, Fidelity, Pass
from graphopt.rewrite import Match, Rewrite, RuleSet, Tape, that
from graphopt.target import Target

from ._affine import Refusal
from ._angles import Angles, Half, Layout, flat, half
from ._forms import elements
from ._rotary import Rotation, cut, rotation

_FORM = "RotaryEmbedding"
_MICROSOFT = "com.microsoft"
_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_SINCE, _SQUEEZE_SINCE = 23, 13


def _takes_all(match: Match) -> bool:
    """The rotated part and the other are the whole head, in this order."""
    shape, part = match.dims("x"), match.dims("f")
    whole, axis = shape[-1], match.attr("k")
    if len(shape) != 4 or axis not in (-1, 3) or not isinstance(whole, int) or not isinstance(part[-1], int):
        return False
    if match.attr("r.rotary_embedding_dim", 0) or match.attr("r.num_heads", 0):
        return False
    if match.node("f") is match.node("g"):
        rest = match.dims("g")[-1]
        return match.attr("d.axis", 0) in (-1, 3) and isinstance(rest, int) and part[-1] + rest == whole
    cuts = [cut(match.node(name), 4, whole) for name in ("f", "g")]
    return cuts == [(0, part[-1]), (part[-1], whole)]


def _in_part(match: Match, tape: Tape) -> ir.Value:
    size = match.dims("f")[-1]
    operands = [match["x"], match["c"], match["s"], match.get("p")]
    return tape.op(_FORM, *operands, attributes=match.attrs("r"), rotary_embedding_dim=size)


RULES = RuleSet(
    Rewrite(
        f"{start}; Concat{{axis=k}}(RotaryEmbedding{{**r}}(f, c, s, p?), g)",
        build=_in_part,
        where=[that("the two parts are not proven to be all of a head", _takes_all)],
        opset=_SINCE,
        name="rotated in part",
    )
    for start in ("f = Slice(x, b, e, a, t?); g = Slice(x, b2, e2, a2, t2?)", "f, g = Split{**d}(x, z?)")
)


@dataclass(frozen=True)
class FuseRotaryEmbedding(Pass):
    """Replaces a rotation by halves by RotaryEmbedding, from opset 23 on, or by com.microsoft's.

    The shapes must prove that the angles belong to the sequence and not to the heads. Where they are laid out for
    both halves of a head, the halves must be proven equal: the value goes back to a Concat of one value with
    itself, or to a constant. The angles are then computed once, for half of a head, and shared by all layers.
    ONNX's operator asks for angles of every batch, so those of one are expanded. A head that is rotated in part, its
    other elements put behind, becomes one operator too.

    Keeps it for double, for which neither operator is defined, where a result in between is used elsewhere, and
    on targets that object.
    """

    name: ClassVar[str] = "fuse-rotary-embedding"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """Anchor at the last node: Add, or Concat."""
        for body in gir.bodies(model):
            layouts: dict[ir.Graph, Layout] = {}
            for node in body.nodes():
                found = rotation(node)
                if found is None or node.graph is None:
                    continue
                layout = layouts.setdefault(node.graph, Layout())
                yield _site(found, body, context.target, layout, model)
        yield from RULES.sites(model)


def _site(found: Rotation, body: gir.Body, target: Target, layout: Layout, model: ir.Model) -> Site:
    name = gir.where(found.last)
    try:
        _goes(found)
        x = found.x
        shape = gir.dims(x)
        if shape is None or len(shape) != 4:
            raise Refusal("what it rotates is not known to have the four dimensions batch, heads, sequence, head")
        if 0 in shape:
            raise Refusal("what it rotates is empty")
        if x.dtype not in _TYPES:
            raise Refusal(f"there is no {_FORM} for {'an unknown type' if x.dtype is None else x.dtype.name.lower()}")
        angles = [_angles(value, shape, found.whole, layout) for value in (found.cos, found.sin)]
        form = _form(found, angles, body, target)
    except Refusal as refusal:
        return Site(name, str(refusal))

    def edit() -> None:
        if form == _FORM:
            operands = [flat(item, 3, x, found.last, layout) for item in angles]
            new = ir.node(_FORM, [x, *operands])
        else:
            operands = [flat(item, 2, x, found.last, layout) for item in angles]
            assert found.last.graph is not None
            start = gir.new_initializer(found.last.graph, np.zeros(1, np.int64), "position")
            new = ir.node(_FORM, [x, start, *operands], domain=_MICROSOFT)
            for opsets in (body.opsets, model.opset_imports):
                cast("MutableMapping[str, int]", opsets).setdefault(_MICROSOFT, 1)
        gir.replace_node(found.last, [new], [new.outputs[0]])

    return Site(name, f"fused into {form}", edit)


def _goes(found: Rotation) -> None:
    """Raises ``Refusal`` where a node in between would stay."""
    inside = {found.last, *found.between}
    for node in found.between:
        if node.graph is not found.last.graph:
            raise Refusal(f"{gir.where(node)} is in an outer graph")
        for value in node.outputs:
            if value.is_graph_output() or any(user not in inside for user, _ in value.uses()):
                raise Refusal(f"the result of {gir.where(node)} is also used elsewhere")


def _angles(value: ir.Value, shape: tuple[int | str | None, ...], whole: bool, layout: Layout) -> Angles:
    own = gir.dims(value)
    name = gir.where(value)
    head = shape[3]
    assert isinstance(head, int)
    if own is None or not 2 <= len(own) <= 4:
        raise Refusal(f"the rank of {name} is not known" if own is None else f"{name} has rank {len(own)}")
    batch, heads, sequence, size = (*(1,) * (4 - len(own)), *own)
    if size != (head if whole else head // 2):
        raise Refusal(f"the last dimension of {name} is not proven to be that of a head")
    if heads != 1:
        raise Refusal(f"{name} is not proven to be the same for all heads")
    if sequence is None or sequence != shape[2]:
        raise Refusal(f"{name} is not proven to have an angle for each place of the sequence")
    if batch != 1 and (batch is None or batch != shape[0]):
        raise Refusal(f"the batch of {name} is not proven to be that of what it rotates")
    return Angles(half(value, layout.proven) if whole else Half(value, own, value=value), len(own), batch)


def _form(found: Rotation, angles: list[Angles], body: gir.Body, target: Target) -> str:
    """The first form that can be written here and that the target has no objection to."""
    size = elements(found.x)
    reasons: list[str] = []
    if body.version() < _SINCE:
        reasons.append(f"{_FORM} needs opset {_SINCE}, this graph has {body.version()}")
    elif (objection := target.objection(_FORM, size)) is not None:
        reasons.append(objection)
    else:
        return _FORM
    form = f"{_MICROSOFT}::{_FORM}"
    if (objection := target.objection(form, size)) is not None:
        reasons.append(objection)
    elif any(item.batch != 1 for item in angles):
        reasons.append(f"{form} takes angles that are the same for all batches")
    elif found.x.dtype == ir.DataType.BFLOAT16 or body.version() < _SQUEEZE_SINCE:
        reasons.append(f"{form} is not written for bfloat16 or below opset {_SQUEEZE_SINCE}")
    else:
        return form
    raise Refusal(", and ".join(reasons))
