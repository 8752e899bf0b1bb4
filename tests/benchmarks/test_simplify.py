"""The simplify benchmark itself: what it calls right, wrong, broken, refused and crashed. Nothing here is timed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from graphopt.ir import load, save
from graphopt.models.builders import mlp, small_cnn

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import simplify  # noqa: E402
import startup  # noqa: E402
import subjects  # noqa: E402
import tables  # noqa: E402
import tools  # noqa: E402
import trial  # noqa: E402
from publish import publish  # noqa: E402

FAKES = """
import os
import shutil
import time


def copies(source, result):
    shutil.copy(source, result)
    return "a remark"


def changes_a_weight(source, result):
    import numpy as np
    import onnx_ir as ir

    model = ir.load(source)
    for value in model.graph.initializers.values():
        array = value.const_value.numpy()
        if array.dtype.kind == "f":
            value.const_value = ir.tensor(array + np.float32(0.5), name=value.name)
    ir.save(model, result)


def renames_the_output(source, result):
    import onnx_ir as ir

    model = ir.load(source)
    model.graph.outputs[0].name = "something_else"
    ir.save(model, result)


def writes_rubbish(source, result):
    result.write_bytes(b"this is not a model")


def writes_nothing(source, result):
    pass


def makes_an_unknown_operator(source, result):
    import onnx_ir as ir

    model = ir.load(source)
    next(iter(model.graph)).op_type = "NoSuchOperator"
    ir.save(model, result)


def raises(source, result):
    raise ValueError("no idea what to do\\nwith this model")


def dies(source, result):
    if "tiny" not in source.name:
        os.abort()


def sleeps(source, result):
    if "tiny" not in source.name:
        time.sleep(60)
