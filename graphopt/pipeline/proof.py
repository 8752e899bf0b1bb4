"""Holding passes to their promise: the original and the result, run on the same feeds."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice

import onnx_ir as ir

from ..errors import GraphoptError
from ..execute.compare import EXACT, Tolerance
from ..execute.feeds import random_feeds
from ..execute.session import Session
from ..execute.signature import Feeds
from ..execute.verify import Verdict, verify
from ..execute.widened import NARROW, widened
from ..ir import attribute, copy_model, infer, is_op, nodes
from .context import Context
from .pass_ import Fidelity
from .ports import in_orders_of, in_types_of

MAX_FEEDS = 4
"""How many samples of the data two models are compared on, at most: the first ones."""

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
        self._has_bits = not _computes_in_half_precision(self._original)
        self.impossible = ""
        if context.data is not None:
            self._feeds = list(islice(context.data.for_model(self._original), MAX_FEEDS))
        try:
            if self._feeds:
                Session(self._original, optimized=False).run(self._feeds[0])
            else:
                self._feeds = self._random_feeds()
        except GraphoptError as error:
            self.impossible = f"the original cannot be run here: {error.what}"

    def _random_feeds(self) -> list[Feeds]:
        """Those of the random feeds that the original accepts: numbers may have a meaning that the signature hides."""
        session = Session(self._original, optimized=False)
        accepted: list[Feeds] = []
        refusal = GraphoptError("no random feed fits")
        for feed in random_feeds(self._original, seed=self._context.seed, count=RANDOM_FEEDS, vary=True):
            try:
                session.run(feed)
                accepted.append(feed)
            except GraphoptError as error:
                refusal = error
        if not accepted:
            raise refusal
        return accepted

    def compare(self, result: ir.Model, promise: Fidelity, budget_db: float = math.inf) -> Verdict | None:
        """Compare a result with the original.

        Args:
            result: a model with the interface of the original, or without some of its inputs, or with floating-point
                inputs and outputs of another width, or in other orders of axes (``graphopt.ir.orders``).
            promise: EXACT asks for equal bits (see ``_computes_in_half_precision``); NUMERIC for what rounding
                explains; LOSSY for errors of floating-point outputs within the budget, and all other outputs equal.
                For the latter two the context's tolerance holds, where it has one.
            budget_db: of a LOSSY result. One in 16 bits is simulated in float32 (``graphopt.execute.widened``); where
                the original is in float16 itself, both run as ONNX Runtime runs them.

        Returns:
            the verdict; None when nothing can be compared.
        """
        if self.impossible:
            return None
        exact = promise is Fidelity.EXACT and self._has_bits
        tolerance = EXACT if exact else self._context.tolerance
        if promise is not Fidelity.LOSSY:
            return verify(self._original, self._comparable(result), self._feeds, tolerance)
        comparable = in_types_of(self._original, self._comparable(result))
        simulated = widened(_typed(comparable), NARROW if self._has_bits else {ir.DataType.BFLOAT16})
        return verify(self._original, simulated, self._feeds, tolerance or Tolerance(sqnr_db=budget_db))

    def _comparable(self, result: ir.Model) -> ir.Model:
        """The result, made to take the feeds of the original and to give its outputs."""
        return in_orders_of(self._original, self._with_all_inputs(result))

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


def _typed(model: ir.Model) -> ir.Model:
    """The model with the types of its values known; itself where they are."""
    if all(value.type is not None for node in nodes(model) for value in node.outputs if value.name):
        return model
    copy = copy_model(model)
    infer(copy)
    return copy


def _computes_in_half_precision(model: ir.Model) -> bool:
    """Whether the runtime itself leaves the bits open.

    ONNX Runtime's CPU provider has few 16-bit kernels. Even with its optimisations off it wraps other nodes in casts to
    float32 and then drops pairs of casts, so how often a number is rounded to 16 bits depends on the neighbours.
    """
    half = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
    for node in nodes(model):
        if any(value is not None and value.dtype in half for value in (*node.inputs, *node.outputs)):
            return True
        if is_op(node, "Cast") and attribute(node, "to") in half:
            return True
    return False
