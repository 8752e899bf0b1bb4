"""Sessions timed in turns. No test asserts a time."""

from __future__ import annotations

import time

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.execute.measure import STOP_SPINNING, alternate, paired_ratio
from graphopt.execute.session import Session

TEXT = '<ir_version: 8, opset_import: ["": 17]> g (float[n] x) => (float[n] y) { y = Exp(x) }'


@pytest.mark.parametrize("clock", [time.perf_counter, time.thread_time])
def test_every_session_has_a_time_for_every_round(clock) -> None:
    sessions = [Session(ir.from_onnx_text(TEXT), optimized=True, config=STOP_SPINNING) for _ in range(3)]
    feeds = [{"x": np.ones(size, np.float32)} for size in (10, 20)]
    found = alternate(sessions, feeds, min_seconds=0.001, rounds=9, seed=1, warm_seconds=0.001, clock=clock)
    assert {len(times) for times in found} == {len(found[0])} and len(found) == 3 and len(found[0]) >= 9
    assert all(second > 0 for times in found for second in times)
    ratio, low, high = paired_ratio(found[1], found[0])
    assert low <= ratio <= high
