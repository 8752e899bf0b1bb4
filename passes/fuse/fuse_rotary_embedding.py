"""Write rotary position embeddings as one operator.

    x cos + concat(-x2, x1) sin,  x = concat(x1, x2),  cos = concat(c, c),  sin = concat(s, s)
    concat(x1 c - x2 s, x2 c + x1 s)
        ->  RotaryEmbedding(x, c, s)                                    from opset 23 on
        ->  com.microsoft::RotaryEmbedding(x, [0], c, s)                where the target takes it
    the same with x1, x2 = x[0::2], x[1::2], and in place of concat what puts them back in turn
        ->  RotaryEmbedding{interleaved=1}(x, c, s)
    concat(RotaryEmbedding(x', c, s), x''),  x = concat(x', x'')
        ->  RotaryEmbedding{rotary_embedding_dim=size of x'}(x, c, s)

where x is batch x heads x sequence x head, and c, s are sequence x head / 2, for each batch or for all. Where x is
batch x sequence x heads x head, it is reshaped to batch x sequence x (heads head), which the operators take as well.

Source: Su et al., RoFormer, 2021, equation 34 (by pairs as there and in GPT-J, by halves as in Llama); ONNX
RotaryEmbedding, version 23.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Site, Sites
from graphopt.pipeline import Context, Fidelity, Pass
from graphopt.target import Target

from ._affine import Refusal
from ._angles import Angles, Layout, flat
from ._forms import elements
from ._halves import Half, half
from ._rotary import Dims, Rotation, rotation
from ._rotary_pairs import rotation_by_pairs
from ._rotary_parts import RULES

_FORM = "RotaryEmbedding"
_MICROSOFT = "com.microsoft"
_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_SINCE, _SQUEEZE_SINCE = 23, 13
_LESSER = re.compile(r"Min\((?:(?P<front>\d+), *(?P<name>\w+)|(?P<name2>\w+), *(?P<back>\d+))\)")


@dataclass(frozen=True)
class FuseRotaryEmbedding(Pass):
    """Replaces a rotation by halves or by pairs by RotaryEmbedding, from opset 23 on, or by com.microsoft's.

    The shapes must prove that the angles belong to the sequence and not to the heads. Where they are laid out twice,
    for both halves of a head or both elements of each pair, the two must be proven equal: the value goes back to a
    Concat of one value with itself, to an Expand or Tile along a new last axis, or to a constant. The angles are then
    computed once, for half of a head, and shared by all layers. ONNX's operator asks for angles of every batch, so
    those of one are expanded. A head that is rotated in part, its other elements put behind, becomes one operator too.
    A complex product is a rotation by pairs.

    Keeps it for double, for which neither operator is defined, where a result in between is used elsewhere, and
    on targets that object.
    """

    name: ClassVar[str] = "fuse-rotary-embedding"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """Anchor at the last node: Add, Concat, or Reshape."""
        for body in gir.bodies(model):
            layouts: dict[ir.Graph, Layout] = {}
            for node in body.nodes():
                if not gir.is_op(node, "Add", "Concat", "Reshape"):
                    continue
                found = rotation(node) or rotation_by_pairs(node)
                if found is None or node.graph is None:
                    continue
                layout = layouts.setdefault(node.graph, Layout())
                yield _site(found, body, context.target, layout, model)
        yield from RULES.sites(model)


@dataclass(frozen=True, eq=False)
class _Plan:
    """What is written.

    Attributes:
        found: what for.
        form: the operator.
        cos, sin: of the angles.
        heads: their number where the sequence stands before them, else 0.
    """

    found: Rotation
    form: str
    cos: Angles
    sin: Angles
    heads: int

    def write(self, body: gir.Body, model: ir.Model, layout: Layout) -> None:
        """Put the operator in the place of the nodes."""
        found, shape = self.found, self.found.shape
        graph = found.last.graph
        assert graph is not None and shape is not None and isinstance(shape[3], int)
        rank = 3 if self.form == _FORM else 2
        operands = [flat(item, rank, found.x, shape[0], found.last, layout) for item in (self.cos, self.sin)]
        attributes: dict[str, int] = {"interleaved": 1} if found.pairs else {}
        written: list[ir.Node] = []
        x = found.x
        if self.heads:
            attributes["num_heads"] = self.heads
            if gir.rank(x) != 3:
                to = np.array([0, 0, self.heads * shape[3]], np.int64)
                written.append(ir.node("Reshape", [x, gir.new_initializer(graph, to, "flat")]))
                x = written[-1].outputs[0]
                x.type, x.shape = found.x.type, ir.Shape([*shape[:2], self.heads * shape[3]])
        if self.form == _FORM:
            written.append(ir.node(_FORM, [x, *operands], attributes))
        else:
            start = gir.new_initializer(graph, np.zeros(1, np.int64), "position")
            written.append(ir.node(_FORM, [x, start, *operands], attributes, domain=_MICROSOFT))
            for opsets in (body.opsets, model.opset_imports):
                cast("MutableMapping[str, int]", opsets).setdefault(_MICROSOFT, 1)
        if self.heads:
            to = np.array([0, 0, self.heads, shape[3]], np.int64)
            written.append(ir.node("Reshape", [written[-1].outputs[0], gir.new_initializer(graph, to, "heads")]))
        gir.replace_node(found.last, written, [written[-1].outputs[0]])


def _site(found: Rotation, body: gir.Body, target: Target, layout: Layout, model: ir.Model) -> Site:
    name = gir.where(found.last)
    try:
        _goes(found)
        x, shape = found.x, found.shape
        if shape is None or len(shape) != 4:
            raise Refusal("what it rotates is not known to have the four dimensions batch, heads, sequence, head")
        if 0 in shape:
            raise Refusal("what it rotates is empty")
        if x.dtype not in _TYPES:
            raise Refusal(f"there is no {_FORM} for {'an unknown type' if x.dtype is None else x.dtype.name.lower()}")
        behind = _sequence_first(found, shape)
        axis = 1 if behind else 2
        if gir.rank(x) != 4 and not behind:
            raise Refusal("what it rotates is not known to have the four dimensions batch, heads, sequence, head")
        heads = shape[2] if behind else 0
        if not isinstance(heads, int):
            raise Refusal("the number of heads is not known")
        cos, sin = (_angles(value, found, shape, axis, layout) for value in (found.cos, found.sin))
        plan = _Plan(found, _form(found, (cos, sin), body, target), cos, sin, heads)
    except Refusal as refusal:
        return Site(name, str(refusal))
    return Site(name, f"fused into {plan.form}", lambda: plan.write(body, model, layout))


def _goes(found: Rotation) -> None:
    """Raises ``Refusal`` where a node in between would stay."""
    inside = {found.last, *found.between}
    for node in found.between:
        if node.graph is not found.last.graph:
            raise Refusal(f"{gir.where(node)} is in an outer graph")
        for value in node.outputs:
            if value.is_graph_output() or any(user not in inside for user, _ in value.uses()):
                raise Refusal(f"the result of {gir.where(node)} is also used elsewhere")


def _four(value: ir.Value, found: Rotation) -> Dims:
    """The dimensions of angles, with those of 1 in front that broadcasting adds."""
    own = gir.dims(value)
    if own is not None and found.behind:
        own = own[:-1] if own and own[-1] == 1 else None
    if own is None or not 2 <= len(own) <= 4:
        name = gir.where(value)
        raise Refusal(f"the rank of {name} is not known" if own is None else f"{name} has rank {len(own)}")
    return (*(1,) * (4 - len(own)), *own)


def _sequence_first(found: Rotation, shape: Dims) -> bool:
    """True when the angles say that the heads stand behind the sequence."""
    angles = [_four(value, found) for value in (found.cos, found.sin)]
    if all(one[1] == 1 for one in angles) and (shape[1] != 1 or shape[2] == 1):
        return False
    return all(one[2] == 1 and _same_length(one[1], shape[1]) for one in angles)


def _same_length(own: int | str | None, sequence: int | str | None) -> bool:
    """True if broadcasting angles to a sequence works only where there are as many.

    A table of n > 1 rows that is cut to the sequence has as many, or the graph fails.
    """
    if own is None or sequence is None:
        return False
    lesser = _LESSER.fullmatch(own) if isinstance(own, str) else None
    if lesser is not None and (lesser["name"] or lesser["name2"]) == sequence:
        return int(lesser["front"] or lesser["back"]) > 1
    return own == sequence


def _angles(value: ir.Value, found: Rotation, shape: Dims, axis: int, layout: Layout) -> Angles:
    own = _four(value, found)
    name = gir.where(value)
    head = shape[3]
    assert isinstance(head, int)
    batch, sequence, heads, size = own[0], own[axis], own[3 - axis], own[3]
    if size != (head if found.whole else head // 2):
        raise Refusal(f"the last dimension of {name} is not proven to be that of a head")
    if heads != 1:
        raise Refusal(f"{name} is not proven to be the same for all heads")
    if not _same_length(sequence, shape[axis]):
        raise Refusal(f"{name} is not proven to have an angle for each place of the sequence")
    if batch != 1 and (batch is None or batch != shape[0]):
        raise Refusal(f"the batch of {name} is not proven to be that of what it rotates")
    if found.whole:
        return Angles(half(value, layout.found[found.pairs]), batch, sequence, found.pairs)
    return Angles(Half(value, own, value=value), batch, sequence, found.pairs)


def _form(found: Rotation, angles: tuple[Angles, Angles], body: gir.Body, target: Target) -> str:
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
