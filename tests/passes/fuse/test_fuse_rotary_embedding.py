"""fuse-rotary-embedding: the forms of both exporters, half angles proven and shared, and what is kept."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.execute.session import Session
from graphopt.ir import check, infer
from graphopt.passes.fuse._rotary_parts import RULES
from graphopt.passes.fuse.fuse_rotary_embedding import FuseRotaryEmbedding
from graphopt.pipeline import Context
from graphopt.pipeline.drive import drive
from graphopt.rewrite.fuzz import fuzz
from graphopt.target import targets

MICROSOFT = Context(
    target=dataclasses.replace(targets()["x86-64"], forms=frozenset({"com.microsoft::RotaryEmbedding"}))
)
NUMBERS = """int64[1] o = {0}, int64[1] i = {1}, int64[1] k = {3}, int64[1] h = {2}, int64[1] end = {9223372036854775807},
             int64[2] halves = {2, 2}"""
X = "float[B, 3, S, 4] x, float[1, S, 2] f"
Y = "float[?, ?, ?, ?] y"
ANGLES = "a = Concat<axis = -1>(f, f) p = Cos(a) q = Sin(a) c = Unsqueeze(p, i) s = Unsqueeze(q, i)"
ROTATED = """u = Slice(x, o, h, k, i) v = Slice(x, h, end, k, i) w = Neg(v) t = Concat<axis = -1>(w, u)
             m = Mul(x, c) n = Mul(t, s)"""
BATCH = "d = Shape<start = 0, end = 1>(x) e = Concat<axis = 0>(d, ones)"
ONES = "int64[2] ones = {1, 1}"


def model(body: str, names: str = NUMBERS, *, x: str = X, y: str = Y, opset: int = 23, domain: bool = False) -> str:
    domains = f'"": {opset}' + (', "com.microsoft": 1' if domain else "")
    return f"<ir_version: 10, opset_import: [{domains}]> g ({x}) => ({y}) <{names}> {{ {body} }}"


FUSED = f"p = Cos(f) {BATCH} c = Expand(p, e) q = Sin(f) s = Expand(q, e) y = RotaryEmbedding(x, c, s)"
DIALECTS = {
    "dynamo": f"{ROTATED} y = Add(m, n)",
    "the other order": f"{ROTATED} y = Add(n, m)".replace("Mul(x, c)", "Mul(c, x)").replace("Mul(t, s)", "Mul(s, t)"),
    "axes from the end": f"{ROTATED} y = Add(m, n)".replace("k, i)", "last)"),
    "chunk of dynamo": "u, v = Split<axis = -1, num_outputs = 2>(x) w = Neg(v) t = Concat<axis = 3>(w, u) "
    "m = Mul(x, c) n = Mul(t, s) y = Add(m, n)",
    "split by sizes": "u, v = Split<axis = 3>(x, halves) w = Neg(v) t = Concat<axis = 3>(w, u) "
    "m = Mul(x, c) n = Mul(t, s) y = Add(m, n)",
}


@pytest.mark.parametrize("body", DIALECTS.values(), ids=DIALECTS)
def test_each_dialect_becomes_one_operator(rewrites, body):
    names = f"{NUMBERS}, int64[1] last = {{-1}}"
    rewrites(FuseRotaryEmbedding(), model(f"{ANGLES} {body}", names), model(FUSED, ONES))


@pytest.mark.parametrize("body", DIALECTS.values(), ids=DIALECTS)
def test_below_opset_23_the_target_may_take_another(rewrites, body):
    names = f"{NUMBERS}, int64[1] last = {{-1}}"
    after = """p = Cos(f) c = Squeeze(p, o) q = Sin(f) s = Squeeze(q, z)
               y = com.microsoft.RotaryEmbedding(x, j, c, s)"""
    constants = "int64[1] o = {0}, int64[1] z = {0}, int64[1] j = {0}"
    rewrites(
        FuseRotaryEmbedding(),
        model(f"{ANGLES} {body}", names, opset=18),
        model(after, constants, opset=18, domain=True),
        context=MICROSOFT,
    )


@pytest.mark.parametrize("first", ["m = Mul(u, c) n = Mul(v, s)", "m = Mul(c, u) n = Mul(s, v)"])
def test_half_by_half(rewrites, first):
    """As GPT-OSS writes it."""
    body = f"""u, v = Split<axis = -1, num_outputs = 2>(x) {first} a = Sub(m, n)
               p = Mul(v, c) q = Mul(u, s) b = Add(p, q) y = Concat<axis = -1>(a, b)"""
    inputs = "float[B, 3, S, 4] x, float[B, 1, S, 2] c, float[B, 1, S, 2] s"
    after = "d = Squeeze(c, i) e = Squeeze(s, j) y = RotaryEmbedding(x, d, e)"
    names = "int64[1] i = {1}, int64[1] j = {1}"
    rewrites(FuseRotaryEmbedding(), model(body, x=inputs), model(after, names, x=inputs))


def test_angles_of_every_batch_are_not_expanded(rewrites):
    inputs = "float[B, 3, S, 4] x, float[B, S, 2] f"
    after = "p = Cos(f) q = Sin(f) y = RotaryEmbedding(x, p, q)"
    rewrites(
        FuseRotaryEmbedding(),
        model(f"{ANGLES} {ROTATED} y = Add(m, n)", x=inputs),
        model(after, "int64[1] unused = {0}", x=inputs).replace("<int64[1] unused = {0}>", ""),
    )


def test_a_batch_of_known_size_needs_no_shape(rewrites):
    inputs = "float[2, 3, S, 4] x, float[1, S, 2] f"
    after = "p = Cos(f) c = Expand(p, e) q = Sin(f) s = Expand(q, e) y = RotaryEmbedding(x, c, s)"
    before = model(f"{ANGLES} {ROTATED} y = Add(m, n)", x=inputs)
    rewrites(FuseRotaryEmbedding(), before, model(after, "int64[3] e = {2, 1, 1}", x=inputs))


def test_tables_of_constants_are_halved(rewrites):
    """A table that is looked up at given places."""
    inputs = "float[B, 3, S, 4] x, int64[B, S] at"
    twice = "float[3, 4] a = {1, 2, 1, 2, 3, 4, 3, 4, 5, 6, 5, 6}, float[3, 4] b = {7, 8, 7, 8, 1, 2, 1, 2, 3, 4, 3, 4}"
    once = "float[3, 2] a = {1, 2, 3, 4, 5, 6}, float[3, 2] b = {7, 8, 1, 2, 3, 4}"
    look = "p = Gather(a, at) q = Gather(b, at) c = Unsqueeze(p, i) s = Unsqueeze(q, i)"
    rewrites(
        FuseRotaryEmbedding(),
        model(f"{look} {ROTATED} y = Add(m, n)", f"{NUMBERS}, {twice}", x=inputs),
        model("p = Gather(a, at) q = Gather(b, at) y = RotaryEmbedding(x, p, q)", once, x=inputs),
        runs=False,
    )


def test_a_table_that_is_looked_up_by_dynamo(rewrites):
    inputs = "float[B, 3, S, 4] x, int64[B, S, 1] at"
    twice = "float[2, 4] a = {1, 2, 1, 2, 3, 4, 3, 4}, float[2, 4] b = {7, 8, 7, 8, 1, 2, 1, 2}"
    once = "float[2, 2] a = {1, 2, 3, 4}, float[2, 2] b = {7, 8, 1, 2}"
    look = "p = GatherND(a, at) q = GatherND(b, at) c = Unsqueeze(p, i) s = Unsqueeze(q, i)"
    rewrites(
        FuseRotaryEmbedding(),
        model(f"{look} {ROTATED} y = Add(m, n)", f"{NUMBERS}, {twice}", x=inputs),
        model("p = GatherND(a, at) q = GatherND(b, at) y = RotaryEmbedding(x, p, q)", once, x=inputs),
        runs=False,
    )


def test_a_scale_and_a_cast_on_the_way_are_repeated(rewrites):
    inputs = "float16[2, 3, S, 4] x, float[2, S, 2] f"
    way = """a = Concat<axis = -1>(f, f) p = Cos(a) l = Mul(p, g) p2 = Cast<to = 10>(l) c = Unsqueeze(p2, i)
             q = Sin(a) r = Mul(g, q) q2 = Cast<to = 10>(r) s = Unsqueeze(q2, i)"""
    after = """p = Cos(f) l = Mul(p, g) c = Cast<to = 10>(l) q = Sin(f) r = Mul(g, q) s = Cast<to = 10>(r)
               y = RotaryEmbedding(x, c, s)"""
    before = model(f"{way} {ROTATED} y = Add(m, n)", f"{NUMBERS}, float g = {{1.5}}", x=inputs, y=f"float16{Y[5:]}")
    rewrites(FuseRotaryEmbedding(), before, model(after, "float g = {1.5}", x=inputs, y=f"float16{Y[5:]}"))


def test_all_layers_share_the_angles(rewrites):
    inputs = f"{X}, float[B, 5, S, 4] z"
    second = """u2 = Slice(z, o, h, k, i) v2 = Slice(z, h, end, k, i) w2 = Neg(v2) t2 = Concat<axis = -1>(w2, u2)
                m2 = Mul(z, c) n2 = Mul(t2, s)"""
    before = model(
        f"{ANGLES} {ROTATED} y = Add(m, n) {second} y2 = Add(m2, n2)", x=inputs, y=f"{Y}, float[?, ?, ?, ?] y2"
    )
    after = model(f"{FUSED} y2 = RotaryEmbedding(z, c, s)", ONES, x=inputs, y=f"{Y}, float[?, ?, ?, ?] y2")
    rewrites(FuseRotaryEmbedding(), before, after)


@pytest.mark.parametrize(
    "cut",
    [
        "x = Slice(z, o, four, k, i) r = Slice(z, four, end, k, i)",
        "x, r = Split<axis = 3>(z, sizes)",
    ],
)
def test_a_head_that_is_rotated_in_part(rewrites, cut):
    """As GPT-NeoX and Phi write it."""
    inputs = "float[2, 3, S, 7] z, float[2, S, 2] f"
    names = f"{NUMBERS}, int64[1] four = {{4}}, int64[2] sizes = {{4, 3}}"
    before = model(f"{cut} {ANGLES} {ROTATED} j = Add(m, n) y = Concat<axis = -1>(j, r)", names, x=inputs)
    after = "p = Cos(f) q = Sin(f) y = RotaryEmbedding<rotary_embedding_dim = 4>(z, p, q)"
    after = model(after, "int64 unused = {0}", x=inputs).replace("<int64 unused = {0}>", "")
    rewrites(FuseRotaryEmbedding(), before, after)


@pytest.mark.parametrize(
    "cut",
    [
        "x = Slice(z, o, four, k, i) r = Slice(z, o, three, k, i)",  # not the rest
        "x = Slice(z, three, end, k, i) r = Slice(z, o, three, k, i)",  # the rest was in front
        "r, x = Split<axis = 3>(z, turned)",
    ],
)
def test_parts_that_change_places_stay(rewrites, cut):
    inputs = "float[2, 3, S, 7] z, float[2, S, 2] f"
    names = "int64[1] o = {0}, int64[1] i = {1}, int64[1] k = {3}, int64[1] end = {99}, int64[1] four = {4}"
    names = f"{names}, int64[1] three = {{3}}, int64[2] turned = {{3, 4}}"
    body = f"{cut} p = Cos(f) q = Sin(f) j = RotaryEmbedding(x, p, q) y = Concat<axis = -1>(j, r)"
    text = model(body, names, x=inputs)
    rewrites(FuseRotaryEmbedding(), text, text)


@pytest.mark.parametrize(
    ("body", "options", "reason"),
    [
        (f"{ANGLES} {ROTATED}", {"opset": 20}, "needs opset 23, this graph has 20"),
        (f"{ANGLES} {ROTATED}".replace("(f, f)", "(f, f2)"), {"x": f"{X}, float[1, S, 2] f2"}, "not proven to be equal"),
        (f"{ANGLES} {ROTATED}", {"x": "float[B, 3, S, 4] x, float[1, T, 2] f"}, "an angle for each place"),
        (f"{ANGLES} {ROTATED}", {"x": "float[B, 3, S, 4] x, float[C, S, 2] f"}, "the batch of"),
        (f"{ANGLES} {ROTATED}", {"y": f"{Y}, float[?, ?, ?, ?] w"}, "is also used elsewhere"),
        (ROTATED, {"x": "float[B, 3, S, 4] x, float[1, 3, S, 4] c, float[1, 3, S, 4] s"}, "the same for all heads"),
        (ROTATED, {"x": "float[B, 3, S, 4] x, float[1, 1, S, 4] c, float[1, 1, S, 4] s"}, "not proven to be equal"),
        (ROTATED, {"x": "float[B, 3, S, 4] x, float[S, 1] c, float[S, 1] s"}, "not proven to be that of a head"),
        (ROTATED.replace("k,", "h,"), {"x": "float[B, 4, 4] x, float[1, 4, 4] c, float[1, 4, 4] s", "y": "float[?, ?, ?] y"},
         "four dimensions"),
    ],
)  # fmt: skip
def test_what_is_kept_has_a_reason(keeps, body, options, reason):
    keeps(FuseRotaryEmbedding(), model(f"{body} y = Add(m, n)", **options), reason=reason)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Slice(x, h, end, k, i)", "Slice(x, i, h2, k, i)"),  # not the second half
        ("t = Concat<axis = -1>(w, u)", "t = Concat<axis = -1>(u, w)"),
        ("w = Neg(v)", "w = Abs(v)"),
        ("Slice(x, o, h, k, i)", "Slice(z, o, h, k, i)"),
        ("m = Mul(x, c)", "m = Mul(z, c)"),
    ],
)
def test_other_turns_are_no_candidates(keeps, old, new):
    inputs = "float[2, 3, S, 4] x, float[2, S, 2] f, float[2, 3, S, 4] z"
    text = model(f"{ANGLES} {ROTATED} y = Add(m, n)".replace(old, new), f"{NUMBERS}, int64[1] h2 = {{3}}", x=inputs)
    assert not keeps(FuseRotaryEmbedding(), text).kept


def test_double_has_no_such_operator(keeps, in_type):
    text = in_type(model(f"{ANGLES} {ROTATED} y = Add(m, n)"), ir.DataType.DOUBLE)
    keeps(FuseRotaryEmbedding(), text, reason="for double", runs=False)


def test_angles_of_every_batch_have_no_place_in_the_other_operator(keeps):
    text = model(f"{ANGLES} {ROTATED} y = Add(m, n)", x="float[B, 3, S, 4] x, float[B, S, 2] f", opset=18)
    keeps(FuseRotaryEmbedding(), text, context=MICROSOFT, reason="the same for all batches")


def test_the_target_may_object_to_both(keeps):
    context = Context(target=dataclasses.replace(targets()["x86-64"], lacks=frozenset({"RotaryEmbedding"})))
    text = model(f"{ANGLES} {ROTATED} y = Add(m, n)")
    keeps(FuseRotaryEmbedding(), text, context=context, reason="has no RotaryEmbedding, and com.microsoft::")


def test_inside_a_branch_and_a_function(rewrites):
    def branch(body: str, names: str) -> str:
        return model(
            f"""y = If (b) <then_branch = d0 () => (float[?, ?, ?, ?] y1) {{ {body} }},
                            else_branch = e0 () => (float[?, ?, ?, ?] z) {{ z = Neg(x) }}>""",
            names,
            x="bool b, float[2, 3, S, 4] x, float[2, S, 2] f",
        )

    after = "p = Cos(f) q = Sin(f) y1 = RotaryEmbedding(x, p, q)"
    rewrites(
        FuseRotaryEmbedding(),
        branch(f"{ANGLES} {ROTATED} y1 = Add(m, n)", NUMBERS),
        branch(after, "int64 unused = {0}").replace("<int64 unused = {0}>", ""),
    )

    def function(body: str, domain: str = "") -> str:
        return f"""<ir_version: 10, opset_import: ["": 18, "own": 1{domain}]>
            g (float[2, 3, 5, 4] x, float[1, 5, 2] f) => ({Y}) {{ y = own.block(x, f) }}
            <domain: "own", opset_import: ["": 18{domain}]> block (x, f) => (y) {{ {body} }}"""

    numbers = """o = Constant<value = int64[1] {0}>() i = Constant<value = int64[1] {1}>()
                 k = Constant<value = int64[1] {3}>() h = Constant<value = int64[1] {2}>()
                 end = Constant<value = int64[1] {9}>()"""
    source = ir.from_onnx_text(function(f"{numbers} {ANGLES} {ROTATED} y = Add(m, n)"))
    check(source)
    copy = source.clone()
    infer(copy)
    assert drive(FuseRotaryEmbedding(), copy, MICROSOFT).changed
    check(copy)
    (body,) = copy.functions.values()
    assert body.opset_imports["com.microsoft"] == copy.opset_imports["com.microsoft"] == 1
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 3, 5, 4)), "f": np.arange(10.0).reshape(1, 5, 2)}
    feeds = {name: value.astype(np.float32) for name, value in feeds.items()}
    before, now = (np.asarray(Session(item, optimized=False).run(feeds)["y"]) for item in (source, copy))
    np.testing.assert_allclose(now, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", RULES.rules, ids=lambda rule: rule.pattern)
def test_rotating_in_part_holds_on_random_shapes(rule):
    bounds = {"b": 0, "e": 4, "b2": 4, "e2": 7, "a": 3, "a2": -1, "t": 1, "t2": 1}
    flat = "n" in rule.source.names  # the sequence before the heads
    made = {"z": [4, 3], "i": [2, 3, 20], "j": [2, 3, 5, 4]}
    fuzz(
        rule,
        opset=23,
        shapes={"x": "2 3 5 7", "c": "2 3 2" if flat else "2 5 2", "s": "2 3 2" if flat else "2 5 2", "p": "2 5"}
        | {"z": "2", "i": "3", "j": "4"}
        | dict.fromkeys(bounds, "1"),
        types=dict.fromkeys((*bounds, *made, "p"), ir.DataType.INT64),
        values={name: lambda rng, shape, number=number: np.full(shape, number) for name, number in bounds.items()}
        | {name: lambda rng, shape, numbers=numbers: np.array(numbers) for name, numbers in made.items()},
        attributes={"k": -1, "d": {"axis": 3}} | ({"r": {"num_heads": 5}} if flat else {}),
        constants=[name for name in (*bounds, *made) if name in rule.source.variables],
    )


@pytest.mark.parametrize(
    "angles",
    [
        "c = Relu(f) s = Sin(f)",
        "c = RandomNormal<shape = [2, 1, 5, 4]>() s = Cos(f)",
        "p = Concat<axis = 3>(f1, f1) c = Cos(p) q = Concat<axis = 3>(f1, f2) s = Sin(q)",
        "p = Concat<axis = 2>(f3) c = Cos(p) s = Sin(p)",
        "p = Concat<axis = 3>(f1, f1) a = Concat<axis = 3>(f1, f2) c = Mul(p, a) s = Cos(p)",
        "a = Unsqueeze(f1, last) b = Expand(a, to) d = Reshape(b, four) c = Cos(d) s = Sin(d)",  # interleaved
        "a = Concat<axis = 3>(f1, f1) b = Transpose<perm = [0, 1, 3, 2]>(f4) c = Cos(b) s = Sin(a)",
    ],
)
def test_angles_that_are_not_proven_to_be_laid_out_twice(keeps, angles):
    inputs = """float[2, 3, 5, 4] x, float[2, 1, 5, 4] f, float[2, 1, 5, 2] f1, float[2, 1, 5, 2] f2, float[2, 1, 5, 4] f3,
                float[2, 1, 4, 5] f4"""
    names = f"{NUMBERS}, int64[1] last = {{4}}, int64[5] to = {{1, 1, 1, 1, 2}}, int64[4] four = {{2, 1, 5, 4}}"
    text = model(f"{angles} {ROTATED} y = Add(m, n)", names, x=inputs)
    keeps(FuseRotaryEmbedding(), text, reason="are not proven to be equal", runs="Random" not in angles)


def test_halves_that_no_slice_cuts_are_no_candidates(keeps):
    body = "u = RandomNormal<shape = [2, 3, 5, 2]>() v = RandomNormal<shape = [2, 3, 5, 2]>()"
    text = f"{body} w = Neg(v) t = Concat<axis = -1>(w, u) m = Mul(x, f) n = Mul(t, f) y = Add(m, n)"
    assert not keeps(FuseRotaryEmbedding(), model(text, x="float[2, 3, 5, 4] x, float[2, 1, 5, 4] f"), runs=False).kept
