from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphopt.errors import GraphoptError
from graphopt.report import render

Render = Callable[[Path], Any]

SECTIONS = (
    "Before and after",
    "Speed and accuracy",
    "Passes",
    "Operators",
    "Outputs",
    "Recipe and how to reproduce",
    "Provenance",
)


def append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write(text)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def test_a_whole_run_shows_its_key_numbers(rendered: Render, run: Path) -> None:
    text = rendered(run).text
    assert "1,884 nodes became 1,872" in text
    assert "the weights stay at 4.00 MiB" in text
    assert "it is 1.43× as fast (0.70× the time, 95 % interval 0.68–0.72)" in text
    assert "Both outputs are within tolerance on 8 feeds." in text
    assert "2.31 ms → 1.62 ms" in text
    for heading in SECTIONS:
        assert heading in text
    for fact in (
        "Example CPU 9000",
        "32.0 GiB",
        "1.31.1",
        "ab" * 32,
        "22 November 2026, 01:45 (UTC)",
        "8.25 s",
    ):
        assert fact in text


def test_a_pass_shows_every_site_and_each_reason_with_its_count(rendered: Render, run: Path) -> None:
    text = rendered(run).text
    assert "4 places kept for 2 reasons · 12 places changed: folded into Conv ‘…’" in text
    assert "12 folded into Conv ‘…’" in text
    for index in range(12):
        assert f"BatchNormalization 'x{index}' folded into Conv 'x{index}'" in text
    assert "3 its scale ‘…’ is not a constant" in text
    assert "1 the Conv has another reader BatchNormalization 'sharedx'" in text
    assert "fuse-batchnorm limit=3" in text


def test_the_summary_has_transposes_operations_and_the_peak_before_and_after(rendered: Render, run: Path) -> None:
    text = rendered(run).text
    assert "Transposes 9 2 −78 %" in text
    assert "Casts 0 0 same" in text
    assert "FLOPs 4.20 G 4.10 G −2.4 %" in text
    assert "Peak of activations 2.00 MiB 1.00 MiB −50 %" in text
    assert "FLOPs and activations are counted for N=4." in text


def test_operations_counted_in_part_are_not_compared(rendered: Render, run: Path) -> None:
    stats = json.loads((run / "stats.json").read_text("utf-8"))
    stats["after"]["cost_notes"] = ["operations not counted for com.microsoft::MultiHeadAttention"]
    edit(run / "stats.json", after=stats["after"])
    text = rendered(run).text
    assert "FLOPs 4.20 G 4.10 G partly counted" in text
    assert "After: operations not counted for com.microsoft::MultiHeadAttention." in text
    assert "Peak of activations 2.00 MiB 1.00 MiB −50 %" in text


def test_fused_operators_are_shown_with_their_measurement_and_its_origin(rendered: Render, run: Path) -> None:
    text = rendered(run).text
    assert "Gelu used 0 → 4 0.58–0.70×" in text
    assert "1,024–4,096 elements measured as faster" in text
    assert "com.microsoft::SkipLayerNormalization refused" in text and "measured as slower" in text
    assert "Profile measured on this machine: Example CPU 9000, 2 threads, onnxruntime 1.31.1, 2026-11-22" in text
    assert "shipped with graphopt, measured on Another CPU, 1 thread" in text
    assert "another processor than this run’s" in text


def test_a_target_without_measurements_says_so(rendered: Render, run: Path) -> None:
    edit(run / "run.json", profiles=[])
    text = rendered(run).text
    assert "Nothing was measured of x86-64" in text
    (run / "decisions.jsonl").unlink()
    assert "Fused operators" not in rendered(run).text


def test_passes_with_the_most_to_tell_come_first_and_idle_ones_are_folded_away(rendered: Render, run: Path) -> None:
    tidy = {"pass": "lift-constants", "changed": 2, "kept": 0, "node_delta": 0}
    tidy |= {
        "sites": [
            {"where": f"Constant 'c{i}'", "text": f"one of shape [{i}] ({i})", "status": "changed"} for i in (1, 2)
        ]
    }
    fuse = {"pass": "fuse-gelu", "changed": 1, "kept": 0, "node_delta": -4}
    shy = {"pass": "merge-siblings", "changed": 0, "kept": 1, "node_delta": 0}
    shy |= {"sites": [{"where": "MatMul 'q'", "text": "no gain", "status": "kept"}]}
    for step in (tidy, fuse, shy):
        append(run / "steps.jsonl", json.dumps(step) + "\n")
    text = rendered(run).text
    order = [
        text.index(f"{name} ", text.index("Kept Time")) for name in ("merge-siblings", "fuse-gelu", "lift-constants")
    ]
    assert order == sorted(order)
    assert "1 place kept: no gain" in text
    assert "2 places changed: one of shape […] (…)" in text
    assert text.index("1 pass found nothing to do") < text.index("no-op-cast")


def test_an_edit_that_was_left_out_is_said_before_the_passes(rendered: Render, run: Path) -> None:
    text = rendered(run).text
    assert "1 edit was left out" in text
    assert text.index("BatchNormalization 'guiltyx'") < text.index("Filter passes")


