"""Holding passes to their promise: the original and the result, run on the same feeds."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import onnx_ir as ir

from ..errors import GraphoptError
from ..execute.compare import EXACT
from ..execute.feeds import random_feeds
from ..execute.session import Session
from ..execute.signature import Feeds
from ..execute.verify import Verdict, verify
from ..ir import copy_model
from .context import Context
from .pass_ import Fidelity

MAX_FEEDS = 4
RANDOM_FEEDS = 2


class Proof:
    """The original model with feeds, ready to be compared with results.

    Args:
        fresh: gives a copy of the original.
        context: its data are the feeds, or else random ones by its seed; its tolerance overrides the derived one.

    Attributes:
        impossible: why nothing can be compared (a custom operator, feeds that cannot be made); "" when it can.
    """

    def __init__(self, fresh: Callable[[], ir.Model], context: Context) -> None:
        self._original = fresh()
        self._context = context
        self._feeds: list[Feeds] = []
        self.impossible = ""
        try:
            self._feeds = self._make_feeds()
            Session(self._original, optimized=False).run(self._feeds[0])
        except GraphoptError as error:
            if context.data is not None:
                raise
            self.impossible = f"the original cannot be run here: {error.what}"

    def _make_feeds(self) -> list[Feeds]:
        if self._context.data is not None:
            return list(islice(self._context.data.for_model(self._original), MAX_FEEDS))
        return list(random_feeds(self._original, seed=self._context.seed, count=RANDOM_FEEDS))

    def compare(self, result: ir.Model, promise: Fidelity) -> Verdict | None:
        """Compare a result with the original.

        Args:
            result: a model with the interface of the original, or without some of its inputs.
            promise: EXACT asks for equal bits; otherwise what rounding explains, or the context's tolerance.

        Returns:
            the verdict; None when nothing can be compared.
        """
        if self.impossible:
            return None
        tolerance = EXACT if promise is Fidelity.EXACT else self._context.tolerance
        return verify(self._original, self._with_all_inputs(result), self._feeds, tolerance)

    def _with_all_inputs(self, result: ir.Model) -> ir.Model:
        """The result, with those inputs it was asked to drop as unused ones, so both take the same feeds."""
        present = {value.name for value in result.graph.inputs}
        missing = [value for value in self._original.graph.inputs if value.name not in present]
        if not missing:
            return result
        copy = copy_model(result)
        by_name = {value.name: value for value in copy.graph.inputs}
        copy.graph.inputs.clear()
        copy.graph.inputs.extend(
            by_name.get(value.name) or ir.Value(name=value.name, type=value.type, shape=value.shape)
            for value in self._original.graph.inputs
        )
        return copy
