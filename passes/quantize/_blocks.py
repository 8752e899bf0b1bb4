"""Weights as codes with a scale, and perhaps a zero point, for each block of inputs of each output.

    W [N, K]  ->  codes q [N, K], scales s [N, B], zero points z [N, B]         W^ = (q - z) s,  B = ceil(K / block)

Ways to find them, each also usable with blocks as long as a row:

    nearest   s from the ends of the block, q = round(W / s) + z
    mse       s times the share in [.6, 1] with the least sum |W^ - W|^2 in the block        (Choukroun et al. 2019)
    hqq       z by half-quadratic splitting of sum |(W^ - W) / s|^.7, then rounded        (Badri and Shaji, HQQ, 2023)
    gptq      as mse; then columns by falling H_cc, the error of each goes into those not rounded yet by the Cholesky
              factor of H^-1, scales fixed beforehand (Frantar et al., GPTQ, 2022, section 3; static groups, no g_idx)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Protocol

import numpy as np

Rounding = Literal["nearest", "mse", "hqq", "gptq"]
SHARES = np.linspace(1.0, 0.6, 11)
_LEAST = float(np.finfo(np.float32).tiny)
_COLUMNS = 128
_HQQ_STEPS = 20
_HQQ_POWER = 0.7
_RIDGE = 0.01


@dataclass(frozen=True)
class Layout:
    """What codes there are.

    Attributes:
        bits: 2, 4 or 8.
        block: how many inputs have a scale together; 0 for all.
        symmetric: zero point 0.
    """

    bits: int
    block: int
    symmetric: bool

    @property
    def ends(self) -> tuple[int, int]:
        """The smallest and the largest code: signed when symmetric, unsigned otherwise."""
        half = 2 ** (self.bits - 1)
        return (-half, half - 1) if self.symmetric else (0, 2 * half - 1)

    def size(self, inputs: int) -> int:
        """The length of a block."""
        return self.block if self.block and self.block < inputs else inputs


@dataclass(frozen=True)
class Blocks:
    """A weight in codes.

    Attributes:
        layout: of the codes.
        codes: int32 [N, K].
        scale: float32 [N, B].
        zero: int32 [N, B].
    """

    layout: Layout
    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray

    @property
    def weight(self) -> np.ndarray:
        """What the codes stand for, float64 [N, K]."""
        scale, zero = self.spread()
        return (self.codes - zero) * scale

    def spread(self) -> tuple[np.ndarray, np.ndarray]:
        """Scale and zero point of each number, [N, K]."""
        inputs = self.codes.shape[1]
        size = self.layout.size(inputs)
        return (
            np.repeat(self.scale.astype(np.float64), size, axis=1)[:, :inputs],
            np.repeat(self.zero, size, axis=1)[:, :inputs],
        )


@dataclass(frozen=True, eq=False)
class Inputs:
    """What is known of the inputs of products; those that read the same share it.

    Attributes:
        gram: H = sum x x^T, float64 [K, K].
    """

    gram: np.ndarray

    @cached_property
    def order(self) -> np.ndarray:
        """The inputs by falling diagonal of H."""
        return np.argsort(-np.diagonal(self.gram), kind="stable")

    @cached_property
    def upper(self) -> np.ndarray:
        """The Cholesky factor U of the inverse of H, made safe and ordered: H^-1 = U^T U."""
        ridge = _RIDGE * np.diagonal(self.gram).mean()
        ordered = self.gram[np.ix_(self.order, self.order)] + ridge * np.eye(len(self.gram))
        inverse = np.linalg.inv(ordered)
        return np.linalg.cholesky((inverse + inverse.T) / 2).T


class Rounder(Protocol):
    """What rounds a weight on fixed scales: others than ``feed_back`` may be plugged in."""

    def __call__(self, weight: np.ndarray, start: Blocks, inputs: Inputs) -> np.ndarray:
        """Codes, int32 [N, K], of a weight, float64 [N, K]."""
        ...


def encode(
    weight: np.ndarray,
    layout: Layout,
    rounding: Rounding,
    inputs: Inputs | None = None,
    rounder: Rounder | None = None,
) -> Blocks:
    """The codes of a weight.

    Args:
        weight: [N, K], finite.
        layout: of the codes.
        rounding: see the module.
        inputs: without them gptq is mse.
        rounder: in place of gptq's feedback.
    """
    wide = np.asarray(weight, np.float64)
    blocks = _from_ends(wide, layout)
    if rounding == "hqq" and not layout.symmetric:
        return _half_quadratic(wide, blocks)
    if rounding == "nearest":
        return blocks
    blocks = _least_squares(wide, blocks)
    if rounding == "gptq" and inputs is not None and np.any(np.diagonal(inputs.gram) > 0):
        codes = (rounder or feed_back)(wide, blocks, inputs)
        return replace(blocks, codes=codes)
    return blocks


def _from_ends(weight: np.ndarray, layout: Layout) -> Blocks:
    """Scales that reach the ends of each block; rounding to nearest."""
    parts = _parts(weight, layout)
    scale, zero = _scales(parts.min(axis=2), parts.max(axis=2), layout)
    return nearest(weight, Blocks(layout, np.zeros(weight.shape, np.int32), scale, zero))


def _scales(least: np.ndarray, most: np.ndarray, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Scales and zero points with which codes reach given numbers."""
    low, high = layout.ends
    if layout.symmetric:
        whole = low if layout.bits < 8 else -high  # of few codes none is left out
        scale = np.maximum(least / whole, most / high)
        scale = np.where(scale < _LEAST, 1.0, scale).astype(np.float32)
        return scale, np.zeros(scale.shape, np.int32)
    least, most = np.minimum(least, 0.0), np.maximum(most, 0.0)
    scale = (most - least) / (high - low)
    scale = np.where(scale < _LEAST, 1.0, scale).astype(np.float32)
    return scale, np.clip(np.rint(-least / scale), low, high).astype(np.int32)


