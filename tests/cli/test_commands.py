"""What each command says and how it ends; called inside this process."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from .conftest import RECIPE, Done, build, command, contents, plain_model

Command = Callable[..., Done]


def events(done: Done) -> list[dict[str, object]]:
    return [json.loads(line) for line in done.out.splitlines()]


def narrow(done: Done) -> bool:
    return all(len(line) <= 80 for line in done.out.splitlines())


def test_help_imports_nothing_heavy(root: Path) -> None:
    code = (
        "import sys\nfrom graphopt.cli import main\nmain(['--help'])\n"
        "print([name for name in ('onnx', 'onnx_ir', 'onnxruntime', 'numpy', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.splitlines()[-1] == "[]"


def test_optimizing_says_what_it_gained_and_writes_the_model(graphopt: Command, folder: Path, model: Path) -> None:
    before = contents(folder)
    done = graphopt("optimize", "model.onnx", "-o", "out.onnx", "--recipe", RECIPE)
    assert (done.code, done.err) == (0, "")
    assert "nodes     3 -> 2  (-33.3 %)" in done.out
    assert "equal bit for bit on 2 feeds" in done.out
    assert "written   out.onnx" in done.out
    assert "eliminate-identity" in done.out
    assert narrow(done)
    assert len(onnx.load(folder / "out.onnx").graph.node) == 2
    after = contents(folder)
    assert after.pop("out.onnx")
    assert after == before


def test_a_dry_run_writes_nothing_and_explains(graphopt: Command, folder: Path) -> None:
    node = helper.make_node("Identity", ["x"], ["y"], "public")
    onnx.save(build([node]), folder / "model.onnx")
    before = contents(folder)
    done = graphopt("optimize", "model.onnx", "--dry-run", "--explain", "--recipe", "eliminate-identity")
    assert done.code == 0
    assert contents(folder) == before
    assert "eliminate-identity kept 1 place" in done.out
    assert "Identity 'public'" in done.out
    assert "written   nothing" in done.out


def test_json_is_one_event_a_line_and_nothing_else(graphopt: Command, model: Path) -> None:
    done = graphopt("optimize", "model.onnx", "-o", "out.onnx", "--recipe", RECIPE, "--json")
    found = events(done)
    kinds = [event["event"] for event in found]
    assert kinds[-1] == "result"
    assert {"progress", "pass-started", "pass-finished", "verify"} <= set(kinds)
    assert found[-1]["verify"]["verdict"] == "equal"
    assert found[-1]["after"]["nodes"] == 2


def test_an_error_is_an_event_too(graphopt: Command, folder: Path) -> None:
    done = graphopt("optimize", "none.onnx", "-o", "out.onnx", "--json")
    assert events(done)[-1]["event"] == "error"
    assert done.err.startswith("error: ")
    assert done.code == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["optimize", "model.onnx"], "-o OUT.onnx"),
        (["optimize"], "missing argument 'MODEL'"),
        (["optimize", "model.onnx", "-o", "./model.onnx"], "the input itself"),
        (["optimize", "model.onnx", "-o", "none/out.onnx"], "does not exist"),
        (["optimize", "model.onnx", "-o", "model.onnx/out.onnx"], "is a file"),
        (["optimize", "model.onnx", "-o", "."], "is a folder"),
        (["optimize", "model.onnx", "-o", "out.onnx", "--recipe", "claen"], "did you mean 'clean'?"),
        (["optimize", "model.onnx", "-o", "out.onnx", "--recipe", "none.toml"], "none.toml"),
        (["optimize", "model.onnx", "-o", "out.onnx", "--target", "x86"], "did you mean"),
        (["optimize", "model.onnx", "-o", "out.onnx", "--verify", "maybe"], "'maybe' is not one of"),
        (["optimize", "model.onnx", "-o", "out.onnx", "--data", "none"], "no such file"),
        (["optimize", "model.onnx", "--dry-run", "--report"], "a dry run writes nothing"),
        (["optimise", "model.onnx"], "did you mean 'optimize'?"),
        (["inspect", "model.onnx", "--dims", "N"], "no name and size"),
        (["inspect", "model.onnx", "--dims", "N=3"], "no input has an open dimension 'N'"),
        (["passes", "eliminate-identiti"], "did you mean 'eliminate-identity'?"),
        (["recipes", "claen"], "did you mean 'clean'?"),
        (["models", "fetch", "ppocr_cls"], "ppocr_cls_v2"),
        (["report", "none"], "no such run folder"),
        (["export", "module:factory"], "'-o'"),
        (["bench"], "missing argument"),
        (["bench", "model.onnx", "--threads", "-1"], "--threads"),
        (["verify", "model.onnx", "none.onnx"], "none.onnx"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_call_is_told_in_three_lines_and_exits_with_2(
    words: list[str], said: str, graphopt: Command, folder: Path, model: Path
) -> None:
    before = contents(folder)
    done = graphopt(*words)
    assert done.code == 2, done.err
    assert done.err.startswith("error: ")
    assert len(done.err.splitlines()) <= 3
    assert said in done.err
    assert done.out == ""
    assert contents(folder) == before


def test_debug_shows_the_traceback(graphopt: Command, folder: Path) -> None:
    done = graphopt("inspect", "none.onnx", "--debug")
    assert "Traceback" in done.err
    assert done.code == 1


def test_a_bug_is_told_in_three_lines(graphopt: Command, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.flows import inspect

    monkeypatch.setattr(inspect, "stats", lambda model: {}["missing"])
    done = graphopt("inspect", "model.onnx")
    assert done.code == 1
    assert done.err.splitlines()[0] == "error: KeyError: 'missing'"
    assert "a bug of graphopt" in done.err


def test_weights_of_the_input_are_not_replaced_by_the_output(graphopt: Command, folder: Path) -> None:
    proto = plain_model(1000)
    onnx.save(proto, folder / "model.onnx", save_as_external_data=True, location="out.onnx.data")
    before = contents(folder)
    done = graphopt("optimize", "model.onnx", "-o", "out.onnx", "--recipe", RECIPE)
    assert done.code == 2
    assert "external data" in done.err
    assert contents(folder) == before


def test_models_that_agree_are_said_to_and_others_are_searched(graphopt: Command, folder: Path, model: Path) -> None:
    nodes = plain_model()
    nodes.graph.node[1].op_type = "MatMul"
    nodes.graph.node.insert(2, helper.make_node("Neg", ["m"], ["negative"], "wrong"))
    nodes.graph.node[3].input[0] = "negative"
    onnx.save(nodes, folder / "other.onnx")
    same = graphopt("verify", "model.onnx", "model.onnx")
    assert same.code == 0 and "equal bit for bit" in same.out
    other = graphopt("verify", "model.onnx", "other.onnx")
    assert other.code == 1
    assert "DIFFERENT" in other.out
    assert "'y' of Relu 'relu' is the first to differ" in " ".join(other.out.split())
    forgiving = graphopt("verify", "model.onnx", "other.onnx", "--atol", "1e9", "--json")
    assert forgiving.code == 0 and events(forgiving)[-1]["ok"] is True


def test_bench_gives_ratios_to_the_first(graphopt: Command, folder: Path, model: Path) -> None:
    done = graphopt("bench", "model.onnx", "model.onnx", "--seconds", "0.1")
    assert done.code == 0, done.err
    assert "1.000" in done.out
    assert "model.onnx (2): " in done.out
    assert narrow(done)


def test_inspect_shows_operators_and_costs(graphopt: Command, model: Path) -> None:
    done = graphopt("inspect", "model.onnx")
    assert done.code == 0, done.err
    assert "x: float[2, 4]" in done.out
    assert "MatMul" in done.out
    assert narrow(done)


def test_names_from_a_model_cannot_command_the_terminal(graphopt: Command, folder: Path) -> None:
    evil = "\x1b]0;owned\x07[red]\u202ename"
    onnx.save(
        build([helper.make_node("Relu", ["x"], [evil], evil), helper.make_node("Abs", [evil], ["y"], evil + "2")]),
        folder / "model.onnx",
    )
    done = graphopt("inspect", "model.onnx")
    assert done.code == 0, done.err
    assert not set("\x1b\x07\u202e") & set(done.out)
    assert "[red]" in done.out


def test_the_report_is_written_beside_everything_else(graphopt: Command, folder: Path, model: Path) -> None:
    done = graphopt("optimize", "model.onnx", "-o", "out.onnx", "--recipe", RECIPE, "--report", "--runs", "all")
    assert done.code == 0, done.err
    (run,) = (folder / "all").iterdir()
    assert {path.name for path in run.iterdir()} == {
        "run.json", "recipe.toml", "steps.jsonl", "stats.json", "verify.json", "measurements.jsonl",
        "model.onnx", "report.html", *(["decisions.jsonl"] if (run / "decisions.jsonl").exists() else []),
    }  # fmt: skip
    assert str(Path("all", run.name, "report.html")) in "".join(done.out.split())
    assert (run / "model.onnx").read_bytes() == (folder / "out.onnx").read_bytes()
    (run / "report.html").unlink()
    again = graphopt("report", run.name, "--runs", "all", "--open", "no")
    assert again.code == 0 and (run / "report.html").is_file()
    assert graphopt("report", "last", "--runs", "all").code == 0
    unfinished = folder / "all" / "newer"
    unfinished.mkdir()
    (unfinished / "run.json").write_text('{"finished": null}')
    assert run.name in graphopt("report", "last", "--runs", "all").out


def test_the_command_that_the_report_shows_works(graphopt: Command, folder: Path, model: Path) -> None:
    from graphopt.report.provenance import commands
    from graphopt.report.reading import read

    np.savez(folder / "feeds.npz", **{"0|x": np.ones((2, 4), np.float32)})
    for given, shown in ((["--seed", "7"], "--seed 7"), (["--data", "feeds.npz"], "--data feeds.npz")):
        runs = f"runs {shown}"
        words = ["-o", "out.onnx", "--recipe", RECIPE, "--report", "--runs", runs, *given]
        assert graphopt("optimize", "model.onnx", *words).code == 0
        (run,) = (folder / runs).iterdir()
        again = commands(read(run))[-1][1]
        assert shown in again
        assert graphopt(*shlex.split(again.replace("\\\n", ""))[1:]).code == 0
        assert (folder / "model.opt.onnx").read_bytes() == (folder / "out.onnx").read_bytes()


@pytest.mark.parametrize("words", [["passes"], ["recipes"], ["models"], ["models", "list"]], ids="_".join)
def test_lists_fit_eighty_columns(words: list[str], graphopt: Command) -> None:
    done = graphopt(*words)
    assert (done.code, done.err) == (0, "")
    assert len(done.out.splitlines()) > 5
    assert narrow(done)


def test_a_pass_is_explained_with_its_options(graphopt: Command) -> None:
    done = graphopt("passes", "fold-constants")
    assert done.code == 0
    assert "exact: the same results, bit for bit" in done.out
    assert "max_bytes" in done.out and "65536" in done.out


def test_a_recipe_is_shown_as_toml_that_reads_back(graphopt: Command) -> None:
    from graphopt.pipeline import Recipe

    done = graphopt("recipes", "fuse")
    Path("again.toml").write_text(done.out)
    assert Recipe.read("again.toml") == Recipe.parse("fuse")
    Path("again.toml").unlink()


def test_where_a_model_is_kept_is_printed(graphopt: Command, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(folder / "cache"))
    done = graphopt("models", "path", "ppocr_cls_v2")
    assert done.out.strip() == str(folder / "cache" / "models" / "ppocr_cls_v2.onnx")
    assert graphopt("models", "fetch", "ppocr_cls_v2", "--offline").code == 1


def test_real_feeds_are_used(graphopt: Command, folder: Path, model: Path) -> None:
    np.savez(folder / "feeds.npz", **{f"{i}|x": np.ones((2, 4), np.float32) for i in range(3)})
    done = graphopt("optimize", "model.onnx", "-o", "out.onnx", "--recipe", RECIPE, "--data", "feeds.npz")
    assert done.code == 0, done.err
    assert "on 3 feeds (feeds.npz)" in done.out


def test_that_only_some_feeds_were_used_is_said(graphopt: Command, folder: Path, model: Path) -> None:
    np.savez(folder / "feeds.npz", **{f"{i}|x": np.ones((2, 4), np.float32) for i in range(10)})
    done = graphopt("optimize", "model.onnx", "-o", "out.onnx", "--recipe", RECIPE, "--data", "feeds.npz")
    assert done.code == 0, done.err
    assert "on 4 of 10 feeds (feeds.npz)" in done.out


def test_nothing_verified_fails_when_strict(graphopt: Command, folder: Path) -> None:
    strange = build([helper.make_node("Strange", ["x"], ["y"], "s", domain="com.example")])
    strange.opset_import.append(helper.make_opsetid("com.example", 1))
    onnx.save(strange, folder / "model.onnx")
    words = ["optimize", "model.onnx", "-o", "out.onnx", "--recipe", RECIPE]
    strict = graphopt(*words, "--strict")
    assert strict.code == 1 and "nothing was verified" in strict.err
    assert not (folder / "out.onnx").exists()
    assert graphopt(*words).code == 0
    assert graphopt(*words, "--strict", "--verify", "off").code == 0


@pytest.mark.skipif(os.name != "posix", reason="a shell closes the streams")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_crash(closed: str, folder: Path, model: Path) -> None:
    words = shlex.join(command(["optimize", "model.onnx", "-o", "out.onnx", "--recipe", RECIPE]))
    done = subprocess.run(f"{words} {closed}", shell=True, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (folder / "out.onnx").is_file()


def test_a_pipe_gets_no_blanks_at_the_ends_of_lines(graphopt: Command, model: Path) -> None:
    for words in (
        ["optimize", "model.onnx", "--dry-run", "--recipe", RECIPE],
        ["passes"],
        ["passes", "fold-constants"],
    ):
        done = graphopt(*words)
        assert done.out and all(line == line.rstrip() for line in done.out.splitlines())


def test_a_pass_is_explained_once(graphopt: Command) -> None:
    said = graphopt("passes", "fuse-batchnorm").out
    assert said.lower().count("batchnormalization into the") + said.lower().count("batch normalisation into the") == 1
    assert "::" not in said and "linear(x; a W, a b + c)" in said


def test_a_ratio_within_the_noise_is_not_told_apart() -> None:
    from graphopt.cli.bench import claim
    from graphopt.execute.measure import Measurement

    facts = {
        "median_ms": 1.0,
        "runs": 9,
        "load_s": 0.1,
        "peak_bytes": 1,
        "file_bytes": 1,
        "threads": 1,
        "provider": "CPU",
    }
    first = Measurement(name="a", ratio=1.0, ratio_low=1.0, ratio_high=1.0, **facts)  # type: ignore[arg-type]
    near = Measurement(name="b", ratio=0.983, ratio_low=0.978, ratio_high=0.987, **facts)  # type: ignore[arg-type]
    around = Measurement(name="b", ratio=0.95, ratio_low=0.9, ratio_high=1.1, **facts)  # type: ignore[arg-type]
    assert claim(first, near) == "b: within 2 % of a, which this measurement cannot tell apart"
    assert claim(first, around) == "b: no difference from a was shown"


def test_a_fact_is_one_line_in_a_pipe(graphopt: Command, model: Path) -> None:
    done = graphopt("optimize", "model.onnx", "--dry-run", "--recipe", RECIPE)
    (line,) = [line for line in done.out.splitlines() if line.startswith("verified")]
    assert "random feeds, seed 0" in line
    (line,) = [line for line in graphopt("targets", "x86-64").out.splitlines() if "recipe" in line]
    assert "place-transposes" in line


@pytest.mark.parametrize(
    ("words", "kind", "keys"),
    [
        (["passes"], "pass", {"name", "family", "fidelity", "summary", "text", "method", "options"}),
        (["passes", "fold-constants"], "pass", {"name", "options"}),
        (["targets"], "target", {"name", "is_host", "recipe", "phases", "profiles", "forms"}),
        (["targets", "x86-64"], "target", {"name", "provider", "domains"}),
        (["recipes"], "recipe", {"name", "path", "summary", "passes", "text", "toml"}),
        (["recipes", "clean"], "recipe", {"name", "passes"}),
        (["models"], "model", {"name", "task", "bytes", "licence", "path", "fetched"}),
        (["models", "list"], "model", {"name", "path"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_lists_are_a_json_line_for_each(words: list[str], kind: str, keys: set[str], graphopt: Command) -> None:
    done = graphopt(*words, "--json")
    found = events(done)
    assert done.code == 0 and found
    assert all(item["event"] == kind and keys <= set(item) for item in found)
    assert len(found) == 1 or len({item["name"] for item in found}) == len(found) > 1


def test_a_name_that_is_unknown_is_an_error_in_json_too(graphopt: Command) -> None:
    done = graphopt("passes", "fold-constant", "--json")
    assert done.code == 2
    assert events(done)[-1]["event"] == "error" and "fold-constants" in str(events(done)[-1]["hint"])


def test_the_page_of_a_run_is_told_in_json(graphopt: Command, folder: Path, model: Path) -> None:
    words = ["optimize", "model.onnx", "-o", "out.onnx", "--recipe", RECIPE, "--report", "--runs", "all"]
    assert graphopt(*words).code == 0
    (found,) = events(graphopt("report", "last", "--runs", "all", "--open", "no", "--json"))
    assert found["event"] == "report" and Path(str(found["page"])).is_file() and Path(str(found["run"])).is_dir()


@pytest.mark.parametrize("name", ["-", "--json"])
def test_an_output_that_is_no_file_is_refused(name: str, graphopt: Command, folder: Path, model: Path) -> None:
    done = graphopt("optimize", "model.onnx", "-o", name)
    assert done.code == 2 and "begins with a dash" in done.err
    assert {path.name for path in folder.iterdir()} == {"model.onnx"}


@pytest.mark.skipif(os.name != "posix", reason="head is a program of Unix")
@pytest.mark.parametrize("option", ["--json", "--explain"])
def test_a_reader_that_leaves_does_not_stop_the_work(option: str, folder: Path, model: Path) -> None:
    words = shlex.join(command(["optimize", "model.onnx", "-o", "out.onnx", "--recipe", RECIPE, option]))
    done = subprocess.run(f"{words} | head -n 1", shell=True, cwd=folder, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert (folder / "out.onnx").is_file()


def test_an_option_without_its_value_names_the_command(graphopt: Command, model: Path) -> None:
    done = graphopt("optimize", "model.onnx", "-o")
    assert done.code == 2 and "where: graphopt optimize" in done.err
    assert "--runs" not in graphopt("optimize", "model.onnx", "--bogus").err
    assert "did you mean --dry-run?" in graphopt("optimize", "model.onnx", "--dryrun").err


def test_flags_take_no_value_in_the_help(graphopt: Command) -> None:
    said = graphopt("optimize", "--help").out
    assert not any("<bool>" in line for line in said.splitlines() if "--help" not in line)


def test_a_second_model_that_does_not_run_is_not_called_different(graphopt: Command, folder: Path, model: Path) -> None:
    strange = build([helper.make_node("Strange", ["x"], ["y"], "s", domain="com.example")])
    strange.opset_import.append(helper.make_opsetid("com.example", 1))
    onnx.save(strange, folder / "other.onnx")
    done = graphopt("verify", "model.onnx", "other.onnx")
    assert done.code == 1 and "DOES NOT RUN" in done.out and "DIFFERENT" not in done.out


def test_why_a_fused_form_was_used_or_refused_is_explained(graphopt: Command, folder: Path) -> None:
    nodes = [
        helper.make_node("HardSigmoid", ["x"], ["h"], "h", alpha=1 / 6, beta=0.5),
        helper.make_node("Mul", ["x", "h"], ["y"], "m"),
    ]
    onnx.save(build(nodes, opset=17), folder / "model.onnx")
    done = graphopt("optimize", "model.onnx", "--dry-run", "--target", "x86-64", "--explain")
    assert done.code == 0, done.err
    assert "fused operators, asked of the target x86-64" in done.out
    assert "HardSwish, 1 node: measured as faster (0." in done.out
    assert "of the time of what it stands for" in done.out
    assert "onnxruntime" in done.out and "sha256" in done.out
