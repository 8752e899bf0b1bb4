"""Collecting: the right numbers, in groups, from shards, from a cache."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.calibrate import (
    CalibrationData,
    ChannelRange,
    Histogram,
    MovingRange,
    Observer,
    Range,
    Statistics,
    collect,
    kept,
)
from graphopt.errors import GraphoptError
from graphopt.events import Event

MODEL = ir.from_onnx_text(
    """<ir_version: 8, opset_import: ["": 17]> g (float[n,3] x, int64[n] k) => (float[n,3] z, int64[n] m)
    { y = Relu(x)  z = Exp(y)  m = Add(k, k) }"""
)


def data(count: int = 3, seed: int = 0) -> CalibrationData:
    rng = np.random.default_rng(seed)
    samples = [{"x": rng.normal(size=(2, 3)).astype(np.float32), "k": np.zeros(2, np.int64)} for _ in range(count)]
    return CalibrationData.open(samples).for_model(MODEL)


def everything(name: str, source: CalibrationData) -> np.ndarray:
    x = np.concatenate([sample["x"] for sample in source])
    return {"x": x, "y": np.maximum(x, 0), "z": np.exp(np.maximum(x, 0))}[name]


def test_inputs_inner_tensors_and_outputs_are_observed():
    source = data()
    found = collect(MODEL, source, {name: [Range(), Histogram()] for name in "xyz"})
    for name in "xyz":
        truth = everything(name, source)
        seen = found.get(name, Range)
        assert (seen.low, seen.high) == pytest.approx((truth.min(), truth.max()))
        assert found.get(name, Histogram).counts.sum() == truth.size
    assert found.samples == 3
    assert not found.synthetic


def test_ranges_alone_are_computed_in_the_graph_and_are_the_same():
    source = data()
    reduced = collect(MODEL, source, {"y": [Range()], "z": [Range()]})
    whole = collect(MODEL, source, {"y": [Range(), Histogram()], "z": [Range(), Histogram()]})
    for name in "yz":
        left, right = reduced.get(name, Range), whole.get(name, Range)
        assert (left.low, left.high) == (right.low, right.high)


def test_infinities_show_though_only_the_range_is_asked_for():
    source = CalibrationData.open([{"x": np.full((1, 3), 200, np.float32), "k": np.zeros(1, np.int64)}]).for_model(
        MODEL
    )
    assert collect(MODEL, source, {"z": [Range()]}).get("z", Range).broken
    assert not collect(MODEL, source, {"y": [Range()]}).get("y", Range).broken


def test_groups_that_fit_into_memory_give_the_same():
    source, names = data(), {name: [Histogram()] for name in "yz"}
    small = collect(MODEL, source, {name: [Histogram()] for name in "yz"}, memory_bytes=1)
    large = collect(MODEL, source, names)
    for name in "yz":
        np.testing.assert_array_equal(small.get(name, Histogram).counts, large.get(name, Histogram).counts)


def test_shards_merge_to_the_whole(tmp_path: Path):
    source = data(4)
    samples = list(source)
    parts = [CalibrationData.open(samples[:1]).for_model(MODEL), CalibrationData.open(samples[1:]).for_model(MODEL)]
    found = [collect(MODEL, part, {"z": [Histogram(), ChannelRange(1)]}) for part in parts]
    found[1].save(tmp_path / "shard.npz")
    found[0].merge(Statistics.load(tmp_path / "shard.npz"))
    whole = collect(MODEL, source, {"z": [Histogram(), ChannelRange(1)]})
    np.testing.assert_array_equal(found[0].get("z", Histogram).counts, whole.get("z", Histogram).counts)
    np.testing.assert_array_equal(found[0].get("z", ChannelRange, 1).high, whole.get("z", ChannelRange, 1).high)
    assert found[0].samples == 4


def test_what_was_collected_before_is_found_by_its_digest(tmp_path: Path):
    events: list[Event] = []
    first = collect(MODEL, data(), {"y": [Range()]}, cache=tmp_path)
    again = collect(MODEL, data(), {"y": [Range()]}, cache=tmp_path, events=events.append)
    assert again.get("y", Range) == first.get("y", Range)
    assert [event.kind for event in events] == ["note"]
    for other in (data(seed=1), data(2)):
        events.clear()
        collect(MODEL, other, {"y": [Range()]}, cache=tmp_path, events=events.append)
        assert {event.kind for event in events} == {"progress"}


def test_integers_and_unknown_names_are_refused():
    with pytest.raises(GraphoptError, match="only float tensors"):
        collect(MODEL, data(), {"m": [Range()]})
    with pytest.raises(GraphoptError, match="no tensor 'q'"):
        collect(MODEL, data(), {"q": [Range()]})


def test_a_file_that_holds_something_else_is_refused(tmp_path: Path):
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(GraphoptError, match="no statistics"):
        Statistics.load(tmp_path / "other.npz")


def test_several_processes_observe_the_same_as_one():
    source = data(5)
    requests = {"x": [Range()], "z": [Histogram(), ChannelRange(1)], "y": [MovingRange(0.5)]}
    events: list[Event] = []
    shared = collect(MODEL, source, fresh(requests), processes=2, events=events.append)
    alone = collect(MODEL, source, fresh(requests))
    assert shared.samples == 5
    np.testing.assert_array_equal(shared.get("z", Histogram).counts, alone.get("z", Histogram).counts)
    np.testing.assert_array_equal(shared.get("z", ChannelRange, 1).low, alone.get("z", ChannelRange, 1).low)
    assert shared.get("x", Range) == alone.get("x", Range)
    assert shared.get("y", MovingRange).values == 5
    assert set(shared.growth) == {"x", "z"}
    assert [event.data["done"] for event in events] == [2, 5]


def test_data_that_cannot_be_sent_elsewhere_are_observed_here():
    source = CalibrationData.open(list(data(4))).map(lambda sample: sample).for_model(MODEL)
    events: list[Event] = []
    found = collect(MODEL, source, {"z": [Histogram()]}, processes=2, events=events.append)
    assert found.samples == 4
    assert events[0].kind == "note"


def fresh(requests: dict[str, list[Observer]]) -> dict[str, list[Observer]]:
    return {name: [copy.deepcopy(item) for item in items] for name, items in requests.items()}


def test_moving_ranges_are_computed_in_the_graph_too():
    source = data()
    reduced = collect(MODEL, source, {"z": [MovingRange()]}).get("z", MovingRange)
    whole = collect(MODEL, source, {"z": [MovingRange(), Histogram()]}).get("z", MovingRange)
    assert (reduced.low, reduced.high) == pytest.approx((whole.low, whole.high))


def test_a_damaged_file_of_the_cache_is_collected_anew(tmp_path: Path):
    collect(MODEL, data(), {"y": [Range()]}, cache=tmp_path)
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(b"PK\x03\x04 cut")
    events: list[Event] = []
    found = collect(MODEL, data(), {"y": [Range()]}, cache=tmp_path, events=events.append)
    assert found.samples == 3
    assert events[0].kind == "warning"
    assert Statistics.load(kept).samples == 3


def test_the_digest_is_of_weights_too(tmp_path: Path):
    for number in (1.0, 2.0):
        model = ir.from_onnx_text(
            f'<ir_version: 8, opset_import: ["": 17]> g (float[n,3] x) => (float[n,3] y) <float[1] w = {{{number}}}>'
            " { y = Mul(x, w) }"
        )
        source = CalibrationData.open([{"x": np.ones((1, 3), np.float32)}]).for_model(model)
        assert collect(model, source, {"y": [Range()]}, cache=tmp_path).get("y", Range).high == number
    assert len(list(tmp_path.iterdir())) == 2


def test_the_cache_holds_the_latest_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kept, "KEPT", 2)
    for seed in range(4):
        collect(MODEL, data(seed=seed), {"y": [Range()]}, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
