from __future__ import annotations

import hashlib
import json
import math
import os
import re
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, auto
from pathlib import Path

import numpy as np
import pytest

from graphopt.errors import GraphoptError
from graphopt.flows.run_folder import RunFolder
from graphopt.report import render

NOW = datetime(2026, 11, 22, 1, 45, 1, tzinfo=UTC)


def lines(path: Path) -> list[object]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "ppocr_cls_v2.onnx"
    path.write_bytes(b"model")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "runs", "optimize m.onnx", now=NOW)


def test_the_id_is_time_command_and_model(tmp_path: Path, model: Path) -> None:
    folder = RunFolder.create(tmp_path / "runs", ["optimize", str(model)], source=model, now=NOW)
    assert folder.id == "20261122-014501-optimize-ppocr_cls_v2"
    assert folder.path == tmp_path / "runs" / folder.id


def test_a_taken_id_gets_a_counter(tmp_path: Path, model: Path) -> None:
    ids = [RunFolder.create(tmp_path, "bench", source=model, now=NOW).id for _ in range(3)]
    first = "20261122-014501-bench-ppocr_cls_v2"
    assert ids == [first, f"{first}-2", f"{first}-3"]


def test_runs_that_start_together_never_share_a_folder(tmp_path: Path) -> None:
    ids: list[str] = []
    threads = [
        threading.Thread(target=lambda: ids.append(RunFolder.create(tmp_path, "bench", now=NOW).id)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 8


@pytest.mark.parametrize("name", ["../../etc/passwd", "a b/ü.onnx", "...", "x" * 500, "-rf"])
def test_no_name_leaves_the_root(tmp_path: Path, name: str) -> None:
    folder = RunFolder.create(tmp_path / "runs", [name], now=NOW)
    assert folder.path.parent == tmp_path / "runs"
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", folder.id)


def test_run_json_names_source_machine_and_versions(tmp_path: Path, model: Path) -> None:
    words = ["optimize", "my model.onnx", "-o", "out.onnx"]
    folder = RunFolder.create(tmp_path / "runs", words, source=model, target="x86-64", data="feeds.npz", now=NOW)
    run = json.loads((folder.path / "run.json").read_text("utf-8"))
    assert run["id"] == folder.id
    assert run["command"] == "optimize 'my model.onnx' -o out.onnx"
    assert run["created"] == "2026-11-22T01:45:01+00:00"
    assert run["finished"] is None
    assert run["source"] == {"path": str(model), "sha256": hashlib.sha256(b"model").hexdigest(), "bytes": 5}
    assert (run["target"], run["data"]) == ("x86-64", "feeds.npz")
    assert {"cpu", "cores", "memory", "os"} <= set(run["machine"])
    assert {"graphopt", "python", "numpy"} <= set(run["versions"])


def test_lines_are_on_the_disk_when_the_call_returns(folder: RunFolder) -> None:
    for index in range(3):
        folder.append_step({"pass": "sweep", "round": index})
        assert len(lines(folder.path / "steps.jsonl")) == index + 1
    folder.append_measurement({"name": "before"})
    assert lines(folder.path / "measurements.jsonl") == [{"name": "before"}]


def test_a_line_after_a_torn_one_stands_alone(folder: RunFolder) -> None:
    (folder.path / "steps.jsonl").write_text('{"pass": "fo', "utf-8")
    folder.append_step({"pass": "sweep"})
    assert (folder.path / "steps.jsonl").read_text("utf-8") == '{"pass": "fo\n{"pass": "sweep"}\n'


class Colour(Enum):
    RED = auto()
    BLUE = "blue"


@dataclass
class Record:
    number: np.float32
    colours: tuple[Colour, ...]
    where: Path
    hidden: object = field(default=None, repr=False)


def test_records_are_written_as_strict_json(folder: RunFolder) -> None:
    folder.write_verify({"outputs": [{"sqnr_db": math.inf, "max_abs": math.nan, "low": -math.inf}]})
    folder.append_step(Record(np.float32(0.5), (Colour.RED, Colour.BLUE), Path("a/b"), hidden=lambda: None))
    folder.append_step({"shape": np.array([1, 2]), "count": np.int64(3), "text": "\ud800", 5: True})

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    outputs = json.loads((folder.path / "verify.json").read_text("utf-8"), parse_constant=refuse)["outputs"]
    assert outputs == [{"sqnr_db": "inf", "max_abs": "nan", "low": "-inf"}]
    assert lines(folder.path / "steps.jsonl") == [
        {"number": 0.5, "colours": ["red", "blue"], "where": "a/b"},
        {"shape": [1, 2], "count": 3, "text": "?", "5": True},
    ]


def test_finishing_notes_the_time_and_the_error(folder: RunFolder) -> None:
    folder.finish(error="disk full", output="m.opt.onnx")
    run = json.loads((folder.path / "run.json").read_text("utf-8"))
    assert run["error"] == "disk full"
    assert run["output"] == "m.opt.onnx"
    assert run["finished"] is not None
    assert run["command"] == "optimize m.onnx"


def test_no_temporary_file_stays_behind(folder: RunFolder) -> None:
    folder.write_stats({"nodes": 1}, {"nodes": 0})
    folder.write_recipe("[[pass]]")
    folder.finish()
    assert sorted(path.name for path in folder.path.iterdir()) == ["recipe.toml", "run.json", "stats.json"]


def test_a_root_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    root.write_text("")
    with pytest.raises(GraphoptError):
        RunFolder.create(root, "optimize")


def test_a_source_that_is_missing_is_an_error_and_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(GraphoptError, match="cannot be read"):
        RunFolder.create(tmp_path / "runs", "optimize", source=tmp_path / "none.onnx")
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, the disk that is always full")
def test_a_full_disk_is_an_error_that_says_so(folder: RunFolder) -> None:
    (folder.path / "steps.jsonl").symlink_to("/dev/full")
    with pytest.raises(GraphoptError, match="full"):
        folder.append_step({"pass": "sweep"})


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_root_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(GraphoptError):
        RunFolder.create(tmp_path / "runs", "optimize")


def test_what_the_writer_writes_the_report_reads(folder: RunFolder) -> None:
    folder.append_step({"pass": "sweep", "family": "clean", "changed": 2, "kept": 0, "node_delta": -2})
    folder.write_stats({"nodes": 7, "operators": {"Add": 7}}, {"nodes": 5, "operators": {"Add": 5}})
    folder.write_verify({"verdict": "equal", "feeds": 3, "outputs": [], "sqnr_db": math.inf})
    folder.finish()
    page = render(folder.path).read_text("utf-8")
    assert "7 nodes became 5" in page
    assert "The results are the same bit for bit on 3 feeds." in page
