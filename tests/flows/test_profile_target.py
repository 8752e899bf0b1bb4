"""Measuring a target's profile. No test asserts a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import graphopt as go
from graphopt.errors import GraphoptError
from graphopt.events import Event
from graphopt.flows import profile_target as module
from graphopt.flows.microbench import MICROS
from graphopt.flows.optimize import Request
from graphopt.flows.profile_target import profile_target
from graphopt.local import processor
from graphopt.models.builders import small_cnn
from graphopt.profile import Point, Profile
from graphopt.target import find_target, profile_path

QUICK = {"seconds": 0.001}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user's profiles are."""
    monkeypatch.setenv("GRAPHOPT_PROFILES", str(tmp_path / "deep" / "profiles"))
    return tmp_path / "deep" / "profiles"


def test_what_was_measured_is_written_and_used_from_then_on(folder: Path) -> None:
    heard: list[Event] = []
    found = profile_target("x86-64", ["Gemm", "Mish"], events=heard.append, **QUICK)
    assert found.path == folder / "x86-64.json" == profile_path("x86-64")
    assert found.profile.forms.keys() == {"Gemm", "Mish"}
    assert found.profile.units == {"Gemm": "M x N x K"}
    assert found.profile.machine["cpu"] == processor()
    assert found.profile.measured and found.profile.threads == 1
    assert [path.name for path in folder.iterdir()] == ["x86-64.json"]
    for points in found.profile.forms.values():
        assert [point.work for point in points] == sorted(point.work for point in points)
    target = find_target("x86-64")
    assert target.profile.forms == found.profile.forms
    stages = [(event.data["stage"], event.data["form"]) for event in heard]
    assert stages[0] == ("measuring", "Mish")
    assert stages.count(("measured", "Mish")) == len(found.profile.forms["Mish"])
    assert {"target", "path", "forms", "machine"} <= found.as_json().keys()


def test_other_forms_in_the_file_stay_where_they_are_of_this_machine(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = Point(10, 1.5, 1.4, 1.6), Point(10, 0.5, 0.4, 0.6)
    monkeypatch.setattr(module, "_measured", lambda *_: [new])
    first = profile_target("x86-64", ["Mish"]).profile
    path = profile_path("x86-64")
    mine = replace(first, forms={"Gelu": (old,)}, absent={"Mish": "old", "Elu": "old"}, measured="2020-01-01")
    path.write_text(mine.to_text())
    again = profile_target("x86-64", ["Mish"]).profile
    assert again == replace(first, forms={"Gelu": (old,), "Mish": (new,)}, absent={"Elu": "old"})
    assert profile_target("x86-64", ["Mish"], threads=2).profile.forms.keys() == {"Mish"}
    path.write_text(replace(mine, machine={**first.machine, "cpu": "a Cray"}).to_text())
    assert profile_target("x86-64", ["Mish"]).profile.forms.keys() == {"Mish"}
    path.write_text("broken")
    assert profile_target("x86-64", ["Mish"]).profile.forms.keys() == {"Mish"}


def test_without_forms_all_that_the_target_takes_are_measured_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_measured", lambda *_: [Point(10, 0.5, 0.4, 0.6)])
    profile_target("x86-64", ["Mish"])
    assert profile_target("x86-64").profile.forms.keys() == MICROS.keys()
    standard = {form for form in MICROS if "::" not in form}
    assert profile_target("onnx").profile.forms.keys() == standard


def test_a_form_that_cannot_be_used_is_recorded_with_its_reason(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Event] = []
    monkeypatch.setattr(module, "_measured", lambda *_: "the process crashed (SIGSEGV)")
    found = profile_target("x86-64", ["Mish"], output=tmp_path / "p.json", events=heard.append)
    assert found.profile.absent == {"Mish": "the process crashed (SIGSEGV)"}
    assert heard[-1].data == {
        "stage": "unusable",
        "form": "Mish",
        "number": 1,
        "of": 1,
        "reason": found.profile.absent["Mish"],
    }
    assert Profile.from_text((tmp_path / "p.json").read_text(), "") == found.profile
    assert not folder.exists()


def test_a_measurement_that_takes_too_long_or_crashes_is_no_error_of_the_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHILD_SECONDS", -1000.0)
    found = profile_target("x86-64", ["Mish"], **QUICK).profile
    assert "no answer" in found.absent["Mish"]


@pytest.mark.parametrize(
    ("target", "forms", "said"),
    [
        ("x86-64", ["Geluu"], "did you mean 'Gelu'?"),
        ("x86-64", ["nothing at all"], "there are: "),
        ("onnx", ["com.microsoft::Gelu"], "takes no operators of com.microsoft"),
        ("x86", [], "did you mean"),
    ],
)
def test_wrong_calls_are_told_before_anything_runs(target: str, forms: list[str], said: str, folder: Path) -> None:
    with pytest.raises(GraphoptError) as caught:
        profile_target(target, forms)
    assert caught.value.usage
    assert said in f"{caught.value.what} {caught.value.hint}"
    assert not folder.exists()


def test_a_target_that_cannot_run_here_is_an_error(folder: Path) -> None:
    with pytest.raises(GraphoptError, match="CUDAExecutionProvider"):
        profile_target("cuda")


def test_a_place_that_cannot_be_written_is_told_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(GraphoptError, match="does not exist"):
        profile_target("x86-64", output=tmp_path / "none" / "p.json")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GRAPHOPT_PROFILES", str(tmp_path / "file" / "profiles"))
    with pytest.raises(GraphoptError, match="cannot be made") as caught:
        profile_target("x86-64")
    assert "GRAPHOPT_PROFILES" in caught.value.hint


def test_optimizing_tells_when_a_profile_is_not_used(folder: Path, tmp_path: Path) -> None:
    folder.mkdir(parents=True)
    profile_path("x86-64").write_text(Profile({"cpu": "a Cray"}, {}).to_text())
    heard: list[Event] = []
    go.optimize(small_cnn(), None, Request(target="x86-64", verify="off", recipe="clean", events=heard.append))
    notes = [event.data["text"] for event in heard if event.kind == "note"]
    assert any("a Cray" in note for note in notes)