def test_operators_that_vanished_and_new_ones_are_marked(rendered: Render, run: Path) -> None:
    text = rendered(run).text
    assert "BatchNormalization12 →to 0gone" in text
    assert "HardSwish0 →to 4new" in text
    assert text.index("Conv1,000") < text.index("Relu872")


def test_an_equal_output_is_called_exact(rendered: Render, run: Path) -> None:
    text = rendered(run).text
    assert "int64scalar00exactexact yes" in text
    assert "float321 × N × 10006.0e−81.3e−6138.4 dBrtol 0.0001, atol 1e−5 yes" in text


def test_a_failed_output_outweighs_the_word_of_the_verdict(rendered: Render, run: Path) -> None:
    bad = {
        "name": "y",
        "dtype": "float32",
        "shape": [2],
        "max_abs": "nan",
        "max_rel": None,
        "sqnr_db": "-inf",
    }
    bad |= {"ok": False, "reason": "NaN where 1.0 is expected", "tolerance": 1e-5}
    edit(run / "verify.json", outputs=[bad])
    text = rendered(run).text
    assert "Results differ" in text
    assert "1 of 1 output is beyond tolerance on 8 feeds." in text
    assert "NaN where 1.0 is expected" in text


def test_problems_of_the_comparison_are_an_alert(rendered: Render, run: Path) -> None:
    edit(run / "verify.json", verdict="different", outputs=[], problems=["output 'y' is missing"])
    text = rendered(run).text
    assert "Results differ" in text
    assert "output 'y' is missing" in text


