"""What a Reshape, a Transpose and a Reshape do together, told by sizes alone.

A Reshape keeps the order of the elements, so it cuts or joins neighbouring axes. Cut both shapes of the first one into
the same pieces (atoms): the Transpose moves atoms around, and the last Reshape joins them anew. Axes of size 1 are
left out: they may stand anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ._sizes import Product, prefixes, product

Size = int | str | None


def common_cuts(first: Sequence[Size], second: Sequence[Size]) -> list[tuple[int, int]] | None:
    """Where two shapes of the same elements can be cut alike, as (axes before in the first, in the second).

    Returns:
        from (0, 0) to both ranks; None when a size is unknown or 0, or the totals are not known to be equal.
    """
    left, right = prefixes(first), prefixes(second)
    if left is None or right is None or left[-1] != right[-1]:
        return None
    place: dict[Product, int] = {item: index for index, item in enumerate(right)}
    cuts = [(index, place[item]) for index, item in enumerate(left) if item in place]
    rising = all(here[1] < there[1] for here, there in pairwise(cuts))
    return cuts if rising else None


def atoms(first: Sequence[Size], second: Sequence[Size]) -> list[tuple[int, int, Size]] | None:
    """The pieces that both shapes are made of, in order: (axis of the first, axis of the second, size).

    Neither shape has axes of size 1. None when some axes are cut across each other, as 4 x 6 into 6 x 4.
    """
    cuts = common_cuts(first, second)
    if cuts is None:
        return None
    pieces: list[tuple[int, int, Size]] = []
    for (i, j), (k, m) in pairwise(cuts):
        if k - i == 1:
            pieces += [(i, axis, second[axis]) for axis in range(j, m)]
        elif m - j == 1:
            pieces += [(axis, j, first[axis]) for axis in range(i, k)]
        else:
            return None
    return pieces


def moved(
    source: Sequence[Size], middle: Sequence[Size], perm: Sequence[int], result: Sequence[Size]
) -> list[int] | None:
    """The permutation of the source's axes that Reshape, Transpose and Reshape amount to.

    Args:
        source: the shape before.
        middle: what the first Reshape makes of it.
        perm: of the Transpose.
        result: what the last Reshape makes of its result.

    Returns:
        the permutation, identity where only the shape changes; None when it is no permutation of whole axes, or not
        known to be one.
    """
    wide, long = _without_ones(source), _without_ones(middle)
    pieces = atoms([source[axis] for axis in wide], [middle[axis] for axis in long])
    if pieces is None:
        return None
    by_middle: dict[int, list[int]] = {}
    for origin, axis, _ in pieces:
        by_middle.setdefault(long[axis], []).append(wide[origin])
    sequence = [origin for axis in perm for origin in by_middle.get(axis, ())]
    order = [origin for index, origin in enumerate(sequence) if index == 0 or sequence[index - 1] != origin]
    if len(order) != len(wide) or _pieces_out_of_order(pieces, long, perm):
        return None
    joined = [source[origin] for origin in order]
    final = [size for size in result if size != 1]
    if len(joined) != len(final) or any(product([a]) != product([b]) for a, b in zip(joined, final, strict=True)):
        return None
    ones = iter(axis for axis, size in enumerate(source) if size == 1)
    whole = iter(order)
    if len(source) != len(result):
        return None
    return [next(ones) if size == 1 else next(whole) for size in result]


def _without_ones(shape: Sequence[Size]) -> list[int]:
    return [axis for axis, size in enumerate(shape) if size != 1]


def _pieces_out_of_order(pieces: list[tuple[int, int, Size]], long: list[int], perm: Sequence[int]) -> bool:
    """True when the atoms of one axis of the source change places."""
    position = {axis: index for index, axis in enumerate(perm)}
    last: dict[int, int] = {}
    for origin, axis, _ in pieces:
        here = position[long[axis]]
        if here < last.get(origin, -1):
            return True
        last[origin] = here
    return False
