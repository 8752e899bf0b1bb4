from __future__ import annotations

import itertools
from math import prod

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.passes.fuse._atoms import moved
from graphopt.passes.fuse._sizes import product
from graphopt.passes.fuse.merge_shuffles import MergeShuffles


def test_the_keys_of_an_attention_as_the_dynamo_exporter_writes_them(rewrites):
    rewrites(
        MergeShuffles(),
        """g (float[N, 4, 5, 32] x) => (float[N, 4, 32, 5] y) <int64[3] flat = {-1, 5, 32}, int64[4] cut = {-1, 4, 32, 5}> {
             j = Reshape(x, flat) t = Transpose <perm = [0, 2, 1]> (j) y = Reshape(t, cut) }""",
        "g (float[N, 4, 5, 32] x) => (float[N, 4, 32, 5] y) { y = Transpose <perm = [0, 1, 3, 2]> (x) }",
    )


def test_shapes_that_are_computed_are_known_too(rewrites):
    """GPT-2 of the dynamo exporter: batch and length are free, the targets are computed from x."""
    rewrites(
        MergeShuffles(),
        """g (float[N, 4, S, 8] x) => (float[a, b, c, d] y)
             <int64[1] more = {-1}, int64[1] d = {8}, int64[1] h = {4}> {
             n = Shape <start = 0, end = 1> (x) s = Shape <start = 2, end = 3> (x)
             flat = Concat <axis = 0> (more, s, d) cut = Concat <axis = 0> (n, h, d, s)
             j = Reshape(x, flat) t = Transpose <perm = [0, 2, 1]> (j) y = Reshape(t, cut) }""",
        """g (float[N, 4, S, 8] x) => (float[a, b, c, d] y) { y = Transpose <perm = [0, 1, 3, 2]> (x) }""",
    )


@pytest.mark.parametrize(
    ("before", "shape", "perm", "after", "expected"),
    [
        ("2, 3, 4", "6, 4", "1, 0", "4, 2, 3", "2, 0, 1"),
        ("2, 3, 4", "2, 12", "1, 0", "3, 4, 2", "1, 2, 0"),
        ("6, 4", "2, 3, 4", "2, 0, 1", "4, 6", "1, 0"),
        ("2, 1, 4", "2, 4", "1, 0", "4, 2, 1", "2, 0, 1"),
        ("1, 2, 4", "2, 1, 4", "2, 1, 0", "4, 1, 2", "2, 0, 1"),
    ],
)
def test_rows_that_are_one_transpose(rewrites, before, shape, perm, after, expected):
    ranks = [len(text.split(",")) for text in (shape, after)]
    rewrites(
        MergeShuffles(),
        f"""g (float[{before}] x) => (float[{after}] y)
             <int64[{ranks[0]}] r = {{{shape}}}, int64[{ranks[1]}] s = {{{after}}}> {{
             i = Reshape(x, r) t = Transpose <perm = [{perm}]> (i) y = Reshape(t, s) }}""",
        f"g (float[{before}] x) => (float[{after}] y) {{ y = Transpose <perm = [{expected}]> (x) }}",
    )


def test_squeeze_and_flatten_are_reshapes_too(rewrites):
    rewrites(
        MergeShuffles(),
        """g (float[N, 1, 3, 4] x) => (float[N, 4, 3, 1] y) <int64[1] one = {1}, int64[1] last = {3}> {
             i = Squeeze(x, one) t = Transpose <perm = [0, 2, 1]> (i) y = Unsqueeze(t, last) }""",
        "g (float[N, 1, 3, 4] x) => (float[N, 4, 3, 1] y) { y = Transpose <perm = [0, 3, 2, 1]> (x) }",
    )


def test_a_row_that_moves_nothing_goes(rewrites):
    rewrites(
        MergeShuffles(),
        """g (float[N, 1, 6] x) => (float[N, 1, 6] y) <int64[4] r = {-1, 2, 1, 3}, int64[3] s = {-1, 1, 6}> {
             a = Neg(x) i = Reshape(a, r) t = Transpose <perm = [0, 2, 1, 3]> (i) j = Reshape(t, s) y = Neg(j) }""",
        "g (float[N, 1, 6] x) => (float[N, 1, 6] y) { a = Neg(x) y = Neg(a) }",
    )


@pytest.mark.parametrize(
    ("before", "shape", "perm", "after"),
    [
        ("2, 12, 4", "2, 3, 4, 4", "0, 2, 1, 3", "2, 12, 4"),  # heads apart, exchanged and joined: a real shuffle
        ("2, 8, 4", "2, 2, 4, 4", "0, 1, 3, 2", "2, 2, 16"),
        ("4, 6", "6, 4", "1, 0", "4, 6"),  # cut across
        ("N, 4, M", "-1, 4", "1, 0", "4, -1"),
    ],
)
def test_what_is_no_transpose_stays(keeps, before, shape, perm, after):
    ranks = [len(text.split(",")) for text in (shape, after)]
    keeps(
        MergeShuffles(),
        f"""g (float[{before}] x) => (float[{", ".join("abcd"[: ranks[1]])}] y)
             <int64[{ranks[0]}] r = {{{shape}}}, int64[{ranks[1]}] s = {{{after}}}> {{
             i = Reshape(x, r) t = Transpose <perm = [{perm}]> (i) y = Reshape(t, s) }}""",
    )


