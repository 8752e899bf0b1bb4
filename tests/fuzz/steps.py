"""What a random graph is made of: the more often a step stands here, the more of it there is."""

from __future__ import annotations

from arithmetic import (
    binary,
    casts,
    choose,
    clip,
    compare,
    hard_swish,
    logic,
    others,
    ramp,
    reduce,
    repeat,
    softmax,
    unary,
    with_constant,
)
from blocks import attention, einsum, gated, gelu, layer_norm, pixel_shuffle, siblings, softmax_by_hand
from control import branch, call, loop, scan
from kinds import constant_of_any_size, optional, other_type, sequence
from linear import batchnorm, conv, matmul, matmul_of_two, pad, pool
from maker import Maker, Step
from movement import concat, cut, expand, gather, reshape, split, squeeze, tile, transpose
from sizes import fill_like, shape_arithmetic, slice_by_size

SIMPLE_STEPS: tuple[Step, ...] = (
    unary, binary, with_constant, transpose, squeeze, reshape, cut,
    concat, choose, casts, repeat, shape_arithmetic,
)  # fmt: skip
LAYOUT_STEPS: tuple[Step, ...] = (
    cut, cut, squeeze, reshape, transpose, pad, concat,
    expand, reduce, casts, with_constant,
)  # fmt: skip


def layout_chain(maker: Maker) -> None:
    """Two or three of one kind in a row: what the merge passes look at."""
    rng = maker.rng
    maker.chain([rng.choice(LAYOUT_STEPS)] * rng.randint(2, 3))


def linear_chain(maker: Maker) -> None:
    """A linear operator with affine ones around it: what the fuse passes look at."""
    rng = maker.rng
    around = (with_constant, with_constant, batchnorm, pad)
    before = rng.choices(around, k=rng.choice((0, 1, 2)))
    after = rng.choices(around, k=rng.choice((0, 1, 2)))
    maker.chain([*before, rng.choice((conv, matmul, pool)), *after])


STEPS: tuple[Step, ...] = (
    *SIMPLE_STEPS, *SIMPLE_STEPS, clip, hard_swish, conv, conv, batchnorm,
    matmul, matmul, matmul, conv, matmul_of_two, pool, pad, fill_like, expand,
    expand, slice_by_size, split, gather, reduce, softmax, tile,
    compare, logic, branch, loop, scan, call, reshape,
    ramp, ramp, others, others, layout_chain, layout_chain, layout_chain, layout_chain,
    linear_chain, linear_chain, linear_chain,
    gelu, gated, layer_norm, layer_norm, softmax_by_hand, attention, attention, siblings, siblings, pixel_shuffle, einsum,
    other_type, other_type, sequence, optional, constant_of_any_size,
)  # fmt: skip
