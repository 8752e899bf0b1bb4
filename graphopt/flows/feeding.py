"""The few feeds that two models are compared or timed on: real ones, or made up in a child process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..calibrate.data import CalibrationData
from ..errors import GraphoptError
from ..execute.feeds import random_feeds
from ..execute.isolate import isolated
from ..ir import load
from ..pipeline.proof import MAX_FEEDS
from .limits import is_too_large, limits

Data = CalibrationData | str | Path | Iterable[Mapping[str, Any]] | None
FeedsInWords = tuple[list[dict[str, Any]], str]
TIMEOUT = 300.0


def feeds_for(model: Path, data: Data, *, seed: int = 0, count: int = 2) -> FeedsInWords:
    """Some feeds that fit a model, and in words what they are.

    Args:
        model: the file.
        data: real feeds, of which the first few are taken; random ones without.
        seed: of random ones.
        count: how many random ones.

    Raises:
        GraphoptError: the data do not fit the model, or no feeds can be made up; also when the model crashes the
            runtime while sizes are tried.
    """
    if data is not None:
        return real_feeds(model, data)
    limit = limits(TIMEOUT)
    made = isolated(_random, str(model), seed, count, stage=f"making feeds for {model}", **limit)
    return made, f"{len(made)} random feeds, seed {seed}"


def real_feeds(model: Path, data: CalibrationData | str | Path | Iterable[Mapping[str, Any]]) -> FeedsInWords:
    """The first few of some data, checked against the model, and in words what they are."""
    fitted = CalibrationData.open(data).for_model(load(model))
    refuse_nan(fitted)
    found = [dict(feed) for feed in islice(fitted, MAX_FEEDS)]
    return found, f"{len(found)} of {len(fitted)} feeds of {fitted.where}"


def refuse_nan(data: CalibrationData) -> None:
    """Look at the samples that are going to be used: where NaN goes in NaN comes out, and comparing it proves nothing.

    Raises:
        GraphoptError: an input holds NaN; names it and its sample.
    """
    for index, feed in enumerate(islice(data, MAX_FEEDS)):
        for name, value in feed.items():
            parts = value if isinstance(value, (list, tuple)) else (value,)
            if any(_holds_nan(part) for part in parts):
                raise GraphoptError(
                    f"the input '{name}' holds NaN in sample {index}: outputs that are NaN prove nothing",
                    data.where,
                    "take NaN out of the feeds, or leave out --data for random ones",
                )


def _holds_nan(value: Any) -> bool:
    array = np.asarray(value)
    try:
        return array.dtype.kind not in "OUSTbiu" and bool(np.isnan(array).any())
    except TypeError:  # a type without NaN
        return False


def _random(model: str, seed: int, count: int) -> list[dict[str, Any]]:
    """In the child. The model must run on what is given out, or the child has learnt nothing about it."""
    from ..execute.session import Session

    made = random_feeds(model, seed=seed, count=count)
    try:
        Session(model, optimized=False).run(made[0])
    except GraphoptError as error:
        if is_too_large(error):
            raise
    return made
