"""A head that is rotated in part, its other elements put behind: one operator too.

    concat(RotaryEmbedding(x', c, s), x''),  x = concat(x', x'')
        ->  RotaryEmbedding{rotary_embedding_dim=size of x'}(x, c, s)

also where the sequence stands before the heads, so that x' is reshaped in front of the operator and behind it.
"""

from __future__ import annotations

import onnx_ir as ir

from graphopt.rewrite import Match, Rewrite, RuleSet, Tape, that

from ._rotary import cut

_FORM, _SINCE = "RotaryEmbedding", 23


def _takes_all(match: Match) -> bool:
    """The rotated part and the other are the whole head, in this order."""
    shape, part = match.dims("x"), match.dims("f")
    whole, axis = shape[-1], match.attr("k")
    if len(shape) != 4 or axis not in (-1, 3) or not isinstance(whole, int) or not isinstance(part[-1], int):
        return False
    if match.attr("r.rotary_embedding_dim", 0) or match.attr("r.num_heads", 0) != _heads(match):
        return False
    if match.node("f") is match.node("g"):
        rest = match.dims("g")[-1]
        return match.attr("d.axis", 0) in (-1, 3) and isinstance(rest, int) and part[-1] + rest == whole
    cuts = [cut(match.node(name), 4, whole) for name in ("f", "g")]
    return cuts == [(0, part[-1]), (part[-1], whole)]


def _heads(match: Match) -> int | None:
    """How many heads there must be: 0 where x' goes into the operator as it is; None where its reshape is no such."""
    if "n" not in match.pattern.names:
        return 0
    shape, flat = match.dims("f"), match.dims("n")
    heads, size = shape[2], shape[3]
    if not isinstance(heads, int) or not isinstance(size, int) or None in shape:
        return None
    return heads if flat == (*shape[:2], heads * size) and match.dims("o") == shape else None


def _in_part(match: Match, tape: Tape) -> ir.Value:
    size, shape = match.dims("f")[-1], match.dims("x")
    heads = _heads(match)
    operands = [match["c"], match["s"], match.get("p")]
    attributes = match.attrs("r")
    if not heads:
        return tape.op(_FORM, match["x"], *operands, attributes=attributes, rotary_embedding_dim=size)
    assert isinstance(shape[3], int)
    flat = tape.op("Reshape", match["x"], tape.constant([0, 0, heads * shape[3]], "flat"))
    done = tape.op(_FORM, flat, *operands, attributes=attributes, rotary_embedding_dim=size)
    return tape.op("Reshape", done, tape.constant([0, 0, heads, shape[3]], "heads"))


_CUTS = ("f = Slice(x, b, e, a, t?); g = Slice(x, b2, e2, a2, t2?)", "f, g = Split{**d}(x, z?)")
_ROTATED = (
    f"o = {_FORM}{{**r}}(f, c, s, p?)",
    f"n = Reshape{{**v}}(f, i); o = Reshape{{**w}}({_FORM}{{**r}}(n, c, s, p?), j)",
)

RULES = RuleSet(
    Rewrite(
        f"{cuts}; {rotated}; Concat{{axis=k}}(o, g)",
        build=_in_part,
        where=[that("the two parts are not proven to be all of a head", _takes_all)],
        opset=_SINCE,
        name="rotated in part",
    )
    for rotated in _ROTATED
    for cuts in _CUTS
)
