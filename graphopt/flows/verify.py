"""Two model files on the same feeds: do they agree, and if not, where do they part?

All of it happens in one child process, so a model that kills the runtime is an error and no crash.

A second model whose inputs or outputs were given another order of axes on request (it says so in its metadata), or
another floating-point type, is compared through transpositions and casts, and notes say so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ..errors import GraphoptError
from ..execute.compare import Tolerance
from ..execute.divergence import Divergence, first_divergence
from ..execute.feeds import random_feeds
from ..execute.isolate import isolated
from ..execute.verify import Verdict
from ..execute.verify import verify as compare
from ..execute.widened import NARROW, widened
from ..ir import attribute, infer, is_op, load, nodes
from ..pipeline.ports import changes, in_orders_of, in_types_of
from .feeding import Data, FeedsInWords, real_feeds
from .limits import at_stage, limits

TIMEOUT = 3600.0


@dataclass(frozen=True)
class Verification:
    """What came of a comparison.

    Attributes:
        verdict: output by output.
        divergence: the first tensor inside that differs; None when the outputs agree, or it could not be found.
        unfound: why it could not be found; "" otherwise.
        feeds: what both ran on, in words.
    """

    verdict: Verdict
    divergence: Divergence | None
    unfound: str
    feeds: str

    @property
    def ok(self) -> bool:
        """True when the models agree."""
        return self.verdict.ok

    def as_json(self) -> dict[str, Any]:
        """The ``result`` event of ``graphopt verify --json``."""
        found = self.divergence
        return {
            **self.verdict.as_json(),
            "on": self.feeds,
            "first_difference": None
            if found is None
            else {
                "tensor": found.tensor,
                "where": found.where,
                "agreed": list(found.agreed),
                "feed": found.feed,
                "output": found.output,
                "difference": found.difference.as_json(),
            },
        }


def verify(
    a: Path | str,
    b: Path | str,
    data: Data = None,
    *,
    tolerance: Tolerance | None = None,
    seed: int = 0,
    timeout: float = TIMEOUT,
) -> Verification:
    """Compare model ``b`` with model ``a``, and look for the first tensor that differs.

    Args:
        a: the model that is right by definition.
        b: the model in question.
        data: feeds (see ``CalibrationData.open``); random ones without.
        tolerance: what is forgiven; by default what rounding explains.
        seed: of random feeds.
        timeout: seconds for all of it.

    Raises:
        GraphoptError: ``a`` does not load or run, the data do not fit it, one of the models crashes the runtime, or
            time ran out.
    """
    first, second = Path(a), Path(b)
    if not second.is_file():
        raise GraphoptError("there is no such file", str(second), "check the path of the second model", usage=True)
    given = real_feeds(first, data) if data is not None else None
    stage = f"comparing {second} with {first}"
    return isolated(_verify, str(first), str(second), given, tolerance, seed, stage=stage, **limits(timeout))


def _verify(a: str, b: str, given: FeedsInWords | None, tolerance: Tolerance | None, seed: int) -> Verification:
    """In the child."""
    at_stage("the search for feeds")
    count = 2
    feeds, words = given or (random_feeds(a, seed=seed, count=count), f"{count} random feeds, seed {seed}")
    at_stage("the comparison")
    other, notes = _in_place_of(a, b, tolerance)
    verdict = compare(a, other, feeds, tolerance)
    verdict = replace(verdict, notes=(*verdict.notes, *notes))
    if verdict.ok or verdict.problems:
        return Verification(verdict, None, "", words)
    at_stage("the search for the first difference")
    try:
        found = first_divergence(a, other, feeds, tolerance)
    except GraphoptError as error:
        return Verification(verdict, None, error.what, words)
    return Verification(verdict, found, "" if found is not None else "it did not show again", words)


def _in_place_of(a: str, b: str, tolerance: Tolerance | None) -> tuple[str | ir.Model, list[str]]:
    """The second model, with the ports of the first where it has them in another form; and what is to be said of it."""
    try:
        first, second = load(a), load(b)
    except GraphoptError:
        return b, []  # the comparison says what is wrong with it
    notes = changes(first, second)
    result = in_types_of(first, in_orders_of(first, second)) if notes else second
    narrow = _narrow_types(second) - _narrow_types(first)
    if narrow and tolerance is None:
        names = " and ".join(sorted(kind.name.lower() for kind in narrow))
        notes.append(f"the second model computes in {names}; its rounding is not forgiven without --rtol or --atol")
    if narrow:
        infer(result)
        result = widened(result, narrow)
    return (b if result is second else result), notes


def _narrow_types(model: ir.Model) -> set[ir.DataType]:
    """The 16-bit floating-point types that a model computes in."""
    values = [*model.graph.inputs, *model.graph.outputs]
    casts: list[int] = []
    for node in nodes(model):
        values += (value for value in (*node.inputs, *node.outputs) if value is not None)
        if is_op(node, "Cast"):
            casts.append(attribute(node, "to", 0))
    held = {value.dtype for value in values}
    return {kind for kind in NARROW if kind in held or kind in casts}
