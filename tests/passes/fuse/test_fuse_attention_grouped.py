"""Attention written as com.microsoft::GroupQueryAttention: grouped heads and caches with a causal mask."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.execute.compare import compare, tolerance
from graphopt.execute.session import Session
from graphopt.ir import infer
from graphopt.passes.fuse.fuse_attention import FuseAttention
from graphopt.pipeline import Context
from graphopt.pipeline.drive import drive
from graphopt.target import targets

GROUPED = "com.microsoft::GroupQueryAttention"
CONTEXT = Context(target=replace(targets()["x86-64"], forms=frozenset({GROUPED})))
HEAD = '<ir_version: 8, opset_import: ["": 17]>'
FUSED_HEAD = HEAD.replace("]", ', "com.microsoft": 1]')
NUMBERS = """float root = {0.5}, float low = {-3.4028234663852886e+38}, int64 i0 = {0}, int64 i1 = {1},
    int64[1] first = {0}, int64[1] last = {1}, int64[1] two = {2}, int64[1] four = {4}, int64[1] eight = {8},
    int64[4] fours = {0, 0, 4, 8}, int64[4] twos = {0, 0, 2, 8}, int64[3] join = {0, 0, 32}"""
SPLIT = """q4 = Reshape (q, fours) qt = Transpose <perm = [0, 2, 1, 3]> (q4)
    k4 = Reshape (k, twos) kt = Transpose <perm = [0, 2, 1, 3]> (k4)
    v4 = Reshape (v, twos) vt = Transpose <perm = [0, 2, 1, 3]> (v4)"""
REPEAT = """b = Shape <start = 0, end = 1> ({0}) t = Shape <start = 2, end = 3> ({0})
    wide = Concat <axis = 0> (b, two, two, t, eight) all = Concat <axis = 0> (b, four, t, eight)
    k5 = Unsqueeze ({0}, two) ke = Expand (k5, wide) kh = Reshape (ke, all)
    v5 = Unsqueeze ({1}, two) ve = Expand (v5, wide) vh = Reshape (ve, all)"""
CAUSAL = """n = Shape <start = 1, end = 2> (q) ns = Squeeze (n) p = Shape <start = 2, end = 3> ({0}) ps = Squeeze (p)
    end = Add (ps, ns) rows = Range (ps, end, i1) columns = Range (i0, end, i1)
    i = Unsqueeze (rows, last) j = Unsqueeze (columns, first) on = LessOrEqual (j, i)"""
SCORES = """kT = Transpose <perm = [0, 1, 3, 2]> (kh) s = MatMul (qt, kT) sc = Mul (s, root)
    a = Where (on, sc, low) w = Softmax <axis = -1> (a) o = MatMul (w, vh)
    ot = Transpose <perm = [0, 2, 1, 3]> (o) y = Reshape (ot, join)"""
NEW = """n = Shape <start = 1, end = 2> (q) ns = Squeeze (n) rows = Range (i0, ns, i1)
    i = Unsqueeze (rows, last) j = Unsqueeze (rows, first) on = LessOrEqual (j, i)"""


def cached(batch: int | str, length: int | str) -> str:
    """A layer of Llama with earlier keys and values."""
    return f"""{HEAD} g (float[{batch}, {length}, 32] q, float[{batch}, {length}, 16] k, float[{batch}, {length}, 16] v,
        float[{batch}, 2, P, 8] pk, float[{batch}, 2, P, 8] pv)
        => (float[{batch}, {length}, 32] y, float[{batch}, 2, T, 8] nk, float[{batch}, 2, T, 8] nv) <{NUMBERS}> {{
        {SPLIT} nk = Concat <axis = 2> (pk, kt) nv = Concat <axis = 2> (pv, vt) {REPEAT.format("nk", "nv")}
        {CAUSAL.format("pk")} {SCORES} }}"""


def whole(batch: int | str, size: int = 8) -> str:
    """A layer of Llama without a cache."""
    return f"""{HEAD} g (float[{batch}, S, {size * 4}] q, float[{batch}, S, {size * 2}] k, float[{batch}, S, {size * 2}] v)
        => (float[{batch}, S, {size * 4}] y) <{NUMBERS}> {{ {SPLIT} {REPEAT.format("kt", "vt")} {NEW} {SCORES} }}""".replace(
        "8}", f"{size}}}"
    ).replace("32}", f"{size * 4}}}")


FUSED = "com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 2, scale = 0.5>"


def test_a_cache_in_a_batch_of_one(rewrites):
    rewrites(
        FuseAttention(),
        cached(1, "S"),
        f"""{FUSED_HEAD} g (float[1, S, 32] q, float[1, S, 16] k, float[1, S, 16] v,
            float[1, 2, P, 8] pk, float[1, 2, P, 8] pv)
            => (float[1, S, 32] y, float[1, 2, T, 8] nk, float[1, 2, T, 8] nv)
            <int32[1] one = {{1}}, int64[1] b = {{1}}, int64[1] zero = {{0}}> {{
            p = Shape <start = 2, end = 3> (pk) n = Shape <start = 1, end = 2> (q) t = Add (p, n) i = Cast <to = 6> (t)
            m = Sub (i, one) last = Expand (m, b) all = Squeeze (i, zero)
            y, nk, nv = {FUSED} (q, k, v, pk, pv, last, all) }}""",
        context=CONTEXT,
    )


def test_without_a_cache_in_any_batch_of_known_size(rewrites):
    rewrites(
        FuseAttention(),
        whole(3),
        f"""{FUSED_HEAD} g (float[3, S, 32] q, float[3, S, 16] k, float[3, S, 16] v) => (float[3, S, 32] y)
            <int32[1] one = {{1}}, int64[1] b = {{3}}, int64[1] zero = {{0}}> {{
            n = Shape <start = 1, end = 2> (q) i = Cast <to = 6> (n)
            m = Sub (i, one) last = Expand (m, b) all = Squeeze (i, zero)
            y = {FUSED} (q, k, v, , , last, all) }}""",
        context=CONTEXT,
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (cached(2, "S"), "several new tokens only in a batch of one"),
        (cached("B", 1), "an empty batch"),
        (whole("B"), "an empty batch"),
        (whole(1, 4), "multiple of 8"),
    ],
)
def test_what_the_kernel_does_not_take(keeps, text, reason):
    keeps(FuseAttention(), text, reason=reason, context=CONTEXT, runs=False)


def test_one_new_token_of_several_sequences(rewrites):
    done = rewrites(
        FuseAttention(),
        cached(2, 1),
        f"""{FUSED_HEAD} g (float[2, 1, 32] q, float[2, 1, 16] k, float[2, 1, 16] v,
            float[2, 2, P, 8] pk, float[2, 2, P, 8] pv)
            => (float[2, 1, 32] y, float[2, 2, T, 8] nk, float[2, 2, T, 8] nv)
            <int32[1] one = {{1}}, int64[1] b = {{2}}, int64[1] zero = {{0}}, int64[1] new = {{1}}> {{
            p = Shape <start = 2, end = 3> (pk) t = Add (p, new) i = Cast <to = 6> (t)
            m = Sub (i, one) last = Expand (m, b) all = Squeeze (i, zero)
            y, nk, nv = {FUSED} (q, k, v, pk, pv, last, all) }}""",
        context=CONTEXT,
    )
    assert [said for _, said in done.changed] == [f"fused into {GROUPED}"]


def test_known_sizes_are_constants(rewrites):
    rewrites(
        FuseAttention(),
        cached(1, 2).replace("P,", "3,").replace("T,", "5,"),
        f"""{FUSED_HEAD} g (float[1, 2, 32] q, float[1, 2, 16] k, float[1, 2, 16] v,
            float[1, 2, 3, 8] pk, float[1, 2, 3, 8] pv)
            => (float[1, 2, 32] y, float[1, 2, 5, 8] nk, float[1, 2, 5, 8] nv)
            <int32[1] last = {{4}}, int32 all = {{5}}> {{ y, nk, nv = {FUSED} (q, k, v, pk, pv, last, all) }}""",
        context=CONTEXT,
    )


@pytest.mark.parametrize("context", [CONTEXT, Context()], ids=["grouped", "standard"])
def test_the_first_step_has_an_empty_cache(context):
    text = cached(1, "S") if context is CONTEXT else cached("B", "S").replace('"": 17', '"": 23')
    model = ir.from_onnx_text(text.replace("version: 8", "version: 10"))
    fused = model.clone()
    infer(fused)
    (done,) = drive(FuseAttention(), fused, context).changed
    assert done[1].endswith("assumes batch and sequence are not empty")
    draw = np.random.default_rng(0)
    sizes = {"q": (1, 3, 32), "k": (1, 3, 16), "v": (1, 3, 16), "pk": (1, 2, 0, 8), "pv": (1, 2, 0, 8)}
    feeds = {name: draw.standard_normal(size, dtype=np.float32) for name, size in sizes.items()}
    before, after = (Session(item, optimized=False).run(feeds) for item in (model, fused))
    assert all(difference.ok for difference in compare(before, after, tolerance(np.dtype(np.float32), 50)))
