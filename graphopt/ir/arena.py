"""Places in one piece of memory for blocks that each live for a while.

    block: alive from step ``first`` to step ``last``, both included     ->     its offset

Two blocks that live at a common step must not overlap. The smallest piece is hard to find (dynamic storage
allocation, NP-complete), so two ways are gone and the better result is taken:

- largest first, each into the smallest gap between the blocks placed before that live at a common step, or else behind
  them (Pisarchyk, Lee: Efficient Memory Management for Deep Neural Net Inference, arXiv 2001.03288, section 5, greedy
  by size); up to ``SMALL`` blocks also in other orders, and with what ended last placed first;
- in the order of time, each into the smallest hole that is free then: what an allocator does. This one takes
  n log n steps for any n blocks; the first one is given up when too many blocks live side by side.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Sequence
from typing import NamedTuple

SMALL = 2_000
"""Blocks up to which several orders are tried."""

_LEAST_EFFORT = 1_000_000
_EFFORT_EACH = 150
_TRIES = 60
_TRIED_BLOCKS = 20_000


class Block(NamedTuple):
    """A need for memory: from step ``first`` to step ``last``, ``size`` bytes."""

    first: int
    last: int
    size: int


def bound(blocks: Sequence[Block]) -> int:
    """The most bytes that live at one step: no placing needs less."""
    return max(live(blocks), default=0)


def live(blocks: Sequence[Block]) -> list[int]:
    """The bytes that live at each step."""
    change = [0] * (max((block.last for block in blocks), default=-1) + 2)
    for block in blocks:
        change[block.first] += block.size
        change[block.last + 1] -= block.size
    total, found = 0, [0] * (len(change) - 1)
    for step in range(len(found)):
        total += change[step]
        found[step] = total
    return found


def place(blocks: Sequence[Block]) -> list[int]:
    """An offset for each block, multiples of the sizes' common divisor, so that the last end is low."""
    best = by_time(blocks)
    reached, least = extent(blocks, best), bound(blocks)
    keys: list[Callable[[Block], tuple[int, ...]]] = [lambda block: (-block.size, block.first)]
    if len(blocks) <= SMALL:
        keys += [
            lambda block: (-block.size, block.first - block.last, block.first),
            lambda block: (block.size * (block.first - block.last - 1), block.first),
            lambda block: (block.first - block.last, -block.size),
        ]
    for key in keys:
        if reached <= least:
            break
        found = by_order(blocks, sorted(range(len(blocks)), key=lambda item: (key(blocks[item]), item)))
        if found is not None and extent(blocks, found) < reached:
            best, reached = found, extent(blocks, found)
    return best if reached <= least or len(blocks) > SMALL else _climbed(blocks, best, least)