def test_a_transpose_that_is_used_elsewhere_stays(keeps):
    keeps(
        MergeShuffles(),
        """g (float[2, 3, 4] x) => (float[4, 2, 3] y, float[4, 6] t) <int64[2] r = {6, 4}, int64[3] s = {4, 2, 3}> {
             i = Reshape(x, r) t = Transpose <perm = [1, 0]> (i) y = Reshape(t, s) }""",
        reason="the result of Transpose 't' is also used elsewhere",
    )


def test_a_first_reshape_that_is_used_elsewhere_stays_for_the_others(rewrites):
    rewrites(
        MergeShuffles(),
        """g (float[2, 3, 4] x) => (float[4, 2, 3] y, float[6, 4] i) <int64[2] r = {6, 4}, int64[3] s = {4, 2, 3}> {
             i = Reshape(x, r) t = Transpose <perm = [1, 0]> (i) y = Reshape(t, s) }""",
        """g (float[2, 3, 4] x) => (float[4, 2, 3] y, float[6, 4] i) <int64[2] r = {6, 4}> {
             i = Reshape(x, r) y = Transpose <perm = [2, 0, 1]> (x) }""",
    )


def test_empty_tensors_stay(keeps):
    keeps(
        MergeShuffles(),
        """g (float[2, 0, 4] x) => (float[4, 2, 0] y) <int64[2] r = {0, 4}, int64[3] s = {4, 2, 0}> {
             i = Reshape <allowzero = 1> (x, r) t = Transpose <perm = [1, 0]> (i) y = Reshape <allowzero = 1> (t, s) }""",
    )


def test_inside_a_branch(rewrites):
    def text(body: str, names: str) -> str:
        return f"""g (bool p, float[2, 3, 4] x) => (float[4, 2, 3] y) {names} {{
             y = If (p) <then_branch = t () => (float[4, 2, 3] u) {{ {body} }},
                         else_branch = e () => (float[4, 2, 3] v) {{ v = Transpose <perm = [2, 0, 1]> (x) }}> }}"""

    rewrites(
        MergeShuffles(),
        text(
            "i = Reshape(x, r) t = Transpose <perm = [1, 0]> (i) u = Reshape(t, s)",
            "<int64[2] r = {6, 4}, int64[3] s = {4, 2, 3}>",
        ),
        text("u = Transpose <perm = [2, 0, 1]> (x)", ""),
    )


def test_in_a_function_and_for_integers(rewrites):
    def text(body: str) -> str:
        return f"""<ir_version: 8, opset_import: ["": 17, "f": 1]>
           g (int32[2, 3, 4] x) => (int32[4, 2, 3] y) {{ y = f.F(x) }}
           <domain: "f", opset_import: ["": 17]> F (x) => (y) {{ {body} }}"""

    rewrites(
        MergeShuffles(),
        text(
            """r = Constant <value = int64[2] {6, 4}> () s = Constant <value = int64[3] {4, 2, 3}> ()
               i = Reshape(x, r) t = Transpose <perm = [1, 0]> (i) y = Reshape(t, s)"""
        ),
        text("y = Transpose <perm = [2, 0, 1]> (x)"),
    )


def _factorings(total: int) -> list[tuple[int, ...]]:
    """Every shape of so many elements without axes of size 1."""
    return [(total,)] + [
        (size, *tail) for size in range(2, total) if total % size == 0 for tail in _factorings(total // size)
    ]


def test_every_answer_is_the_permutation_that_numpy_sees():
    """All rows over 24 elements of up to three axes, with and without an axis of size 1."""
    shapes = [shape for shape in _factorings(24) if len(shape) <= 3]
    shapes += [(*shape[:1], 1, *shape[1:]) for shape in shapes if len(shape) == 2]
    found = 0
    for source, middle in itertools.product(shapes, shapes):
        elements = np.arange(prod(source)).reshape(source)
        for perm in itertools.permutations(range(len(middle))):
            turned = elements.reshape(middle).transpose(perm)
            for result in shapes:
                order = moved(source, middle, perm, result)
                if order is not None:
                    found += 1
                    assert np.array_equal(elements.transpose(order), turned.reshape(result))
    assert found > 300


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((2, "n", 3), (6, ("n",))),
        (("4*s81",), (4, ("s81",))),
        (("b*a", 2), (2, ("a", "b"))),
        (("n**2",), (1, ("n", "n"))),
        (("n + 1", 2), (2, ("n + 1",))),
        (("n", None), None),
    ],
)
def test_products_of_sizes(sizes, expected):
    assert product(sizes) == expected


def test_a_model_without_shapes_stays(keeps):
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["": 17]>
           g (float[K] k, int64[K] r, int64[K] s) => (float[a, b, c] y) {
             i = Reshape(k, r) t = Transpose <perm = [1, 0]> (i) y = Reshape(t, s) }"""
    )
    keeps(MergeShuffles(), model, runs=False)
