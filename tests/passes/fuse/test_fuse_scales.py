from __future__ import annotations

import pytest

from graphopt.passes.fuse.fuse_scales import RULES, FuseScales
from graphopt.rewrite.fuzz import fuzz


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        ("m = Mul(x, two) y = Mul(m, four)", "y = Mul(x, eight)"),
        ("m = Mul(two, x) y = Mul(four, m)", "y = Mul(x, eight)"),
        ("m = Div(x, two) y = Mul(m, four)", "y = Mul(x, two)"),
        ("m = Mul(x, four) y = Div(m, two)", "y = Mul(x, two)"),
        ("m = Div(x, two) y = Div(m, four)", "y = Div(x, eight)"),
    ],
)
def test_two_scalings_are_one(rewrites, operations, expected):
    def text(body: str) -> str:
        names = "float two = {2}, float four = {4}, float eight = {8}"
        return f"g (float[N, 3] x) => (float[N, 3] y) <{names}> {{ {body} }}"

    rewrites(FuseScales(), text(operations), text(expected))


def test_a_chain_becomes_one(rewrites):
    rewrites(
        FuseScales(),
        """g (float[N, 3] x) => (float[N, 3] y) <float two = {2}, float[3] v = {1, 2, 4}> {
             a = Mul(x, two) b = Mul(a, v) c = Mul(b, two) y = Div(c, two) }""",
        "g (float[N, 3] x) => (float[N, 3] y) <float[3] v = {2, 4, 8}> { y = Mul(x, v) }",
    )


@pytest.mark.parametrize(
    ("operations", "reason"),
    [
        ("m = Mul(x, two) n = Mul(m, two) z = Neg(m) y = Add(n, z)", "used elsewhere"),
        ("m = Mul(x, column) n = Mul(m, row) y = Neg(n)", "larger tensor than either"),
        ("m = Mul(x, huge) n = Mul(m, two) y = Neg(n)", "too large or too small"),
        ("m = Mul(x, zero) n = Div(m, two) y = Neg(n)", "too large or too small"),
    ],
)
def test_what_is_kept_has_a_reason(keeps, operations, reason):
    keeps(
        FuseScales(),
        f"""g (float[3, 3] x) => (float[3, 3] y) <float two = {{2}}, float zero = {{0}}, float huge = {{1e30}},
             float[3, 1] column = {{1, 2, 3}}, float[1, 3] row = {{1, 2, 3}}> {{ {operations} }}""",
        reason=reason,
    )


def test_a_scaled_by_what_is_divided_stays(keeps):
    """a / (x * b) is no scaling of x."""
    keeps(
        FuseScales(),
        "g (float[3] x) => (float[3] y) <float two = {2}, float four = {4}> { m = Mul(x, two) y = Div(four, m) }",
    )


def test_inside_a_branch(rewrites):
    def text(body: str) -> str:
        return f"""g (bool p, float[2] x) => (float[2] y) <float two = {{2}}, float four = {{4}}> {{
             y = If (p) <then_branch = t () => (float[2] u) {{ {body} }},
                         else_branch = e () => (float[2] v) {{ v = Neg(x) }}> }}"""

    rewrites(FuseScales(), text("m = Mul(x, two) u = Mul(m, two)"), text("u = Mul(x, four)"))


@pytest.mark.parametrize("rule", RULES.rules, ids=lambda rule: rule.pattern)
def test_each_rule_holds_on_random_shapes(rule):
    fuzz(rule, shapes={"x": "n m", "a": "m", "b": "m"})
