"""How near the orders are to the least peak there is, and that a graph may be ordered part by part."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import onnx_ir as ir
import pytest

from graphopt.ir.activations import Schedule, Work
from graphopt.passes.memory import _order
from graphopt.passes.memory._order import Effort, best_order, deepest_first, exact, frees_most
from graphopt.passes.memory._parts import Ordering, cuts
from graphopt.passes.memory.reorder_operators import _best


def random_schedule(seed: int, count: int) -> Schedule:
    """A DAG with results that may be written over operands, work inside nodes, outputs, and nodes that cost nothing."""
    chance = random.Random(seed)
    sizes: list[int] = []
    work: list[Work] = []
    for index in range(count):
        near = list(range(max(0, index - 6), index))
        needs = sorted(chance.sample(near, min(len(near), chance.choice((0, 1, 1, 2, 2, 3)))))
        takes = [other for other in needs if sizes[other] and chance.random() < 0.4][:2]
        sizes.append(sizes[takes[0]] if takes else chance.choice((0, 1, 2, 5, 20)))
        takes = [other for other in takes if sizes[other] == sizes[index]]
        inside = chance.choice((0, 0, 0, 7))
        work.append(Work(ir.node("Thing", []), tuple(needs), (index,), tuple(needs), inside, tuple(takes)))
    readers = [sum(index in item.reads for item in work) for index in range(count)]
    stays = {index for index in range(count) if not readers[index] and chance.random() < 0.7}
    return Schedule(work, sizes, readers, stays)


def orders(schedule: Schedule) -> Iterator[list[int]]:
    """All of them."""

    def further(order: list[int]) -> Iterator[list[int]]:
        if len(order) == len(schedule.work):
            yield order
        for index, item in enumerate(schedule.work):
            if index not in order and all(need in order for need in item.needs):
                yield from further([*order, index])

    return further([])


def is_topological(schedule: Schedule, order: list[int]) -> bool:
    place = {index: step for step, index in enumerate(order)}
    return sorted(order) == list(range(len(schedule.work))) and all(
        place[need] < place[index] for index, item in enumerate(schedule.work) for need in item.needs
    )


def test_small_graphs_get_the_least_peak_that_trying_all_orders_finds() -> None:
    """The quick ways alone reach it in most graphs, the file's order in fewer than half."""
    reached = dict.fromkeys(("file", "deepest first", "frees most", "quick ways and windows"), 0)
    count = 60
    for seed in range(count):
        schedule = random_schedule(seed, random.Random(seed).randint(3, 8))
        least = min(schedule.peak(order) for order in orders(schedule))
        order, peak = best_order(schedule, 0)
        assert is_topological(schedule, order)
        assert (peak, schedule.peak(order)) == (least, least)
        assert schedule.least() <= least
        found = exact(schedule, 10**9, Effort())
        assert found is not None and schedule.peak(found) == least
        quick = [schedule.peak(), schedule.peak(deepest_first(schedule)), schedule.peak(frees_most(schedule))]
        for name, value in zip(reached, [*quick, min(quick)], strict=True):
            reached[name] += value == least
    assert reached["quick ways and windows"] >= 0.75 * count > reached["file"], reached


def test_windows_bring_orders_near_to_the_least_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_order, "SMALL", 0)  # neither the exact search nor restarts
    without, with_windows = [], []
    for seed in range(25):
        schedule = random_schedule(seed, 18)
        found = exact(schedule, 10**9, Effort(10**9), 10**9)
        assert found is not None
        least = schedule.peak(found)
        with_windows.append(best_order(schedule, 0)[1] / least)
        with monkeypatch.context() as patch:
            patch.setattr(_order, "_WINDOWS", ())
            without.append(best_order(schedule, 0)[1] / least)
    assert sum(with_windows) < sum(without)
    assert with_windows.count(1) >= 20
    assert max(with_windows) < 1.35


@pytest.mark.parametrize("seed", range(30))
def test_parts_end_where_every_order_has_the_same_node(seed: int) -> None:
    schedule = random_schedule(seed, 8)
    ends = cuts(schedule)
    assert ends[-1] == 8
    for order in orders(schedule):
        for end in ends:
            assert set(order[:end]) == set(range(end))


def test_a_chain_falls_apart_into_single_nodes_and_constants_are_in_nobodys_way() -> None:
    chain = [Work(ir.node("Thing", []), (), (), ())]
    chain += [Work(ir.node("Thing", []), (index, 0) if index else (0,), (index,), ()) for index in range(5)]
    assert cuts(Schedule(chain, [1] * 5, [0] * 5)) == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("seed", range(20))
def test_a_window_has_the_peak_of_its_steps(seed: int) -> None:
    schedule = random_schedule(seed, 30)
    ordering = Ordering(schedule)
    steps = ordering.steps()
    assert max(steps) == schedule.peak()
    for start, end in ((0, 30), (0, 10), (7, 19), (20, 30)):
        window = ordering.window(start, end)
        assert window.peak() == max(steps[start:end])
        order, peak = best_order(window, 0)
        other = Ordering(schedule)
        other.put(start, end, order)
        other.trace()
        assert is_topological(schedule, other.order)
        assert max(other.steps()[start:end]) == peak
        assert schedule.peak(other.order) == max(*steps[:start], peak, *steps[end:], 0)


@pytest.mark.parametrize("seed", range(25))
def test_no_runtime_needs_more_than_before_and_a_second_search_finds_nothing(seed: int) -> None:
    schedule = random_schedule(seed, 14)
    order = _best(schedule, 0)
    if order is not None:
        assert is_topological(schedule, order)
        for in_place in (False, True):
            assert schedule.peak(order, in_place=in_place) <= schedule.peak(in_place=in_place)
        assert _best(schedule.reordered(order), 0) is None


def test_time_grows_with_the_number_of_nodes() -> None:
    def seconds(count: int) -> float:
        schedule = random_schedule(1, count)
        started = time.process_time()
        order, peak = best_order(schedule, 0)
        took = time.process_time() - started
        assert is_topological(schedule, order) and peak <= schedule.peak()
        return took

    assert seconds(8_000) < 10 * seconds(2_500) + 2