def nearest(weight: np.ndarray, blocks: Blocks) -> Blocks:
    """The nearest code of each number on given scales."""
    low, high = blocks.layout.ends
    scale, zero = blocks.spread()
    return replace(blocks, codes=np.clip(np.rint(weight / scale) + zero, low, high).astype(np.int32))


def _parts(weight: np.ndarray, layout: Layout) -> np.ndarray:
    """[N, B, block], the last block of a row filled up with its last number."""
    rows, inputs = weight.shape
    size = layout.size(inputs)
    count = -(-inputs // size)
    filled = weight if count * size == inputs else np.pad(weight, ((0, 0), (0, count * size - inputs)), mode="edge")
    return filled.reshape(rows, count, size)


def _errors(parts: np.ndarray, scale: np.ndarray, zero: np.ndarray, ends: tuple[int, int]) -> np.ndarray:
    """The squared error of each block [N, B] when rounded to nearest."""
    low, high = ends
    codes = parts / scale[..., None]
    np.rint(codes, out=codes)
    shift = zero[..., None].astype(parts.dtype)
    np.clip(codes, low - shift, high - shift, out=codes)
    codes *= scale[..., None]
    codes -= parts
    return np.einsum("nbk,nbk->nb", codes, codes)


def _least_squares(weight: np.ndarray, start: Blocks) -> Blocks:
    parts = _parts(weight.astype(np.float32), start.layout)
    least, most, ends = parts.min(axis=2), parts.max(axis=2), start.layout.ends
    scale, zero = start.scale.copy(), start.zero.copy()
    lowest = _errors(parts, scale, zero, ends)
    for share in SHARES[1:]:
        tried, shift = _scales(least * share, most * share, start.layout)
        error = _errors(parts, tried, shift, ends)
        better = error < lowest
        scale[better], zero[better], lowest[better] = tried[better], shift[better], error[better]
    return nearest(weight, replace(start, scale=scale, zero=zero))


def _half_quadratic(weight: np.ndarray, start: Blocks) -> Blocks:
    low, high = start.layout.ends
    parts = _parts(weight.astype(np.float32), start.layout)
    scale, zero = start.scale[..., None], start.zero[..., None].astype(np.float32)
    best, lowest, fit = zero, np.full(scale.shape, np.inf, np.float32), 10.0
    numbers = parts / scale
    for _ in range(_HQQ_STEPS):
        codes = np.clip(np.rint(numbers + zero), low, high)
        rest = numbers - (codes - zero)
        error = np.abs(rest).mean(axis=2, keepdims=True)
        better = error < lowest
        best, lowest = np.where(better, zero, best), np.where(better, error, lowest)
        if not better.any():
            break
        magnitude = np.maximum(np.abs(rest), 1e-6)
        shrunk = np.sign(rest) * np.maximum(magnitude - magnitude ** (_HQQ_POWER - 1) / fit, 0.0)
        zero = np.mean(codes - (numbers - shrunk), axis=2, keepdims=True)
        fit *= 1.01
    found = np.clip(np.rint(best[..., 0]), low, high).astype(np.int32)
    rounded = nearest(weight, replace(start, zero=found))
    ends = low, high  # rounding z may have cost what was gained
    better = _errors(parts, rounded.scale, rounded.zero, ends) < _errors(parts, start.scale, start.zero, ends)
    return nearest(weight, replace(start, zero=np.where(better, found, start.zero)))


def feed_back(weight: np.ndarray, start: Blocks, inputs: Inputs) -> np.ndarray:
    """GPTQ: columns by falling diagonal of H, on the scales that there are."""
    low, high = start.layout.ends
    order, upper = inputs.order, inputs.upper
    # transposed: what is exchanged at a time lies together
    scale, zero = (np.ascontiguousarray(part.T[order]) for part in start.spread())
    rest = np.ascontiguousarray(weight.T[order])
    codes = np.empty(rest.shape, np.int32)
    for begin in range(0, len(rest), _COLUMNS):
        end = min(begin + _COLUMNS, len(rest))
        near = rest[begin:end]
        errors = np.zeros_like(near)
        for column in range(begin, end):
            place = column - begin
            code = np.clip(np.rint(near[place] / scale[column]) + zero[column], low, high)
            codes[column] = code
            error = (near[place] - (code - zero[column]) * scale[column]) / upper[column, column]
            near[place:] -= upper[column, column:end, None] * error
            errors[place] = error
        rest[end:] -= upper[begin:end, end:].T @ errors
    found = np.empty_like(codes)
    found[order] = codes
    return np.ascontiguousarray(found.T)
