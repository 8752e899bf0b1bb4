"""Orders of a graph's nodes with a low peak of live bytes.

- ``frees_most``: list scheduling; of the nodes that are ready, the one after which the fewest bytes live.
- ``deepest_first``: what a node needs is computed depth first, the operand whose computation leaves the most behind
  its own peak first (Sethi, Ullman: The Generation of Optimal Code for Arithmetic Expressions, 1970, on the DAG as if
  it were a tree).
- ``exact``: the order with the least peak, by a best-first search over sets of nodes that have run. The bytes that live
  depend on that set alone, so each is visited once; graphs have few such sets when few branches run side by side.

The graph is taken apart (``_parts.py``), and of its parts always the one with the highest peak is worked on, until
there is nothing to gain in it: the others do not matter then. In a part for which the exact search takes too long, it
is done in windows around the fullest step.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from graphopt.ir.activations import Schedule

from ._parts import Ordering, cuts

MAX_EFFORT = 1_000_000
"""Of all exact searches in a graph: ready nodes looked at, times ready nodes beside them."""

EXACT_EFFORT = 100_000
"""Of one of them."""

RESTARTS = 8
SMALL = 2_000
"""Nodes up to which the exact search and the restarts are worth their time."""

_POLISHED = 3
_WINDOWS = (12, 24, 48)
_WINDOW_EFFORT = 10_000


@dataclass
class Effort:
    """What all searches in a graph may still cost."""

    left: int = MAX_EFFORT


def best_order(schedule: Schedule, seed: int) -> tuple[list[int], int]:
    """The best order found, and its peak; the graph's own order unless another one is better."""
    least = schedule.least()
    own = list(range(len(schedule.work)))
    if schedule.peak() <= least:
        return own, schedule.peak()
    whole = Ordering(schedule)
    starts = [0, *cuts(schedule)]
    steps = whole.steps()
    parts = [(-max(steps[start:end]), start, end) for start, end in pairwise(starts)]
    heapq.heapify(parts)
    effort = Effort()
    while parts:
        highest, start, end = parts[0]
        found, reached = _ordered(whole.window(start, end), seed, effort)
        if reached >= -highest:
            break
        whole.put(start, end, found)
        heapq.heapreplace(parts, (-reached, start, end))
        if reached <= least:
            break
    peak = schedule.peak(whole.order)
    return (whole.order, peak) if peak < schedule.peak() else (own, schedule.peak())


def _ordered(schedule: Schedule, seed: int, effort: Effort) -> tuple[list[int], int]:
    """The best order found of a graph that cannot be taken apart."""
    own, least = list(range(len(schedule.work))), schedule.least()
    best, highest = own, schedule.peak()
    candidates: list[Callable[[], list[int] | None]] = [
        lambda: deepest_first(schedule),
        lambda: frees_most(schedule),
    ]
    if len(own) <= SMALL:
        candidates.append(lambda: exact(schedule, highest, effort))
        noises = [random.Random(seed + number) for number in range(RESTARTS)]
        candidates += [lambda noise=noise: frees_most(schedule, noise) for noise in noises]
    starts = [own]
    for candidate in candidates:
        if highest <= least:
            break
        found = candidate()
        if found is None:
            continue
        starts.append(found)
        if schedule.peak(found) < highest:
            best, highest = found, schedule.peak(found)
    for start in [*(starts[:_POLISHED] if len(own) <= SMALL else ()), best]:
        if highest <= least:
            break
        found, reached = _polished(schedule, start, least, effort)
        if reached < highest:
            best, highest = found, reached
    return best, highest


