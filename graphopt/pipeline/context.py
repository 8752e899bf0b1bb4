"""What a pass may know about its surroundings: frozen and explicit, no globals."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..calibrate.data import CalibrationData
from ..calibrate.statistics import Statistics
from ..events import Events, silent
from ..execute.compare import Tolerance
from ..target import Target, targets


@dataclass(frozen=True)
class Context:
    """The surroundings of a run.

    Attributes:
        target: where the model is going to run.
        data: real feeds, for verification and for passes that calibrate; without them verification uses
            random feeds made from the signature.
        seed: of everything random.
        tolerance: overrides the tolerance that verification derives from element type and depth.
        events: hears what happens.
        statistics: what was observed on the data already; a pass that needs more observes it itself.
    """

    target: Target = field(default_factory=lambda: targets()["onnx"])
    data: CalibrationData | None = None
    seed: int = 0
    tolerance: Tolerance | None = None
    events: Events = silent
    statistics: Statistics | None = None
