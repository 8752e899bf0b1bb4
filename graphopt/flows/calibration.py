"""The data that a model is quantised with: fitted, looked through, made up where there are none, observed once.

Where there are no data, and that was said to be all right, inputs are made from the model's BatchNormalizations; from
random numbers as the last resort. Either is for running and comparing, not for accuracy, and whoever listens is told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import onnx_ir as ir

from ..calibrate import CalibrationData, Statistics
from ..calibrate.doubts import doubts, survey
from ..calibrate.synthesize import normalizations
from ..errors import GraphoptError
from ..events import Event, Events, silent
from ..ir import convert_opset, copy_model, nodes
from ..local import cache_folder
from ..passes.legalize.convert_opset import ConvertOpset
from ..passes.quantize.insert_qdq import InsertQdq
from ..pipeline import Fidelity, Outcomes, Pass

_QUANTISED = frozenset(
    ("DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")
)

_OPSET = 13  # gradients are written in it, or a later one

SYNTHESIZED = 8
"""Samples that are made up."""


def refuse_no_data(data: CalibrationData | None, *, data_free: bool) -> None:
    """There must be some, or leave to make some up."""
    if data is None and not data_free:
        raise GraphoptError(
            "there is no data to calibrate on",
            "graphopt quantize",
            "--data FOLDER: some real inputs; --data-free makes some up, which costs accuracy",
            usage=True,
        )


def calibration_data(
    model: ir.Model,
    data: CalibrationData | None,
    *,
    data_free: bool = False,
    seed: int = 0,
    threads: int = 0,
    events: Events = silent,
) -> CalibrationData:
    """The data to calibrate on, checked; doubts go to ``events``.

    Args:
        model: as it was given, before anything is folded.
        data: real feeds; None for none.
        data_free: make them up where there are none.
        seed: of made-up ones.
        threads: of the runtime while they are made.
        events: hears doubts and progress.

    Raises:
        GraphoptError: there are none and none may be made up; they do not fit the model; they hold NaN or infinities.
    """
    refuse_no_data(data, data_free=data_free)
    chosen = data if data is not None else made_up(model, seed=seed, threads=threads, events=events)
    fitted = chosen.for_model(model)
    for doubt in survey(fitted).doubts():
        events(Event("warning", doubt.as_json()))
    return fitted


def made_up(
    model: ir.Model, *, count: int = SYNTHESIZED, seed: int = 0, threads: int = 0, events: Events = silent
) -> CalibrationData:
    """Inputs made from the model: from its BatchNormalizations, or random where it has none that tell anything."""
    reason = ""
    if normalizations(model):
        try:
            if model.opset_imports.get("", _OPSET) < _OPSET:
                newer = copy_model(model)
                convert_opset(newer, _OPSET)
                model = newer
            return CalibrationData.synthesize(model, count, seed, threads=threads, events=events)
        except GraphoptError as error:
            reason = error.what
    reason = reason or "the model has no BatchNormalization"
    events(Event("warning", {"text": f"the inputs are random, the last resort: {reason}", "doubt": "random"}))
    return CalibrationData.random(model, seed, count, vary=True)


def opset_first(model: ir.Model, steps: Iterable[Pass]) -> list[Pass]:
    """What has to come before a model can hold codes: a newer opset, where its own is too old for them.

    QuantizeLinear has a scale per channel since 13, codes of 4 and 16 bits since 21.
    """
    inserts = [step for step in steps if isinstance(step, InsertQdq)]
    wide = any(step.weights == "int4" or "16" in step.activations for step in inserts)
    needed = 21 if wide else 13
    return [ConvertOpset(at_least=needed)] if inserts and 0 < model.opset_imports.get("", 0) < needed else []


def refuse_nothing(model: ir.Model, outcomes: Outcomes) -> None:
    """A model that is none the smaller or quicker is not called quantised.

    Args:
        model: the model that was to be quantised.
        outcomes: of the quantisation.

    Raises:
        GraphoptError: no codes were put anywhere; with the most frequent reasons.
    """
    lossy = [item for item in outcomes if item.applied.fidelity is Fidelity.LOSSY]
    placing = [item for item in lossy if isinstance(item.applied, InsertQdq)] or lossy
    if any(item.changed for item in placing):
        return
    reasons = Counter(text.removeprefix("kept float32: ") for item in placing for _, text in item.kept)
    listed = [f"{reason} ({count} times)" if count > 1 else reason for reason, count in reasons.most_common(3)]
    listed += [item.failed for item in placing if item.failed]
    hint = "`graphopt inspect` shows what the model consists of"
    if any(node.op_type in _QUANTISED for node in nodes(model)):
        listed, hint = ["it is quantised already", *listed], "give the model as it was before it was quantised"
    elif any("FLOAT16" in reason for reason in reasons):
        hint = "give the model as it was before it was converted to 16 bits"
    raise GraphoptError("nothing could be quantised", "; ".join(listed) or "it has no products with weights", hint)


def statistics_folder(reuse: bool) -> Path | None:
    """Where statistics are kept between runs; None when they are not to be reused."""
    return cache_folder() / "statistics" if reuse else None


def tell_doubts(statistics: Statistics, events: Events) -> None:
    """What speaks against ranges that were observed, as warnings."""
    for doubt in doubts(statistics):
        events(Event("warning", doubt.as_json()))