def _polished(schedule: Schedule, order: list[int], least: int, effort: Effort) -> tuple[list[int], int]:
    """The exact search in windows around the fullest step, as long as it finds something."""
    ordering = Ordering(schedule.reordered(order))
    steps = ordering.steps()
    while effort.left > 0 and max(steps) > least:
        effort.left -= len(order)
        highest = max(steps)
        middle = steps.index(highest)
        for width in _WINDOWS:
            start = max(0, middle - width // 2)
            end = min(len(order), start + width)
            found = exact(ordering.window(start, end), highest, effort, _WINDOW_EFFORT)
            if found is not None:
                ordering.put(start, end, found)
                ordering.trace()
                steps = ordering.steps()
                break
        else:
            break
    return [order[index] for index in ordering.order], max(steps)


def frees_most(schedule: Schedule, noise: random.Random | None = None) -> list[int]:
    """List scheduling by the bytes that live afterwards; with noise, ties and near ties fall otherwise."""
    work, sizes = schedule.work, schedule.sizes
    left = list(schedule.readers)
    waiting = [len(item.needs) for item in work]
    users, readers = _users(schedule), _readers(schedule)
    done = [False] * len(work)
    shake = [1.0 if noise is None else 0.5 + noise.random() for _ in work]

    def gain(index: int) -> float:
        item = work[index]
        made = sum(sizes[buffer] for buffer in item.makes if left[buffer] or buffer in schedule.stays)
        freed = sum(sizes[buffer] for buffer in item.reads if left[buffer] == 1 and buffer not in schedule.stays)
        return (made - freed) * shake[index]

    ready = [(gain(index), index) for index, count in enumerate(waiting) if count == 0]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        _, index = heapq.heappop(ready)
        if done[index]:
            continue
        done[index] = True
        order.append(index)
        for buffer in work[index].reads:
            left[buffer] -= 1
            if left[buffer] == 1:  # its last reader gains by it from now on
                for reader in readers[buffer]:
                    if not done[reader] and waiting[reader] == 0:
                        heapq.heappush(ready, (gain(reader), reader))
        for user in users[index]:
            waiting[user] -= 1
            if waiting[user] == 0:
                heapq.heappush(ready, (gain(user), user))
    return order


def deepest_first(schedule: Schedule) -> list[int]:
    """Depth first from the last nodes, the operand that needs the most beyond what it leaves first."""
    work, sizes = schedule.work, schedule.sizes
    need, leaves = [0] * len(work), [0] * len(work)
    inputs: list[list[int]] = []
    for index, item in enumerate(work):
        ranked = sorted(item.needs, key=lambda other: (leaves[other] - need[other], other))
        inputs.append(ranked)
        held = highest = 0
        for other in ranked:
            highest = max(highest, held + need[other])
            held += leaves[other]
        leaves[index] = sum(sizes[buffer] for buffer in item.makes)
        need[index] = max(highest, held + (0 if item.takes else leaves[index]) + item.inside)
    users = _users(schedule)
    last = sorted(
        (index for index in range(len(work)) if not users[index]), key=lambda end: (leaves[end] - need[end], end)
    )
    order: list[int] = []
    done = [False] * len(work)
    for end in last:
        stack = [(end, 0)]
        while stack:
            index, position = stack.pop()
            if done[index]:
                continue
            while position < len(inputs[index]) and done[inputs[index][position]]:
                position += 1
            if position < len(inputs[index]):
                stack += [(index, position + 1), (inputs[index][position], 0)]
            else:
                done[index] = True
                order.append(index)
    return order


def exact(schedule: Schedule, below: int, effort: Effort, most: int = EXACT_EFFORT) -> list[int] | None:
    """An order with the least peak there is, if it is less than given; None when there is none or it takes too long."""
    until = effort.left - most
    work, sizes, stays = schedule.work, schedule.sizes, schedule.stays
    users = _users(schedule)
    read_by = [0] * len(sizes)
    for index, item in enumerate(work):
        for buffer in item.reads:
            read_by[buffer] |= 1 << index
    needed = [sum(1 << other for other in item.needs) for item in work]
    start = tuple(index for index, item in enumerate(work) if not item.needs)
    held = sum(sizes[buffer] for buffer in schedule.held)
    # (peak so far, -nodes run, live bytes, set of nodes run, ready nodes)
    queue: list[tuple[int, int, int, int, tuple[int, ...]]] = [(held, 0, held, 0, start)]
    came_from: dict[int, tuple[int, int]] = {}
    best: dict[int, int] = {}
    settled: set[int] = set()
    everything = (1 << len(work)) - 1
    while queue and effort.left > max(until, 0):
        peak, depth, live, ran, ready = heapq.heappop(queue)
        if ran == everything:
            return _path(came_from, ran)
        if ran in settled:
            continue
        settled.add(ran)
        effort.left -= len(ready) * (len(ready) + len(work) // 64 + 8)
        for index in ready:
            item = work[index]
            after = ran | 1 << index
            now = live + sum(sizes[buffer] for buffer in item.makes)
            over = any(read_by[buffer] & ~after == 0 and buffer not in stays for buffer in item.takes)
            highest = max(peak, now + item.inside - (sizes[item.makes[0]] if over else 0))
            if highest >= below or after in settled:
                continue
            for buffer in {*item.reads, *item.makes}:
                if read_by[buffer] & ~after == 0 and buffer not in stays:
                    now -= sizes[buffer]
            if best.get(after, below) <= highest:
                continue
            opened = [user for user in users[index] if needed[user] & ~after == 0]
            rest = (*(other for other in ready if other != index), *opened)
            best[after] = highest
            came_from[after] = (ran, index)
            heapq.heappush(queue, (highest, depth - 1, now, after, rest))
    return None


def _path(came_from: dict[int, tuple[int, int]], ran: int) -> list[int]:
    order: list[int] = []
    while ran:
        ran, index = came_from[ran]
        order.append(index)
    return order[::-1]


def _users(schedule: Schedule) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in schedule.work]
    for index, item in enumerate(schedule.work):
        for other in item.needs:
            found[other].append(index)
    return found


def _readers(schedule: Schedule) -> list[Sequence[int]]:
    found: list[list[int]] = [[] for _ in schedule.sizes]
    for index, item in enumerate(schedule.work):
        for buffer in item.reads:
            found[buffer].append(index)
    return list(found)
