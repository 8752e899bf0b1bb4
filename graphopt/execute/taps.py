"""Taps: any tensor read out, without changing the model.

The taps are extra outputs of a serialised copy. Many tensors at once cost memory, one at a time costs a
session each; so they go in batches whose size follows from what the batches before weighed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.ir import load

from .lifted import find_tensors, inner_tensors, lifted
from .loadable import Loadable
from .session import Evaluator, Session
from .signature import Feeds

_FIRST_BATCH = 8


class Taps:
    """The inner tensors of one model.

    A tensor inside an If is an empty vector in runs that take the other branch; one inside a Loop or Scan is that of
    all trips, stacked along a new first axis. One inside a local function is addressed by the calls it lies in:
    ``y/h`` is ``h`` in the call that computes ``y`` (``graphopt.execute.lifted``).

    Args:
        model: a path or a model in memory.
        optimized: with the runtime's optimisations, which make some tensors disappear otherwise.
        threads: threads within an operator.
        evaluator: as for ``Session``.

    Attributes:
        names: outputs of the main graph's nodes, in topological order.
    """

    def __init__(
        self,
        model: ir.Model | str | Path,
        *,
        optimized: bool = False,
        threads: int = 1,
        evaluator: Evaluator = "auto",
    ) -> None:
        self._model = load(model) if isinstance(model, (str, Path)) else model
        self.names = tuple(output.name for node in self._model.graph for output in node.outputs if output.name)
        self._own = frozenset(self.names)
        self._source = Loadable(model)
        self._optimized = optimized
        self._threads = threads
        self._evaluator: Evaluator = evaluator

    @property
    def inner(self) -> Iterator[str]:
        """Addresses of the tensors inside If, Loop, Scan and local functions."""
        return inner_tensors(self._model)

    def session(self, names: Iterable[str]) -> Session:
        """A session whose outputs are these tensors, for many runs (calibration).

        Raises:
            GraphoptError: a name is no tensor, or is that of several.
        """
        wanted = list(dict.fromkeys(names))
        inside = [name for name in wanted if name not in self._own]
        for name, place in find_tensors(self._model, inside).items():
            if place is None:
                raise GraphoptError(
                    f"there is no tensor '{name}'",
                    self._source.name,
                    "inside a local function: 'output of the call/tensor'; names that occur twice cannot be tapped",
                )
        return Session(
            Loadable(lifted(self._model, inside)) if inside else self._source,
            optimized=self._optimized,
            threads=self._threads,
            outputs=wanted,
            evaluator=self._evaluator,
        )

    def values(
        self, feeds: Feeds, names: Iterable[str] | None = None, memory_bytes: int = 512 * 2**20
    ) -> Iterator[tuple[str, Any]]:
        """Name and value of each tensor, in the order asked for.

        Args:
            feeds: one run's inputs.
            names: the tensors; by default all of the main graph.
            memory_bytes: what the values of one batch should stay below.
        """
        pending = list(dict.fromkeys(self.names if names is None else names))
        count, seen, weight = _FIRST_BATCH, 0, 0
        while pending:
            batch, pending = pending[:count], pending[count:]
            found = self.session(batch).run(feeds)
            seen, weight = seen + len(batch), weight + sum(map(_bytes, found.values()))
            mean = max(weight / seen, 1.0)
            count = int(min(max(memory_bytes / mean / 2, 1), 4 * count))  # half: the next ones may be larger
            yield from found.items()
            del found


def _bytes(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return value.nbytes
    return sum(map(_bytes, value)) if isinstance(value, (list, tuple)) else 0
