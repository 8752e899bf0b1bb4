"""The axes of Squeeze and Unsqueeze, one behind the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Ranks = tuple[int | None, int | None, int | None]


def combine(
    first: str,
    before: Sequence[int],
    second: str,
    after: Sequence[int],
    ranks: Ranks,
) -> tuple[str, list[int]] | None:
    """One operator for two.

    Args:
        first: the operator applied first, Squeeze or Unsqueeze.
        before: its axes.
        second: the operator applied to its result.
        after: its axes.
        ranks: of the source, the tensor in between and the result; only negative axes need them.

    Returns:
        the operator and its axes (none: the two cancel), or None when one operator cannot say it.
    """
    inner = _positive(before, ranks[1] if first == "Unsqueeze" else ranks[0])
    outer = _positive(after, ranks[2] if second == "Unsqueeze" else ranks[1])
    if inner is None or outer is None:
        return None
    match first, second:
        case "Unsqueeze", "Unsqueeze":  # inner counts in the tensor in between, outer in the result
            return "Unsqueeze", sorted(outer | _spread(inner, outer))
        case "Squeeze", "Squeeze":  # inner counts in the source, outer in the tensor in between
            return "Squeeze", sorted(inner | _spread(outer, inner))
        case "Unsqueeze", "Squeeze":  # both count in the tensor in between
            if outer <= inner:
                return "Unsqueeze", _pack(inner - outer, outer)
            return ("Squeeze", _pack(outer - inner, inner)) if inner <= outer else None
        case _:  # inner counts in the source, outer in the result
            return ("Unsqueeze", []) if inner == outer else None


def _positive(axes: Sequence[int], rank: int | None) -> set[int] | None:
    if any(axis < 0 for axis in axes) and rank is None:
        return None
    return {axis + (rank or 0) if axis < 0 else axis for axis in axes}


def _spread(positions: Iterable[int], taken: set[int]) -> set[int]:
    """Where positions end up when the axes in ``taken`` are put in between."""
    spread, free, count = set[int](), 0, 0
    for position in sorted(positions):
        while count < position or free in taken:
            count += free not in taken
            free += 1
        spread.add(free)
    return spread


def _pack(positions: Iterable[int], gone: set[int]) -> list[int]:
    """Where positions end up when the axes in ``gone`` are taken out."""
    return [position - sum(axis < position for axis in gone) for position in sorted(positions)]
