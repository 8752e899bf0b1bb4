"""What masks do to attention: silent rows, sizes, types, and why some attentions are kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.ir import infer
from graphopt.passes.fuse.fuse_attention import FuseAttention
from graphopt.pipeline import Context
from graphopt.pipeline.drive import drive
from graphopt.profile import Point, Profile
from graphopt.target import targets

HEAD = '<ir_version: 10, opset_import: ["": 23]>'
LOWEST, NEXT = "-3.4028234663852886e+38", "-3.4028232635611926e+38"
QKV = "float[B, 2, S, 4] q, float[B, 2, K, 4] k, float[B, 2, K, 4] v"
SCORES = "t = Transpose <perm = [0, 1, 3, 2]> (k) s = MatMul (q, t)"
END = "p = Softmax <axis = -1> (a) y = MatMul (p, v)"
GUARDED = "p = Softmax <axis = -1> (a) n = IsNaN (p) g = Where (n, zero, p) y = MatMul (g, v)"
NUMBERS = f"""float low = {{{LOWEST}}}, float minus = {{-inf}}, float zero = {{0}}, float one = {{1}},
    float many = {{-1e9}}, int64[1] axes = {{-1}}"""
FUSED = "y = Attention <scale = 1.0>"
KEEP = "bool[B, 1, S, K] keep"


def graph(body: str, inputs: str = "", numbers: str = NUMBERS, outputs: str = "float[B, 2, S, 4] y") -> str:
    return f"{HEAD} g ({', '.join(filter(None, (QKV, inputs)))}) => ({outputs}) <{numbers}> {{ {body} }}"


@pytest.mark.parametrize(
    ("step", "end", "inputs", "mask"),
    [
        ("a = Where (keep, s, low)", END, KEEP, "m = Where (keep, zero, next)"),
        ("a = Where (keep, s, many)", END, KEEP, "m = Where (keep, zero, next)"),
        ("a = Where (keep, many, s)", END, KEEP, "m = Where (keep, next, zero)"),
        ("a = Where (keep, s, minus)", GUARDED, KEEP, "m = Identity (keep)"),
        ("a = Where (keep, minus, s)", GUARDED, KEEP, "m = Not (keep)"),
        ("b = Where (keep, zero, low) a = Add (b, s)", END, KEEP, "m = Where (keep, zero, next)"),
        ("b = Where (keep, zero, minus) a = Add (s, b)", GUARDED, KEEP, "m = Identity (keep)"),
        ("b = Where (keep, minus, zero) a = Add (b, s)", GUARDED, KEEP, "m = Not (keep)"),
    ],
)
def test_a_query_without_a_key_keeps_its_result(rewrites, step, end, inputs, mask):
    """Random masks of these small sizes have such queries."""
    rewrites(
        FuseAttention(),
        graph(f"{SCORES} {step} {end}", inputs),
        graph(f"{mask} {FUSED} (q, k, v, m)".replace("m = Identity (keep)", "").replace(
              ", m)", ", keep)" if "Identity" in mask else ", m)"), inputs,
              f"float zero = {{0}}, float next = {{{NEXT}}}"),
    )  # fmt: skip


def test_a_computed_mask_is_raised_above_the_least_number(rewrites):
    mask = "f = Cast <to = 1> (keep) d = Sub (one, f) m = Mul (d, low)"
    rewrites(
        FuseAttention(),
        graph(f"{mask} {SCORES} a = Add (s, m) {END}", KEEP),
        graph(f"{mask} e = Max (m, next) {FUSED} (q, k, v, e)", KEEP, f"{NUMBERS}, float next = {{{NEXT}}}"),
    )


def test_a_given_mask_with_a_guard_is_raised_but_for_its_infinities(rewrites):
    rewrites(
        FuseAttention(),
        graph(f"{SCORES} a = Add (s, m) {GUARDED}", "float[B, 1, S, K] m"),
        graph(f"c = Equal (m, low) e = Where (c, next, m) {FUSED} (q, k, v, e)", "float[B, 1, S, K] m",
              f"float low = {{{LOWEST}}}, float next = {{{NEXT}}}"),
    )  # fmt: skip


CAUSAL = """l = Shape <start = 2, end = 3> (q) t2 = Shape <start = 2, end = 3> (k) r = Concat <axis = 0> (l, t2)
    ones = Expand (one, r) low_ones = Trilu <upper = 0> (ones) off = Equal (low_ones, zero)"""
COMPARED = """l = Shape <start = 2, end = 3> (q) t2 = Shape <start = 2, end = 3> (k)
    ls = Squeeze (l) ts = Squeeze (t2) i = Range (i0, ls, i1) j = Range (i0, ts, i1)
    ii = Unsqueeze (i, last) jj = Unsqueeze (j, first) on = LessOrEqual (jj, ii)"""
INDICES = f"{NUMBERS}, int64 i0 = {{0}}, int64 i1 = {{1}}, int64[1] last = {{1}}, int64[1] first = {{0}}"


TRIU = """l = Shape <start = 2, end = 3> (q) t2 = Shape <start = 2, end = 3> (k) r = Concat <axis = 0> (l, t2)
    full = Expand (minus, r) m = Trilu <upper = 1> (full, i1)"""
FILLED = """l = Shape <start = 2, end = 3> (q) t2 = Shape <start = 2, end = 3> (k) r = Concat <axis = 0> (l, t2)
    ones = ConstantOfShape <value = bool[1] {1}> (r) on = Trilu <upper = 0> (ones)"""


@pytest.mark.parametrize(
    ("before", "step"),
    [
        (CAUSAL, "m = Where (off, minus, zero) a = Add (s, m)"),
        (CAUSAL, "a = Where (off, minus, s)"),
        (COMPARED, "m = Where (on, zero, minus) a = Add (s, m)"),
        (COMPARED, "m = Where (on, zero, many) a = Add (m, s)"),
        (COMPARED.replace("LessOrEqual (jj, ii)", "GreaterOrEqual (ii, jj)"), "a = Where (on, s, low)"),
        (COMPARED.replace("LessOrEqual (jj, ii)", "Greater (jj, ii)"), "a = Where (on, low, s)"),
        (COMPARED.replace("LessOrEqual (jj, ii)", "Less (ii, jj) f = Not (on)"), "a = Where (f, s, low)"),
        (f"{COMPARED} f = Cast <to = 1> (on) d = Sub (one, f)", "m = Mul (d, low) a = Add (s, m)"),
        (TRIU, "a = Add (s, m)"),
        (FILLED, "a = Where (on, s, minus)"),
    ],
)  # fmt: skip
def test_a_mask_that_is_only_causal(rewrites, before, step):
    rewrites(
        FuseAttention(),
        graph(f"{before} {SCORES} {step} {END}", numbers=INDICES),
        graph("y = Attention <scale = 1.0, is_causal = 1> (q, k, v)"),
    )


@pytest.mark.parametrize(
    ("before", "step", "kept"),
    [
        (CAUSAL.replace("(ones)", "(ones, i1)"), "a = Where (off, low, s)", ""),
        (COMPARED.replace("LessOrEqual (jj, ii)", "Less (jj, ii)"), "a = Where (on, s, low)", ""),
        (f"{COMPARED} both = And (on, keep)", "a = Where (both, s, low)", KEEP),
        (f"{COMPARED} f = Cast <to = 1> (on)", "a = Add (s, f)", ""),
        (COMPARED.replace("Unsqueeze (i, last)", "Unsqueeze (j, last)"), "a = Where (on, s, low)", ""),
    ],
    ids=["one more key", "one key less", "and another mask", "a bias", "square of the keys"],
)
def test_a_mask_that_is_not_only_causal(agrees, before, step, kept):
    text = graph(f"{before} {SCORES} {step} {END}", kept, INDICES)
    if "(j, last)" in before:
        text = text.replace("B, 2, S, 4", "B, 2, K, 4")
    model = ir.from_onnx_text(text)
    assert agrees(FuseAttention(), model, 0).changed
    fused = model.clone()
    infer(fused)
    drive(FuseAttention(), fused, Context())
    found = [node for node in fused.graph if node.op_type == "Attention"]
    assert [node.attributes.get_int("is_causal", 0) for node in found] == [1 if "(j, last)" in before else 0]


def test_a_buffer_that_is_cut_to_the_length(rewrites):
    """GPT-2 as written by hand: tril(ones(64, 64))[:n, :n]; it has the length, or the model fails."""
    buffer = np.tril(np.ones((3, 3), np.int64)).reshape(-1).tolist()
    cut = "n = Shape <start = 2, end = 3> (q) r = Slice (b, f, n, f) c = Slice (r, f, n, first) off = Equal (c, i0)"
    inputs = QKV.replace("K", "S")
    rewrites(
        FuseAttention(),
        graph(f"{cut} {SCORES} a = Where (off, minus, s) {END}",
              numbers=f"{INDICES}, int64[1] f = {{0}}, int64[3, 3] b = {{{', '.join(map(str, buffer))}}}"
              ).replace(QKV, inputs).replace("first = {0}", "first = {1}"),
        graph("y = Attention <scale = 1.0, is_causal = 1> (q, k, v)").replace(QKV, inputs),
        runs=False,
    )  # fmt: skip


def test_a_mask_of_windows_has_the_batch_of_windows(rewrites):
    """Swin by TorchScript: the number of images is found by division, which shape inference does not follow."""
    inputs = "float[N, 4, 2] x"
    body = """n = Shape <start = 0, end = 1> (x) two = Constant <value_ints = [2]> () many = Mul (n, two)
        whole = Concat <axis = 0> (many, twos) q = Reshape (x, whole)
        images = Div (many, two) wide = Concat <axis = 0> (images, kept) e = Expand (m, wide) mm = Reshape (e, back)
        t = Transpose <perm = [0, 1, 3, 2]> (q) s = MatMul (q, t) a = Add (s, mm) p = Softmax <axis = -1> (a)
        y = MatMul (p, q)"""
    numbers = """int64[3] twos = {1, 2, 2}, int64[4] kept = {2, 1, 2, 2}, int64[4] back = {-1, 1, 2, 2},
        float[1, 2, 1, 2, 2] m = {0, -1, -1, 0, 0, 0, -2, 0}"""
    model = ir.from_onnx_text(graph(body, numbers=numbers, outputs="float[M, 1, 2, 2] y").replace(QKV, inputs))
    infer(model)
    done = drive(FuseAttention(), model, Context())
    assert [site for _, site in done.changed] == ["fused into Attention; assumes batch and sequence are not empty"]


def test_a_constant_mask_that_leaves_each_query_a_key(rewrites):
    inputs = "float[B, 2, 2, 4] q, float[B, 2, 2, 4] k, float[B, 2, 2, 4] v"
    rewrites(
        FuseAttention(),
        graph(f"{SCORES} a = Add (s, m) {END}", numbers="float[2, 2] m = {-inf, 1, 2, 3}").replace(QKV, inputs),
        graph(f"{FUSED} (q, k, v, m)", numbers="float[2, 2] m = {-inf, 1, 2, 3}").replace(QKV, inputs),
    )


def test_attention_as_onnx_writes_it_out(rewrites):
    """The function body of Attention: rows of -inf are looked for in the mask."""
    mask = "m = Where (keep, zero, minus)"
    end = """r = ReduceMax (m, axes) e = Equal (r, minus) a = Add (s, m) p = Softmax (a) n = Where (e, zero, p)
        y = MatMul (n, v)"""
    rewrites(
        FuseAttention(),
        graph(f"{mask} {SCORES} {end}", KEEP),
        graph(f"{FUSED} (q, k, v, keep)", KEEP),
    )


def test_masks_are_put_together(rewrites):
    inputs = f"{KEEP}, bool[S, K] far"
    bias = "b = Cast <to = 1> (far)"
    rewrites(
        FuseAttention(),
        graph(f"{bias} {SCORES} c = Add (s, b) a = Where (keep, c, many) {END}", inputs),
        graph(f"{bias} m = Where (keep, b, next) {FUSED} (q, k, v, m)", inputs, f"float next = {{{NEXT}}}"),
    )


def test_a_small_mask_is_expanded(rewrites):
    mask = "b = Cast <to = 1> (far)"
    rewrites(
        FuseAttention(),
        graph(f"{mask} {SCORES} a = Add (b, s) {END}", "bool[B, 1, S, 1] far"),
        graph(f"{mask} l = Shape <start = 2, end = 3> (k) r = Concat <axis = 0> (ones, l) e = Expand (b, r) "
              f"{FUSED} (q, k, v, e)", "bool[B, 1, S, 1] far", "int64[3] ones = {1, 1, 1}"),
    )  # fmt: skip


def test_keys_as_long_as_their_mask_are_as_long_as_the_values(rewrites):
    """The product with the values says so, whatever the inputs are called."""
    inputs = QKV.replace("float[B, 2, K, 4] v", "float[B, 2, L, 4] v")
    body = f"m = Where (keep, zero, low) {SCORES} a = Add (s, m) {END}"
    rewrites(
        FuseAttention(),
        graph(body, KEEP).replace(QKV, inputs),
        graph(
            f"m = Where (keep, zero, next) {FUSED} (q, k, v, m)", KEEP, f"{NUMBERS}, float next = {{{NEXT}}}"
        ).replace(QKV, inputs),
        runs=False,
    )


def test_a_product_with_weights_is_no_attention(keeps):
    text = graph("s = MatMul (q, w) p = Softmax (s) y = MatMul (p, v)", numbers="float[4, 5] w = {1}")
    assert not keeps(FuseAttention(), text.replace("{1}", "{" + ", ".join(["1"] * 20) + "}"), runs=False).kept


def test_a_soft_cap_goes_along(rewrites):
    """Gemma 2."""
    rewrites(
        FuseAttention(),
        graph(f"{SCORES} c = Mul (s, half) d = Div (c, cap) e = Tanh (d) a = Mul (e, cap) {END}",
              numbers="float half = {0.5}, float cap = {30}"),
        graph("y = Attention <scale = 0.5, softcap = 30.0> (q, k, v)"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "inputs", "reason"),
    [
        (f"{SCORES} a = Where (keep, s, minus) {END}", KEEP, "NaN, which Attention would make zeros"),
        (f"{SCORES} a = Add (s, m) {END}", "float[B, 1, S, K] m", "NaN, which Attention would make zeros"),
        (f"{SCORES} a = Where (keep, s, one) {END}", KEEP, "others may come near"),
        (f"{SCORES} a = Where (keep, s, low) {END}", "bool[N, 1, S, K] keep", "N batch for B"),
        (f"{SCORES} a = Where (keep, s, low) {END}", "bool[B, 1, L, K] keep", "L queries for S"),
        (f"{SCORES} b = Where (keep, zero, low) c = Where (more, zero, low) d = Add (s, b) a = Add (d, c) {END}",
         f"{KEEP}, {KEEP.replace('keep', 'more')}", "NaN"),
        (f"{SCORES} p = Softmax <axis = -1> (s) y = MatMul (p, v) z = Neg (p)", "", "also used elsewhere"),
        (f"{SCORES} z = Neg (s) p = Softmax <axis = -1> (s) y = MatMul (p, v)", "", "also used elsewhere"),
        (f"""b = Where (keep, zero, minus) c = Where (more, zero, minus) r = ReduceMax (c, axes) e = Equal (r, minus)
            {SCORES} a = Add (s, b) p = Softmax (a) n = Where (e, zero, p) y = MatMul (n, v)""",
         f"{KEEP}, {KEEP.replace('keep', 'more')}", "another mask"),
        (f"f = Cast <to = 1> (keep) d = Sub (one, f) c = Mul (d, low) {SCORES} b = Add (s, c) "
         f"a = Where (more, b, many) {END}", f"{KEEP}, {KEEP.replace('keep', 'more')}", "come near that"),
        ("s = MatMul (q, x) p = Softmax <axis = -1> (s) y = MatMul (p, v)", "float[B, 2, 4, K] x", "transpose"),
    ],
)  # fmt: skip
def test_what_is_kept_has_a_reason(keeps, body, inputs, reason):
    outputs = "float[B, 2, S, 4] y" + (", float[B, 2, S, K] z" if " z = " in body else "")
    keeps(FuseAttention(), graph(body, inputs, outputs=outputs), reason=reason, runs=False)


def test_nan_may_become_zero_on_request(rewrites):
    rewrites(
        FuseAttention(zero_for_nan=True),
        graph(f"{SCORES} a = Where (keep, s, minus) {END}", KEEP),
        graph(f"{FUSED} (q, k, v, keep)", KEEP),
        runs=False,
    )


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ("float[B, 2, S, 4] q, float[N, 2, K, 4] k, float[B, 2, K, 4] v", "same batch"),
        ("float[B, 2, S, 4] q, float[B, H, K, 4] k, float[B, 2, K, 4] v", "same heads"),
        ("float[1, 2, S, 4] q, float[B, 2, K, 4] k, float[B, 2, K, 4] v", "same batch"),
        ("float[B, 2, 0, 4] q, float[B, 2, K, 4] k, float[B, 2, K, 4] v", "it is empty"),
        ("float[B, 2, S, 0] q, float[B, 2, K, 0] k, float[B, 2, K, 4] v", "it is empty"),
        ("float[B, 2, S, 4] q, float[B, 2, K, 4] k, float[2, K, 4] v", "rank"),
    ],
)
def test_shapes_must_be_proven(keeps, inputs, reason):
    body = f"{SCORES} p = Softmax <axis = -1> (s) y = MatMul (p, v)"
    keeps(FuseAttention(), graph(body).replace(QKV, inputs), reason=reason, runs=False)


def test_another_softmax_axis_is_no_attention(keeps):
    done = keeps(FuseAttention(), graph(f"{SCORES} p = Softmax <axis = 2> (s) y = MatMul (p, v)"), runs=False)
    assert not done.kept


def test_it_needs_an_opset_that_has_it(keeps):
    text = graph(f"{SCORES} p = Softmax <axis = -1> (s) y = MatMul (p, v)").replace('"": 23', '"": 22')
    keeps(FuseAttention(), text, reason="Attention needs opset 23, this graph has 22")


def test_half_precision(in_type, rewrites):
    before = in_type(graph(f"{SCORES} a = Mul (s, half) {END}", numbers="float half = {0.5}"), ir.DataType.FLOAT16)
    rewrites(
        FuseAttention(),
        before,
        in_type(graph("y = Attention <scale = 0.5> (q, k, v)", numbers="float half = {0.5}"), ir.DataType.FLOAT16),
    )


@pytest.mark.parametrize(
    ("step", "end", "mask"),
    [
        ("m = Where (keep, zero, low) a = Add (s, m)", END, "m = Where (keep, zero, next)"),
        ("a = Where (keep, s, low)", END, "m = Where (keep, zero, next)"),
        ("m = Where (keep, zero, minus) a = Add (s, m)", GUARDED, ""),
    ],
)
def test_masks_in_half_precision(in_type, rewrites, step, end, mask):
    numbers = "float zero = {0}, float low = {-65504}, float next = {-65472}, float minus = {-inf}"
    rewrites(
        FuseAttention(),
        in_type(graph(f"{SCORES} {step} {end}", KEEP, numbers), ir.DataType.FLOAT16),
        in_type(graph(f"{mask} {FUSED} (q, k, v, {'m' if mask else 'keep'})", KEEP, numbers), ir.DataType.FLOAT16),
    )


@pytest.mark.parametrize("dtype", [ir.DataType.BFLOAT16, ir.DataType.DOUBLE])
def test_other_types_are_left_alone(in_type, keeps, dtype):
    """The scale is a number of 32 bits; bfloat16 has no kernel to compare with."""
    before = in_type(graph(f"{SCORES} p = Softmax <axis = -1> (s) y = MatMul (p, v)", numbers="float one = {1}"), dtype)
    keeps(FuseAttention(), before, reason=f"its element type is {dtype.name.lower()}", runs=False)


def test_a_wider_softmax_stays_wide(rewrites):
    inputs = QKV.replace("float", "float16")
    body = f"{SCORES} w = Cast <to = 1> (s) p = Softmax <axis = -1> (w) n = Cast <to = 10> (p) y = MatMul (n, v)"
    rewrites(
        FuseAttention(),
        graph(body, outputs="float16[B, 2, S, 4] y").replace(QKV, inputs),
        graph("y = Attention <scale = 1.0, softmax_precision = 1> (q, k, v)", outputs="float16[B, 2, S, 4] y").replace(
            QKV, inputs
        ),
    )


def test_inside_a_branch_and_a_loop(rewrites):
    def text(body: str) -> str:
        return f"""{HEAD} g (bool c, float[2, 3, 4] q, float[2, 5, 4] k) => (float[2, 3, 4] y) <int64 n = {{2}}> {{
            y = If (c) <then_branch = t () => (float[2, 3, 4] u) {{ {body.format("q", "u")} }},
                else_branch = e () => (float[2, 3, 4] w) {{
                    w = Loop (n, c, q) <body = b (int64 i, bool on, float[2, 3, 4] x)
                        => (bool more, float[2, 3, 4] z) {{ more = Identity (on) {body.format("x", "z")} }}> }}> }}"""

    rewrites(
        FuseAttention(),
        text(
            "{1}t = Transpose <perm = [0, 2, 1]> (k) {1}s = MatMul ({0}, {1}t) {1}p = Softmax ({1}s) {1} = MatMul ({1}p, k)"
        ),
        text("{1} = Attention <scale = 1.0, q_num_heads = 1, kv_num_heads = 1> ({0}, k, k)"),
    )


def test_inside_a_function(rewrites):
    def text(body: str) -> str:
        return f"""<ir_version: 10, opset_import: ["": 23, "f": 1]>
            g (float[2, 3, 4] q, float[2, 5, 4] k) => (float[2, 3, 4] y) {{ y = f.attend (q, k) }}
            <domain: "f", opset_import: ["": 23]> attend (q, k) => (y) {{ {body} }}"""

    rewrites(
        FuseAttention(),
        text("""h = Constant <value_float = 0.5> () t = Transpose <perm = [0, 2, 1]> (k) s = MatMul (q, t)
            c = Mul (s, h) p = Softmax (c) y = MatMul (p, k)"""),
        text("y = Attention <scale = 0.5, q_num_heads = 1, kv_num_heads = 1> (q, k, k)"),
    )


def test_the_faster_form_is_taken(rewrites):
    """Where both are measured."""
    form = "com.microsoft::MultiHeadAttention"
    points = {"Attention": (Point(1, 0.9, 0.9, 0.9),), form: (Point(1, 0.7, 0.7, 0.7),)}
    context = Context(target=replace(targets()["x86-64"], profile=Profile(forms=points)))
    inputs = "float[N, S, 4] q, float[N, K, 4] k, float[N, K, 4] v"
    body = "t = Transpose <perm = [0, 2, 1]> (k) s = MatMul (q, t) p = Softmax (s) y = MatMul (p, v)"
    fused = "y = com.microsoft.MultiHeadAttention <num_heads = 1, scale = 1.0> (q, k, v)"
    rewrites(
        FuseAttention(),
        graph(body, outputs="float[N, S, 4] y").replace(QKV, inputs),
        graph(fused, outputs="float[N, S, 4] y").replace(QKV, inputs).replace("23]", '23, "com.microsoft": 1]'),
        context=context,
    )


def test_a_causal_mask_stays_one_where_that_is_faster(rewrites):
    points = {"Attention": (Point(1, 0.9, 0.9, 0.9),), "Attention:causal": (Point(1, 1.2, 1.1, 1.3),)}
    context = Context(target=replace(targets()["x86-64"], profile=Profile(forms=points)))
    mask = f"{COMPARED} m = Where (on, zero, minus)"
    rewrites(
        FuseAttention(),
        graph(f"{mask} {SCORES} a = Add (s, m) {END}", numbers=INDICES),
        graph(f"{COMPARED} {FUSED} (q, k, v, on)", numbers=INDICES),
        context=context,
    )
