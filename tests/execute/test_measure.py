"""Measuring: ratios with intervals, costs, machine facts. No test asserts a time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx import parser

from graphopt.errors import GraphoptError
from graphopt.execute import Candidate, machine, measure
from graphopt.execute.measure import paired_ratio


def chain(count: int) -> ir.Model:
    nodes = " ".join(f"t{i} = MatMul(t{i - 1}, w)" for i in range(1, count))
    weights = ", ".join(["0.01"] * 64 * 64)
    text = (
        f'<ir_version: 8, opset_import: ["": 17]> g (float[64, 64] x) => (float[64, 64] t{count - 1})'
        f" <float[64, 64] w = {{{weights}}}> {{ t0 = Identity(x) {nodes} }}"
    )
    return ir.from_proto(parser.parse_model(text))


FEEDS = [{"x": np.ones((64, 64), np.float32)}]


def test_a_model_ten_times_as_long_has_a_ratio_above_one_and_itself_about_one(tmp_path: Path) -> None:
    short, long = chain(20), chain(200)
    path = tmp_path / "short.onnx"
    ir.save(short, path)
    found = measure(
        [Candidate("a", path), Candidate("a again", short), Candidate("long", long)], FEEDS, min_seconds=0.3, rounds=21
    )
    first, again, other = found
    assert (first.ratio, first.ratio_low, first.ratio_high) == (1.0, 1.0, 1.0)
    assert 0.5 < again.ratio < 2
    assert other.ratio > 3
    for item in found:
        assert item.ratio_low <= item.ratio <= item.ratio_high
        assert item.runs >= 21
        assert item.load_s > 0
        assert 10 * 2**20 < item.peak_bytes < 2**31
    assert first.file_bytes == path.stat().st_size
    json.dumps([item.as_json() for item in found], allow_nan=False)


def test_a_failing_candidate_is_named() -> None:
    good = chain(3)
    with pytest.raises(GraphoptError, match="'x' is not fed"):
        measure([Candidate("a", good)], [{}])
    with pytest.raises(GraphoptError, match="no MoonExecutionProvider"):
        measure([Candidate("a", good), Candidate("b", good, provider="MoonExecutionProvider")], FEEDS)
    with pytest.raises(GraphoptError, match="same name"):
        measure([Candidate("a", good), Candidate("a", good)], FEEDS)
    with pytest.raises(GraphoptError, match="nothing to measure"):
        measure([], FEEDS)


def test_the_interval_is_that_of_order_statistics() -> None:
    times = np.arange(1.0, 22.0)
    assert paired_ratio(times, np.ones(21)) == (11.0, 6.0, 16.0)  # tables: ranks 6 and 16 of 21 at 95 %
    assert paired_ratio([3.0, 1.0, 2.0], [1.0, 1.0, 1.0]) == (2.0, 1.0, 3.0)


def test_an_outlier_moves_neither_median_nor_interval() -> None:
    generator = np.random.default_rng(0)
    base = 1 + 0.01 * generator.random(101)
    times = base * 0.8
    times[7] = 1000.0
    ratio, low, high = paired_ratio(times, base)
    assert low <= ratio <= high
    assert (low, high) == pytest.approx((0.8, 0.8))


def test_the_interval_holds_the_true_ratio_nineteen_times_in_twenty() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        base = np.exp(0.1 * generator.standard_normal(31))
        _, low, high = paired_ratio(0.9 * base * np.exp(0.05 * generator.standard_normal(31)), base)
        hits += low <= 0.9 <= high
    assert 0.92 < hits / 400 <= 1.0


def test_machine_facts_are_there_and_json() -> None:
    facts = json.loads(json.dumps(machine()))
    assert facts["cpu"]
    assert facts["cores"] >= 1
    assert facts["memory"] > 2**28
    assert set(facts["versions"]) >= {"python", "onnx", "onnxruntime", "numpy"}
    assert isinstance(facts["isa"], list)
