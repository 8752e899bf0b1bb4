"""Numbers that balance, for every channel, the layers that make it against those that read it.

    s_i <- s_i sqrt(p1_i / p2_i)      p1_i = max over the layers that make i of (largest weight of row i / of the layer)
                                      p2_i = the same over the layers that read i, of column i

swept over all groups until nothing moves: then p1_i = p2_i, which is where the product of the shares of the layers'
range that the channel uses is largest (Nagel et al. 2019, section 4.1, s_i = sqrt(r1_i r2_i) / r2_i). Of a depthwise
layer between two others this comes to r1_i = r2_i = r3_i, the solution for three layers. Osborne's balancing of
matrices (1960), in the maximum norm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ._channels import PINNED, Link, Variables, components

SWEEPS = 60
REACH = 12.0
"""How many powers of two a channel is scaled by at most."""

_SETTLED = 0.01  # powers of two


@dataclass(frozen=True, eq=False)
class Group:
    """Variables that are scaled in one edit: equal ones, and those that one layer makes.

    Attributes:
        makers: layers whose output channels have them.
        readers: layers whose input channels have them.
        member: bool [variables]: which ones they are.
    """

    makers: tuple[Link, ...]
    readers: tuple[Link, ...]
    member: np.ndarray


def groups(variables: Variables, labels: np.ndarray) -> list[Group]:
    """The variables by groups, in the order in which layers make them.

    Args:
        variables: of a graph.
        labels: of each variable, the smallest one that it is equal to.
    """
    count = variables.count
    made = [link.outputs for link in variables.links]
    first = [np.full(len(ids), ids[0]) for ids in made]
    free = np.flatnonzero(labels != PINNED)
    left, right = np.concatenate([*made, free]), np.concatenate([*first, labels[free]])
    parts = components(count, left, right)
    parts[PINNED] = -1
    makers: dict[int, list[Link]] = {}
    readers: dict[int, list[Link]] = {}
    for link in variables.links:
        makers.setdefault(int(parts[link.outputs[0]]), []).append(link)
        for part in np.unique(parts[link.inputs]):
            readers.setdefault(int(part), []).append(link)
    return [
        Group(tuple(found), tuple(readers.get(part, ())), parts == part) for part, found in makers.items() if part >= 0
    ]


def balanced(variables: Variables, found: list[Group], labels: np.ndarray, *, whole: bool) -> np.ndarray:
    """The number that each variable is divided by, as a power of two: float64 [variables].

    Args:
        variables: of a graph.
        found: the groups.
        labels: of each variable, the smallest one that it is equal to.
        whole: only whole powers of two.
    """
    least, most = np.full(variables.count, -REACH), np.full(variables.count, REACH)
    for ids, lowest, largest in variables.limits:
        with np.errstate(divide="ignore"):
            start = np.log2(np.maximum(lowest, 0.0))
        np.maximum.at(least, labels[ids], np.ceil(start - 1e-9) if whole else start)
        np.minimum.at(most, labels[ids], np.floor(np.log2(largest)) if np.isfinite(largest) else REACH)
    least = np.minimum(least, 0.0)
    powers = np.zeros(variables.count)
    beside = _neighbours(found)
    waiting = set(range(len(found)))
    for _ in range(SWEEPS):
        for number in sorted(waiting):
            waiting.discard(number)
            group = found[number]
            step = _step(group, powers, labels)
            if {id(link) for link in group.makers} & {id(link) for link in group.readers}:
                step *= 0.5  # a layer that makes what it reads answers from both sides
            if whole:
                step = np.where(np.abs(step) > 0.5, np.rint(step), 0.0)
            target = np.clip(powers + step, least, most)
            target = np.where(group.member & (labels != PINNED), target, 0.0)[labels]
            change = np.where(group.member, target - powers, 0.0)
            powers += change
            if np.abs(change).max(initial=0.0) > _SETTLED:
                waiting |= beside[number]
        if not waiting:
            break
    return powers


def _neighbours(found: list[Group]) -> list[set[int]]:
    """The groups whose layers each group shares, itself only where it answers itself."""
    by_link: dict[int, set[int]] = {}
    for number, group in enumerate(found):
        for link in (*group.makers, *group.readers):
            by_link.setdefault(id(link), set()).add(number)
    beside: list[set[int]] = []
    for number, group in enumerate(found):
        others = {other for link in (*group.makers, *group.readers) for other in by_link[id(link)]}
        both = {id(link) for link in group.makers} & {id(link) for link in group.readers}
        beside.append(others if both else others - {number})
    return beside


def _step(group: Group, powers: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """By how many powers of two each variable of a group wants to grow."""
    made, read = np.zeros(len(powers)), np.zeros(len(powers))
    for links, shares, is_made in ((group.makers, made, True), (group.readers, read, False)):
        for link in links:
            matrix = link.layer.scaled(2.0 ** powers[link.outputs], 2.0 ** powers[link.inputs])
            largest = matrix.max(initial=0.0)
            if largest > 0:
                ids = link.outputs if is_made else link.inputs
                reach = matrix.max(axis=2 if is_made else 1).reshape(-1) / largest
                np.maximum.at(shares, labels[ids], reach)
    with np.errstate(divide="ignore", invalid="ignore"):
        step = 0.5 * (np.log2(made) - np.log2(read))
    return np.where((made > 0) & (read > 0) & group.member, step, 0.0)
