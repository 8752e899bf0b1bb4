"""fuse-rotary-embedding on rotations by pairs: GPT-J's, those of complex numbers, and heads behind the sequence."""

from __future__ import annotations

import dataclasses

import pytest

from graphopt.passes.fuse.fuse_rotary_embedding import FuseRotaryEmbedding
from graphopt.pipeline import Context
from graphopt.target import targets

MICROSOFT = Context(
    target=dataclasses.replace(targets()["x86-64"], forms=frozenset({"com.microsoft::RotaryEmbedding"}))
)
NUMBERS = """int64[1] o = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3}, int64[1] four = {4},
             int64[1] last = {-1}, int64[1] end = {9223372036854775807}, int64 first = {0}, int64 second = {1},
             int64[2] ones = {1, 1}, int64[2] both = {2, 4}, int64[5] repeats = {1, 1, 1, 1, 2},
             int64[4] paired = {1, 1, 1, 2}, int64[5] split = {0, 0, 0, 2, 2}, int64[4] merged = {0, 0, 0, 4},
             int64[3] row = {0, 0, 4}, int64[5] from_flat = {0, 0, 3, 2, 2}"""
Y = "float[?, ?, ?, ?] y"
FOUR = "int64[3] flat = {0, 0, 12}, int64[4] heads = {0, 0, 3, 4}"


def model(body: str, x: str, names: str = NUMBERS, *, y: str = Y, opset: int = 23, domain: bool = False) -> str:
    domains = f'"": {opset}' + (', "com.microsoft": 1' if domain else "")
    names = f"<{names}>" if names else ""
    return f"<ir_version: 10, opset_import: [{domains}]> g ({x}) => ({y}) {names} {{ {body} }}"


STEPPED = "u = Slice(x, o, end, three, two) v = Slice(x, one, end, three, two)"
TURNED = """w = Neg(v) w2 = Unsqueeze(w, last) u2 = Unsqueeze(u, last) t = Concat<axis = -1>(w2, u2)
            t2 = Reshape(t, merged) m = Mul(x, c) n = Mul(t2, s) y = Add(m, n)"""
TWICE = """f2 = Unsqueeze(f, three) f3 = Expand(f2, paired) f4 = Reshape(f3, row) p = Cos(f4) q = Sin(f4)
           c = Unsqueeze(p, one) s = Unsqueeze(q, one)"""
BATCH_OF_F = "p = Cos(f) q = Sin(f) y = RotaryEmbedding<interleaved = 1>(x, p, q)"
EACH = "float[B, 3, S, 4] x, float[B, S, 2] f"


@pytest.mark.parametrize(
    "angles",
    [
        TWICE,  # dynamo's repeat_interleave
        TWICE.replace("Expand", "Tile"),  # TorchScript's
        TWICE.replace("Expand(f2, paired)", "Concat<axis = -1>(f2, f2)"),  # stack((f, f), -1).flatten(-2)
    ],
)
@pytest.mark.parametrize(
    "cut",
    [
        STEPPED,
        STEPPED.replace("three, two", "last, two"),
        """r = Reshape(x, split) u = Gather<axis = -1>(r, first) v = Gather<axis = 4>(r, second)""",  # dynamo's unbind
        """r = Reshape(x, split) u0, v0 = Split<axis = -1>(r, ones) u = Squeeze(u0, last) v = Squeeze(v0, four)""",
        """r = Reshape(x, split) u0 = Slice(r, o, one, four) v0 = Slice(r, one, two, last)
           u = Squeeze(u0, last) v = Squeeze(v0, last)""",
    ],
)
def test_every_other_element_turned(rewrites, cut, angles):
    """As GPT-J, GLM, Cohere and Flux write it."""
    rewrites(FuseRotaryEmbedding(), model(f"{angles} {cut} {TURNED}", EACH), model(BATCH_OF_F, EACH, ""))


def test_an_axis_that_is_still_there_is_not_added(rewrites):
    """TorchScript and clean leave: one of the two was squeezed for its Neg, the other was not."""
    body = """r = Reshape(x, split) u, v0 = Split<axis = -1>(r, ones) v = Squeeze(v0, last) w = Neg(v)
              w2 = Unsqueeze(w, last) t = Concat<axis = -1>(w2, u) t2 = Reshape(t, merged)
              m = Mul(c, x) n = Mul(s, t2) y = Add(n, m)"""
    rewrites(FuseRotaryEmbedding(), model(f"{TWICE} {body}", EACH), model(BATCH_OF_F, EACH, ""))


CROSSED = """a = Mul(u, c) b = Mul(v, s) re = Sub(a, b) d = Mul(u, s) e = Mul(v, c) im = Add(d, e)"""
STACKED = (
    """re2 = Unsqueeze(re, last) im2 = Unsqueeze(im, last) t = Concat<axis = -1>(re2, im2) y = Reshape(t, merged)"""
)
BEHIND = "float[B, S, 3, 4] x, float[B, S, 1, 2] c, float[B, S, 1, 2] s"
BEHIND_AFTER = """c2 = Squeeze(c, two) s2 = Squeeze(s, two2) x2 = Reshape(x, flat)
    z = RotaryEmbedding<interleaved = 1, num_heads = 3>(x2, c2, s2) y = Reshape(z, heads)"""
