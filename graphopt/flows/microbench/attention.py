"""Attention and rotary embeddings: one operator for the layers' matrix products, scaling, mask and softmax.

The size of attention is query length x key length; batch 1, head size 64. ``Attention`` takes and gives [batch,
length, heads x size], its variant ``Attention:heads`` [batch, heads, length, size]: on some runtimes only the first
gains anything, since it makes the transposes around it unnecessary. ``Attention:causal`` has ``is_causal`` for a
mask that is added.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .micro import Arrays, Micro, Sizes

_LENGTHS = tuple({"s": length, "n": 8, "w": 512} for length in (16, 64, 256, 512, 1024))
_PAIRS = "query length x key length"


def _square(form: str, plain: str, fused: str, **more: Any) -> Micro:
    return Micro(form, plain, fused, sizes=_LENGTHS, work="s s", unit=_PAIRS, chain=1, **more)


def _causal(sizes: Sizes, arrays: Arrays) -> np.ndarray:
    """0 where a position may look, a large negative number where it may not."""
    length = sizes["s"]
    return np.triu(np.full((1, 1, length, length), -1e9, np.float32), 1)


def _angles(sizes: Sizes) -> np.ndarray:
    """[s, 32]: position / 10000^(i / 32)."""
    return np.arange(sizes["s"])[:, None] / 10000 ** (np.arange(32) / 32)


def _half(function: Any, *lead: int) -> Any:
    def make(sizes: Sizes, arrays: Arrays) -> np.ndarray:
        table = function(_angles(sizes)).astype(np.float32)
        return table.reshape(*lead, *table.shape)

    return make


def _whole(function: Any) -> Any:
    def make(sizes: Sizes, arrays: Arrays) -> np.ndarray:
        return np.tile(function(_angles(sizes)), (1, 2)).astype(np.float32)[None, None]

    return make


_HEADS = dict.fromkeys(("q", "k", "v"), "1 n s 64")
_ROWS = dict.fromkeys(("q", "k", "v"), "1 s w")

# Of values whose heads are split before, and joined after it by others: what a pass can always match.
_SPLIT = "y = MatMul(Softmax{axis=-1}(Div(MatMul(q, Transpose{perm=[0, 1, 3, 2]}(k)), 8.0)), v)"

# From rows to rows, with the reshapes and transposes that split and join the heads.
_MULTI_HEAD = """
qh = Transpose{perm=[0, 2, 1, 3]}(Reshape(q, [0, 0, $n, 64]))
kh = Transpose{perm=[0, 2, 3, 1]}(Reshape(k, [0, 0, $n, 64]))
vh = Transpose{perm=[0, 2, 1, 3]}(Reshape(v, [0, 0, $n, 64]))
o = MatMul(Softmax{axis=-1}(Div(MatMul(qh, kh), 8.0)), vh)
y = Reshape(Transpose{perm=[0, 2, 1, 3]}(o), [0, 0, $w])
"""

# Each of two heads of keys and values serves four heads of queries, as decoders of the Llama family have it.
_GROUPED = """
qh = Transpose{perm=[0, 2, 1, 3]}(Reshape(q, [0, 0, $n, 64]))
kh = Transpose{perm=[0, 2, 1, 3]}(Reshape(k, [0, 0, 2, 64]))
vh = Transpose{perm=[0, 2, 1, 3]}(Reshape(v, [0, 0, 2, 64]))
kr = Reshape(Expand(Unsqueeze(kh, [2]), [1, 2, 4, $s, 64]), [1, $n, $s, 64])
vr = Reshape(Expand(Unsqueeze(vh, [2]), [1, 2, 4, $s, 64]), [1, $n, $s, 64])
scores = Add(Mul(MatMul(qh, Transpose{perm=[0, 1, 3, 2]}(kr)), 0.125), mask)
y = Reshape(Transpose{perm=[0, 2, 1, 3]}(MatMul(Softmax{axis=-1}(scores), vr)), [0, 0, $w])
"""
_GROUPED_FUSED = """
y, _, _ = com.microsoft::GroupQueryAttention{num_heads=$n, kv_num_heads=2, scale=0.125}(q, k, v, _, _, last, total)
"""

_ROTARY = """
turned = Concat{axis=-1}(Neg(Slice(x, [32], [64], [3])), Slice(x, [0], [32], [3]))
y = Add(Mul(x, cos), Mul(turned, sin))
"""
_TABLES = {"cos": _whole(np.cos), "sin": _whole(np.sin)}
_SEQUENCES = tuple({"s": length} for length in (1, 16, 128, 1024))

ATTENTION = (
    _square(
        "Attention",
        _MULTI_HEAD,
        "y = Attention{scale=0.125, q_num_heads=$n, kv_num_heads=$n}(q, k, v)",
        inputs=_ROWS,
        opset=23,
    ),
    _square("Attention:heads", _SPLIT, "y = Attention{scale=0.125}(q, k, v)", inputs=_HEADS, opset=23),
    _square(
        "Attention:causal",
        _MULTI_HEAD.replace("Div(MatMul(qh, kh), 8.0)", "Add(Div(MatMul(qh, kh), 8.0), mask)"),
        "y = Attention{scale=0.125, q_num_heads=$n, kv_num_heads=$n, is_causal=1}(q, k, v)",
        inputs=_ROWS,
        made={"mask": _causal},
        opset=23,
    ),
    _square(
        "com.microsoft::MultiHeadAttention",
        _MULTI_HEAD,
        "y = com.microsoft::MultiHeadAttention{num_heads=$n, scale=0.125}(q, k, v)",
        inputs=_ROWS,
    ),
    _square(
        "com.microsoft::GroupQueryAttention",
        _GROUPED,
        _GROUPED_FUSED,
        inputs={"q": "1 s w", "k": "1 s 128", "v": "1 s 128"},
        made={
            "mask": _causal,
            "last": lambda sizes, _: np.asarray([sizes["s"] - 1], np.int32),
            "total": lambda sizes, _: np.asarray(sizes["s"], np.int32),
        },
    ),
    Micro(
        "RotaryEmbedding",
        _ROTARY,
        "y = RotaryEmbedding(x, chalf, shalf)",
        {"x": "1 8 s 64"},
        _SEQUENCES,
        made={**_TABLES, "chalf": _half(np.cos, 1), "shalf": _half(np.sin, 1)},
        opset=23,
    ),
    Micro(
        "com.microsoft::RotaryEmbedding",
        _ROTARY,
        "y = com.microsoft::RotaryEmbedding(x, positions, chalf, shalf)",
        {"x": "1 8 s 64"},
        _SEQUENCES,
        made={
            **_TABLES,
            "chalf": _half(np.cos),
            "shalf": _half(np.sin),
            "positions": lambda sizes, _: np.arange(sizes["s"], dtype=np.int64)[None],
        },
    ),
)
