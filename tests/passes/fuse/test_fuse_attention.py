"""One layer of attention in each exporter's dialect, cut from real exports and made small."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir
import pytest

from graphopt.ir import infer, is_op, nodes
from graphopt.passes.fuse.fuse_attention import FuseAttention
from graphopt.pipeline import Context
from graphopt.pipeline.drive import drive
from graphopt.profile import Point, Profile
from graphopt.target import targets

HEAD = '<ir_version: 10, opset_import: ["": 23]>'
LOWEST, NEXT = "-3.4028234663852886e+38", "-3.4028232635611926e+38"
MULTI_HEAD = "com.microsoft::MultiHeadAttention"

# Both exporters put the square root of the scale on queries and keys. By dynamo the keys are folded to
# [batch * heads, length, size] and back around their transpose.
DYNAMO = """
    two = Constant <value_ints = [2]> () minus = Constant <value_ints = [-1]> ()
    batch = Shape <start = 0, end = 1> (q) length = Shape <start = 1, end = 2> (q)
    heads = Concat <axis = 0> (batch, length, minus, two)
    s4 = Reshape <allowzero = 1> (q, heads) qt = Transpose <perm = [0, 2, 1, 3]> (s4)
    t4 = Reshape <allowzero = 1> (k, heads) kt = Transpose <perm = [0, 2, 1, 3]> (t4)
    v4 = Reshape <allowzero = 1> (v, heads) vt = Transpose <perm = [0, 2, 1, 3]> (v4)
    folded = Concat <axis = 0> (minus, length, two) unfolded = Concat <axis = 0> (batch, two, two, length)
    k3 = Reshape (kt, folded) k3t = Transpose <perm = [0, 2, 1]> (k3) kT = Reshape (k3t, unfolded)
    qs = Mul (qt, root) ks = Mul (kT, root) scores = MatMul (qs, ks)"""
TORCHSCRIPT = """
    s4 = Reshape (q, split) qt = Transpose <perm = [0, 2, 1, 3]> (s4)
    t4 = Reshape (k, split) kT = Transpose <perm = [0, 2, 3, 1]> (t4)
    v4 = Reshape (v, split) vt = Transpose <perm = [0, 2, 1, 3]> (v4)
    qs = Mul (qt, root) ks = Mul (kT, root) scores = MatMul (qs, ks)"""
GUARDED = "p = Softmax <axis = -1> (masked) n = IsNaN (p) pg = Where (n, zero, p) o = MatMul (pg, vt)"
PLAIN = "p = Softmax <axis = -1> (masked) o = MatMul (p, vt)"
OUT = "ot = Transpose <perm = [0, 2, 1, 3]> (o) y = Reshape (ot, join)"
NUMBERS = f"""int64[4] split = {{0, 0, 2, 2}}, int64[3] join = {{0, 0, 4}}, float root = {{0.5}}, float zero = {{0}},
    float low = {{{LOWEST}}}, float[1] zero1 = {{0}}"""
QKV = "float[B, S, 4] q, float[B, S, 4] k, float[B, S, 4] v"
FUSED = "y = Attention <scale = 0.25, q_num_heads = 2, kv_num_heads = 2>"


def graph(body: str, inputs: str = QKV, numbers: str = NUMBERS, outputs: str = "float[B, S, 4] y") -> str:
    return f"{HEAD} g ({inputs}) => ({outputs}) <{numbers}> {{ {body} }}"


def count(model: ir.Model) -> tuple[int, int]:
    """Softmax nodes and attention operators, in all graphs: the first must be 0, the second the number of layers."""
    found = list(nodes(model))
    fused = sum(is_op(node, "Attention") or node.op_identifier()[1] == "MultiHeadAttention" for node in found)
    return sum(is_op(node, "Softmax") for node in found), fused


def test_bert_by_dynamo(rewrites):
    """The mask is 0 and the least number; a query without a key gets the mean of all values."""
    mask = "m = Where (keep, zero, low) masked = Add (scores, m)"
    rewrites(
        FuseAttention(),
        graph(f"{DYNAMO} {mask} {GUARDED} {OUT}", f"{QKV}, bool[B, 1, S, S] keep"),
        graph(f"m = Where (keep, zero, low) {FUSED} (q, k, v, m)", f"{QKV}, bool[B, 1, S, S] keep",
              f"float zero = {{0}}, float low = {{{NEXT}}}"),
    )  # fmt: skip


def test_bert_by_torchscript(rewrites):
    """The mask is 0 and -inf; a query without a key gets zeros, as by the mask of truths."""
    mask = "m = Where (keep, zero1, minus) masked = Add (scores, m)"
    inputs = f"{QKV}, bool[B, 1, S, S] keep"
    rewrites(
        FuseAttention(),
        graph(f"{TORCHSCRIPT} {mask} {GUARDED} {OUT}", inputs, f"{NUMBERS}, float[1] minus = {{-inf}}"),
        graph(f"{FUSED} (q, k, v, keep)", inputs, "float unused = {0}"),
    )


@pytest.mark.parametrize("keys", [DYNAMO, TORCHSCRIPT], ids=["dynamo", "torchscript"])
def test_vit_and_clip_have_no_mask(rewrites, keys):
    rewrites(
        FuseAttention(),
        graph(f"{keys} p = Softmax <axis = -1> (scores) o = MatMul (p, vt) {OUT}"),
        graph(f"{FUSED} (q, k, v)", numbers="float unused = {0}"),
    )


def test_whisper_scales_queries_before_it_splits_heads(rewrites):
    body = """qs = Mul (q, root) s4 = Reshape (qs, split) qt = Transpose <perm = [0, 2, 1, 3]> (s4)
        t4 = Reshape (k, split) kT = Transpose <perm = [0, 2, 3, 1]> (t4)
        v4 = Reshape (v, split) vt = Transpose <perm = [0, 2, 1, 3]> (v4)
        masked = MatMul (qt, kT)"""
    rewrites(
        FuseAttention(),
        graph(f"{body} {PLAIN} {OUT}"),
        graph(f"{FUSED} (q, k, v)".replace("0.25", "0.5"), numbers="float unused = {0}"),
    )


def test_t5_has_a_position_bias_and_no_scale(rewrites):
    body = """s4 = Reshape (q, split) qt = Transpose <perm = [0, 2, 1, 3]> (s4)
        t4 = Reshape (k, split) kT = Transpose <perm = [0, 2, 3, 1]> (t4)
        v4 = Reshape (v, split) vt = Transpose <perm = [0, 2, 1, 3]> (v4)
        scores = MatMul (qt, kT)"""
    bias = """bucket = Cast <to = 7> (far) e = Gather (table, bucket)
        et = Transpose <perm = [2, 0, 1]> (e) bias = Unsqueeze (et, first) m = Where (keep, bias, low)"""
    inputs = f"{QKV}, bool[S, S] far, bool[B, 1, S, S] keep"
    table = "float[3, 2] table = {1, 2, 3, 4, 5, 6}, int64[1] first = {0}"
    rewrites(
        FuseAttention(),
        graph(f"{body} {bias} masked = Add (scores, m) {PLAIN} {OUT}", inputs, f"{NUMBERS}, {table}"),
        graph(f"{bias} {FUSED} (q, k, v, m)".replace("0.25", "1.0"), inputs, f"{table}, float low = {{{NEXT}}}"),
    )


GPT2_END = """ot = Transpose <perm = [0, 2, 1, 3]> (o) rows = Reshape (ot, flat) z = MatMul (rows, w)
    whole = Reshape (ot, join) y = Shape (whole)"""


def test_gpt2_reads_the_result_as_rows(rewrites):
    """Behind the heads there is a Gemm on [batch * length, hidden], and a Shape of [batch, length, hidden]."""
    rewrites(
        FuseAttention(),
        graph(f"{TORCHSCRIPT} p = Softmax <axis = -1> (scores) o = MatMul (p, vt) {GPT2_END}",
              numbers=f"{NUMBERS}, int64[2] flat = {{-1, 4}}, float[4, 2] w = {{1, 2, 3, 4, 5, 6, 7, 8}}",
              outputs="float[N, 2] z, int64[3] y"),
        graph(f"""{FUSED.replace("y =", "a =")} (q, k, v) rows = Reshape (a, flat) z = MatMul (rows, w) y = Shape (a)""",
              numbers="int64[2] flat = {-1, 4}, float[4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}",
              outputs="float[N, 2] z, int64[3] y"),
    )  # fmt: skip


REPEAT = """batch = Shape <start = 0, end = 1> (k) length = Shape <start = 2, end = 3> (k)
    two = Constant <value_ints = [2]> () four = Constant <value_ints = [4]> ()
    wide = Concat <axis = 0> (batch, two, two, length, two) merged = Concat <axis = 0> (batch, four, length, two)
    k5 = Unsqueeze (k, second) ke = Expand (k5, wide) kh = Reshape (ke, merged)
    v5 = Unsqueeze (v, second) ve = Expand (v5, wide) vt = Reshape (ve, merged)"""
GQA = "float[B, 4, S, 2] q, float[B, 2, S, 2] k, float[B, 2, S, 2] v"


@pytest.mark.parametrize(
    "turn",
    [
        "kT = Transpose <perm = [0, 1, 3, 2]> (kh)",
        """minus = Constant <value_ints = [-1]> () folded = Concat <axis = 0> (minus, length, two)
           unfolded = Concat <axis = 0> (batch, four, two, length)
           k3 = Reshape (kh, folded) k3t = Transpose <perm = [0, 2, 1]> (k3) kT = Reshape (k3t, unfolded)""",
        """minus = Constant <value_ints = [-1]> () folded = Concat <axis = 0> (minus, length, two)
           unfolded = Concat <axis = 0> (batch, four, two, length)
           k3 = Reshape (ke, folded) k3t = Transpose <perm = [0, 2, 1]> (k3) kT = Reshape (k3t, unfolded)""",
    ],
    ids=["torchscript", "dynamo", "dynamo, reshapes merged"],
)
def test_llama_and_qwen_repeat_the_heads_of_keys_and_values(rewrites, turn):
    body = f"""{REPEAT} {turn} qs = Mul (q, root) ks = Mul (kT, root) scores = MatMul (qs, ks)
        p = Softmax <axis = -1> (scores) y = MatMul (p, vt)"""
    rewrites(
        FuseAttention(),
        graph(body, GQA, "float root = {0.5}, int64[1] second = {2}", "float[B, 4, S, 2] y"),
        graph("y = Attention <scale = 0.25> (q, k, v)", GQA, "float unused = {0}", "float[B, 4, S, 2] y"),
    )


def test_rotated_queries_and_keys_are_split_after_the_rotation(rewrites):
    """Llama after fuse-rotary-embedding, also with grouped heads and a cache."""
    inputs = """float[B, S, 8] q, float[B, S, 4] k, float[B, S, 4] v, float[B, S, 1] c, float[B, S, 1] s,
        float[B, 2, P, 2] pk, float[B, 2, P, 2] pv"""
    outputs = "float[B, S, 8] y, float[B, 2, T, 2] nk, float[B, 2, T, 2] nv"
    body = """q4 = Reshape (q, fours) qt = Transpose <perm = [0, 2, 1, 3]> (q4) qr = RotaryEmbedding (qt, c, s)
        k4 = Reshape (k, split) kt = Transpose <perm = [0, 2, 1, 3]> (k4) kr = RotaryEmbedding (kt, c, s)
        v4 = Reshape (v, split) vt = Transpose <perm = [0, 2, 1, 3]> (v4)
        nk = Concat <axis = 2> (pk, kr) nv = Concat <axis = 2> (pv, vt)
        batch = Shape <start = 0, end = 1> (nk) length = Shape <start = 2, end = 3> (nk)
        wide = Concat <axis = 0> (batch, two, two, length, two) all = Concat <axis = 0> (batch, four, length, two)
        k5 = Unsqueeze (nk, two) ke = Expand (k5, wide) kh = Reshape (ke, all)
        v5 = Unsqueeze (nv, two) ve = Expand (v5, wide) vh = Reshape (ve, all)
        kT = Transpose <perm = [0, 1, 3, 2]> (kh) sc = MatMul (qr, kT) p = Softmax (sc) o = MatMul (p, vh)
        ot = Transpose <perm = [0, 2, 1, 3]> (o) y = Reshape (ot, join)"""
    numbers = """int64[4] fours = {0, 0, 4, 2}, int64[4] split = {0, 0, 2, 2}, int64[1] two = {2}, int64[1] four = {4},
        int64[3] join = {0, 0, 8}"""
    rewrites(
        FuseAttention(),
        graph(body, inputs, numbers, outputs),
        graph("""qr = RotaryEmbedding <num_heads = 4> (q, c, s) kr = RotaryEmbedding <num_heads = 2> (k, c, s)
            y, nk, nv = Attention <scale = 1.0, q_num_heads = 4, kv_num_heads = 2> (qr, kr, v, , pk, pv)""",
              inputs, "float unused = {0}", outputs),
    )  # fmt: skip


def test_a_cache_goes_in_and_out(rewrites):
    """GPT-2 and Llama with earlier keys and values as inputs, and all of them as outputs."""
    inputs = """float[B, 2, S, 2] q, float[B, 2, S, 2] k, float[B, 2, S, 2] v,
        float[B, 2, P, 2] pk, float[B, 2, P, 2] pv"""
    outputs = "float[B, 2, S, 2] y, float[B, 2, T, 2] nk, float[B, 2, T, 2] nv"
    body = """nk = Concat <axis = 2> (pk, k) nv = Concat <axis = -2> (pv, v) kT = Transpose <perm = [0, 1, 3, 2]> (nk)
        s = MatMul (q, kT) c = Div (s, four) p = Softmax <axis = -1> (c) y = MatMul (p, nv)"""
    rewrites(
        FuseAttention(),
        graph(body, inputs, "float four = {4}", outputs),
        graph("y, nk, nv = Attention <scale = 0.25> (q, k, v, , pk, pv)", inputs, "float unused = {0}", outputs),
    )


def test_a_cache_that_is_read_elsewhere_stays(rewrites):
    inputs = """float[B, 2, S, 2] q, float[B, 2, S, 2] k, float[B, 2, S, 2] v,
        float[B, 2, P, 2] pk, float[B, 2, P, 2] pv"""
    outputs = "float[B, 2, S, 2] y, float[B, 2, T, 2] nk, float[B, 2, T, 2] nv, int64[4] z"
    join = "nk = Concat <axis = 2> (pk, k) nv = Concat <axis = 2> (pv, v) z = Shape (nk)"
    rewrites(
        FuseAttention(),
        graph(f"{join} kT = Transpose <perm = [0, 1, 3, 2]> (nk) s = MatMul (q, kT) p = Softmax <axis = -1> (s) "
              "y = MatMul (p, nv)", inputs, "float unused = {0}", outputs),
        graph(f"{join} y = Attention <scale = 1.0> (q, nk, nv)", inputs, "float unused = {0}", outputs),
    )  # fmt: skip


@pytest.mark.parametrize(
    "pick",
    [
        "q = Gather (x5, i0) k = Gather (x5, i1) v = Gather (x5, i2)",
        """q1 = Slice (x5, b0, b1, b0) q = Squeeze (q1, b0) k1 = Slice (x5, b1, b2, b0) k = Squeeze (k1, b0)
           v1 = Slice (x5, last, b3, b0) v = Squeeze (v1, b0)""",
        "q1, k1, v1 = Split <num_outputs = 3> (x5) q = Squeeze (q1, b0) k = Squeeze (k1, b0) v = Squeeze (v1, b0)",
    ],
    ids=["timm", "paddle", "dynamo"],
)
def test_operands_that_come_out_of_one_product(rewrites, pick):
    """ViT of timm, Swin, SVTR: qkv.reshape(B, N, 3, H, D).permute(2, 0, 3, 1, 4)."""
    numbers = """int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {-1}, int64[1] b0 = {0}, int64[1] b1 = {1},
        int64[1] b2 = {2}, int64[1] b3 = {3}, int64[1] last = {-1}, int64[5] parts = {0, 0, 3, 2, 2},
        int64[3] join = {0, 0, 4}, float root = {0.25}"""
    body = f"""x4 = Reshape (x, parts) x5 = Transpose <perm = [2, 0, 3, 1, 4]> (x4) {pick}
        kT = Transpose <perm = [0, 1, 3, 2]> (k) qs = Mul (q, root) s = MatMul (qs, kT)
        p = Softmax <axis = -1> (s) o = MatMul (p, v) {OUT}"""
    rewrites(
        FuseAttention(),
        graph(body, "float[B, S, 12] x", numbers),
        graph(f"q, k, v = Split <axis = 2, num_outputs = 3> (x) {FUSED} (q, k, v)", "float[B, S, 12] x"),
    )


def test_attention_of_batched_matrices_has_one_head(rewrites):
    """torch.bmm on [batch * heads, length, size]."""
    inputs = "float[N, S, 2] q, float[N, K, 2] k, float[N, K, 3] v"
    outputs = "float[N, S, 3] y"
    rewrites(
        FuseAttention(),
        graph("kT = Transpose <perm = [0, 2, 1]> (k) s = MatMul (q, kT) a = Add (s, c) p = Softmax <axis = 2> (a) "
              "y = MatMul (p, v)", inputs, "float[1] c = {3}", outputs),
        graph("""l = Shape <start = 1, end = 2> (q) t = Shape <start = 1, end = 2> (k) r = Concat <axis = 0> (one, l, t)
            e = Expand (c, r) y = Attention <scale = 1.0, q_num_heads = 1, kv_num_heads = 1> (q, k, v, e)""",
              "float[N, S, 2] q, float[N, K, 2] k, float[N, K, 3] v",
              "int64[2] one = {1, 1}, float[1] c = {3}", outputs),
    )  # fmt: skip


def test_lengths_before_batches(rewrites):
    """torch.nn.MultiheadAttention: [length, batch * heads, size]."""
    inputs = "float[S, N, 2] q, float[K, N, 2] k, float[K, N, 2] v"
    outputs = "float[N, S, 2] y"
    turned = "{0}t = Transpose <perm = [1, 0, 2]> ({0})"
    rewrites(
        FuseAttention(),
        graph(f"{turned.format('q')} {turned.format('v')} kT = Transpose <perm = [1, 2, 0]> (k) s = MatMul (qt, kT) "
              "p = Softmax <axis = 2> (s) y = MatMul (p, vt)", inputs, "float unused = {0}", outputs),
        graph(f"{turned.format('q')} {turned.format('v')} {turned.format('k')} "
              "y = Attention <scale = 1.0, q_num_heads = 1, kv_num_heads = 1> (qt, kt, vt)",
              inputs, "float unused = {0}", outputs),
    )  # fmt: skip


MULTI = """s = Shape <start = 0, end = 1> (x) b = Shape <start = 1, end = 2> (x) bh = Mul (b, two)
    x4 = Reshape (x, parts) x5 = Unsqueeze (x4, i0) xt = Transpose <perm = [3, 1, 2, 0, 4]> (x5) x3 = Squeeze (xt, i3)
    q = Gather (x3, n0) k = Gather (x3, n1) v = Gather (x3, n2)
    rows = Concat <axis = 0> (s, bh, two) heads = Concat <axis = 0> (b, two, s, two)
    q3 = Reshape (q, rows) qt = Transpose <perm = [1, 0, 2]> (q3) qh = Reshape (qt, heads)
    k3 = Reshape (k, rows) {keys}
    v3 = Reshape (v, rows) vt = Transpose <perm = [1, 0, 2]> (v3) vh = Reshape (vt, heads)
    sc = MatMul (qh, kT) p = Softmax <axis = -1> (sc) o = MatMul (p, vh)
    ot = Transpose <perm = [2, 0, 1, 3]> (o) y = Reshape (ot, join)"""


@pytest.mark.parametrize(
    "keys",
    [
        "kt = Transpose <perm = [1, 0, 2]> (k3) kh = Reshape (kt, heads) kT = Transpose <perm = [0, 1, 3, 2]> (kh)",
        """swapped = Concat <axis = 0> (b, two, two, s) kt = Transpose <perm = [1, 2, 0]> (k3)
           kT = Reshape (kt, swapped)""",
    ],
    ids=["torchscript", "dynamo"],
)
def test_multihead_attention_of_torch(rewrites, keys):
    """Lengths come before batches, heads are split from the batch, and one product makes queries, keys and values."""
    numbers = """int64[1] two = {2}, int64[4] parts = {0, 0, 3, 4}, int64[1] i0 = {0}, int64[1] i3 = {3}, int64 n0 = {0},
        int64 n1 = {1}, int64 n2 = {2}, int64[2] join = {-1, 4}"""
    rewrites(
        FuseAttention(),
        graph(MULTI.format(keys=keys), "float[S, B, 12] x", numbers, "float[N, 4] y"),
        graph("""xt = Transpose <perm = [1, 0, 2]> (x) q, k, v = Split <axis = 2, num_outputs = 3> (xt)
            a = Attention <scale = 1.0, q_num_heads = 2, kv_num_heads = 2> (q, k, v)
            at = Transpose <perm = [1, 0, 2]> (a) y = Reshape (at, join)""",
              "float[S, B, 12] x", "int64[2] join = {-1, 4}", "float[N, 4] y"),
    )  # fmt: skip


def test_one_head_of_keys_and_values_for_all_queries(rewrites):
    """Multi-query attention by broadcasting."""
    inputs = "float[B, 4, S, 2] q, float[B, 1, K, 2] k, float[B, 1, K, 2] v"
    body = "kT = Transpose <perm = [0, 1, 3, 2]> (k) s = MatMul (q, kT) p = Softmax (s) y = MatMul (p, v)"
    rewrites(
        FuseAttention(),
        graph(body, inputs, "float unused = {0}", "float[B, 4, S, 2] y"),
        graph("y = Attention <scale = 1.0> (q, k, v)", inputs, "float unused = {0}", "float[B, 4, S, 2] y"),
    )


@pytest.mark.parametrize("batch", ["B", "3"])
def test_shifted_windows(rewrites, batch):
    """Swin: the mask is added to [images, windows, heads, length, length]."""
    many = "M" if batch == "B" else "6"
    inputs = f"float[{batch}, 4, 2, 2] x"
    body = """q = Reshape (x, rows) kT = Transpose <perm = [0, 1, 3, 2]> (q) s = MatMul (q, kT)
        w = Reshape (s, split) aw = Add (w, m) a = Reshape (aw, join) p = Softmax <axis = -1> (a) y = MatMul (p, q)"""
    numbers = """int64[4] rows = {-1, 2, 2, 2}, int64[5] split = {-1, 2, 2, 2, 2}, int64[4] join = {-1, 2, 2, 2},
        float[1, 2, 1, 2, 2] m = {0, -1, -1, 0, 0, 0, -2, 0}"""
    count = """n = Shape <start = 0, end = 1> (q) i = Div (n, two) sizes = Concat <axis = 0> (i, ones)"""
    rewrites(
        FuseAttention(),
        graph(body, inputs, numbers, f"float[{many}, 2, 2, 2] y"),
        graph(f"""q = Reshape (x, rows) {count if batch == "B" else ""}
            e = Expand (m, sizes) me = Reshape (e, back) y = Attention <scale = 1.0> (q, q, q, me)""",
              inputs, f"""{numbers}, int64[1] two = {{2}}, int64[4] ones = {{1, 1, 1, 1}}, int64[4] back = {{-1, 1, 2, 2}}
              {"" if batch == "B" else ", int64[5] sizes = {3, 1, 1, 1, 1}"}""", f"float[{many}, 2, 2, 2] y"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("sizes", "assumes"), [("B, S", True), ("2, S", True), ("B, 3", True), ("2, 3", False)], ids=str
)
def test_what_is_assumed_of_sizes_is_said(sizes, assumes):
    """ONNX Runtime's Attention takes no batch and no length of 0."""
    model = ir.from_onnx_text(
        graph(f"{TORCHSCRIPT} p = Softmax <axis = -1> (scores) o = MatMul (p, vt) {OUT}").replace("B, S", sizes)
    )
    infer(model)
    ((_, said),) = drive(FuseAttention(), model, Context()).changed
    assert said == "fused into Attention" + "; assumes batch and sequence are not empty" * assumes


