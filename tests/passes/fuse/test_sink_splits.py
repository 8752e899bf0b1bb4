from __future__ import annotations

import pytest

from graphopt.passes.fuse.sink_splits import SinkSplits


def parts(operations: str, constants: str = "", opset: int = 17, source: str = "N, S, 12") -> str:
    return f"""<ir_version: 8, opset_import: ["": {opset}]>
      g (float[{source}] x) => (float[h, i, j, k] a, float[l, m, n, o] b) {constants} {{ {operations} }}"""


def test_heads_are_cut_and_turned_once(rewrites):
    """Query, key and value of GPT-2, with batch and length free."""
    rewrites(
        SinkSplits(),
        parts(
            """p, q = Split <axis = 2> (x, s) c = Reshape(p, h) d = Reshape(q, h)
               a = Transpose <perm = [0, 2, 1, 3]> (c) b = Transpose <perm = [0, 2, 1, 3]> (d)""",
            "<int64[2] s = {8, 4}, int64[4] h = {0, 0, -1, 2}>",
        ),
        parts(
            "c = Reshape(x, h) d = Transpose <perm = [0, 2, 1, 3]> (c) a, b = Split <axis = 1> (d, s)",
            "<int64[2] s = {4, 2}, int64[4] h = {0, 0, 6, 2}>",
        ),
    )


def test_keys_that_are_turned_in_another_way_share_the_reshape(rewrites):
    rewrites(
        SinkSplits(),
        parts(
            """p, q = Split <axis = -1> (x) c = Reshape(p, h) d = Reshape(q, h)
               a = Transpose <perm = [0, 2, 1, 3]> (c) b = Transpose <perm = [0, 2, 3, 1]> (d)""",
            "<int64[4] h = {0, 0, 3, 2}>",
        ),
        parts(
            """c = Reshape(x, h) p, q = Split <axis = 2> (c, s)
               a = Transpose <perm = [0, 2, 1, 3]> (p) b = Transpose <perm = [0, 2, 3, 1]> (q)""",
            "<int64[2] s = {3, 3}, int64[4] h = {0, 0, 6, 2}>",
        ),
    )


@pytest.mark.parametrize("opset", [11, 12])
def test_before_opset_13_split_has_its_sizes_in_an_attribute(rewrites, opset):
    rewrites(
        SinkSplits(),
        parts(
            """p, q = Split <axis = 1, split = [1, 2]> (x) a = Transpose <perm = [1, 0, 3, 2]> (p)
               b = Transpose <perm = [1, 0, 3, 2]> (q)""",
            opset=opset,
            source="N, 3, H, W",
        ),
        parts(
            "t = Transpose <perm = [1, 0, 3, 2]> (x) a, b = Split <axis = 0, split = [1, 2]> (t)",
            opset=opset,
            source="N, 3, H, W",
        ),
    )


def test_activations_happen_before_the_split(rewrites):
    """What merged sibling convolutions leave behind: each part has its Relu."""
    rewrites(
        SinkSplits(),
        parts(
            "p, q = Split <axis = 1> (x, s) a = LeakyRelu <alpha = 0.2> (p) b = LeakyRelu <alpha = 0.2> (q)",
            "<int64[2] s = {1, 2}>",
            source="N, 3, H, W",
        ),
        parts(
            "t = LeakyRelu <alpha = 0.2> (x) a, b = Split <axis = 1> (t, s)",
            "<int64[2] s = {1, 2}>",
            source="N, 3, H, W",
        ),
    )


@pytest.mark.parametrize(
    "operations",
    [
        "p, q = Split <axis = 1> (x) a = Relu(p) b = Neg(q)",
        "p, q = Split <axis = 1> (x) a = LeakyRelu <alpha = 0.2> (p) b = LeakyRelu <alpha = 0.3> (q)",
        "p, q = Split <axis = 1> (x) a = Relu(p) r = Relu(q) b = Add(r, q)",
        "p, q = Split <axis = 1> (x) a = Softmax(p) b = Softmax(q)",
        "p, q = Split <axis = 1> (x) a = Reshape(p, u) b = Reshape(q, u)",
        "p, q = Split <axis = 3> (x) a = Reshape(p, u) b = Reshape(q, u)",
        "p, q = Split <axis = 3> (x) a = Reshape(p, v) b = Reshape(q, w)",
        "p, q = Split <axis = 1> (x) a = Transpose <perm = [0, 1, 3, 2]> (p) b = Transpose <perm = [0, 2, 1, 3]> (q)",
        "a, b = Split <axis = 1> (x)",
        "a, q = Split <axis = 1> (x) b = Relu(q)",
    ],
)
def test_parts_that_are_not_treated_alike_stay(keeps, operations):
    keeps(
        SinkSplits(),
        f"""g (float[2, 4, 3, 8] x) => (a, b)
          <int64[2] u = {{-1, 6}}, int64[5] v = {{2, 4, 3, 2, 2}}, int64[5] w = {{2, 4, 3, 1, 4}}> {{ {operations} }}""",
        runs=False,
    )


def test_a_free_axis_stays(keeps):
    keeps(
        SinkSplits(),
        "g (float[N, 4] x) => (float[m, 4] a, float[n, 4] b) { p, q = Split <axis = 0> (x) a = Relu(p) b = Relu(q) }",
    )


def test_inside_a_branch_and_for_integers(rewrites):
    def text(body: str, constants: str = "") -> str:
        return f"""g (bool p, int64[2, 4] x) => (int64[2, 2] y) {constants} {{
             y = If (p) <then_branch = t () => (int64[2, 2] u) {{ {body} u = Sub(a, b) }},
                         else_branch = e () => (int64[2, 2] v) {{ v, w = Split <axis = 1> (x) }}> }}"""

    rewrites(
        SinkSplits(),
        text("c, d = Split <axis = 1> (x) a = Neg(c) b = Neg(d)"),
        text("t = Neg(x) a, b = Split <axis = 1> (t, s)", "<int64[2] s = {2, 2}>"),
    )
