"""Two model files on the same feeds: do they agree, and if not, where do they part?

All of it happens in one child process, so a model that kills the runtime is an error and no crash.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import GraphoptError
from ..execute.compare import Tolerance
from ..execute.divergence import Divergence, first_divergence
from ..execute.feeds import random_feeds
from ..execute.isolate import isolated
from ..execute.verify import Verdict
from ..execute.verify import verify as compare
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
    verdict = compare(a, b, feeds, tolerance)
    if verdict.ok or verdict.problems:
        return Verification(verdict, None, "", words)
    at_stage("the search for the first difference")
    try:
        found = first_divergence(a, b, feeds, tolerance)
    except GraphoptError as error:
        return Verification(verdict, None, error.what, words)
    return Verification(verdict, found, "" if found is not None else "it did not show again", words)
