from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx import parser

import graphopt as go
from graphopt.calibrate.data import CalibrationData
from graphopt.errors import GraphoptError
from graphopt.events import Event
from graphopt.flows.optimize import Request, optimize
from graphopt.flows.record import optimize_on_record
from graphopt.ir import history
from graphopt.models.builders import BUILDERS, small_cnn

RECIPE = "lift-constants, eliminate-identity, fold-shapes, fold-constants, eliminate-noop"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    go.save(small_cnn(), path)
    return path


def test_the_result_is_smaller_verified_and_written(model: Path, tmp_path: Path) -> None:
    before = model.read_bytes()
    done = optimize(model, tmp_path / "out.onnx", Request(RECIPE))
    assert done.after.nodes < done.before.nodes
    assert done.outcomes.verdict is not None and done.outcomes.verdict.verdict == "equal"
    assert model.read_bytes() == before
    written = go.load(tmp_path / "out.onnx")
    (step,) = history.read(written)
    assert step.startswith("optimize --target onnx: ") and "eliminate-noop" in step
    assert all(name in {outcome.name for outcome in done.outcomes if outcome.changed} for name in step[24:].split(", "))


def test_the_same_input_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for output in outputs:
        optimize(model, output, Request(RECIPE, isolate=False))
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_a_model_in_memory_is_not_touched() -> None:
    model = small_cnn()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    done = optimize(model, None, Request(RECIPE))
    assert done.model is not model
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_what_happens_is_heard_in_order(model: Path) -> None:
    heard: list[Event] = []
    optimize(model, None, Request("eliminate-identity", events=heard.append))
    kinds = [event.kind for event in heard]
    assert kinds[:2] == ["progress", "progress"]
    assert heard[0].data["passes"] == ["eliminate-identity"]
    assert kinds.index("pass-started") < kinds.index("pass-finished") < kinds.index("verify")


def test_data_are_what_it_is_verified_on(model: Path) -> None:
    name = small_cnn().graph.inputs[0].name
    shape = [dim if isinstance(dim, int) else 2 for dim in small_cnn().graph.inputs[0].shape.dims]
    data = CalibrationData.open([{name: np.ones(shape, np.float32)}] * 3)
    done = optimize(model, None, Request(RECIPE, data=data))
    assert done.outcomes.verdict is not None and done.outcomes.verdict.feeds == 3
    assert done.feeds == "the given samples"


def test_the_input_cannot_be_the_output(model: Path, tmp_path: Path) -> None:
    (tmp_path / "link.onnx").symlink_to(model)
    for output in (model, tmp_path / "." / "model.onnx", tmp_path / "link.onnx"):
        with pytest.raises(GraphoptError, match="the input itself"):
            optimize(model, output, Request(RECIPE))


def test_a_run_on_record_holds_everything(model: Path, tmp_path: Path) -> None:
    done = optimize_on_record(model, None, Request(RECIPE), runs=tmp_path / "runs", seconds=0.1)
    assert done.benchmark is not None
    assert [item.name for item in done.benchmark.measurements] == ["before", "after"]
    assert go.load(done.folder.model).graph.num_nodes() < go.load(model).graph.num_nodes()
    assert len((done.folder.path / "steps.jsonl").read_text().splitlines()) == 5
    numbers = json.loads((done.folder.path / "stats.json").read_text())
    for one in (numbers["before"], numbers["after"]):
        assert {"nodes", "bytes", "operators", "flops", "activations", "peak", "cost_notes"} <= set(one)
        assert 0 < one["peak"] <= one["activations"] + 10**6
    assert json.loads((done.folder.path / "run.json").read_text())["profiles"] == []


def test_a_run_on_record_names_the_profile_and_each_decision(tmp_path: Path) -> None:
    source = tmp_path / "hard.onnx"
    hard = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N, 4] x) => (float[N, 4] y) '
        "{ h = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x) y = Mul(x, h) }"
    )
    go.save(ir.from_proto(hard), source)
    request = Request("fuse-hardswish", target="x86-64")
    done = optimize_on_record(source, None, request, runs=tmp_path / "runs", seconds=0.1)
    (fact,) = [item for item in done.optimized.decisions if item.form == "HardSwish"]
    assert (fact.verdict, fact.before, fact.after) == ("used", 0, 1)
    assert fact.ratio is not None and fact.ratio[1] < 1
    told = [json.loads(line) for line in (done.folder.path / "decisions.jsonl").read_text().splitlines()]
    assert [item["form"] for item in told] == [item.form for item in done.optimized.decisions]
    profiles = json.loads((done.folder.path / "run.json").read_text())["profiles"]
    assert profiles and {"origin", "path", "sha256", "measured", "cpu"} <= set(profiles[0])
    assert done.optimized.as_json()["profiles"] == profiles
    assert done.optimized.verdict is done.optimized.outcomes.verdict


def test_a_failed_run_on_record_keeps_the_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model at all, for sure")
    with pytest.raises(GraphoptError):
        optimize_on_record(tmp_path / "model.onnx", None, Request(RECIPE), runs=tmp_path / "runs")
    (run,) = (tmp_path / "runs").iterdir()
    assert "not an ONNX model" in (run / "run.json").read_text()


def test_what_cannot_be_measured_here_is_noted_and_no_failure(model: Path, tmp_path: Path) -> None:
    request = Request(RECIPE, target="tensorrt")
    done = optimize_on_record(model, tmp_path / "out.onnx", request, runs=tmp_path / "runs")
    assert done.benchmark is None
    assert "TensorrtExecutionProvider" in done.unmeasured
    assert (tmp_path / "out.onnx").is_file()


@pytest.mark.parametrize("name", ["if_model", "loop_model", "function_model", "overridable_defaults", "qdq_cnn"])
def test_models_of_every_kind_go_through(name: str) -> None:
    done = optimize(BUILDERS[name](), None, Request(RECIPE))
    assert done.outcomes.verdict is not None and done.outcomes.verdict.ok
