"""``graphopt profile-target`` and ``graphopt targets NAME``: what they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from graphopt.flows import profile_target as flow
from graphopt.local import processor
from graphopt.profile import Point, Profile
from graphopt.target import profile_path

from .conftest import Done

Command = Callable[..., Done]
POINTS = [Point(768, 0.7, 0.6, 0.8), Point(98_304, 1.0, 0.9, 1.1), Point(1_048_576, 2.0, 1.9, 2.1)]
LONG = "com.microsoft::SkipSimplifiedLayerNormalization"


@pytest.fixture
def profiles(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user's profiles are: a folder that does not exist yet."""
    monkeypatch.setenv("GRAPHOPT_PROFILES", str(folder / "profiles"))
    return folder / "profiles"


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is measured: Mish has no kernel, every other form has the same three points."""
    monkeypatch.setattr(flow, "_measured", lambda micro, *_: "there is no kernel" if micro.form == "Mish" else POINTS)


def narrow(done: Done) -> bool:
    return all(len(line) <= 80 for line in done.out.splitlines() if "written" not in line)


def test_a_form_is_measured_and_its_profile_used(graphopt: Command, profiles: Path) -> None:
    done = graphopt("profile-target", "--forms", "Mish", "--seconds", "0.01")
    assert (done.code, done.err) == (0, "")
    assert "1 of 1: Mish" in done.out
    assert "it is used from now on" in " ".join(done.out.split())
    assert len(list(profiles.iterdir())) == 1


def test_the_table_has_a_verdict_for_every_size(graphopt: Command, profiles: Path, fast: None) -> None:
    done = graphopt("profile-target", "--target", "x86-64", "--forms", f"{LONG},Gemm", "--forms", "Mish")
    assert done.code == 0, done.err
    assert narrow(done)
    for words in ("faster", "same", "slower", "0.60..0.80", "1,048,576", "(M x N x K)"):
        assert words in done.out
    assert "SkipSimplifiedLayerNormalization  " in done.out
    assert "Mish cannot be used: there is no kernel" in done.out


def test_json_has_an_event_for_every_point_and_the_profile_at_last(
    graphopt: Command, folder: Path, profiles: Path, fast: None
) -> None:
    done = graphopt("profile-target", "--forms", "Gelu Mish", "--json", "--output", "p.json", "--threads", "2")
    events = [json.loads(line) for line in done.out.splitlines()]
    stages = ["measuring", "measured", "measured", "measured", "measuring", "unusable"]
    assert [event.get("stage") for event in events] == [*stages, None]
    assert events[1]["work"] == 768 and events[1]["ratio"] == 0.7
    assert events[-1]["event"] == "result" and events[-1]["path"] == "p.json"
    assert events[-1]["absent"] == {"Mish": "there is no kernel"}
    assert Profile.from_text((folder / "p.json").read_text(), "").threads == 2
    assert not profiles.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--forms", "Geluu"], "did you mean 'Gelu'?"),
        (["--target", "x86"], "did you mean"),
        (["--target", "cuda"], "CUDAExecutionProvider"),
        (["--output", "none/p.json"], "does not exist"),
        (["--seconds", "0"], "--seconds"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_call_exits_with_2_and_leaves_nothing(
    words: list[str], said: str, graphopt: Command, folder: Path, profiles: Path
) -> None:
    done = graphopt("profile-target", *words)
    assert done.code == 2, done.err
    assert said in done.err and len(done.err.splitlines()) <= 3
    assert done.out == ""
    assert list(folder.rglob("*.json")) == []


def test_a_target_is_shown_with_what_was_measured_of_it(graphopt: Command, profiles: Path) -> None:
    plain = graphopt("targets", "onnx")
    assert plain.code == 0 and "profile unmeasured" in plain.out and "verdict" not in plain.out
    machine = {"cpu": processor(), "versions": {"onnxruntime": "1.2.3"}}
    profiles.mkdir()
    profile = Profile(machine, {LONG: tuple(POINTS)}, absent={"Mish": "there is no kernel"}, measured="2026-11-22")
    profile_path("x86-64").write_text(profile.to_text())
    for words in (["targets", "x86-64"], ["targets"]):
        done = graphopt(*words)
        assert (done.code, done.err) == (0, "")
        assert "onnxruntime 1.2.3, 2026-11-22" in " ".join(done.out.split())
        assert "profile on this machine: " in done.out
    shown = graphopt("targets", "x86-64").out
    assert "SkipSimplifiedLayerNormalization" in shown and "0.60..0.80" in shown and "there is no kernel" in shown


def test_a_profile_of_another_machine_is_told(graphopt: Command, profiles: Path) -> None:
    profiles.mkdir()
    profile_path("x86-64").write_text(Profile({"cpu": "a Cray"}, {"Gelu": tuple(POINTS)}).to_text())
    assert "it was measured on a Cray" in " ".join(graphopt("targets", "x86-64").out.split())


def test_an_unknown_target_is_told_with_the_nearest(graphopt: Command) -> None:
    done = graphopt("targets", "x86")
    assert done.code == 2 and "did you mean" in done.err
