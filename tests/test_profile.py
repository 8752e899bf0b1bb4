"""Profiles: what is known of a form at a size, and the file they are kept in."""

from __future__ import annotations

import json

import pytest

from graphopt.errors import GraphoptError
from graphopt.profile import UNMEASURED, Point, Profile, operator_of

SMALL, LARGE = Point(100, 0.9, 0.8, 0.95), Point(10_000, 1.5, 1.2, 1.55)
PROFILE = Profile(
    {"cpu": "a processor"},
    {"Gelu": (SMALL, LARGE), "com.microsoft::QuickGelu": (SMALL,), "com.microsoft::QuickGelu:silu": (LARGE,)},
    {"Gelu": "grains"},
    {"Swish": "there is no kernel"},
    "2026-11-22",
    2,
)


def test_between_two_sizes_the_ratio_lies_on_a_line_over_the_logarithm() -> None:
    (found,) = PROFILE.points("Gelu", 1000)
    assert found.work == 1000
    assert (found.ratio, found.low, found.high) == pytest.approx((1.2, 1.0, 1.25))
    assert PROFILE.ratio("Gelu", 1000) == pytest.approx(1.2)


def test_beyond_the_measured_sizes_the_nearest_one_counts() -> None:
    assert PROFILE.points("Gelu", 1) == PROFILE.points("Gelu", 0) == (SMALL,)
    assert PROFILE.points("Gelu", 10**12) == (LARGE,)
    assert PROFILE.points("com.microsoft::QuickGelu", 5) == (SMALL,)


def test_without_a_size_all_points_count_and_the_ratio_is_the_worst() -> None:
    assert PROFILE.points("Gelu") == (SMALL, LARGE)
    assert PROFILE.ratio("Gelu") == 1.5
    assert PROFILE.ratio("Mish") is None
    assert PROFILE.points("Mish", 5) == ()


def test_a_variant_that_was_not_measured_is_what_its_operator_is() -> None:
    assert PROFILE.points("Gelu:tanh") == (SMALL, LARGE)
    assert PROFILE.unit("Gelu:tanh") == "grains"
    assert PROFILE.lack("Swish:beta") == "there is no kernel"
    assert PROFILE.points("com.microsoft::QuickGelu:silu") == (LARGE,)
    assert operator_of("com.microsoft::QuickGelu:silu") == "com.microsoft::QuickGelu"
    assert operator_of("Gelu") == "Gelu"


def test_a_profile_asks_the_one_below_it_for_what_it_does_not_know() -> None:
    above = Profile({"cpu": "mine"}, {"Gelu": (LARGE,)}, base=PROFILE)
    assert above.points("Gelu") == (LARGE,)
    assert above.unit("Gelu") == "elements"
    assert above.lack("Swish") == "there is no kernel"
    assert above.points("com.microsoft::QuickGelu") == (SMALL,)
    assert above.source("Gelu") is above and above.source("Swish") is PROFILE and above.source("Mish") is None
    assert above.names() == PROFILE.names()
    assert "base" not in above.to_text()


def test_only_a_profile_that_knows_something_is_true() -> None:
    assert PROFILE and Profile(base=PROFILE) and not UNMEASURED


@pytest.mark.parametrize("profile", [PROFILE, UNMEASURED], ids=["measured", "unmeasured"])
def test_a_profiles_text_reads_back_and_has_a_line_for_each_point(profile: Profile) -> None:
    text = profile.to_text()
    assert Profile.from_text(text, "here") == profile
    assert json.loads(text) == profile.as_json()
    assert text.count('"work"') == sum('"work"' in line for line in text.splitlines())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "[" * 100_000,
        '{"machine": {}, "units": {}}',
        '{"machine": {"versions": 5}, "units": {}, "forms": {}}',
        '{"machine": {}, "units": {}, "forms": {}, "absent": []}',
        '{"machine": {}, "units": {}, "forms": []}',
        '{"machine": {}, "units": {}, "forms": {"Gelu": 5}}',
        '{"machine": {}, "units": {}, "forms": {"Gelu": [{"work": 5}]}}',
        '{"machine": {}, "units": {}, "forms": {"Gelu": [{"work": 0, "ratio": 1, "low": 1, "high": 1}]}}',
        '{"machine": {}, "units": {}, "forms": {"Gelu": [{"work": 1, "ratio": NaN, "low": 1, "high": 1}]}}',
        '{"machine": {}, "units": {}, "forms": {"Gelu": [{"work": 1, "ratio": 1, "low": 2, "high": 3}]}}',
        '{"machine": {}, "units": {}, "forms": {"Gelu": [{"work": 1, "ratio": "x", "low": 2, "high": 3}]}}',
    ],
)
def test_what_is_no_profile_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(GraphoptError, match="no target profile") as caught:
        Profile.from_text(text, "here.json")
    assert caught.value.where == "here.json"
    assert "profile-target" in caught.value.hint
