"""Decomposed attention and a transformer block around it, in the dialects of both torch exporters.

``dialect="torchscript"`` computes every Reshape's target from Shape, scales the scores by Div and adds
the mask after; ``dialect="dynamo"`` reshapes with literal sizes (-1 for the sequence), scales q and k
by the fourth root each, and uses Where for the mask.
"""

from __future__ import annotations

from math import sqrt
from typing import Literal

import numpy as np
import onnx_ir as ir

from .mlp import dense, gelu, layer_norm, rms_norm
from .sketch import INT64, Sketch

Dialect = Literal["torchscript", "dynamo"]
Mask = Literal["none", "padding", "causal", "both"]


def _size(g: Sketch, x: ir.Value, axis: int) -> ir.Value:
    """The extent of ``x`` along ``axis`` as an int64 of shape [1], computed at run time."""
    extent = g.op("Gather", g.op("Shape", x), g.constant(np.asarray(axis, np.int64)), axis=0)
    return g.op("Unsqueeze", extent, g.ints(0))


def _split(g: Sketch, x: ir.Value, heads: int, size: int, dialect: Dialect, *, keys: bool = False) -> ir.Value:
    """[B, S, H*D] -> [B, H, S, D], or [B, H, D, S] for keys."""
    if dialect == "torchscript":
        shape = g.op("Concat", _size(g, x, 0), _size(g, x, 1), g.ints(heads), g.ints(size), axis=0)
        split = g.op("Reshape", x, shape)
    else:
        split = g.op("Reshape", x, g.ints(0, -1, heads, size))
    if keys and dialect == "torchscript":
        return g.op("Transpose", split, perm=[0, 2, 3, 1])
    turned = g.op("Transpose", split, perm=[0, 2, 1, 3])
    return g.op("Transpose", turned, perm=[0, 1, 3, 2]) if keys else turned


def padding_bias(g: Sketch, mask: ir.Value) -> ir.Value:
    """``(1 - mask) * lowest`` as [B, 1, 1, S], the way Hugging Face's BERT makes it."""
    wide = g.op("Unsqueeze", g.op("Unsqueeze", mask, g.ints(1)), g.ints(2))
    kept = g.op("Cast", wide, to=int(ir.DataType.FLOAT))
    return g.op("Mul", g.op("Sub", g.scalar(1.0), kept), g.scalar(float(np.finfo(np.float32).min)))


def causal_mask(g: Sketch, x: ir.Value) -> ir.Value:
    """Booleans [1, 1, S, S], true where a query may look, computed from positions at run time."""
    length = g.op("Squeeze", _size(g, x, 1), g.ints(0))
    zero, one = g.scalar(0, np.int64), g.scalar(1, np.int64)
    positions = g.op("Range", zero, length, one)
    rows, columns = g.op("Unsqueeze", positions, g.ints(1)), g.op("Unsqueeze", positions, g.ints(0))
    visible = g.op("LessOrEqual", columns, rows)
    return g.op("Unsqueeze", g.op("Unsqueeze", visible, g.ints(0)), g.ints(0))


def self_attention(
    g: Sketch,
    x: ir.Value,
    *,
    heads: int,
    size: int,
    bias: ir.Value | None,
    visible: ir.Value | None,
    dialect: Dialect,
) -> ir.Value:
    """Multi-head attention of ``x`` [B, S, heads * size] to itself, written out in primitive operators."""
    width = heads * size
    query = _split(g, dense(g, x, width, width), heads, size, dialect)
    key = _split(g, dense(g, x, width, width), heads, size, dialect, keys=True)
    value = _split(g, dense(g, x, width, width), heads, size, dialect)
    if dialect == "torchscript":
        scores = g.op("Div", g.op("MatMul", query, key), g.scalar(sqrt(size)))
    else:
        root = g.scalar(size**-0.25)
        scores = g.op("MatMul", g.op("Mul", query, root), g.op("Mul", key, root))
    if visible is not None:
        scores = g.op("Where", visible, scores, g.scalar(float(np.finfo(np.float32).min)))
    if bias is not None:
        scores = g.op("Add", scores, bias)
    mixed = g.op("MatMul", g.op("Softmax", scores, axis=-1), value)
    turned = g.op("Transpose", mixed, perm=[0, 2, 1, 3])
    if dialect == "torchscript":
        shape = g.op("Concat", _size(g, turned, 0), _size(g, turned, 1), g.ints(width), axis=0)
    else:
        shape = g.ints(0, -1, width)
    return dense(g, g.op("Reshape", turned, shape), width, width)


def attention(
    *,
    heads: int = 2,
    size: int = 8,
    mask: Mask = "padding",
    dialect: Dialect = "torchscript",
    opset: int = 17,
    seed: int = 0,
) -> ir.Model:
    """One attention layer: ``x`` [B, S, heads * size] (and ``mask`` [B, S] of int64 0/1) to ``y``."""
    g = Sketch("attention", opset=opset, seed=seed)
    x = g.input("x", ["B", "S", heads * size])
    bias = padding_bias(g, g.input("mask", ["B", "S"], INT64)) if mask in ("padding", "both") else None
    visible = causal_mask(g, x) if mask in ("causal", "both") else None
    y = self_attention(g, x, heads=heads, size=size, bias=bias, visible=visible, dialect=dialect)
    g.output(y, ["B", "S", heads * size], name="y")
    return g.model()


def transformer(
    *,
    layers: int = 2,
    heads: int = 2,
    size: int = 8,
    vocabulary: int = 50,
    norm: Literal["layer", "rms"] = "layer",
    dialect: Dialect = "torchscript",
    opset: int = 17,
    seed: int = 0,
) -> ir.Model:
    """A BERT-like encoder: ``ids`` and ``mask`` [B, S] (int64) to ``hidden`` [B, S, heads * size]."""
    g = Sketch("transformer", opset=opset, seed=seed)
    width = heads * size
    ids = g.input("ids", ["B", "S"], INT64)
    bias = padding_bias(g, g.input("mask", ["B", "S"], INT64))
    normalize = layer_norm if norm == "layer" else rms_norm
    x = g.op("Gather", g.random(vocabulary, width, scale=1.0, hint="embedding"), ids, axis=0)
    for _ in range(layers):
        y = self_attention(g, x, heads=heads, size=size, bias=bias, visible=None, dialect=dialect)
        x = normalize(g, g.op("Add", x, y), width)
        y = dense(g, gelu(g, dense(g, x, width, 4 * width)), 4 * width, width)
        x = normalize(g, g.op("Add", x, y), width)
    g.output(x, ["B", "S", width], name="hidden")
    return g.model()
