"""Random feeds by signature: good enough to run a model and to compare two, never to judge accuracy.

- Numbers respect what each input is for (``roles``): ids lie within their table, masks are 0 and 1, images 0
  .. 255.
- Dynamic dimensions with the same symbol have the same size; which sizes a model accepts is found by trying:
  usual ones first, until the model runs. Inputs that look alike get the same sizes where the model takes
  them (``ties``). A stated size always wins.
- The same model, seed and sizes give the same feeds.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir import load

from .draw import draw
from .loadable import Loadable
from .roles import role
from .session import Session
from .signature import Port, signature
from .sizes import SYMBOL, Key, candidates, combinations, terms
from .ties import Tie, ties

_TRIALS = 300
_TIED_TRIALS = 40  # of these, with sizes tied in one way that is a guess
_MOST_ELEMENTS = 2**25


def random_feeds(
    model: ir.Model | str | Path,
    seed: int = 0,
    count: int = 1,
    *,
    dims: Mapping[str, int] | None = None,
    vary: bool = False,
    seconds: float = 60.0,
) -> list[dict[str, Any]]:
    """Feeds that the model runs on.

    Args:
        model: a path or a model in memory.
        seed: of the numbers.
        count: how many feeds.
        dims: sizes by symbol (``{"N": 4}``), or by input and axis (``{"x:0": 4}``).
        vary: give feeds after the first other sizes where the model accepts them, so that what was wrongly
            taken for constant shows.
        seconds: how long to try sizes.

    Raises:
        GraphoptError: no sizes were found that the model accepts, or an input is of a kind that cannot be
            made up.
    """
    loaded = load(model) if isinstance(model, (str, Path)) else model
    plan = _Plan(loaded, seed, dict(dims or {}))
    session: Session | None = None
    if plan.uncertain:
        session = Session(Loadable(model), optimized=False)
        choice = _first_that_runs(plan, session, seconds)
    else:
        choice = plan.first()
    feeds = [plan.feed(choice, 0)]
    others = _others(plan, choice, session, count - 1) if vary and session is not None else []
    for index in range(1, count):
        feeds.append(plan.feed(others[(index - 1) % len(others)] if others else choice, index))
    return feeds


@dataclass(frozen=True, slots=True)
class _Choice:
    """One attempt: sizes of unknown dimensions, which of the compared numbers, how plain integers are, which tie."""

    sizes: tuple[tuple[Key, int], ...]
    compared: int = 0
    plain: str = ""
    tied: int = 0


class _Plan:
    """The inputs, their roles, their unknown sizes and the sizes to try."""

    def __init__(self, model: ir.Model, seed: int, dims: dict[str, int]) -> None:
        self._seed = seed
        self._name = model.graph.name or "model"
        self.ports = tuple(port for port in signature(model)[0] if port.required)
        by_name = {value.name: value for value in model.graph.inputs}
        self._roles = {port.name: role(by_name[port.name]) for port in self.ports}
        self._given: dict[Key, int] = {}
        unknown: dict[Key, tuple[int, ...]] = {}
        self._sums: dict[str, tuple[str, ...]] = {}
        for port in self.ports:
            self._check(port)
            for axis, size in enumerate(port.shape or ()):
                if isinstance(size, int):
                    continue
                key: Key = size if size is not None else (port.name, axis)
                wanted = dims.get(f"{port.name}:{axis}", dims.get(size) if size is not None else None)
                wanted = self._roles[port.name].sizes.get(axis) if wanted is None else wanted
                if wanted is not None:
                    self._given[key] = wanted
                elif isinstance(key, str) and not SYMBOL.match(key) and terms(key):
                    self._sums[key] = terms(key)
                else:
                    unknown.setdefault(key, candidates(port, axis, size))
        self._refuse_unknown_names(dims)
        self.unknown = {key: sizes for key, sizes in unknown.items() if key not in self._given}
        self._ties = [self._fitting(tie) for tie in ties(self.ports, self._roles)]
        kinds = [item.kind for item in self._roles.values()]
        integers = any(port.dtype is not None and port.dtype.is_integer() for port in self.ports)
        self._most_compared = max((len(item.choices) for item in self._roles.values()), default=0)
        self.uncertain = (
            bool(self.unknown or self._sums) or integers or any(kind not in ("number", "mask") for kind in kinds)
        )

    def _check(self, port: Port) -> None:
        if port.kind == "tensor" and port.shape is None and port.dtype is not None:
            return  # rank unknown: a scalar is as good a guess as any
        if port.kind not in ("tensor", "sequence", "optional") or port.dtype is None:
            raise GraphoptError(
                f"random feeds cannot be made for {port}",
                f"{self._name}, input '{port.name}'",
                "give feeds with --data",
            )

    def _refuse_unknown_names(self, dims: dict[str, int]) -> None:
        known = {size for port in self.ports for size in port.shape or () if isinstance(size, str)}
        known |= {f"{port.name}:{axis}" for port in self.ports for axis in range(len(port.shape or ()))}
        for name in dims:
            if name not in known:
                raise GraphoptError(
                    f"no input has a dimension '{name}'",
                    self._name,
                    f"its dimensions are: {', '.join(sorted(known))}",
                    usage=True,
                )

    def _fitting(self, tie: Tie) -> Tie:
        """A tie of sizes that are unknown; where one is given that would follow, the one it follows is that."""
        given = {others[0]: key for key, others in tie.items() if key in self._given and len(others) == 1}
        fitting = {
            key: tuple(given.get(other, other) for other in others)
            for key, others in tie.items()
            if key in self.unknown
        }
        return {**fitting, **{root: (key,) for root, key in given.items() if root in self.unknown}}

    def free(self, tied: int) -> dict[Key, tuple[int, ...]]:
        """The unknown sizes that follow from no other ones, with what to try."""
        tie = self._ties[tied]
        return {key: sizes for key, sizes in self.unknown.items() if key not in tie}

    def first(self, tied: int | None = None) -> _Choice:
        tied = len(self._ties) - 1 if tied is None else tied
        return _Choice(tuple((key, sizes[0]) for key, sizes in self.free(tied).items()), tied=tied)

    def choices(self) -> Iterator[_Choice]:
        """What to try, in order: usual sizes first, then plainer integers, then ever less usual sizes."""
        last = len(self._ties) - 1
        for tied in range(last):
            yield from itertools.islice(self._choices(tied), _TIED_TRIALS)
        yield from self._choices(last)

    def _choices(self, tied: int) -> Iterator[_Choice]:
        compared = range(max(self._most_compared, 1))
        for index in compared:
            for plain in ("", "ones", "zeros"):
                yield _Choice(self.first(tied).sizes, index, plain, tied)
        for sizes in combinations(self.free(tied)):
            for index in compared:
                yield _Choice(sizes, index, "", tied)
        for sizes in itertools.islice(combinations(self.free(tied)), 40):
            for plain in ("ones", "zeros"):
                yield _Choice(sizes, 0, plain, tied)

    def shape(self, port: Port, choice: _Choice) -> tuple[int, ...]:
        sizes, tie = {**dict(choice.sizes), **self._given}, self._ties[choice.tied]

        def of(key: Key) -> int:
            return sum(sizes.get(other, 1) for other in tie[key]) if key in tie else sizes.get(key, 1)

        def size(axis: int, dim: int | str | None) -> int:
            if isinstance(dim, int):
                return dim
            if dim in self._sums:
                return sum(int(term) if term.isdigit() else of(term) for term in self._sums[dim])
            return of(dim if dim is not None else (port.name, axis))

        return tuple(size(axis, dim) for axis, dim in enumerate(port.shape or ()))

    def feed(self, choice: _Choice, index: int) -> dict[str, Any]:
        """The feeds of one run."""
        made: dict[str, Any] = {}
        for number, port in enumerate(self.ports):
            generator = np.random.default_rng((self._seed, index, number))
            array = draw(
                generator,
                port,
                self.shape(port, choice),
                self._roles[port.name],
                choice.compared,
                choice.plain,
            )
            made[port.name] = [array, array.copy()] if port.kind == "sequence" else array
        return made

    def elements(self, choice: _Choice) -> int:
        """Elements of the largest input."""
        return max((int(np.prod(self.shape(port, choice), dtype=np.float64)) for port in self.ports), default=0)

    def __str__(self) -> str:
        return ", ".join(f"'{port.name}': {port}" for port in self.ports)

    @property
    def name(self) -> str:
        """The model's name, for messages."""
        return self._name


