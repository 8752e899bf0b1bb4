"""Trying a stranger's model in a child process first.

Shape inference and ONNX Runtime are native or heavy code that a hostile or broken model can crash, hang or fill the
memory with. In a child with limits each of these becomes an error that names the stage; what the child survived, this
process does again without fear.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from ..calibrate.data import CalibrationData
from ..errors import GraphoptError
from ..execute.isolate import isolated
from .limits import at_stage, is_too_large, limits

TIMEOUT = 300.0


def preflight(path: Path, *, run: bool, data: CalibrationData | None = None, seed: int = 0) -> None:
    """Infer shapes, and load and run the model once, in a child process.

    Args:
        path: the model.
        run: also load it in ONNX Runtime, with its optimisations off, and run it on one feed.
        data: where the feed comes from; random without.
        seed: of a random feed.

    Raises:
        GraphoptError: it crashed, hung or ran out of memory; says at which stage.
    """
    feed = next(islice(data, 1), None) if run and data is not None else None
    isolated(_try, str(path), run, feed, seed, stage=f"trying {path} in a child process", **limits(TIMEOUT))


def _try(path: str, run: bool, feed: dict[str, Any] | None, seed: int) -> None:
    """What ONNX Runtime refuses in words is no danger, verification will speak of it; memory that ran out is one."""
    from ..execute.feeds import random_feeds
    from ..execute.session import Session
    from ..ir import infer, load

    at_stage("shape inference")
    infer(load(Path(path)))
    if not run:
        return
    at_stage("a run in ONNX Runtime")
    try:
        feeds = feed if feed is not None else random_feeds(load(Path(path)), seed=seed, count=1)[0]
        Session(path, optimized=False).run(feeds)
    except GraphoptError as error:
        if is_too_large(error):
            raise
