"""Calibrating holds one sample's tensors at most, whatever the number of samples."""

from __future__ import annotations

import resource
import sys

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.calibrate import CalibrationData, Histogram, collect
from graphopt.execute.isolate import isolated

SAMPLES, LAYERS = 32, 8
EACH = 16 * 224 * 224 * 4


def observed() -> int:
    """In a child: bytes that calibrating took beyond one run of the model."""
    chain = " ".join(f"t{at + 1} = {'Neg' if at % 2 else 'Abs'}(t{at})" for at in range(LAYERS))
    model = ir.from_onnx_text(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[n,1,h,w] x, float[16,1,1] k) => (float[n,16,h,w] t{LAYERS})'
        f" {{ t0 = Mul(x, k) {chain} }}"
    )
    rng = np.random.default_rng(0)
    k = np.linspace(0, 1, 16, dtype=np.float32).reshape(16, 1, 1)
    samples = [{"x": rng.normal(size=(1, 1, 224, 224)).astype(np.float32), "k": k} for _ in range(SAMPLES)]
    data = CalibrationData.open(samples).for_model(model)
    names = [f"t{at}" for at in range(LAYERS + 1)]
    collect(model, data.take(1), {names[0]: [Histogram()]})
    before = _peak()
    found = collect(model, data, {name: [Histogram()] for name in names}, memory_bytes=4 * EACH)
    assert found.get("t0", Histogram).elements == SAMPLES * EACH // 4
    return _peak() - before


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no getrusage")
def test_many_samples_take_no_more_memory_than_one():
    extra = isolated(observed, timeout=240.0, stage="calibrating in a child")
    everything = SAMPLES * LAYERS * EACH
    assert everything > 500e6
    assert extra < 0.25 * everything
