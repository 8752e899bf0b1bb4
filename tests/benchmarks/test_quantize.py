"""The quantisation benchmark itself: what it measures of a result, and what it calls a tool that fails. Nothing is timed."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from graphopt.errors import GraphoptError
from graphopt.execute import Session
from graphopt.flows.quantize import SCHEMES
from graphopt.ir import load, save
from graphopt.models.builders import small_cnn

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import built  # noqa: E402
import cases  # noqa: E402
import metrics  # noqa: E402
import quantize  # noqa: E402
import quantize_trial  # noqa: E402
import quantizers  # noqa: E402

FAKES = """
import os
import shutil


def copies(job, **options):
    shutil.copy(job.source, job.result)
    return f"{len(list(job.samples()))} samples {options}"


def raises(job):
    raise ValueError("no idea what to do\\nwith this model")


def dies(job):
    os.abort()


def writes_nothing(job):
    pass


def makes_nan(job):
    import numpy as np
    import onnx_ir as ir

    model = ir.load(job.source)
    for value in model.graph.initializers.values():
        array = value.const_value.numpy()
        if array.dtype.kind == "f":
            value.const_value = ir.tensor(np.full_like(array, np.nan), name=value.name)
    ir.save(model, job.result)
"""


def _tiny() -> built.Built:
    rng = np.random.default_rng(0)
    images = [{"image": rng.standard_normal((1, 3, 32, 32)).astype(np.float32)} for _ in range(6)]
    return built.Built(small_cnn(), images[:3], images[3:], {"labels": np.arange(3)})


TINY = cases.Case("tiny", "classes", "to run", 20.0, build=_tiny)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> cases.Ready:
    return cases.ready(TINY, tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def fake(tmp_path: Path):
    file = tmp_path / "fakes.py"
    file.write_text(FAKES)
    return lambda function, **options: quantizers.Quantizer(function, "numpy", function, str(file), options=options)


def test_graphopt_and_a_tool_beside_it_come_out_with_signal_task_bytes_and_graph(fake, tmp_path: Path):
    tools = (quantizers.own(SCHEMES)["graphopt w8a8"], fake("copies", kind=1))
    plan = quantize.Plan(tools, tmp_path, tmp_path, latency=False, timeout=300)
    said: list[str] = []
    original, ours, same = quantize.run(TINY, plan, say=said.append)
    assert original.sqnr_db == math.inf and original.figures["agreement"] == 1 and original.floats > 5
    assert ours.status == "right", ours.why
    assert 10 < ours.sqnr_db < 80 and ours.integers > 3 and ours.floats < original.floats
    assert ours.cpu > 0 and ours.memory > 2**20
    assert same.sqnr_db == math.inf and same.why == "3 samples {'kind': 1}"
    (table,) = quantize.tables([original, ours, same])
    assert table.columns[:4] == ("tool", "dB", "agreement", "top-1") and "latency" not in table.columns
    assert {len(row) for row in table.rows} == {len(table.columns)}
    assert len(said) == 3


@pytest.mark.parametrize(
    ("function", "status", "why"),
    [
        ("raises", "refused", "ValueError: no idea what to do with this model"),
        ("dies", "crashed", "SIGABRT"),
        ("writes_nothing", "broken", "no result was written"),
        ("makes_nan", "broken", "NaN"),
    ],
)
def test_a_tool_that_fails_is_a_row(tiny: cases.Ready, fake, tmp_path: Path, function: str, status: str, why: str):
    row = quantize_trial.attempt(fake(function), tiny, tmp_path / "out.onnx", tmp_path, 120)
    assert (row.status, why in row.why) == (status, True), row
    (table,) = quantize.tables([quantize_trial.Row("original", "tiny", "right", figures={"agreement": 1.0}), row])
    assert table.rows[1][1] == quantize._MARKS[status]
    assert json.loads(json.dumps(row.as_json()))["sqnr_db"] is None


def test_a_tool_without_its_environment_is_missing_and_in_no_table(tiny: cases.Ready, tmp_path: Path):
    tool = quantizers.Quantizer("elsewhere", "numpy", "ort_static", environment="no-such")
    row = quantize_trial.attempt(tool, tiny, tmp_path / "out.onnx", tmp_path, 120)
    assert row.status == "missing"
    (table,) = quantize.tables([quantize_trial.Row("original", "tiny", "right"), row])
    assert [cells[0] for cells in table.rows] == ["original"]


def test_a_tool_runs_by_another_interpreter_and_its_error_comes_back(tiny: cases.Ready, tmp_path: Path):
    tool, answer = quantizers.PEERS["ort per-tensor"], tmp_path / "answer.json"
    job = quantizers.Job(tiny.path, tiny.calibration, tmp_path / "out.onnx")
    found = quantizers.run_elsewhere(Path(sys.executable), tool, job, answer)
    assert load(job.result).graph.num_nodes() > 20 and found["cpu"] > 0 and found["memory"] > 2**20
    absent = quantizers.Job(tmp_path / "absent.onnx", tiny.calibration, tmp_path / "none.onnx")
    with pytest.raises(GraphoptError, match="FileNotFoundError"):
        quantizers.run_elsewhere(Path(sys.executable), tool, absent, answer)


def test_samples_of_a_folder_are_scaled_and_keep_their_labels(tmp_path: Path):
    feeds = tmp_path / "feeds"
    feeds.mkdir()
    model = small_cnn()
    save(model, feeds / "given.onnx")
    bytes_of = np.full((1, 3, 32, 32), 200, np.uint8)
    for part in ("calib", "eval"):
        np.savez(feeds / f"given.{part}.npz", **{"000|image": bytes_of, "labels": np.asarray([3])})
    case = cases.Case("given", "classes", "", 20.0, scaled={"image": (100, 50)})
    found = cases.ready(case, tmp_path / "work", feeds)
    with np.load(found.evaluation) as archive:
        assert archive["labels"].tolist() == [3]
        assert archive["0000|image"].dtype == np.float32 and float(archive["0000|image"].max()) == 2.0


def test_a_case_without_samples_takes_the_catalogues(tmp_path: Path):
    path = tmp_path / "model.onnx"
    save(small_cnn(), path)
    with pytest.raises(GraphoptError, match="no sample inputs for 'nobody'"):
        cases.ready(cases.Case("nobody", "classes", "", 20.0), tmp_path, None, {"nobody": path})


def test_the_uneven_cnn_computes_what_the_even_one_does():
    even, uneven = built.uneven_cnn(0.0), built.uneven_cnn(4.0)
    assert np.array_equal(uneven.evaluation[0]["image"], even.evaluation[0]["image"])
    sessions = [Session(item.model, optimized=True) for item in (even, uneven)]
    for sample, label in zip(uneven.evaluation[:20], uneven.labels["labels"], strict=False):
        one, other = (session.run(sample)["logits"] for session in sessions)
        assert np.allclose(one, other, rtol=1e-3, atol=1e-4) and other.argmax() == label


def _seen(truth, found, labels=None, metadata=None) -> metrics.Seen:
    samples = [{} for _ in truth]
    return metrics.Seen(
        [{"y": row} for row in truth], [{"y": row} for row in found], samples, labels or {}, metadata or {}
    )


def test_text_is_read_by_ctc_and_errors_count_without_spaces():
    def steps(*best: int) -> np.ndarray:
        return np.eye(4, dtype=np.float32)[list(best)][None]

    seen = _seen(
        [steps(1, 1, 0, 1, 3, 2), steps(2, 0)],
        [steps(1, 0, 1, 2, 2, 2), steps(1, 0)],
        {"labels": np.asarray(["aa b", "b"])},
        {"character": "a\nb"},
    )
    assert metrics.text(seen) == {"strings kept": 0.0, "but for spaces": 0.5, "CER": 0.25}


def test_sentences_of_any_length_are_compared_by_the_mean_of_their_hidden_states():
    rng = np.random.default_rng(0)
    rows = [{"ids": np.zeros((1, n)), "hidden": rng.standard_normal((1, n, 8))} for n in (3, 5, 4)]
    others = [{**row, "hidden": 2 * row["hidden"]} for row in rows]
    people = np.asarray([[1, 0.5, 0.1], [0.5, 1, 0.3], [0.1, 0.3, 1]])
    figures = metrics.sentences(metrics.Seen(rows, others, [{} for _ in rows], {"similarities": people}, {}))
    assert figures["mean cosine"] == pytest.approx(1) and figures["r of similarities"] == pytest.approx(1)
    assert "r with people" in figures


def test_an_auc_counts_pairs_and_ties_half():
    assert metrics._auc(np.asarray([0.1, 0.4, 0.4, 0.9]), np.asarray([False, False, True, True])) == 0.875
    assert math.isnan(metrics._auc(np.asarray([0.1, 0.2]), np.asarray([True, True])))


def test_a_word_stands_for_the_class_the_original_gives_most_of_its_samples():
    rows = [np.eye(3)[[kind]] for kind in (0, 0, 1, 2)]
    other = [np.eye(3)[[kind]] for kind in (0, 1, 0, 2)]
    seen = _seen(rows, other, {"labels": np.asarray(["x", "x", "x", "y"])})
    assert metrics.file_types(seen) == {"agreement": 0.5, "accuracy": 0.75}


def test_every_case_has_a_task_and_every_result_a_section():
    assert {case.task for case in cases.CASES.values()} <= set(metrics.TASKS)
    page = (BENCHMARKS.parent / "docs" / "benchmarks.md").read_text()
    assert "<!-- quantize -->" in page and "<!-- /quantize -->" in page