def _first_that_runs(plan: _Plan, session: Session, seconds: float) -> _Choice:
    until, last, tried = time.monotonic() + seconds, "", 0
    seen: set[_Choice] = set()
    for choice in plan.choices():
        if choice in seen or plan.elements(choice) > _MOST_ELEMENTS:
            continue
        if tried and (tried >= _TRIALS or time.monotonic() > until):
            break
        seen.add(choice)
        tried += 1
        try:
            session.run(plan.feed(choice, 0))
            return choice
        except GraphoptError as error:
            last = error.what
    raise GraphoptError(
        f"no random feeds were found that the model runs on ({tried} tried; the last: {last})",
        f"{plan.name}: {plan}",
        "give the sizes of dynamic dimensions, or real feeds with --data",
    )


def _others(plan: _Plan, choice: _Choice, session: Session, wanted: int) -> list[_Choice]:
    """Up to ``wanted`` other sizes that the model accepts too: all dimensions moved, then each by itself."""
    found: list[_Choice] = []
    sizes = dict(choice.sizes)
    moves: list[dict[Key, int]] = []
    for key, usual in plan.free(choice.tied).items():
        other = next((size for size in usual if size > 1 and size != sizes[key]), None)
        if other is not None:
            moves.append({key: other})
    moves.insert(0, {key: size for move in moves for key, size in move.items()})
    for move in moves:
        if len(found) == wanted:
            break
        candidate = _Choice(tuple({**sizes, **move}.items()), choice.compared, choice.plain, choice.tied)
        if not move or plan.elements(candidate) > _MOST_ELEMENTS:
            continue
        try:
            session.run(plan.feed(candidate, 1))
            found.append(candidate)
        except GraphoptError:
            continue
    return found
