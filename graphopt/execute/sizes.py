"""Which sizes to try for dimensions that a model leaves open, and in which order."""

from __future__ import annotations

import re
from collections.abc import Iterator

import onnx_ir as ir

from .signature import Port

_BATCH = (1, 2, 4, 8, 16, 32, 3, 64, 128)
_IMAGE = (64, 224, 48, 32, 96, 128, 256, 320, 640, 16, 8, 1, 2, 3)
_SIGNAL = (16, 8, 64, 32, 128, 1, 2, 4, 224, 256, 512, 576, 1024, 4096, 16000, 48000)
_BATCH_NAME = re.compile(r"batch|\A[nN]\Z|\Abs\Z", re.IGNORECASE)
SYMBOL = re.compile(r"[A-Za-z_][\w.]*\Z")

Key = str | tuple[str, int]
"""An unknown size: a symbol, or one axis of one input."""


def terms(symbol: str) -> tuple[str, ...]:
    """``past + 1`` -> ("past", "1"); empty for what is no sum."""
    terms = tuple(term.strip() for term in symbol.split("+"))
    return terms if len(terms) > 1 and all(term.isdigit() or SYMBOL.match(term) for term in terms) else ()


def candidates(port: Port, axis: int, symbol: str | None) -> tuple[int, ...]:
    """Sizes to try for one axis, the most usual first."""
    rank = len(port.shape or ())
    if _BATCH_NAME.search(symbol or "") or (axis == 0 and rank > 1):
        return _BATCH
    floating = port.dtype is not None and (port.dtype.is_floating_point() or port.dtype == ir.DataType.UINT8)
    return _IMAGE if floating and rank >= 4 else _SIGNAL


def combinations(unknown: dict[Key, tuple[int, ...]]) -> Iterator[tuple[tuple[Key, int], ...]]:
    """Equally usual sizes first (square images), then all combinations, usual ones earlier."""
    keys, lists = list(unknown), list(unknown.values())
    if not keys:
        return
    free = [index for index, sizes in enumerate(lists) if sizes is not _BATCH]
    for step in range(max(map(len, lists))):
        yield tuple(
            (key, sizes[min(step, len(sizes) - 1)] if index in free else sizes[0])
            for index, (key, sizes) in enumerate(zip(keys, lists, strict=True))
        )
    for total in range(sum(map(len, lists))):
        for steps in _compositions(total, [len(sizes) for sizes in lists]):
            yield tuple((key, sizes[step]) for key, sizes, step in zip(keys, lists, steps, strict=True))


def _compositions(total: int, lengths: list[int]) -> Iterator[tuple[int, ...]]:
    """Tuples of indices below the lengths that sum up to a number."""
    if not lengths:
        if total == 0:
            yield ()
        return
    for first in range(min(total, lengths[0] - 1), -1, -1):
        for rest in _compositions(total - first, lengths[1:]):
            yield (first, *rest)
