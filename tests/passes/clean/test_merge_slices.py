from __future__ import annotations

import itertools

import numpy as np
import pytest

from graphopt.passes.clean.merge_slices import MergeSlices, _cut_twice

LAST = 9223372036854775807


def constants(prefix: str, **columns: list[int]) -> str:
    return " ".join(
        f"{prefix}{name} = Constant<value = int64[{len(column)}] {{{', '.join(map(str, column))}}}>()"
        for name, column in columns.items()
    )


def one(prefix: str, result: str, source: str, starts, ends, axes, steps=None) -> str:
    columns = {"s": starts, "e": ends, "a": axes} | ({"t": steps} if steps else {})
    names = ", ".join(prefix + name for name in columns)
    return f"{constants(prefix, **columns)} {result} = Slice({source}, {names})"


FIRST = one("p", "a", "x", [1], [7], [0])


def merged(starts, ends, axes, steps) -> tuple[str, str]:
    columns = {"s": starts, "e": ends, "a": axes, "t": steps}
    values = ", ".join(f"int64[{len(c)}] {n} = {{{', '.join(map(str, c))}}}" for n, c in columns.items())
    return f"<{values}>", "b = Slice(x, s, e, a, t)"


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # different axes stand side by side, whatever their bounds and steps
        (([1], [4], [0]), ([-3], [LAST], [1]), ([1, -3], [4, LAST], [0, 1], [1, 1])),
        (([1], [9], [0], [2]), ([5], [0], [1], [-1]), ([1, 5], [9, 0], [0, 1], [2, -1])),
        (([1], [4], [-2]), ([2], [4], [-1]), ([1, 2], [4, 4], [0, 1], [1, 1])),
        # the same axis, of known size
        (([1], [7], [0]), ([2], [4], [0]), ([3], [5], [0], [1])),
        (([1], [LAST], [0]), ([-3], [-1], [0]), ([5], [7], [0], [1])),
        (([2], [4], [0]), ([1], [100], [0]), ([3], [4], [0], [1])),
        (([2], [4], [0]), ([3], [LAST], [0]), ([4], [4], [0], [1])),
    ],
)
def test_two_become_one(rewrites, first, second, expected):
    constant, node = merged(*expected)
    rewrites(
        MergeSlices(),
        f"g (float[8, 6] x) => (y) {{ {one('p', 'a', 'x', *first)} {one('q', 'b', 'a', *second)} y = Relu(b) }}",
        f"g (float[8, 6] x) => (y) {constant} {{ {node} y = Relu(b) }}",
    )


def test_bounds_from_the_front_need_no_size(rewrites):
    constant, node = merged([3], [5], [0], [1])
    rewrites(
        MergeSlices(),
        f"g (float[N] x) => (y) {{ {FIRST} {one('q', 'b', 'a', [2], [4], [0])} y = Relu(b) }}",
        f"g (float[N] x) => (y) {constant} {{ {node} y = Relu(b) }}",
    )


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (([1], [7], [0]), ([-2], [LAST], [0]), "one slice cannot express"),
        (([0], [8], [0], [2]), ([1], [3], [0]), "one slice cannot express"),
        (([0, 0], [8, 7], [0, 0]), ([1], [3], [0]), "names an axis twice"),
    ],
)
def test_what_one_slice_cannot_say_is_kept(keeps, first, second, reason):
    keeps(
        MergeSlices(),
        f"g (float[N] x) => (y) {{ {one('p', 'a', 'x', *first)} {one('q', 'b', 'a', *second)} y = Relu(b) }}",
        reason=reason,
        runs="twice" not in reason,
    )


def test_computed_bounds_and_a_tensor_used_elsewhere_are_kept(keeps):
    keeps(
        MergeSlices(),
        f"g (float[8] x, int64[1] s) => (y) {{ {FIRST} b = Slice(a, s, pe) y = Relu(b) }}",
        reason="its starts are not known before the run",
        runs=False,
    )
    keeps(
        MergeSlices(),
        f"g (float[8] x) => (y, a) {{ {FIRST} {one('q', 'b', 'a', [2], [4], [0])} y = Relu(b) }}",
        reason="used elsewhere",
    )


def test_before_version_10_the_bounds_are_attributes(rewrites):
    head = '<ir_version: 8, opset_import: ["": 9]> g (float[8, 6] x) => (y)'
    rewrites(
        MergeSlices(),
        f"{head} {{ a = Slice<starts = [1], ends = [4]>(x)"
        " b = Slice<axes = [1], starts = [2], ends = [5]>(a) y = Relu(b) }",
        f"{head} {{ b = Slice<axes = [0, 1], starts = [1, 2], ends = [4, 5]>(x) y = Relu(b) }}",
    )


def test_in_a_loop_body_and_a_function(rewrites):
    model = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
        g (float[6] x) => (u, d) <int64 m = {{1}}, bool c = {{1}}> {{
          d = local.f(x)
          u = Loop (m, c) <body = l (int64 i, bool go) => (bool stay, float[2] w) {inits} {{
            stay = Identity(go) v = Abs(x) {body} w = Relu(b) }}>
        }}
        <domain: "local", opset_import: ["": 17]>
        f (v) => (w) {{ {function} w = Relu(b) }}"""
    before = f"{one('p', 'a', 'v', [0], [6], [0])} {one('q', 'b', 'a', [1], [3], [0])}"
    inits, node = merged([1], [3], [0], [1])
    node = node.replace("x", "v")
    rewrites(
        MergeSlices(),
        model.format(body=before, inits="", function=before),
        model.format(body=node, inits=inits, function=f"{constants('', t=[1], a=[0], e=[3], s=[1])} {node}"),
    )


def test_cutting_twice_is_what_numpy_does():
    bounds = [-9, -3, -1, 0, 1, 3, 7, LAST]
    x = np.arange(6)
    for a, b, c, d in itertools.product(bounds, repeat=4):
        expected = x[a:b][c:d]
        for size in (None, 6):
            cut = _cut_twice((a, b, 1), (c, d, 1), size)
            if cut is not None:
                np.testing.assert_array_equal(x[cut[0] : max(cut[1], 0)], expected)
        assert _cut_twice((a, b, 1), (c, d, 1), 6) is not None
