"""Which sizes that a signature leaves apart must agree: caches of keys and values with a symbol each, and their mask.

Exporters give every input its own symbols when they cannot prove that two are one (``past_key_values.0.key: [s0, 4, s1,
8]``, ``past_key_values.1.key: [s2, 4, s3, 8]``). Sizes drawn one by one then hardly ever fit. So inputs that look alike
are tried with the same sizes, and a mask over cached and new tokens with their sum. These are guesses: the model runs
on them, or others are tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .roles import Role
from .signature import Port
from .sizes import SYMBOL, Key

Tie = dict[Key, tuple[Key, ...]]
"""Sizes that follow from others: each is the sum of those."""


def ties(ports: Sequence[Port], roles: Mapping[str, Role]) -> list[Tie]:
    """What to try, the likeliest first; the last one ties nothing."""
    found: list[Tie] = []
    masks = [port for port in ports if roles[port.name].kind == "mask" and _open(port) and _open(port)[-1] is not None]
    others = [port for port in ports if port not in masks]
    caches = _Classes()
    caches.unite_alike(others)
    tokens = _tokens(others, roles, caches)
    past = {caches.root(key) for port in _cached(others) for key in _open(port)[1:] if key is not None}
    if len(past) == 1 and tokens is not None and masks:
        for port in masks:
            caches.unite([_open(port)[0], *(_open(other)[0] for other in others)])
            if len(_open(port)) == 4:
                caches.unite([_open(port)[2], tokens])
        tie = caches.tie()
        lengths = {_open(port)[-1] for port in masks}.difference(past, (caches.root(tokens),), tie)
        tie.update({key: (*past, caches.root(tokens)) for key in lengths if key is not None})
        found.append(tie)
    equal = _Classes()
    equal.unite_alike(ports)
    found.append(equal.tie())
    found.append({})
    return [tie for index, tie in enumerate(found) if tie not in found[:index]]


def _open(port: Port) -> tuple[Key | None, ...]:
    """The unknown sizes of an input, None for one that is stated or a sum of others."""
    return tuple(
        (port.name, axis) if size is None else size if isinstance(size, str) and SYMBOL.match(size) else None
        for axis, size in enumerate(port.shape or ())
    )


def _alike(ports: Iterable[Port]) -> list[list[Port]]:
    """Inputs of one type and rank with the same stated sizes."""
    groups: dict[tuple[object, ...], list[Port]] = {}
    for port in ports:
        if any(key is not None for key in _open(port)):
            stated = tuple(size if isinstance(size, int) else None for size in port.shape or ())
            groups.setdefault((port.dtype, stated), []).append(port)
    return [group for group in groups.values() if len(group) > 1]


def _cached(ports: Iterable[Port]) -> list[Port]:
    """Inputs that look like a cache: several alike, of floating-point numbers, of rank 3 or more."""
    groups = _alike(port for port in ports if port.dtype is not None and port.dtype.is_floating_point())
    return [port for group in groups for port in group if len(port.shape or ()) >= 3]


def _tokens(ports: Iterable[Port], roles: Mapping[str, Role], classes: _Classes) -> Key | None:
    """How many new tokens there are: the length of the ids; that of their positions is the same."""
    ids = [port for port in ports if roles[port.name].kind == "index" and len(_open(port)) == 2]
    length = _open(ids[0])[1] if ids else None
    if length is None:
        return None
    places = [port for port in ports if roles[port.name].kind == "position" and _open(port)]
    classes.unite([length, *(_open(port)[-1] for port in places)])
    return length


class _Classes:
    """Sizes that are one."""

    def __init__(self) -> None:
        self._leader: dict[Key, Key] = {}

    def root(self, key: Key) -> Key:
        while key in self._leader:
            key = self._leader[key]
        return key

    def unite(self, keys: Iterable[Key | None]) -> None:
        known = [self.root(key) for key in keys if key is not None]
        for key in known[1:]:
            if self.root(key) != self.root(known[0]):
                self._leader[self.root(key)] = self.root(known[0])

    def unite_alike(self, ports: Sequence[Port]) -> None:
        """Axis by axis; all first axes of inputs with several are the batch."""
        self.unite(_open(port)[0] for port in ports if len(_open(port)) > 1)
        for group in _alike(ports):
            for keys in zip(*map(_open, group), strict=True):
                self.unite(keys)

    def tie(self) -> Tie:
        return {key: (self.root(key),) for key in self._leader}