SQUEEZES = f"{FOUR}, int64[1] two = {{2}}, int64[1] two2 = {{2}}"


def test_a_product_of_complex_numbers_by_parts(rewrites):
    """As Llama's own code does, with the heads behind the sequence."""
    body = f"r = Reshape(x, split) u = Gather<axis = 4>(r, first) v = Gather<axis = 4>(r, second) {CROSSED} {STACKED}"
    rewrites(FuseRotaryEmbedding(), model(body, BEHIND), model(BEHIND_AFTER, BEHIND, SQUEEZES))


def test_a_sequence_of_one_place(rewrites):
    """As a decoder does it, step by step."""
    inputs = BEHIND.replace("S", "1").replace("B", "2")
    body = f"r = Reshape(x, split) u = Gather<axis = 4>(r, first) v = Gather<axis = 4>(r, second) {CROSSED} {STACKED}"
    names = SQUEEZES.replace("two = {2}", "two = {1}").replace("two2 = {2}", "two2 = {1}")
    rewrites(FuseRotaryEmbedding(), model(body, inputs), model(BEHIND_AFTER, inputs, names))


def test_a_product_of_complex_numbers(rewrites):
    """As dynamo writes view_as_complex: the axis of the two parts stays."""
    inputs = "float[B, S, 3, 4] x, float[B, S, 1, 2, 1] c, float[B, S, 1, 2, 1] s"
    body = f"""r = Reshape(x, split) u = Slice(r, o, one, last) v = Slice(r, one, two, last) {CROSSED}
               t = Concat<axis = -1>(re, im) y = Reshape(t, merged)"""
    names = f"{FOUR}, int64[2] a = {{2, 4}}, int64[2] b = {{2, 4}}"
    after = BEHIND_AFTER.replace("two2", "b").replace("two", "a")
    rewrites(FuseRotaryEmbedding(), model(body, inputs), model(after, inputs, names))


def test_heads_that_come_from_one_axis_are_not_split_first(rewrites):
    inputs = "float[B, S, 12] x, float[B, S, 1, 2] c, float[B, S, 1, 2] s"
    body = "r = Reshape(x, from_flat) u = Gather<axis = 4>(r, first) v = Gather<axis = 4>(r, second)"
    after = BEHIND_AFTER.replace("x2 = Reshape(x, flat)", "").replace("(x2,", "(x,")
    after = model(after, inputs, SQUEEZES.replace("int64[3] flat = {0, 0, 12}, ", ""))
    rewrites(FuseRotaryEmbedding(), model(f"{body} {CROSSED} {STACKED}", inputs), after)


def test_below_opset_23_the_target_may_take_another(rewrites):
    inputs = "float[B, S, 3, 4] x, float[S, 1, 2] c, float[S, 1, 2] s"
    body = f"r = Reshape(x, split) u = Gather<axis = 4>(r, first) v = Gather<axis = 4>(r, second) {CROSSED} {STACKED}"
    after = """c2 = Squeeze(c, one) s2 = Squeeze(s, one2) x2 = Reshape(x, flat)
        z = com.microsoft.RotaryEmbedding<interleaved = 1, num_heads = 3>(x2, o, c2, s2) y = Reshape(z, heads)"""
    names = f"{FOUR}, int64[1] one = {{1}}, int64[1] one2 = {{1}}, int64[1] o = {{0}}"
    rewrites(
        FuseRotaryEmbedding(),
        model(body, inputs, opset=18),
        model(after, inputs, names, opset=18, domain=True),
        context=MICROSOFT,
    )


def test_by_halves_with_the_heads_behind_the_sequence(rewrites):
    body = """u, v = Split<axis = -1, num_outputs = 2>(x) p = Concat<axis = -1>(c, c) q = Concat<axis = -1>(s, s)
              w = Neg(v) t = Concat<axis = -1>(w, u) m = Mul(x, p) n = Mul(t, q) y = Add(m, n)"""
    after = BEHIND_AFTER.replace("interleaved = 1, ", "")
    rewrites(FuseRotaryEmbedding(), model(body, BEHIND), model(after, BEHIND, SQUEEZES))


def test_constant_angles_are_laid_out_once(rewrites):
    inputs = "float[B, 3, 2, 4] x"
    twice = """float[1, 2, 4] c = {1, 1, 2, 2, 3, 3, 4, 4}, float[1, 2, 4] s = {7, 7, 8, 8, 1, 1, 2, 2}"""
    once = "float[1, 2, 2] c = {1, 2, 3, 4}, float[1, 2, 2] s = {7, 8, 1, 2}"
    before = model(f"{STEPPED} {TURNED}", inputs, f"{NUMBERS}, {twice}")
    after = """b = Shape<start = 0, end = 1>(x) e = Concat<axis = 0>(b, ones) k = Expand(c, e) l = Expand(s, e)
               y = RotaryEmbedding<interleaved = 1>(x, k, l)"""
    rewrites(FuseRotaryEmbedding(), before, model(after, inputs, f"{once}, int64[2] ones = {{1, 1}}"))


