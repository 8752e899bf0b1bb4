"""The models of the quantisation benchmark, with samples to calibrate on, others to judge on, and what is aimed at.

Samples come from a folder with ``<id>.calib.npz`` and ``<id>.eval.npz``, keys ``<i>|<input>``, and where there are
labels ``labels`` or ``<i>#notes``. Bytes where a model takes floats are scaled as the case says. What the folder lacks
is the catalogue's few samples, which say something of the signal and little of the task.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from built import Built, Labels, bert6, uneven_cnn

from graphopt import models
from graphopt.calibrate import CalibrationData
from graphopt.errors import GraphoptError
from graphopt.ir import load, save
from graphopt.models.samples import samples
from graphopt.models.wheels import download

_LEE = "gensim==4.4.0", "gensim/test/test_data/similarities0-1.txt"
"""Similarities of 50 news texts as people judged them (Lee, Pincombe and Welsh, 2005)."""


@dataclass(frozen=True)
class Case:
    """A model to quantise.

    Attributes:
        name: the catalogue's id, or that of the model's file.
        task: one of ``metrics.TASKS``.
        aim: what the result should be, in words.
        aim_db: the part of it that graphopt can be told to hold.
        transformer: some tools want to be told.
        scaled: inputs stored as bytes, which become ``(x - zero) / scale``.
        pages_of: the case whose pages, resized, are its samples.
        build: makes it.
    """

    name: str
    task: str
    aim: str
    aim_db: float
    transformer: bool = False
    scaled: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    pages_of: str = ""
    build: Callable[[], Built] | None = None


@dataclass(frozen=True)
class Ready:
    """A case with its files: the model, and samples as the model takes them, with their labels."""

    case: Case
    path: Path
    calibration: Path
    evaluation: Path
    remark: str = ""


CASES: Mapping[str, Case] = {
    case.name: case
    for case in (
        Case(
            "efficientnet_lite0",
            "classes",
            "above 18.5 dB at half the latency; with one scale for each tensor above 10 dB",
            18.5,
            scaled={"input": (127, 128)},
        ),
        Case("ppocrv4_rec", "text", "above 15 dB and 90 % of the strings at .70 of the latency", 15.0),
        Case("paraphrase_minilm_l3", "sentences", "above 21.5 dB at .40 of the latency", 21.5, transformer=True),
        Case("bert6", "vectors", "above 21.5 dB at .40 of the latency", 21.5, transformer=True, build=bert6),
        Case("uneven_cnn", "classes", "with one scale for each tensor above 30.6 dB", 30.6, build=uneven_cnn),
        Case("layout_cdla", "boxes", "30 dB, or within 1 % of the task's figure", 30.0, pages_of="ppocrv4_det"),
        Case("ppocrv4_det", "mask", "30 dB, or within 1 % of the task's figure", 30.0),
        Case("silero_vad_16k_op15", "speech", "30 dB, or within 1 % of the task's figure", 30.0),
        Case("resemblyzer_lstm", "speakers", "30 dB, or within 1 % of the task's figure", 30.0),
        Case("basic_pitch", "notes", "30 dB, or within 1 % of the task's figure", 30.0),
        Case("magika_v3_3", "file_types", "30 dB, or within 1 % of the task's figure", 30.0),
    )
}
"""Every case by name."""


def ready(case: Case, work: Path, feeds: Path | None = None, given: Mapping[str, Path] | None = None) -> Ready:
    """The files of a case.

    Args:
        case: which.
        work: a folder for them.
        feeds: the folder of samples; a model ``<id>.onnx`` in it is used too.
        given: models by name, before any other place.

    Raises:
        GraphoptError: there is no model, or there are no samples.
    """
    work.mkdir(parents=True, exist_ok=True)
    calibration, evaluation = work / "calib.npz", work / "eval.npz"
    if case.build is not None:
        built = case.build()
        path = work / "model.onnx"
        save(built.model, path)
        _write(calibration, built.calibration, {})
        _write(evaluation, built.evaluation, built.labels)
        return Ready(case, path, calibration, evaluation, "made here, of random weights")
    path = _model(case, feeds, given or {})
    model = load(path)
    remark = ""
    try:
        parts = [_stored(case, feeds, part) for part in ("calib", "eval")]
    except GraphoptError:
        few = samples(case.name)
        remark = f"{len(few)} samples of the catalogue, half of them to judge on: little data"
        parts = [(few[::2], {}), (few[1::2] or few, {})]
    for file, (data, labels) in zip((calibration, evaluation), parts, strict=True):
        fitted = CalibrationData.open(data)
        wanted = {port for port in case.scaled if fitted[0][port].dtype == np.uint8}
        fitted = fitted.scaled({port: case.scaled[port] for port in wanted}) if wanted else fitted
        _write(file, fitted.for_model(model), labels)
    return Ready(case, path, calibration, evaluation, remark)


def _model(case: Case, feeds: Path | None, given: Mapping[str, Path]) -> Path:
    if case.name in given:
        return given[case.name]
    if feeds is not None and (feeds / f"{case.name}.onnx").is_file():
        return feeds / f"{case.name}.onnx"
    return models.fetch(case.name)


def _stored(case: Case, feeds: Path | None, part: str) -> tuple[Any, Labels]:
    """The samples of a folder, and the arrays that lie beside them.

    Raises:
        GraphoptError: there are none.
    """
    file = feeds / f"{case.pages_of or case.name}.{part}.npz" if feeds is not None else None
    if file is None or not file.is_file():
        raise GraphoptError("there are no samples", str(file or case.name), "--feeds FOLDER")
    data: Any = CalibrationData.open(file)
    if case.pages_of:
        return [{"image": _resized(next(iter(sample.values())), 800, 608)} for sample in data], {}
    with np.load(file) as archive:
        labels = {key: archive[key] for key in archive.files if "|" not in key}
    if case.task == "sentences" and part == "eval" and len(data) == 50:
        labels |= _judged_by_people()
    return data, labels


def _resized(page: np.ndarray, height: int, width: int) -> np.ndarray:
    """A page [1, 3, H, W], each pixel the nearest of the original, in float32."""
    rows, columns = (
        (np.arange(wanted) * had / wanted).astype(int)
        for wanted, had in zip((height, width), page.shape[2:], strict=True)
    )
    return np.ascontiguousarray(page[:, :, rows][:, :, :, columns], np.float32)


def _judged_by_people() -> dict[str, np.ndarray]:
    """The similarities of the 50 texts, where the index has the package that holds them."""
    try:
        with download(_LEE[0]) as wheel, zipfile.ZipFile(wheel) as archive:
            rows = archive.read(_LEE[1]).decode().split("\n")
    except (GraphoptError, KeyError, OSError):
        return {}
    table = np.asarray([[float(cell) for cell in row.split()] for row in rows if row.strip()])
    return {"similarities": table}


def _write(file: Path, data: Iterable[Mapping[str, np.ndarray]], labels: Labels) -> None:
    """Samples and labels in one archive; an object that is a label keeps its key."""
    arrays = {f"{number:04d}|{name}": array for number, sample in enumerate(data) for name, array in sample.items()}
    np.savez(file, **{**arrays, **labels})  # type: ignore[arg-type]
