"""Sample inputs and the built-in model: they fit the models, are the same each time, and wake them up."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from graphopt.errors import GraphoptError
from graphopt.models import entry, models
from graphopt.models.builtin import builtin, builtin_samples
from graphopt.models.samples import samples, speech, text_line


@pytest.mark.parametrize("name", [each.id for each in models()])
def test_samples_fit_the_declared_inputs(name: str) -> None:
    kinds = {"float": np.float32, "int64": np.int64, "int32": np.int32}
    wanted = {given.name: given for given in entry(name).inputs}
    feeds = samples(name)
    assert feeds
    for feed in feeds:
        assert set(feed) == set(wanted)
        for key, array in feed.items():
            assert array.dtype == kinds[wanted[key].dtype]
            assert array.ndim == len(wanted[key].shape)
            sizes = zip(array.shape, wanted[key].shape, strict=True)
            assert all(isinstance(size, str) or size in (-1, given) for given, size in sizes)
            assert np.isfinite(array).all()


@pytest.mark.parametrize("name", [each.id for each in models()])
def test_samples_are_the_same_each_time(name: str) -> None:
    for first, second in zip(samples(name), samples(name), strict=True):
        assert all(np.array_equal(first[key], second[key]) for key in first)


def test_a_model_without_samples_is_named() -> None:
    with pytest.raises(GraphoptError, match="no sample inputs for 'other'"):
        samples("other")


def test_drawn_text_is_dark_on_light_and_has_an_upside() -> None:
    line = text_line("GRAPH")
    assert line.shape == (48, 192)
    assert np.median(line) == 235
    assert line.min() < 60
    assert not np.array_equal(line, line[::-1, ::-1])


def test_speech_has_voice_and_pauses() -> None:
    signal = speech(2.0, 16_000)
    loudness = np.sqrt((signal.reshape(-1, 256) ** 2).mean(axis=1))
    assert loudness.max() > 10 * loudness.min()
    assert np.abs(signal).max() < 1


def test_the_builtin_model_is_valid_and_tells_its_samples_apart() -> None:
    proto = ir.to_proto(builtin())
    onnx.checker.check_model(proto, full_check=True)
    operators = {node.op_type for node in proto.graph.node}
    assert {"BatchNormalization", "Clip", "Div", "Shape", "Gather", "Identity", "Dropout"} <= operators
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    results = [session.run(None, feed)[0] for feed in builtin_samples()]
    for result in results:
        assert result.sum() == pytest.approx(1, abs=1e-4)
        assert 0.05 < result.max() < 0.9999
    assert np.abs(results[0] - results[1]).max() > 0.01


def test_the_builtin_model_is_the_same_each_time() -> None:
    assert ir.to_proto(builtin()).SerializeToString() == ir.to_proto(builtin()).SerializeToString()


def test_rounding_is_not_blown_up_in_the_builtin_model() -> None:
    raw = ir.to_proto(builtin()).SerializeToString()
    plain = ort.SessionOptions()
    plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    sessions = [ort.InferenceSession(raw, options, providers=["CPUExecutionProvider"]) for options in (plain, None)]
    for feed in builtin_samples():
        first, second = (session.run(None, feed)[0] for session in sessions)
        assert np.abs(first - second).max() < 1e-3
