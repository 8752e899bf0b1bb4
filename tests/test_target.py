"""The target decides: objections and likings, and where a target's profile comes from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from graphopt import target as module
from graphopt.execute.machine import machine
from graphopt.local import processor
from graphopt.profile import Point, Profile
from graphopt.target import Target, find_target, profile_path, targets

FASTER, SLOWER = Point(100, 0.7, 0.6, 0.8), Point(10_000, 1.5, 1.4, 1.6)
NOISE, EVEN = Point(100, 1.5, 0.9, 2.0), Point(10_000, 1.01, 1.005, 1.015)
TAKES = frozenset({"", "com.microsoft"})


def measured(**forms: tuple[Point, ...]) -> Target:
    return Target("here", "for tests", domains=TAKES, profile=Profile({"cpu": "x"}, forms))


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the user's own profile of x86-64; graphopt brings another one."""
    monkeypatch.setenv("GRAPHOPT_PROFILES", str(tmp_path / "mine"))
    monkeypatch.setattr(module, "PROFILES", tmp_path / "packaged")
    (tmp_path / "mine").mkdir()
    (tmp_path / "packaged").mkdir()
    packaged = Profile({"cpu": "elsewhere"}, {"Gelu": (SLOWER,), "Mish": (SLOWER,)})
    (tmp_path / "packaged" / "x86-64.json").write_text(packaged.to_text())
    return profile_path("x86-64")


def test_a_form_that_is_slower_at_a_size_is_objected_to_there_and_nowhere_else() -> None:
    target = measured(Gelu=(FASTER, SLOWER))
    assert target.objection("Gelu", 10_000) == "Gelu takes 1.50 times as long on here, at 10,000 elements"
    assert target.objection("Gelu", 100) is None
    assert target.likes("Gelu", 100) and not target.likes("Gelu", 10_000)


def test_of_an_unknown_size_the_worst_is_assumed() -> None:
    target = measured(Gelu=(FASTER, SLOWER), Mish=(FASTER,))
    assert "at 10,000 elements" in (target.objection("Gelu") or "")
    assert not target.likes("Gelu")
    assert target.objection("Mish") is None
    assert target.likes("Mish")


def test_noise_is_neither_slower_nor_faster() -> None:
    target = measured(Gelu=(NOISE,), Mish=(EVEN,), Elu=(Point(1, 0.7, 0.5, 1.1),))
    for form in ("Gelu", "Mish", "Elu"):
        for work in (None, 1, 100, 10**6):
            assert target.objection(form, work) is None
            assert not target.likes(form, work)


def test_a_noisy_size_does_not_hide_one_that_is_surely_slower() -> None:
    target = measured(Gelu=(Point(10, 3.0, 0.5, 9.0), SLOWER))
    assert "1.50 times" in (target.objection("Gelu") or "")


def test_standard_forms_are_welcome_unmeasured_and_others_only_when_they_are_listed() -> None:
    target = Target("here", "for tests", domains=TAKES, forms=frozenset({"com.microsoft::Gelu", "Gelu"}))
    assert target.objection("Mish") is None
    assert target.objection("com.microsoft::Gelu") is None
    assert target.objection("com.microsoft::Gelu:tanh") is None
    assert target.objection("com.microsoft::FastGelu") == "com.microsoft::FastGelu has not been measured on here"
    assert target.likes("Gelu") and target.likes("Gelu:tanh") and not target.likes("Mish")


def test_what_was_measured_overrules_what_is_listed() -> None:
    target = replace(measured(Gelu=(SLOWER,)), forms=frozenset({"Gelu"}))
    assert target.objection("Gelu") is not None
    assert not target.likes("Gelu")


def test_domains_and_operators_that_a_target_does_not_take_are_refused() -> None:
    plain = targets()["onnx"]
    assert plain.objection("com.microsoft::Gelu") == "the target onnx takes no operators of com.microsoft"
    target = Target("here", "for tests", lacks=frozenset({"Gelu"}))
    assert target.objection("Gelu:tanh") == "the target here has no Gelu:tanh"


def test_a_form_that_was_found_to_be_unusable_is_refused() -> None:
    target = Target("here", "for tests", profile=Profile(absent={"Gelu": "its results are wrong"}))
    assert target.objection("Gelu") == "Gelu does not work on here: its results are wrong"
    assert not replace(target, forms=frozenset({"Gelu"})).likes("Gelu")


def test_what_was_measured_here_wins_form_by_form(mine: Path) -> None:
    assert "1.50" in (find_target("x86-64").objection("Gelu") or "")
    mine.write_text(Profile({"cpu": processor()}, {"Gelu": (FASTER,)}).to_text())
    target = find_target("x86-64")
    assert target.notes == ()
    assert target.likes("Gelu")
    assert "1.50" in (target.objection("Mish") or "")
    assert find_target("onnx").profile == Profile()


def test_what_was_measured_on_another_processor_is_ignored_with_a_note(mine: Path) -> None:
    mine.write_text(Profile({"cpu": "a Cray"}, {"Gelu": (FASTER,)}).to_text())
    target = find_target("x86-64")
    assert not target.likes("Gelu")
    (note,) = target.notes
    assert "a Cray" in note and str(mine) in note


def test_what_was_measured_with_another_runtime_is_used_with_a_note(mine: Path) -> None:
    machine_then = {"cpu": processor(), "versions": {"onnxruntime": "0.1"}}
    mine.write_text(Profile(machine_then, {"Gelu": (FASTER,)}).to_text())
    target = find_target("x86-64")
    assert target.likes("Gelu")
    assert "onnxruntime 0.1" in target.notes[0] and "profile-target" in target.notes[0]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b'{"forms": 5}'])
def test_a_broken_profile_is_ignored_with_a_note(content: bytes, mine: Path) -> None:
    mine.write_bytes(content)
    target = find_target("x86-64")
    assert "1.50" in (target.objection("Gelu") or "")
    assert "is not used" in target.notes[0]


def test_a_folder_in_a_profiles_place_is_ignored_with_a_note(mine: Path) -> None:
    mine.mkdir()
    assert "cannot be read" in find_target("x86-64").notes[0]


def test_the_presets_themselves_carry_no_profile() -> None:
    assert not any(target.profile for target in targets().values())


def test_every_profile_that_comes_with_graphopt_reads_and_belongs_to_a_target() -> None:
    found = {path.stem: Profile.from_text(path.read_text(), str(path)) for path in module.PROFILES.glob("*.json")}
    assert found.keys() <= targets().keys()
    assert found.keys() >= {"x86-64", "arm64"}
    for profile in found.values():
        assert bool(profile.machine) == bool(profile.measured) == bool(profile)


def test_the_processors_name_is_the_one_in_the_machines_facts() -> None:
    assert machine()["cpu"] == processor() != ""


def test_profiles_are_kept_in_the_cache_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRAPHOPT_PROFILES", raising=False)
    monkeypatch.setenv("GRAPHOPT_CACHE", "/somewhere")
    assert profile_path("x86-64") == Path("/somewhere/profiles/x86-64.json")
