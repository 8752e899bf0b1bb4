"""A schedule in parts that can be ordered one by one.

- A node that all nodes before it lead to, and that leads to all nodes behind it, has its place in every order. What
  lies between two of them is a part of its own (Ahn et al., 2020, section 3.2), and the peak is that of the worst part.
- A window is any stretch of an order. Another order of it alone is an order of the whole.

Nodes that compute nothing from nothing (Constant) are in nobody's way and go to the front of their part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from graphopt.ir.activations import Schedule, Work


def cuts(schedule: Schedule) -> list[int]:
    """Where the parts of the graph's own order end, the end of the last among them.

    A node is a cut when each node behind it needs it or one behind it, and each node before it is needed by it or by
    one before it.
    """
    count = len(schedule.work)
    earliest_user = [count] * count
    latest_need = [-1] * count
    for index, item in enumerate(schedule.work):
        for other in item.needs:
            if not _is_free(schedule.work[other]):
                earliest_user[other] = min(earliest_user[other], index)
                latest_need[index] = max(latest_need[index], other)
    leads_on = [False] * count  # every node before is needed by this one or one before it
    farthest = -1
    for index, item in enumerate(schedule.work):
        leads_on[index] = farthest <= index
        if not _is_free(item):
            farthest = max(farthest, earliest_user[index])
    ends: list[int] = []
    nearest = count
    for index in range(count - 1, -1, -1):
        item = schedule.work[index]
        if _is_free(item):
            continue
        if leads_on[index] and nearest >= index:
            ends.append(index + 1)
        nearest = min(nearest, latest_need[index])
    ends.reverse()
    return ends if ends and ends[-1] == count else [*ends, count]


class Ordering:
    """An order of a schedule that is improved stretch by stretch."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.order = list(range(len(schedule.work)))
        self._first = [-1] * len(schedule.sizes)
        self._last = [-1] * len(schedule.sizes)
        self._level: list[int] = []
        self.trace()

    def trace(self) -> None:
        """Find out anew when each buffer lives."""
        schedule = self.schedule
        count = len(self.order)
        self._first = [-1] * len(schedule.sizes)
        self._last = [-1] * len(schedule.sizes)
        for step, index in enumerate(self.order):
            for buffer in schedule.work[index].makes:
                self._first[buffer] = self._last[buffer] = step
            for buffer in schedule.work[index].reads:
                self._last[buffer] = step
        for buffer in schedule.stays:
            self._last[buffer] = count
        change = [0] * (count + 2)
        for buffer, size in enumerate(schedule.sizes):  # alive before the steps first + 1 to last
            change[self._first[buffer] + 1] += size
            change[self._last[buffer] + 1] -= size
        total = 0
        self._level = []
        for step in range(count + 1):
            total += change[step]
            self._level.append(total)

    def steps(self) -> list[int]:
        """The bytes that live while each node runs."""
        schedule = self.schedule
        found: list[int] = []
        for step, index in enumerate(self.order):
            item = schedule.work[index]
            now = self._level[step] + sum(schedule.sizes[buffer] for buffer in item.makes) + item.inside
            if any(self._last[buffer] == step for buffer in item.takes):
                now -= schedule.sizes[item.makes[0]]
            found.append(now)
        return found

    def window(self, start: int, end: int) -> Schedule:
        """The steps from start to before end as a schedule of their own; buffers beside them are one that stays."""
        schedule, chosen = self.schedule, self.order[start:end]
        chosen.sort(key=lambda index: not _is_free(schedule.work[index]))
        place = {index: position for position, index in enumerate(chosen)}
        local: dict[int, int] = {}
        for index in chosen:
            for buffer in (*schedule.work[index].reads, *schedule.work[index].makes):
                local.setdefault(buffer, len(local))
        held = [buffer for buffer in local if self._first[buffer] < start]
        sizes = [schedule.sizes[buffer] for buffer in local]
        beside = self._level[start] - sum(schedule.sizes[buffer] for buffer in held)
        work = [
            replace(
                schedule.work[index],
                needs=tuple(sorted(place[other] for other in schedule.work[index].needs if other in place)),
                makes=tuple(local[buffer] for buffer in schedule.work[index].makes),
                reads=tuple(local[buffer] for buffer in schedule.work[index].reads),
                takes=tuple(local[buffer] for buffer in schedule.work[index].takes),
            )
            for index in chosen
        ]
        readers = [0] * len(sizes)
        for item in work:
            for buffer in item.reads:
                readers[buffer] += 1
        rest = len(sizes)
        return Schedule(
            work,
            [*sizes, beside],
            [*readers, 0],
            {*(local[buffer] for buffer in local if self._last[buffer] >= end), rest},
            (*(local[buffer] for buffer in held), rest),
        )

    def put(self, start: int, end: int, order: Sequence[int]) -> None:
        """Run the steps of a window in another order; ``trace`` before the next question."""
        chosen = self.order[start:end]
        chosen.sort(key=lambda index: not _is_free(self.schedule.work[index]))
        self.order[start:end] = [chosen[position] for position in order]


def _is_free(item: Work) -> bool:
    """Whether running the node costs nothing and needs nothing."""
    return not (item.makes or item.needs or item.inside)