def test_an_interval_around_one_is_called_no_difference(rendered: Render, run: Path) -> None:
    lines = [json.loads(line) for line in (run / "measurements.jsonl").read_text("utf-8").splitlines()]
    lines[1] |= {"ratio": 0.99, "ratio_low": 0.97, "ratio_high": 1.02}
    (run / "measurements.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    assert "no difference in speed could be measured (0.99× the time" in rendered(run).text


def test_a_ratio_within_the_noise_is_not_called_a_difference(rendered: Render, run: Path) -> None:
    lines = [json.loads(line) for line in (run / "measurements.jsonl").read_text("utf-8").splitlines()]
    lines[1] |= {"ratio": 0.983, "ratio_low": 0.978, "ratio_high": 0.987}
    (run / "measurements.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    assert "which this measurement cannot tell apart" in rendered(run).text


def test_a_slower_result_is_called_slower(rendered: Render, run: Path) -> None:
    lines = [json.loads(line) for line in (run / "measurements.jsonl").read_text("utf-8").splitlines()]
    lines[1] |= {"ratio": 1.25, "ratio_low": 1.2, "ratio_high": 1.31}
    (run / "measurements.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    assert "it is slower (1.25× the time" in rendered(run).text


def test_the_same_folder_gives_the_same_bytes(run: Path) -> None:
    first = render(run).read_bytes()
    assert render(run).read_bytes() == first


def test_the_page_needs_nothing_from_outside(rendered: Render, run: Path) -> None:
    page = rendered(run)
    source = (run / "report.html").read_text("utf-8")
    assert not re.search(r"https?://|@import|url\(", source)
    loads = [(tag, attrs) for tag, attrs in page.tags if attrs.get("src") or tag in ("link", "iframe")]
    assert loads == []
    links = [attrs["href"] or "" for tag, attrs in page.tags if tag == "a"]
    ids = {attrs.get("id") for _, attrs in page.tags}
    assert all(link.startswith("#") and link[1:] in ids for link in links)


def test_hostile_names_are_text_and_nothing_else(rendered: Render, run: Path, hostile: Path) -> None:
    friendly, attacked = rendered(run), rendered(hostile)
    assert attacked.count("script") == friendly.count("script") == 1
    assert attacked.count("img") == 0
    assert "<script>alert('x')</script>" in attacked.text
    assert not any(char in attacked.text for char in "\x00\u202e")
    assert not any(key.startswith("on") for _, attrs in attacked.tags for key in attrs)


def test_a_site_list_of_a_huge_model_is_cut_with_a_pointer_to_the_file(rendered: Render, run: Path) -> None:
    sites = [{"where": f"Add 'a{i}'", "text": "it is needed", "status": "kept"} for i in range(5000)]
    append(run / "steps.jsonl", json.dumps({"pass": "sweep", "sites": sites}) + "\n")
    text = rendered(run).text
    assert "5,000 it is needed" in text
    assert "and 3,000 more, listed in steps.jsonl" in text


@pytest.mark.parametrize(
    "name",
    [
        "run.json",
        "steps.jsonl",
        "stats.json",
        "verify.json",
        "measurements.jsonl",
        "decisions.jsonl",
        "recipe.toml",
        "model.onnx",
    ],
)
def test_any_file_may_be_missing(rendered: Render, run: Path, name: str) -> None:
    (run / name).unlink()
    text = rendered(run).text
    assert all(heading in text for heading in SECTIONS)


def test_missing_parts_are_shown_as_not_measured(rendered: Render, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("", "utf-8")
    text = rendered(tmp_path).text
    for part in ("Passes", "Latency", "Size", "Accuracy", "Operators", "Differences of the outputs"):
        assert f"{part}: not measured in this run." in text
    assert "Not verified" in text


def test_a_torn_last_line_is_said_and_the_rest_is_shown(rendered: Render, run: Path) -> None:
    append(run / "steps.jsonl", '{"pass": "fold-const')
    edit(run / "run.json", finished=None)
    text = rendered(run).text
    assert "The last line of steps.jsonl is torn: the run was interrupted while writing it." in text
    assert "The run did not finish" in text
    assert "fuse-batchnorm" in text


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "\x00\xff",
        '{"before": 7, "after": [], "outputs": {"a": 1}, "verdict": {}}',
        '{"feeds": "inf", "source": "x", "machine": 3, "problems": [1, null], "notes": "x"}',
        '{"before": {"nodes": -1, "bytes": 1e999, "operators": [1]}, "after": {"operators": {"A": "b"}}}',
        '{"before": {"nodes": 0}, "after": {"nodes": 1e400, "bytes": 3, "operators": {"A": 1e30}}}',
        '{"outputs": [null, 3, {}, {"shape": {"a": [1]}, "sqnr_db": "nan"}]}',
        '{"outputs": [{"name": "y", "max_abs": "x", "ok": 1, "tolerance": [1]}]}',
        '{"created": 7, "command": [1, null, {}], "source": {"path": 3, "bytes": "x"}}',
        '{"versions": ["a"], "seconds": -1, "machine": {"memory": "much", "isa": [1, {}]}}',
        '{"command": "optimize \'unbalanced", "created": "yesterday", "error": ["a"], "id": 5}',
        "[" * 100_000,
    ],
)
@pytest.mark.parametrize("name", ["run.json", "stats.json", "verify.json"])
def test_malformed_json_never_stops_the_page(rendered: Render, run: Path, name: str, content: str) -> None:
    (run / name).write_text(content, "latin-1")
    assert all(heading in rendered(run).text for heading in SECTIONS)


@pytest.mark.parametrize(
    "line",
    [
        "3",
        "{}",
        '{"pass": 7, "sites": [1, {}, {"where": [], "text": 3, "status": null}]}',
        '{"pass": "a{b{c}}", "changed": "many", "kept": -1, "seconds": "nan", "round": 1e9}',
        '{"name": null, "ratio": 0, "ratio_low": 0, "ratio_high": 1e308, "median_ms": -1}',
        '{"name": "a", "peak_bytes": 1e300, "file_bytes": 0, "load_s": 1e300}',
        '{"pass": "\\ud800", "name": "\\udfff", "ratio": "inf", "ratio_low": 0.5, "ratio_high": "inf"}',
        '{"pass": "a", "nodes_before": 99999999999999999999999999, "nodes_after": 1, "node_delta": 1e18}',
    ],
)
@pytest.mark.parametrize("name", ["steps.jsonl", "measurements.jsonl", "decisions.jsonl"])
def test_malformed_lines_never_stop_the_page(rendered: Render, run: Path, name: str, line: str) -> None:
    append(run / name, line + "\n")
    assert all(heading in rendered(run).text for heading in SECTIONS)
    (run / name).write_text(line + "\n", "utf-8")
    assert all(heading in rendered(run).text for heading in SECTIONS)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphoptError, match="holds no run"):
        render(tmp_path)
    with pytest.raises(GraphoptError, match="no such run folder"):
        render(tmp_path / "nowhere")


def test_nothing_but_the_page_is_left_in_the_folder(run: Path) -> None:
    before = {path.name for path in run.iterdir()}
    render(run)
    assert {path.name for path in run.iterdir()} == before | {"report.html"}


def test_the_command_and_the_recipe_say_how_to_reproduce(rendered: Render, run: Path) -> None:
    text = rendered(run).text
    assert "graphopt optimize x.onnx -o out.onnx" in text
    assert f"--recipe all/{run.name}/recipe.toml" in text
    assert "--data feeds.npz" in text and "--seed" not in text
    assert 'name = "fuse-batchnorm"' in text


def test_random_feeds_are_reproduced_by_their_seed(rendered: Render, run: Path) -> None:
    edit(run / "run.json", data="random feeds, seed 7", data_path=None)
    text = rendered(run).text
    assert "--seed 7" in text and "--data" not in text


def test_a_verdict_on_some_of_the_feeds_says_of_how_many(rendered: Render, run: Path) -> None:
    edit(run / "run.json", samples=10)
    assert "on 8 of 10 feeds" in rendered(run).text


def test_a_moved_folder_renders_the_same_page(run: Path, tmp_path: Path) -> None:
    page = render(run).read_bytes()
    moved = tmp_path / "elsewhere"
    shutil.move(run, moved)
    assert render(moved).read_bytes() == page