def test_each_layer_is_found(rewrites):
    """Two layers share one mask; what makes it fit the kernel is written once."""
    layer = """{0}t = Transpose <perm = [0, 1, 3, 2]> ({0}) {0}s = MatMul ({0}, {0}t) {0}c = Mul ({0}s, root)
        {0}m = Add ({0}c, m) {0}p = Softmax <axis = -1> ({0}m) {1} = MatMul ({0}p, {0})"""
    inputs = "float[B, 2, S, 2] x, int64[B, 1, 1, S] keep"
    mask = "f = Cast <to = 1> (keep) r = Sub (one, f) m = Mul (r, big)"
    numbers = "float one = {1}, float big = {-10000}"
    body = f"{mask} {layer.format('x', 'h')} {layer.format('h', 'y')}"
    fused = "Attention <scale = 0.5>"
    done = rewrites(
        FuseAttention(),
        graph(body, inputs, f"{numbers}, float root = {{0.5}}", "float[B, 2, S, 2] y"),
        graph(f"""{mask} l = Shape <start = 2, end = 3> (x) t = Concat <axis = 0> (one1, l, one0) e = Expand (m, t)
            h = {fused} (x, x, x, e) y = {fused} (h, h, h, e)""",
              inputs, f"{numbers}, int64[2] one1 = {{1, 1}}, int64[1] one0 = {{1}}", "float[B, 2, S, 2] y"),
    )  # fmt: skip
    assert len(done.changed) == 2


