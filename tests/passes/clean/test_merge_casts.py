from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from graphopt.passes.clean.merge_casts import _PLAIN, MergeCasts, _is_lossless

FLOAT, DOUBLE, HALF, BFLOAT = 1, 11, 10, 16
INT8, UINT8, INT32, INT64, BOOL, STRING = 3, 2, 6, 7, 9, 8


def chain(source: str, *types: int) -> str:
    casts = " ".join(f"c{n} = Cast<to = {to}>({'r' if n == 0 else f'c{n - 1}'})" for n, to in enumerate(types))
    return f"g ({source}[5] x) => (y) {{ r = Identity(x) {casts} y = Identity(c{len(types) - 1}) }}"


@pytest.mark.parametrize(
    ("source", "middle", "target"),
    [
        ("float16", FLOAT, INT32),
        ("float16", FLOAT, DOUBLE),
        ("float", DOUBLE, HALF),
        ("float", DOUBLE, BOOL),
        ("int32", INT64, INT8),
        ("int32", INT64, FLOAT),
        ("int8", INT32, UINT8),
        ("uint8", FLOAT, HALF),
        ("bool", FLOAT, INT64),
    ],
)
def test_a_lossless_step_goes(rewrites, source, middle, target):
    rewrites(MergeCasts(), chain(source, middle, target), chain(source, target))


@pytest.mark.parametrize(
    ("source", "to", "back"),
    [("float16", FLOAT, HALF), ("int32", INT64, INT32), ("bool", FLOAT, BOOL), ("float", DOUBLE, FLOAT)],
)
def test_there_and_back_goes(rewrites, source, to, back):
    rewrites(MergeCasts(), chain(source, to, back), f"g ({source}[5] x) => (y) {{ r = Identity(x) y = Identity(r) }}")


@pytest.mark.parametrize(
    ("source", "middle", "target", "reason"),
    [
        ("float", HALF, FLOAT, "loses something"),
        ("float", INT32, FLOAT, "loses something"),
        ("int64", FLOAT, INT64, "loses something"),
        ("int32", INT8, INT32, "loses something"),
        ("int8", UINT8, INT32, "loses something"),
        ("float", BOOL, FLOAT, "loses something"),
        ("bfloat16", HALF, FLOAT, "loses something"),
        ("float", DOUBLE, INT32, "out of range"),
        ("int32", DOUBLE, HALF, "may round twice"),
        ("float", DOUBLE, STRING, "no plain conversion"),
    ],
)
def test_a_step_that_changes_numbers_is_kept(keeps, source, middle, target, reason):
    keeps(MergeCasts(), chain(source, middle, target), reason=reason, runs=source != "bfloat16")


def test_chains_merge_as_far_as_they_can(rewrites):
    rewrites(MergeCasts(), chain("float16", FLOAT, DOUBLE, BOOL, INT32), chain("float16", BOOL, INT32))


def test_a_type_that_differs_from_call_to_call_is_no_reason_to_guess(keeps):
    keeps(
        MergeCasts(),
        """<ir_version: 8, opset_import: ["": 17, "local": 1]>
           g (float16[2] x, float[2] w) => (float[2] y, float[2] z) { y = local.f(x) z = local.f(w) }
           <domain: "local", opset_import: ["": 17]>
           f (a) => (b) { s = Cast<to = 11>(a) b = Cast<to = 1>(s) }""",
        reason="the type of what is cast is not known",
    )


def test_in_a_function_four_casts_become_two(rewrites):
    model = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
        g (float16[2] x) => (float[2] y) {{ y = local.f(x) }}
        <domain: "local", opset_import: ["": 17]>
        f (a) => (b) {{ {body} }}"""
    rewrites(
        MergeCasts(),
        model.format(body="s = Cast<to = 1>(a) t = Cast<to = 11>(s) u = Cast<to = 9>(t) b = Cast<to = 1>(u)"),
        model.format(body="u = Cast<to = 9>(a) b = Cast<to = 1>(u)"),
    )


def test_public_outputs_keep_values_of_their_own(rewrites):
    rewrites(
        MergeCasts(),
        """g (float16[2] x) => (float16[2] y, float16[2] z, float[2] a) {
             r = Neg(x) a = Cast<to = 1>(r) y = Cast<to = 10>(a) z = Cast<to = 10>(a) }""",
        """g (float16[2] x) => (float16[2] y, float16[2] z, float[2] a) {
             y = Neg(x) a = Cast<to = 1>(y) z = Identity(y) }""",
    )


def _extremes(dtype: ir.DataType) -> np.ndarray:
    kind = dtype.numpy()
    if dtype == ir.DataType.BOOL:
        return np.array([False, True])
    if dtype.is_integer():
        facts = np.iinfo(kind)
        return np.array([facts.min, facts.max, facts.max - 1, facts.max // 3], kind)
    facts = ml_dtypes.finfo(kind)
    return np.array([facts.min, facts.max, facts.smallest_subnormal, 1 / 3], kind)


@pytest.mark.parametrize(("source", "target"), sorted(itertools.permutations(_PLAIN, 2)))
def test_lossless_is_what_numpy_gives_back(source, target):
    values = _extremes(source)
    with np.errstate(all="ignore"):
        there = values.astype(target.numpy())
        back = there.astype(source.numpy())
    comes_back = bool((back == values).all())
    if source.is_integer() and target.is_integer():  # -1 comes back through an unsigned type as well
        comes_back = [int(value) for value in values] == [int(value) for value in there]
    if _is_lossless(source, target):
        assert comes_back
    elif target != ir.DataType.BOOL:
        assert not comes_back