def test_a_table_that_is_cut_to_the_sequence_is_as_long(rewrites):
    """The table has 2 rows or more, so cut to 1 it belongs to a sequence of 1; a longer sequence fails in both."""
    inputs = "float[2, S, 3, 4] x"
    table = "float[3, 2] table = {1, 2, 3, 4, 5, 6}"
    cut = """l = Shape<start = 1, end = 2>(x) c0 = Slice(table, o, l, o) c = Unsqueeze(c0, ends)
             s = Unsqueeze(c0, ends)"""
    body = f"r = Reshape(x, split) u = Gather<axis = 4>(r, first) v = Gather<axis = 4>(r, second) {CROSSED} {STACKED}"
    before = model(f"{cut} {body}", inputs, f"{NUMBERS}, {table}, int64[2] ends = {{0, 2}}")
    names = f"{SQUEEZES}, {table}, int64[1] o = {{0}}, int64[2] ends = {{0, 2}}, int64[3] e = {{2, 1, 1}}"
    after = """l = Shape<start = 1, end = 2>(x) c0 = Slice(table, o, l, o) c = Unsqueeze(c0, ends) s = Unsqueeze(c0, ends)
        c1 = Squeeze(c, two) c2 = Expand(c1, e) s1 = Squeeze(s, two2) s2 = Expand(s1, e) x2 = Reshape(x, flat)
        z = RotaryEmbedding<interleaved = 1, num_heads = 3>(x2, c2, s2) y = Reshape(z, heads)"""
    rewrites(FuseRotaryEmbedding(), before, model(after, inputs, names), runs=False)


def test_a_head_that_is_rotated_in_part(rewrites):
    """As GPT-J writes it, with the heads behind the sequence."""
    inputs = "float[2, S, 3, 7] z, float[2, S, 1, 2] c, float[2, S, 1, 2] s"
    body = "x = Slice(z, o, four, three) k = Slice(z, four, end, three) r = Reshape(x, split)"
    body = f"{body} u = Gather<axis = 4>(r, first) v = Gather<axis = 4>(r, second) {CROSSED}"
    body = f"{body} {STACKED.replace('y =', 'j =')} y = Concat<axis = 3>(j, k)"
    after = """c2 = Squeeze(c, two) s2 = Squeeze(s, two2) x = Reshape(z, flat)
        k = RotaryEmbedding<interleaved = 1, num_heads = 3, rotary_embedding_dim = 4>(x, c2, s2) y = Reshape(k, heads)"""
    names = "int64[3] flat = {0, 0, 21}, int64[4] heads = {0, 0, 3, 7}, int64[1] two = {2}, int64[1] two2 = {2}"
    rewrites(FuseRotaryEmbedding(), model(body, inputs), model(after, inputs, names))


@pytest.mark.parametrize(
    ("angles", "cut", "inputs", "reason"),
    [
        (TWICE, STEPPED, "float[B, 3, S, 4] x, float[B, T, 2] f", "an angle for each place"),
        (TWICE, STEPPED, "float[B, S, 3, 4] x, float[1, S, 2] f", "an angle for each place"),
        ("c = Unsqueeze(f, one) s = Sin(c)", STEPPED, "float[B, 3, S, 4] x, float[B, S, 4] f", "elements of each pair"),
        # laid out for halves, rotated by pairs
        ("f2 = Concat<axis = -1>(f, f) c = Unsqueeze(f2, one) s = Sin(c)", STEPPED, EACH, "elements of each pair"),
        (TWICE, STEPPED, "double[B, 3, S, 4] x, double[B, S, 2] f", "no RotaryEmbedding for double"),
    ],
)
def test_what_is_kept_has_a_reason(keeps, angles, cut, inputs, reason):
    text = model(f"{angles} {cut} {TURNED}", inputs, y=Y.replace("float", "double") if "double" in inputs else Y)
    keeps(FuseRotaryEmbedding(), text, reason=reason, runs=False)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Slice(x, one, end, three, two)", "Slice(x, two, end, three, two)"),
        ("Slice(x, one, end, three, two)", "Slice(x, o, end, three, two)"),
        ("Slice(x, one, end, three, two)", "Slice(z, one, end, three, two)"),
        ("axis = -1>(w2, u2)", "axis = -1>(u2, w2)"),
        ("w = Neg(v)", "w = Abs(v)"),
        ("u2 = Unsqueeze(u, last) t = Concat<axis = -1>", "u2 = Unsqueeze(u, last) t = Concat<axis = -2>"),
        ("m = Mul(x, c)", "m = Mul(z, c)"),
    ],
)
def test_other_turns_are_no_candidates(keeps, old, new):
    body = f"{TWICE} {STEPPED} {TURNED}"
    assert old in body
    inputs = "float[2, 3, 5, 4] x, float[2, 5, 2] f, float[2, 3, 5, 4] z"
    shorter = "two, end" in new  # one element less, which is broadcast
    assert not keeps(FuseRotaryEmbedding(), model(body.replace(old, new), inputs), runs=not shorter).kept