@pytest.mark.parametrize("keys", [DYNAMO, TORCHSCRIPT], ids=["dynamo", "torchscript"])
@pytest.mark.parametrize("guard", [PLAIN, GUARDED], ids=["plain", "guarded"])
@pytest.mark.parametrize(
    "mask", ["masked = Add (scores, m)", "masked = Add (m, scores)", "masked = Where (keep, scores, low)"]
)
def test_no_softmax_is_left(keys, guard, mask):
    text = graph(f"m = Where (keep, zero, low) {keys} {mask} {guard} {OUT}", f"{QKV}, bool[B, 1, S, S] keep")
    model = ir.from_onnx_text(text)
    infer(model)
    assert count(model) == (1, 0)
    drive(FuseAttention(), model, Context())
    assert count(model) == (0, 1)


def test_before_opset_23_there_is_multi_head_attention(rewrites):
    context = Context(target=replace(targets()["x86-64"], forms=frozenset({MULTI_HEAD})))
    old = HEAD.replace("23", "17")
    rewrites(
        FuseAttention(),
        graph(f"{TORCHSCRIPT} m = Where (keep, zero, low) masked = Add (scores, m) {PLAIN} {OUT}",
              f"{QKV}, bool[B, 1, S, S] keep").replace(HEAD, old),
        graph("m = Where (keep, zero, low) y = com.microsoft.MultiHeadAttention <num_heads = 2, scale = 0.25> "
              "(q, k, v, , , m)", f"{QKV}, bool[B, 1, S, S] keep", f"float zero = {{0}}, float low = {{{LOWEST}}}"
              ).replace(HEAD, old.replace("]", ', "com.microsoft": 1]')),
        context=context,
    )  # fmt: skip


