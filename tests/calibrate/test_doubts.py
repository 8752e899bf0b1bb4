"""What speaks against a calibration is said, with numbers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.calibrate import CalibrationData, Histogram, Range, Statistics, collect
from graphopt.calibrate.doubts import doubts, survey
from graphopt.errors import GraphoptError

MODEL = ir.from_onnx_text(
    """<ir_version: 8, opset_import: ["": 17]> g (float[n,3,h,w] x) => (float[n,3,h,w] y)
    { y = Relu(x) }"""
)
RNG = np.random.default_rng(0)


def data(arrays: list[np.ndarray]) -> CalibrationData:
    return CalibrationData.open([{"x": array.astype(np.float32)} for array in arrays]).for_model(MODEL)


def normal(count: int) -> list[np.ndarray]:
    return [RNG.normal(size=(1, 3, 4, 4)) for _ in range(count)]


def test_enough_different_samples_raise_no_doubt():
    assert survey(data(normal(8))).doubts() == []


def test_few_samples_are_doubted():
    (doubt,) = survey(data(normal(3))).doubts()
    assert (doubt.kind, doubt.number) == ("few samples", 3)
    assert "at least 8" in doubt.text


def test_samples_that_repeat_are_counted():
    (doubt,) = survey(data([normal(1)[0]] * 9)).doubts()
    assert (doubt.kind, doubt.number) == ("repeated samples", 8)
    assert "all samples are the same: 8 of 9" in doubt.text
    two = normal(6)
    (doubt,) = survey(data([*two, *two])).doubts()
    assert doubt.number == 6


def test_a_channel_that_never_changes_is_named():
    arrays = normal(8)
    for array in arrays:
        array[:, 1] = 0.5
    (doubt,) = survey(data(arrays)).doubts()
    assert doubt.kind == "constant input"
    assert doubt.tensors == ("x",)
    assert "1 of 3 channels of the input 'x' never change: 1" in doubt.text


def test_an_input_that_is_one_number_is_named():
    kinds = {doubt.kind: doubt.text for doubt in survey(data([np.full((1, 3, 4, 4), 7.0)] * 8)).doubts()}
    assert "'x' is 7 everywhere" in kinds["constant input"]


def test_samples_of_several_sizes_are_looked_through():
    arrays = [RNG.normal(size=(1 + at % 2, 3, 2 + at, 5)) for at in range(8)]
    assert survey(data(arrays)).doubts() == []


def test_made_up_samples_are_said_to_be():
    made = CalibrationData.random(MODEL, 0, 8).for_model(MODEL)
    assert [doubt.kind for doubt in survey(made).doubts()] == ["synthetic"]


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_wherever_it_is(number: float):
    arrays = normal(9)
    arrays[7][0, 0, 0, 0] = number
    with pytest.raises(GraphoptError, match="the input 'x' holds") as caught:
        survey(data(arrays))
    assert "sample 7" in caught.value.where


def test_empty_inputs_are_refused():
    with pytest.raises(GraphoptError, match="the input 'x' is empty"):
        survey(data([np.zeros((1, 3, 0, 4))]))


def test_tensors_that_never_change_are_named():
    found = collect(MODEL, data([-np.abs(array) for array in normal(8)]), {"x": [Range()], "y": [Histogram()]})
    (doubt,) = doubts(found)
    assert (doubt.kind, doubt.tensors) == ("constant tensors", ("y",))


def test_ranges_that_still_widen_are_not_settled():
    arrays = [array * (3 if at >= 6 else 1) for at, array in enumerate(normal(8))]
    found = collect(MODEL, data(arrays), {"x": [Range()], "y": [Histogram()]})
    (doubt,) = doubts(found)
    assert doubt.kind == "not settled"
    assert set(doubt.tensors) == {"x", "y"}
    assert "widened 2 of 2 ranges" in doubt.text
    settled = collect(MODEL, data(arrays[::-1]), {"x": [Range()], "y": [Histogram()]})
    assert doubts(settled) == []


def test_growth_survives_saving_and_merging(tmp_path):
    first, second = normal(4), [5 * array for array in normal(4)]
    found = collect(MODEL, data([*first, *second[:1]]), {"y": [Histogram()]})
    assert found.growth["y"] > 1
    found.save(tmp_path / "kept.npz")
    assert Statistics.load(tmp_path / "kept.npz").growth == pytest.approx(found.growth)
    other = collect(MODEL, data(first), {"y": [Histogram()]})
    other.merge(found)
    assert other.growth["y"] == pytest.approx(found.growth["y"])
