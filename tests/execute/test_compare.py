"""Comparing values: what is equal, what rounding explains, what is a difference."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.execute.compare import EXACT, Tolerance, compare, difference, tolerance

NAN, INF = math.nan, math.inf


def floats(*elements: float) -> np.ndarray:
    return np.asarray(elements, np.float32)


def test_equal_arrays_are_equal_and_have_no_worst_element() -> None:
    found = difference("y", floats(1, 2), floats(1, 2))
    assert (found.ok, found.max_abs, found.worst, found.sqnr_db) == (True, 0.0, None, INF)


def test_nan_matches_nan_and_infinity_itself_and_zero_has_no_sign() -> None:
    assert difference("y", floats(NAN, INF, -INF, 0.0), floats(NAN, INF, -INF, -0.0)).ok


@pytest.mark.parametrize(
    ("expected", "actual"), [(NAN, 0.0), (0.0, NAN), (INF, -INF), (INF, 3e38), (1.0, INF), (NAN, INF)]
)
def test_no_tolerance_forgives_a_nan_or_infinity_that_is_not_expected(expected: float, actual: float) -> None:
    found = difference("y", floats(5, expected), floats(5, actual), Tolerance(rtol=10, atol=1e9, scale=10))
    assert not found.ok
    assert found.worst == (1,)
    assert found.max_abs == INF


def test_the_smallest_difference_is_one_under_exact() -> None:
    one = np.float32(1)
    found = difference("y", floats(3, one), floats(3, np.nextafter(one, np.float32(2))))
    assert not found.ok
    assert found.worst == (1,)
    assert found.max_abs == pytest.approx(2.0**-23)
    assert "1 of 2 elements" in found.reason


def test_sizes_of_the_difference_are_right() -> None:
    found = difference("y", floats(10, -2, 0), floats(11, -2.5, 0.125), Tolerance(atol=0.5))
    assert (found.max_abs, found.max_rel, found.worst, found.allowed) == (1.0, 0.25, (0,), 0.5)
    assert found.sqnr_db == pytest.approx(10 * math.log10(104 / (1 + 0.25 + 0.015625)))


def test_each_part_of_a_tolerance_forgives_its_own() -> None:
    expected, actual = floats(100, 1), floats(100.5, 1)
    assert difference("y", expected, actual, Tolerance(rtol=0.006)).ok
    assert not difference("y", expected, actual, Tolerance(rtol=0.004)).ok
    assert difference("y", expected, actual, Tolerance(atol=0.6)).ok
    cancelled = floats(100, 0.5)
    assert difference("y", floats(100, 0), cancelled, Tolerance(scale=0.006)).ok
    assert not difference("y", floats(100, 0), cancelled, Tolerance(scale=0.004)).ok
    assert not difference("y", floats(100, 0), cancelled, Tolerance(rtol=1.0)).ok


def test_a_masks_huge_numbers_forgive_nothing_beside_them() -> None:
    expected = np.append(np.linspace(0.1, 1, 50), [-1e9, -3.4e38]).astype(np.float32)
    actual = expected.copy()
    actual[3] += 0.01
    assert not difference("y", expected, actual, Tolerance(scale=1e-4)).ok
    actual[3] = expected[3]
    actual[50] *= 1.00001
    assert difference("y", expected, actual, Tolerance(scale=1e-4)).ok


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64, ml_dtypes.int4, ml_dtypes.uint4])
def test_integers_are_exact_under_every_tolerance_but_their_own(dtype: type) -> None:
    expected, actual = np.asarray([1, 5]).astype(dtype), np.asarray([2, 5]).astype(dtype)
    assert not difference("y", expected, actual, Tolerance(rtol=1, atol=9, scale=9)).ok
    assert difference("y", expected, actual, Tolerance(integers=1)).ok
    assert not difference("y", expected, np.asarray([3, 5]).astype(dtype), Tolerance(integers=1)).ok


def test_integers_far_apart_do_not_wrap_around() -> None:
    low, high = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    assert difference("y", np.asarray([low]), np.asarray([high])).max_abs == pytest.approx(2.0**64)
    unsigned = np.asarray([2**64 - 1], np.uint64)
    assert not difference("y", unsigned, np.asarray([0], np.uint64), Tolerance(integers=2)).ok


def test_strings_and_booleans_are_exact() -> None:
    assert difference("y", np.asarray(["a", "b"]), np.asarray(["a", "b"], object)).ok
    found = difference("y", np.asarray(["a", "b"], object), np.asarray(["a", "c"], object), Tolerance(atol=9))
    assert not found.ok
    assert found.worst == (1,)
    assert not difference("y", np.asarray([True]), np.asarray([False]), Tolerance(atol=9)).ok


def test_other_types_and_shapes_are_differences() -> None:
    assert "type" in difference("y", floats(1), np.asarray([1.0])).reason
    assert "shape" in difference("y", floats(1), floats(1, 1)).reason
    assert "shape" in difference("y", np.float32(1), floats(1)).reason


def test_sequences_are_compared_element_by_element() -> None:
    assert difference("y", [floats(1), floats(2, 3)], [floats(1), floats(2, 3)]).ok
    assert "element 1" in difference("y", [floats(1), floats(2)], [floats(1), floats(3)]).reason
    assert "2 elements instead of 1" in difference("y", [floats(1)], [floats(1)] * 2).reason
    assert not difference("y", floats(1), [floats(1)]).ok
    assert difference("y", [], []).ok


def test_an_empty_optional_matches_only_another() -> None:
    assert difference("y", None, None).ok
    assert not difference("y", None, floats(1)).ok
    assert not difference("y", floats(1), None).ok


def test_missing_and_unexpected_outputs_are_differences() -> None:
    found = {item.name: item for item in compare({"a": floats(1), "b": floats(1)}, {"a": floats(1), "c": floats(1)})}
    assert found["a"].ok
    assert "missing" in found["b"].reason
    assert "nobody expects" in found["c"].reason


def test_each_output_has_its_own_tolerance_and_exact_without_one() -> None:
    expected, actual = {"a": floats(1), "b": floats(1)}, {"a": floats(1.1), "b": floats(1.1)}
    assert [item.ok for item in compare(expected, actual, {"a": Tolerance(atol=0.2)})] == [True, False]


def test_the_derived_tolerance_grows_with_the_root_of_the_depth_and_the_unit() -> None:
    shallow, deep = tolerance(np.float32, 4), tolerance(np.float32, 400)
    assert deep.scale == pytest.approx(10 * shallow.scale)
    assert tolerance(np.float64, 4).scale < shallow.scale < tolerance(np.float16, 4).scale
    assert tolerance(np.int64, 4) == EXACT
    assert tolerance(np.float32, 10**9).scale <= 1e-3
    assert tolerance(ml_dtypes.bfloat16, 10**9).scale <= 0.25


def test_the_derived_tolerance_tells_gelu_from_its_tanh_form() -> None:
    """The mistake of a peer: a fusion that is 2e-4 off, unasked."""
    x = np.linspace(-4, 4, 1000)
    erf = np.vectorize(math.erf)
    exact = x * (1 + erf(x / math.sqrt(2))) / 2
    approximate = x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
    rounded = (exact * (1 + 1e-7)).astype(np.float32)
    allowed = tolerance(np.float32, 5)
    assert difference("y", exact.astype(np.float32), rounded, allowed).ok
    assert not difference("y", exact.astype(np.float32), approximate.astype(np.float32), allowed).ok


def test_json_has_no_nan_and_no_infinity() -> None:
    import json

    for actual in (floats(1), floats(NAN), floats(2)):
        json.loads(json.dumps(difference("y", floats(1), actual).as_json(), allow_nan=False))


@given(st.lists(st.floats(width=32), min_size=1), st.floats(0, 10), st.floats(0, 10))
def test_an_array_always_equals_itself(elements: list[float], rtol: float, atol: float) -> None:
    array = floats(*elements)
    assert difference("y", array, array.copy(), Tolerance(rtol, atol)).ok


def test_what_was_allowed_is_recorded_in_words() -> None:
    value = np.ones(3, np.float32)
    assert (
        difference("y", value, value, Tolerance(scale=1.3e-4)).as_json()["tolerance"] == "0.013 % of the largest value"
    )
    assert difference("y", value, value).as_json()["tolerance"] == "no difference"