def test_what_splits_heads_itself_is_measured_apart(rewrites, keeps):
    """Reading [batch, length, heads * size] spares the transposes; from split heads on, there is less to gain."""
    points = {"Attention": (Point(1, 0.5, 0.5, 0.5),), "Attention:heads": (Point(1, 1.2, 1.1, 1.3),)}
    context = Context(target=replace(targets()["x86-64"], profile=Profile(forms=points)))
    whole = f"{TORCHSCRIPT} p = Softmax <axis = -1> (scores) o = MatMul (p, vt) {OUT}"
    rewrites(FuseAttention(), graph(whole), graph(f"{FUSED} (q, k, v)", numbers="float unused = {0}"), context=context)
    heads = "float[B, 2, S, 2] q, float[B, 2, S, 2] k, float[B, 2, S, 2] v"
    body = "kT = Transpose <perm = [0, 1, 3, 2]> (k) s = MatMul (q, kT) p = Softmax (s) y = MatMul (p, v)"
    text = graph(body, heads, "float unused = {0}", "float[B, 2, S, 2] y")
    keeps(FuseAttention(), text, reason="takes 1.20 times as long", context=context)


def test_where_lengths_are_not_known_all_sizes_count(rewrites):
    points = {
        "Attention": (Point(1, 0.5, 0.5, 0.5), Point(100, 0.95, 0.95, 0.95)),
        MULTI_HEAD: (Point(1, 0.9, 0.9, 0.9), Point(100, 0.9, 0.9, 0.9)),
    }
    context = Context(target=replace(targets()["x86-64"], profile=Profile(forms=points)))
    whole = f"{TORCHSCRIPT} p = Softmax <axis = -1> (scores) o = MatMul (p, vt) {OUT}"
    rewrites(FuseAttention(), graph(whole), graph(f"{FUSED} (q, k, v)", numbers="float unused = {0}"), context=context)
