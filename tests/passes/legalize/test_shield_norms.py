from __future__ import annotations

from dataclasses import replace

import pytest

from graphopt.passes.legalize.shield_norms import FUSED, ShieldNorms
from graphopt.pipeline import Context
from graphopt.target import targets

NORM = "y = LayerNormalization(s, scale)"


def text(body: str, a: str = "float[N, 4, 8]", b: str = "float[N, 4, 8]", opset: int = 17) -> str:
    return f"""<ir_version: 10, opset_import: ["": {opset}]>
        g ({a} a, {b} b) => (y) <float[8] scale = {{1, 2, 3, 4, 5, 6, 7, 8}}> {{ {body} }}"""


def test_the_sum_before_a_norm_is_written_as_sum(rewrites):
    done = rewrites(ShieldNorms(), text(f"s = Add(a, b) {NORM}"), text(f"s = Sum(a, b) {NORM}"))
    assert "com.microsoft" in done.changed[0][1]


def test_before_rms_normalization_too(rewrites):
    norm = "y = RMSNormalization(s, scale)"
    rewrites(ShieldNorms(), text(f"s = Add(a, b) {norm}", opset=23), text(f"s = Sum(a, b) {norm}", opset=23))


def test_a_sum_that_is_read_elsewhere_too_is_still_one_sum(rewrites):
    before = "s = Add(a, b) n = LayerNormalization(s, scale) y = Concat<axis = 0>(s, n)"
    rewrites(ShieldNorms(), text(before), text(before.replace("Add", "Sum")))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("float[N, 4, 8]", "float[8]"),
        ("float[N, 4, 8]", "float[1, 4, 8]"),
        ("float[2, 2, 4, 8]", "float[2, 2, 4, 8]"),
    ],
)
def test_what_the_runtime_does_not_fuse_stays(keeps, a, b):
    keeps(ShieldNorms(), text(f"s = Add(a, b) {NORM}", a, b))


def test_a_target_that_likes_the_fused_form_gets_it(keeps):
    liking = replace(targets()["x86-64"], forms=frozenset(FUSED.values()))
    keeps(ShieldNorms(), text(f"s = Add(a, b) {NORM}"), reason="likes", context=Context(target=liking))


def test_inside_a_branch_and_a_function(rewrites):
    def model(operator: str) -> str:
        return f"""<ir_version: 10, opset_import: ["": 17, "local": 1]>
            g (bool p, float[N, 8] a, float[N, 8] b, float[8] scale) => (y) {{
              z = local.f(a, b, scale)
              y = If (p) <then_branch = t () => (u) {{ s = {operator}(a, z) u = LayerNormalization(s, scale) }},
                          else_branch = e () => (v) {{ v = Neg(z) }}> }}
            <domain: "local", opset_import: ["": 17]>
            f (c, d, w) => (o) {{ s = {operator}(c, d) o = LayerNormalization(s, w) }}"""

    rewrites(ShieldNorms(), model("Add"), model("Sum"))