"""


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> trial.Original:
    path = tmp_path_factory.mktemp("given") / "model.onnx"
    save(small_cnn(), path)
    return trial.original(subjects.Subject("model", path), timeout=120)


@pytest.fixture
def fake(tmp_path: Path):
    file = tmp_path / "fakes.py"
    file.write_text(FAKES)
    return lambda function: tools.Tool(function, "numpy", function, str(file))


def test_an_original_is_known_by_its_nodes_bytes_and_feeds(given: trial.Original):
    assert given.nodes > 5 and given.bytes == given.subject.path.stat().st_size
    assert len(given.feeds) == subjects.RANDOM_FEEDS
    assert len({next(iter(feed.values())).shape for feed in given.feeds}) > 1, "dynamic sizes vary"


def test_graphopt_is_right_and_leaves_fewer_nodes(given: trial.Original, tmp_path: Path):
    result = trial.attempt(tools.TOOLS["graphopt"], given, tmp_path / "out.onnx", timeout=120)
    assert result.status == "right", result.why
    assert 0 < result.nodes < result.nodes_before == given.nodes
    assert result.bytes > 0 and result.cpu > 0 and result.feeds == len(given.feeds)


@pytest.mark.parametrize(
    ("function", "status", "why"),
    [
        ("copies", "right", "a remark"),
        ("changes_a_weight", "wrong", "beyond the tolerance"),
        ("renames_the_output", "wrong", "is missing"),
        ("writes_rubbish", "broken", ""),
        ("writes_nothing", "broken", "no result was written"),
        ("makes_an_unknown_operator", "broken", "NoSuchOperator"),
        ("raises", "refused", "ValueError: no idea what to do with this model"),
        ("dies", "crashed", "SIGABRT"),
    ],
)
def test_what_comes_of_a_tool_is_called_by_its_name(
    given: trial.Original, fake, tmp_path: Path, function: str, status: str, why: str
):
    result = trial.attempt(fake(function), given, tmp_path / "out.onnx", timeout=120)
    assert (result.status, why in result.why) == (status, True), result


def test_a_tool_that_never_ends_is_stopped(given: trial.Original, fake, tmp_path: Path):
    result = trial.attempt(fake("sleeps"), given, tmp_path / "out.onnx", timeout=5)
    assert result.status == "crashed" and "no answer within 5 seconds" in result.why


def test_a_tool_that_is_not_installed_is_missing(given: trial.Original, tmp_path: Path):
    absent = tools.Tool("absent", "no-such-distribution", "copies")
    assert trial.attempt(absent, given, tmp_path / "out.onnx", timeout=5).status == "missing"


def test_the_result_of_an_earlier_run_is_not_taken_for_this_one(tmp_path: Path, fake):
    path = tmp_path / "model.onnx"
    save(mlp(), path)
    plan = simplify.Plan((fake("copies"),), tmp_path / "models", latency=False, timeout=120)
    assert [result.status for result in simplify.run(subjects.Subject("model", path), plan)] == ["right"]
    left = tmp_path / "models" / "model" / "copies.onnx"
    assert left.exists()
    (tmp_path / "fakes.py").write_text("def copies(source, result): pass\n")
    assert [result.status for result in simplify.run(subjects.Subject("model", path), plan)] == ["broken"]


def test_a_model_whose_original_does_not_run_is_left_out_and_said_to_be(tmp_path: Path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"rubbish")
    said: list[str] = []
    plan = simplify.Plan((tools.TOOLS["graphopt"],), tmp_path, latency=False)
    assert simplify.run(subjects.Subject("model", path), plan, said.append) == []
    assert "cannot be judged" in said[0]


def test_latency_is_measured_of_what_is_right_only(tmp_path: Path, fake):
    path = tmp_path / "model.onnx"
    save(mlp(), path)
    plan = simplify.Plan((fake("copies"), fake("changes_a_weight")), tmp_path / "models", seconds=0.05, timeout=120)
    same, wrong = simplify.run(subjects.Subject("model", path), plan)
    assert same.ratio is not None and same.ratio_low <= same.ratio <= same.ratio_high
    assert wrong.status == "wrong" and wrong.ratio is None


def _result(tool: str, model: str, status: str, nodes: int = 50) -> trial.Result:
    return trial.Result(tool, model, status, "", 100, nodes, 1000, 900, 1.0, 1.0, 2**20, 3)  # type: ignore[arg-type]


def test_means_are_over_the_models_all_tools_got_right():
    results = [
        _result("a", "m1", "right", 50),
        _result("b", "m1", "right", 80),
        _result("a", "m2", "right", 10),
        _result("b", "m2", "wrong", 5),
        _result("a", "m3", "right", 20),
        _result("absent", "m1", "missing"),
    ]
    assert tables.right_everywhere(results) == {"m1", "m3"}
    rows = {row[0]: row for row in tables.summary(results).rows}
    assert rows["a"][1] == f"{np.sqrt(0.5 * 0.2):.3f}" and rows["a"][6:] == ("3", "0", "0", "0", "0")
    assert rows["b"][1] == "0.800" and rows["b"][6:] == ("1", "1", "0", "0", "0")
    text = tables.tables(results)[0].markdown()
    assert "| m2 | 100 | 10 | WRONG |  |" in text


def test_a_section_of_the_page_is_replaced_and_the_rest_stays(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("# head\n\n<!-- scale -->\nold\n<!-- /scale -->\n\ntail\n")
    publish("scale", r"new \1 text", page)
    assert page.read_text() == "# head\n\n<!-- scale -->\n\nnew \\1 text\n\n<!-- /scale -->\n\ntail\n"
    with pytest.raises(ValueError, match="no section simplify"):
        publish("simplify", "text", page)


def test_the_page_has_a_section_for_each_benchmark():
    page = BENCHMARKS.parent / "docs" / "benchmarks.md"
    for section in ("simplify", "scale", "startup"):
        assert f"<!-- {section} -->" in page.read_text() and f"<!-- /{section} -->" in page.read_text()


def test_a_command_that_fails_has_no_times():
    times, problem = startup.timed([sys.executable, "-c", "raise SystemExit('no')"], 2)
    assert times == [] and "no" in problem


def test_the_exports_in_a_folder_are_subjects_with_their_feeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(subjects, "_make_exports", lambda folder, wanted: "")
    save(mlp(), tmp_path / "tiny.dynamo.onnx")
    port = load(tmp_path / "tiny.dynamo.onnx").graph.inputs[0]
    shape = tuple(size if isinstance(size, int) else 2 for size in port.shape or ())
    np.savez(tmp_path / "tiny.dynamo.npz", **{f"0|{port.name}": np.zeros(shape, np.float32)})
    found, missing = subjects.subjects(tmp_path, ["tiny", "absent"])
    assert [subject.name for subject in found] == ["tiny.dynamo"]
    assert found[0].real[0][port.name].shape == shape
    assert len(missing) == 1 and missing[0].startswith("absent: neither")


def test_results_are_json_lines(tmp_path: Path):
    simplify._write(tmp_path, [_result("a", "m1", "right")])
    (line,) = (tmp_path / "simplify.jsonl").read_text().splitlines()
    assert json.loads(line)["nodes_before"] == 100
