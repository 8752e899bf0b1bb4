from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from graphopt.flows.decisions import AskedTarget, Decision, decisions, profiles
from graphopt.flows.stats import ModelStats
from graphopt.pipeline import Outcome, Recipe
from graphopt.profile import Point, Profile
from graphopt.target import find_target, targets

PROFILE = Profile(
    forms={
        "Gelu": (Point(1000, 0.5, 0.4, 0.6), Point(4000, 1.5, 1.4, 1.6)),
        "com.microsoft::QuickGelu": (Point(1000, 1.0, 0.9, 1.1),),
    },
    absent={"com.microsoft::BiasGelu": "no kernel"},
)


def asked(profile: Profile = PROFILE) -> AskedTarget:
    return AskedTarget.of(replace(targets()["x86-64"], profile=profile, forms=frozenset({"HardSigmoid"})))


def stats(**operators: int) -> ModelStats:
    return ModelStats(sum(operators.values()), 0, 0, 0, operators, 20)


def outcome(*kept: str) -> Outcome:
    (applied,) = Recipe.parse("eliminate-identity").passes
    return Outcome(applied, kept=[("Gelu 'g'", text) for text in kept])


def told(target: AskedTarget, *kept: str, **after: int) -> list[Decision]:
    return list(decisions(target, [outcome(*kept)], stats(Erf=1), stats(**after)))


def test_it_answers_as_the_target_does() -> None:
    plain, target = replace(targets()["x86-64"], profile=PROFILE), asked()
    for form in ("Gelu", "com.microsoft::QuickGelu", "com.microsoft::BiasGelu", "org.example::Gelu", "Swish"):
        for work in (None, 500, 4000):
            assert target.objection(form, work) == plain.objection(form, work)
            assert target.likes(form, work) == plain.likes(form, work)
    assert target.name == plain.name and target.recipe == plain.recipe


def test_a_used_form_has_its_ratio_at_the_size() -> None:
    target = asked()
    target.objection("Gelu", 1000)
    (found,) = told(target, Gelu=2)
    assert (found.verdict, found.why, found.ratio, found.sizes) == ("used", "measured as faster", (0.5, 0.5), (1000,))
    assert (found.before, found.after, found.origin) == (0, 2, "packaged")
    assert found.measured() == "0.50 of the time of what it stands for, at 1,000 elements"


def test_a_form_refused_for_an_open_size_says_so() -> None:
    target = asked()
    said = target.objection("Gelu")
    assert said is not None
    (found,) = told(target, said)
    assert found.verdict == "refused"
    assert found.why == "measured as slower at some sizes, and sizes are open before the run"
    assert found.measured() == "0.50..1.50 of the time of what it stands for, at the measured sizes"


def test_what_a_pass_asks_of_all_forms_before_it_has_found_a_place_is_no_decision() -> None:
    target = asked()
    target.objection("Gelu")
    target.objection("Swish")
    assert told(target, "its scale is not a constant") == []


def test_used_refused_and_passed_over_come_in_that_order() -> None:
    target = asked()
    target.objection("com.microsoft::QuickGelu", 1000)
    target.objection("Gelu", 4000)
    target.likes("HardSigmoid", 10)
    target.objection("com.microsoft::BiasGelu", 4000)
    found = told(target, HardSigmoid=1)
    assert [(item.form, item.verdict) for item in found] == [
        ("HardSigmoid", "used"),
        ("Gelu", "refused"),
        ("com.microsoft::BiasGelu", "refused"),
        ("com.microsoft::QuickGelu", "not used"),
    ]
    assert [item.why for item in found[:3]] == [
        "not measured; known to be faster there",
        "measured as slower",
        "com.microsoft::BiasGelu does not work on x86-64: no kernel",
    ]
    assert found[0].measured() == ""


def test_profiles_say_which_file_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_PROFILES", str(tmp_path))
    (packaged,) = profiles(find_target("x86-64"))
    assert (packaged["origin"], packaged["path"]) == ("packaged", "graphopt/profiles/x86-64.json")
    assert packaged["cpu"] and len(packaged["sha256"]) == 64
    assert profiles(find_target("cuda")) == []
    here = replace(find_target("x86-64"), profile=replace(PROFILE, base=find_target("x86-64").profile))
    local, below = profiles(here)
    assert (local["origin"], local["path"], local["forms"]) == ("local", str(tmp_path / "x86-64.json"), 2)
    assert below == packaged


def test_a_form_that_is_no_operator_is_told_in_words() -> None:
    target = asked()
    target.likes("MergedMatMul", 100)
    target.objection("Gelu", 1000)
    found = told(target, Gelu=1)
    assert {item.form: item.meaning for item in found} == {
        "Gelu": "",
        "MergedMatMul": "several MatMuls of one tensor as one",
    }
