"""Attentions put together at random: whatever is fused computes the same, for every mask and every length."""

from __future__ import annotations

import random

import onnx_ir as ir
import pytest

from graphopt.passes.fuse.fuse_attention import FuseAttention

LOWEST = "-3.4028234663852886e+38"


def _operand(draw: random.Random, name: str, length: str, heads: int, repeat: int) -> tuple[str, str, str]:
    """An input, and what makes [B, heads * repeat, length, 4] of it, as text and name."""
    own = heads * repeat if draw.random() < 0.6 else heads
    kind = draw.choice(["straight", "split", "flat"])
    if kind == "straight":
        source, text, now = f"float[B, {own}, {length}, 4] {name}", "", name
    elif kind == "split":
        source, now = f"float[B, {length}, {own}, 4] {name}", f"{name}h"
        text = f"{name}h = Transpose <perm = [0, 2, 1, 3]> ({name})"
    else:
        source, now = f"float[B, {length}, {own * 4}] {name}", f"{name}h"
        text = f"""{name}n = Constant <value_ints = [0, 0, {own}, 4]> () {name}r = Reshape ({name}, {name}n)
            {name}h = Transpose <perm = [0, 2, 1, 3]> ({name}r)"""
    if draw.random() < 0.4:
        text += f" {name}c = Constant <value_float = {draw.choice([0.5, 2.0, -1.0])}> () {name}s = Mul ({now}, {name}c)"
        now = f"{name}s"
    if own != heads * repeat:
        text += f"""{name}a = Constant <value_ints = [2]> () {name}u = Unsqueeze ({now}, {name}a)
            {name}w = Constant <value_ints = [1, 1, {repeat}, 1, 1]> () {name}e = Expand ({name}u, {name}w)
            {name}v = Shape <start = 0, end = 1> ({now}) {name}l = Shape <start = 2, end = 3> ({now})
            {name}m = Constant <value_ints = [{heads * repeat}]> () {name}d = Constant <value_ints = [4]> ()
            {name}p = Concat <axis = 0> ({name}v, {name}m, {name}l, {name}d) {name}g = Reshape ({name}e, {name}p)"""
        now = f"{name}g"
    return source, text, now


def _masks(draw: random.Random, now: str, heads: int) -> tuple[list[str], str, str]:
    inputs, text = [], ""
    for index in range(draw.choice([0, 1, 1, 2])):
        batch, head = draw.choice(["B", "1"]), draw.choice(["1", str(heads)])
        query, key = draw.choice(["S", "S", "1"]), draw.choice(["K", "K", "1"])
        shape = draw.choice([f"{batch}, {head}, {query}, {key}", f"{head}, {query}, {key}", f"{query}, {key}"])
        fill = draw.choice([LOWEST, "-inf", "-1e9", "-2"])
        match draw.choice(["where", "inverted", "added", "computed", "given", "triangle", "triangle"]):
            case "triangle":
                upper, offset = draw.choice([(0, 0), (0, 0), (0, 1), (0, -1), (1, 0), (1, 1)])
                numbers = [f"fill{index}", now] if draw.random() < 0.7 else [now, f"fill{index}"]
                step = f"""h{index} = Shape (keep{index}) w{index} = Expand (one, h{index})
                    k{index} = Constant <value = int64 {{{offset}}}> () r{index} = Trilu <upper = {upper}> (w{index}, k{index})
                    o{index} = Equal (r{index}, zero) m{index} = Where (o{index}, {", ".join(numbers)})"""
            case "where":
                step = f"m{index} = Where (keep{index}, {now}, fill{index})"
            case "inverted":
                step = f"m{index} = Where (keep{index}, fill{index}, {now})"
            case "added":
                step = f"z{index} = Where (keep{index}, zero, fill{index}) m{index} = Add (z{index}, {now})"
            case "computed":
                step = f"""f{index} = Cast <to = 1> (keep{index}) d{index} = Sub (one, f{index})
                    z{index} = Mul (d{index}, low) m{index} = Add ({now}, z{index})"""
            case _:
                step = f"z{index} = Cast <to = 1> (keep{index}) m{index} = Add ({now}, z{index})"
        inputs.append(f"bool[{'S, K' if 'Trilu' in step else shape}] keep{index}")
        text += f" fill{index} = Constant <value = float {{{fill}}}> () {step}"
        now = f"m{index}"
    return inputs, text, now


def _model(draw: random.Random) -> ir.Model:
    heads, repeat = draw.choice([1, 2]), draw.choice([1, 1, 3])
    queries, first, q = _operand(draw, "q", "S", heads * repeat, 1)
    keys, second, k = _operand(draw, "k", "K", heads, repeat)
    values, third, v = _operand(draw, "v", "K", heads, repeat)
    scores = f"kT = Transpose <perm = [0, 1, 3, 2]> ({k}) sc = MatMul ({q}, kT)"
    now = "sc"
    if draw.random() < 0.5:
        scores += f" {draw.choice(['sm = Mul (sc, half)', 'sm = Div (sc, one)'])}"
        now = "sm"
    inputs, masks, now = _masks(draw, now, heads * repeat)
    end = f"p = Softmax <axis = -1> ({now})"
    if draw.random() < 0.5:
        end += " n = IsNaN (p) g = Where (n, zero, p)"
    end += f" o = MatMul ({'g' if ' g = ' in end else 'p'}, {v})"
    shape = f"B, S, {heads * repeat * 4}"
    if draw.random() < 0.6:
        end += f""" t = Transpose <perm = [0, 2, 1, 3]> (o) j = Constant <value_ints = [0, 0, {heads * repeat * 4}]> ()
            y = Reshape (t, j)"""
    else:
        end, shape = f"{end} y = Neg (o)", f"B, {heads * repeat}, S, 4"
    return ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["": 23]> g ({", ".join([queries, keys, values, *inputs])})
        => (float[{shape}] y) <float zero = {{0}}, float one = {{1}}, float half = {{0.5}}, float low = {{{LOWEST}}}>
        {{ {first} {second} {third} {scores} {masks} {end} }}"""
    )


@pytest.mark.parametrize("block", range(4))
def test_what_is_fused_computes_the_same(agrees, block):
    fused = 0
    for seed in range(block * 30, block * 30 + 30):
        done = agrees(FuseAttention(), _model(random.Random(seed)), seed)
        assert done.changed or done.kept
        fused += len(done.changed)
    assert fused > 8
