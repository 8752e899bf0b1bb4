"""Blocks in one arena: none over another, ends as low as can be, in little time."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.ir.arena import SMALL, Block, bound, by_order, by_time, extent, live, place

blocks_of = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 12), st.integers(0, 9)).map(
        lambda item: Block(item[0], item[0] + item[1], 64 * item[2])
    ),
    max_size=40,
)


def overlapping(blocks: list[Block], offsets: list[int]) -> list[tuple[int, int]]:
    """By trying all pairs."""
    return [
        (i, j)
        for i, one in enumerate(blocks)
        for j, two in enumerate(blocks[:i])
        if one.first <= two.last
        and two.first <= one.last
        and offsets[i] < offsets[j] + two.size
        and offsets[j] < offsets[i] + one.size
        and one.size
        and two.size
    ]


@given(blocks_of, st.randoms(use_true_random=False))
def test_no_two_blocks_that_live_together_overlap(blocks: list[Block], chance: random.Random) -> None:
    order = list(range(len(blocks)))
    chance.shuffle(order)
    for offsets in (place(blocks), by_time(blocks), by_order(blocks, order)):
        assert offsets is not None
        assert overlapping(blocks, offsets) == []
        assert all(offset % 64 == 0 for offset in offsets)
        assert extent(blocks, offsets) >= bound(blocks)


@given(blocks_of)
def test_the_bound_is_what_lives_at_the_fullest_step(blocks: list[Block]) -> None:
    expected = [
        sum(block.size for block in blocks if block.first <= step <= block.last)
        for step in range(max((block.last for block in blocks), default=-1) + 1)
    ]
    assert live(blocks) == expected
    assert bound(blocks) == max(expected, default=0)


def test_a_block_goes_into_the_smallest_gap() -> None:
    blocks = [Block(0, 9, 100), Block(0, 4, 50), Block(0, 9, 90), Block(0, 4, 30), Block(0, 9, 80), Block(5, 9, 30)]
    offsets = by_order(blocks, range(6))
    assert offsets == [0, 100, 150, 240, 270, 240]


def test_where_one_order_leaves_holes_others_are_tried() -> None:
    alone, all_ways = [], []
    for seed in range(100):
        chance = random.Random(seed)
        blocks = [Block(first, first + chance.randint(0, 6), chance.randint(1, 8)) for first in range(25)]
        largest_first = by_order(blocks, sorted(range(25), key=lambda index: -blocks[index].size))
        assert largest_first is not None
        alone.append(extent(blocks, largest_first) / bound(blocks))
        all_ways.append(extent(blocks, place(blocks)) / bound(blocks))
    assert all(ours <= theirs for ours, theirs in zip(all_ways, alone, strict=True))
    assert all_ways.count(1) > alone.count(1) + 20
    assert max(all_ways) < 1.15 < max(alone)


@pytest.mark.parametrize("longest", [3, 50_000])
def test_time_grows_with_the_number_of_blocks(longest: int) -> None:
    def seconds(count: int) -> float:
        chance = random.Random(0)
        blocks = [Block(at, at + chance.randint(0, longest), 64 * chance.randint(1, 99)) for at in range(count)]
        started = time.process_time()
        offsets = place(blocks)
        took = time.process_time() - started
        assert extent(blocks, offsets) < 1.6 * bound(blocks)
        assert sorted(overlapping(blocks[:300], offsets[:300])) == []
        return took

    assert seconds(20_000) < 12 * seconds(5_000) + 1
    assert SMALL < 5_000