def _climbed(blocks: Sequence[Block], best: list[int], least: int) -> list[int]:
    """Again and again with the block that ends last placed first."""
    order = sorted(range(len(blocks)), key=lambda item: (-blocks[item].size, blocks[item].first, item))
    reached = extent(blocks, best)
    found: list[int] | None = best
    for _ in range(min(_TRIES, _TRIED_BLOCKS // len(blocks))):
        if found is None or reached <= least:
            break
        ends = extent(blocks, found)
        worst = next(item for item in order[::-1] if found[item] + blocks[item].size == ends)
        order.remove(worst)
        order.insert(0, worst)
        found = by_order(blocks, order)
        if found is not None and extent(blocks, found) < reached:
            best, reached = found, extent(blocks, found)
    return best


def extent(blocks: Sequence[Block], offsets: Sequence[int]) -> int:
    """Where the last block ends."""
    return max((offset + block.size for block, offset in zip(blocks, offsets, strict=True)), default=0)


def by_order(blocks: Sequence[Block], order: Sequence[int]) -> list[int] | None:
    """Block after block into the smallest gap; None when that takes too long."""
    offsets = [0] * len(blocks)
    placed = _Placed(blocks)
    effort = _LEAST_EFFORT + _EFFORT_EACH * len(blocks)
    for index in order:
        block = blocks[index]
        if not block.size:
            continue
        beside, steps = placed.beside(block)
        effort -= steps
        if effort < 0:
            return None
        best, smallest, end = -1, -1, 0
        for offset, other in sorted((offsets[item], item) for item in beside):
            gap = offset - end
            if gap >= block.size and (best < 0 or gap < smallest):
                best, smallest = end, gap
            end = max(end, offset + blocks[other].size)
        offsets[index] = end if best < 0 else best
        placed.add(index)
    return offsets


def by_time(blocks: Sequence[Block]) -> list[int]:
    """Block after block as they come, each into the smallest hole, or at the end."""
    offsets = [0] * len(blocks)
    holes = _Holes()
    ending: list[tuple[int, int]] = []
    for index in sorted(range(len(blocks)), key=lambda item: (blocks[item].first, -blocks[item].size, item)):
        block = blocks[index]
        while ending and ending[0][0] < block.first:
            gone = heapq.heappop(ending)[1]
            holes.free(offsets[gone], blocks[gone].size)
        if block.size:
            offsets[index] = holes.take(block.size)
            heapq.heappush(ending, (block.last, index))
    return offsets


class _Placed:
    """The blocks that have a place, found by the steps at which they live: a tree of latest steps over first steps."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._blocks = blocks
        self._order = sorted(range(len(blocks)), key=lambda index: blocks[index].first)
        self._rank = {index: rank for rank, index in enumerate(self._order)}
        self._firsts = [blocks[index].first for index in self._order]
        self._width = 1 << max(len(blocks) - 1, 0).bit_length()
        self._latest = [-1] * (2 * self._width)

    def add(self, index: int) -> None:
        """It has a place now."""
        node, last = self._width + self._rank[index], self._blocks[index].last
        while node and self._latest[node] < last:
            self._latest[node] = last
            node >>= 1

    def beside(self, block: Block) -> tuple[list[int], int]:
        """The placed blocks that live at a common step, and the steps it took to find them."""
        latest, width, first = self._latest, self._width, block.first
        limit = width + bisect_right(self._firsts, block.last)
        found: list[int] = []
        stack = [(1, width, width)]  # node, its first leaf, the number of its leaves
        steps = 0
        while stack:
            node, leaf, leaves = stack.pop()
            steps += 1
            if latest[node] < first or leaf >= limit:
                continue
            if leaves == 1:
                found.append(self._order[leaf - width])
                continue
            half = leaves >> 1
            stack.append((2 * node, leaf, half))
            stack.append((2 * node + 1, leaf + half, half))
        return found, steps


class _Holes:
    """Free memory below the highest end so far."""

    def __init__(self) -> None:
        self._by_size: list[tuple[int, int]] = []
        self._by_start: dict[int, int] = {}
        self._by_end: dict[int, int] = {}
        self._top = 0

    def take(self, size: int) -> int:
        """The offset of so many bytes."""
        position = bisect_left(self._by_size, (size, -1))
        if position < len(self._by_size):
            found, offset = self._by_size[position]
            self._remove(found, offset)
            if found > size:
                self._add(found - size, offset + size)
            return offset
        offset = self._by_end.get(self._top, self._top)  # the last hole grows
        if offset < self._top:
            self._remove(self._top - offset, offset)
        self._top = offset + size
        return offset

    def free(self, offset: int, size: int) -> None:
        """Nothing lives there any more."""
        before = self._by_end.get(offset)
        if before is not None:
            self._remove(offset - before, before)
            offset, size = before, size + offset - before
        behind = self._by_start.get(offset + size)
        if behind is not None:
            self._remove(behind, offset + size)
            size += behind
        self._add(size, offset)

    def _add(self, size: int, offset: int) -> None:
        insort(self._by_size, (size, offset))
        self._by_start[offset] = size
        self._by_end[offset + size] = offset

    def _remove(self, size: int, offset: int) -> None:
        del self._by_size[bisect_left(self._by_size, (size, offset))]
        del self._by_start[offset]
        del self._by_end[offset + size]
