"""Matrix products with what stands around them."""

from __future__ import annotations

from typing import Any

import numpy as np

from .micro import Arrays, Micro, Sizes

_SQUARES = tuple({"m": rows, "k": 512, "n": 512} for rows in (1, 16, 128, 512))
_MNK = "M x N x K"


def _joined(*names: str) -> Any:
    def make(sizes: Sizes, arrays: Arrays) -> np.ndarray:
        return np.concatenate([arrays[name] for name in names], axis=-1)

    return make


def _kernel(*ones: int) -> Any:
    """The matrix w, [in, out], as a kernel of size 1."""

    def make(sizes: Sizes, arrays: Arrays) -> np.ndarray:
        return arrays["w"].T.reshape(sizes["c"], sizes["c"], *ones)

    return make


_HEADS = """
{0} = Transpose{{perm=[0, 2, 1, 3]}}(Reshape({1}, [0, 0, 8, 64]))
"""
_THREE = "".join(_HEADS.format(out, f"Add(MatMul(x, w{out}), b{out})") for out in "qkv")
_ONE = "a, b, c = Split{axis=-1, num_outputs=3}(Add(MatMul(x, w), bias))" + "".join(
    _HEADS.format(out, part) for out, part in zip("qkv", "abc", strict=True)
)

# Between layouts: a product over the channels of [batch, channels, points], as in MLP-Mixer, and a convolution of
# kernel 1 over [batch, height, width, channels], as tf2onnx writes it. In a chain the runtime cancels the transposes.
_MIXED = tuple({"c": channels, "d": points} for channels, points in ((64, 64), (196, 256), (196, 768), (512, 1024)))
_LAST = tuple({"c": channels, "h": size} for channels, size in ((32, 7), (64, 14), (64, 28), (128, 56)))

PRODUCTS = (
    Micro(
        "Conv1x1",
        "y = Transpose{perm=[0, 2, 1]}(Add(MatMul(Transpose{perm=[0, 2, 1]}(x), w), b))",
        "y = Conv(x, kernel, b)",
        {"x": "1 c d"},
        _MIXED,
        {"w": "c c", "b": "c"},
        made={"kernel": _kernel(1)},
        chain=1,
    ),
    Micro(
        "MatMul",
        "y = Transpose{perm=[0, 2, 3, 1]}(Conv(Transpose{perm=[0, 3, 1, 2]}(x), kernel, b))",
        "y = Add(MatMul(x, w), b)",
        {"x": "1 h h c"},
        _LAST,
        {"w": "c c", "b": "c"},
        made={"kernel": _kernel(1, 1)},
        chain=1,
    ),
    Micro(
        "Gemm",
        "y = Add(MatMul(x, w), b)",
        "y = Gemm(x, w, b)",
        {"x": "m k"},
        _SQUARES,
        {"w": "k n", "b": "n"},
        work="m n k",
        unit=_MNK,
    ),
    Micro(
        "MergedMatMul",
        _THREE,
        _ONE,
        {"x": "1 m k"},
        _SQUARES,
        {f"w{out}": "k n" for out in "qkv"} | {f"b{out}": "n" for out in "qkv"},
        made={"w": _joined("wq", "wk", "wv"), "bias": _joined("bq", "bk", "bv")},
        outputs="q k v",
        opset=18,
        chain=1,
    ),
    Micro(
        "com.microsoft::FusedMatMul",
        "y = Mul(MatMul(x, Transpose{perm=[0, 2, 1]}(z)), 0.125)",
        "y = com.microsoft::FusedMatMul{transB=1, alpha=0.125}(x, z)",
        {"x": "8 m 64", "z": "8 m 64"},
        tuple({"m": length} for length in (16, 64, 256, 512)),
        work="8 m m 64",
        unit=_MNK,
        chain=1,
    ),
    Micro(
        "com.microsoft::BiasGelu",
        "s = Add(x, b)\ny = Mul(Mul(s, Add(Erf(Div(s, 1.4142135)), 1)), 0.5)",
        "y = com.microsoft::BiasGelu(x, b)",
        {"x": "1 s 1024"},
        tuple({"s": length} for length in (1, 16, 128, 1024)),
        {"b": "1024"},
    ),
)
