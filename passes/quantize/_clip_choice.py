"""Which Clips deserve an end for each channel: those beside the layers whose rounding costs the model most.

Each weight by itself is rounded to 8 bits with one scale, and the model is run on a few samples: the error of the
outputs, as a share of them, is the layer's. Errors of layers add up, so the few that make most of the sum are chosen.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.calibrate import CalibrationData
from graphopt.events import Event, Events
from graphopt.execute.session import Session

from ._affine import TYPES, weight_affine
from ._channels import Link, Variables

SAMPLES = 3


def chosen_clips(
    model: ir.Model, variables: Variables, data: CalibrationData, share: float, events: Events
) -> set[str]:
    """The outputs of the Clips whose channels should be scaled.

    Args:
        model: not changed.
        variables: of its main graph, all Clips among them that may get ends.
        data: fitted to the model.
        share: how much of the sum of errors the chosen layers make.
        events: hears of progress.
    """
    touched = np.concatenate([cut.ids for cut in variables.cuts] + [np.zeros(0, np.int64)])
    beside = [link for link in variables.links if _meets(link, touched)]
    errors = _errors(model, beside, data, events)
    least = share * sum(errors)
    found: set[str] = set()
    for number in np.argsort(errors)[::-1]:
        if least <= 0:
            break
        least -= errors[number]
        link = beside[number]
        for cut in variables.cuts:
            if _meets(link, cut.ids):
                found.add(str(cut.node.outputs[0].name))
    return found


def _meets(link: Link, ids: np.ndarray) -> bool:
    """Whether a layer makes or reads one of some variables."""
    return bool(np.isin(link.inputs, ids).any() or np.isin(link.outputs, ids).any())


def _errors(model: ir.Model, links: Collection[Link], data: CalibrationData, events: Events) -> list[float]:
    """Of each layer: squared error of the outputs by their squares, when its weight alone is rounded."""
    copy = gir.copy_model(model)
    names = [str(value.name) for link in links if (value := link.layer.node.inputs[1]) is not None]
    given = {str(value.name) for value in copy.graph.inputs}
    for name in names:
        if name in copy.graph.initializers and name not in given:  # a default that a run may replace
            copy.graph.inputs.append(copy.graph.initializers[name])
    session = Session(copy, optimized=True)
    samples = list(data.take(SAMPLES))
    truth = [session.run(sample) for sample in samples]
    errors: list[float] = []
    for number, (name, link) in enumerate(zip(names, links, strict=True), 1):
        weight = gir.array(link.layer.node.inputs[1])
        if weight is None or name not in copy.graph.initializers or weight.dtype != np.float32:
            errors.append(0.0)
            continue
        rounded = weight_affine(weight, TYPES["int8"], None).rounded(weight)
        found = [session.run({**sample, name: rounded}) for sample in samples]
        errors.append(sum(_error(left, right) for left, right in zip(truth, found, strict=True)) / len(samples))
        events(Event("progress", {"stage": "weighing clips", "done": number, "total": len(names)}))
    return errors


def _error(truth: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> float:
    """The largest of the outputs."""
    worst = 0.0
    for name, array in truth.items():
        if isinstance(array, np.ndarray) and array.dtype.kind == "f" and array.size:
            left, right = array.astype(np.float64), found[name].astype(np.float64)
            power = float((left**2).sum())
            worst = max(worst, float(((left - right) ** 2).sum()) / power if power else 0.0)
    return worst if np.isfinite(worst) else 0.0
