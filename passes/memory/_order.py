"""Orders of a graph's nodes with a low peak of live bytes.

- ``frees_most``: list scheduling; of the nodes that are ready, the one after which the fewest bytes live.
- ``deepest_first``: what a node needs is computed depth first, the operand whose computation leaves the most behind
its own
  peak first (Sethi, Ullman: The Generation of Optimal Code for Arithmetic Expressions, 1970, on the DAG as if it were a
  tree).
- ``exact``: the order with the least peak, by a best-first search over sets of nodes that have run. The bytes that live
  depend on that set alone, so each is visited once; graphs have few such sets when few branches run side by side.

The exact search stops after ``MAX_EFFORT``. It is only started when the others have not reached what no order can
undercut.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence

from graphopt.ir.activations import Schedule

MAX_EFFORT = 400_000
"""Ready nodes looked at, times ready nodes beside them."""

RESTARTS = 8
SMALL = 2_000
"""Nodes up to which the exact search and the restarts are worth their time."""


def best_order(schedule: Schedule, seed: int) -> tuple[list[int], int]:
    """The best order found, and its peak; the graph's own order unless another one is better."""
    order, least = list(range(len(schedule.work))), schedule.least()
    highest = schedule.peak()
    candidates: list[Callable[[], list[int] | None]] = [
        lambda: deepest_first(schedule),
        lambda: frees_most(schedule),
    ]
    if len(schedule.work) <= SMALL:
        candidates.append(lambda: exact(schedule, highest))
        noises = [random.Random(seed + number) for number in range(RESTARTS)]
        candidates += [lambda noise=noise: frees_most(schedule, noise) for noise in noises]
    for candidate in candidates:
        if highest <= least:
            break
        found = candidate()
        reached = schedule.peak(found) if found is not None else highest
        if found is not None and reached < highest:
            order, highest = found, reached
    return order, highest


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
        need[index] = max(highest, held + leaves[index] + item.inside)
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


def exact(schedule: Schedule, below: int) -> list[int] | None:
    """An order with the least peak there is, if it is less than given; None when there is none or it takes too long."""
    work, sizes = schedule.work, schedule.sizes
    users = _users(schedule)
    read_by = [0] * len(sizes)
    for index, item in enumerate(work):
        for buffer in item.reads:
            read_by[buffer] |= 1 << index
    needed = [sum(1 << other for other in item.needs) for item in work]
    start = tuple(index for index, item in enumerate(work) if not item.needs)
    # (peak so far, -nodes run, live bytes, set of nodes run, ready nodes)
    queue: list[tuple[int, int, int, int, tuple[int, ...]]] = [(0, 0, 0, 0, start)]
    came_from: dict[int, tuple[int, int]] = {}
    best: dict[int, int] = {}
    settled: set[int] = set()
    everything = (1 << len(work)) - 1
    effort = 0
    while queue and effort <= MAX_EFFORT:
        peak, depth, live, ran, ready = heapq.heappop(queue)
        if ran == everything:
            return _path(came_from, ran)
        if ran in settled:
            continue
        settled.add(ran)
        effort += len(ready) * (len(ready) + len(work) // 64 + 8)
        for index in ready:
            item = work[index]
            after = ran | 1 << index
            now = live + sum(sizes[buffer] for buffer in item.makes)
            highest = max(peak, now + item.inside)
            if highest >= below or after in settled:
                continue
            for buffer in {*item.reads, *item.makes}:
                if read_by[buffer] & ~after == 0 and buffer not in schedule.stays:
                    now -= sizes[buffer]
            opened = [user for user in users[index] if needed[user] & ~after == 0]
            rest = (*(other for other in ready if other != index), *opened)
            if best.get(after, below) > highest:
                best[after] = highest
                came_from[after] = (ran, index)
            else:
                continue
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
