from __future__ import annotations

import onnx_ir as ir
import pytest

from graphopt.passes.fuse.sink_scale import RULES, SinkScale
from graphopt.rewrite.fuzz import fuzz

WEIGHTS = "float[2, 4] w = {1, 2, 3, 4, 5, 6, 7, 8}, float[4] b = {1, 2, 3, 4}"
HALVED = "float[2, 4] w = {0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4}, float[4] b = {0.5, 1, 1.5, 2}"


def attention(body: str, weights: str) -> str:
    return f"""g (float[N, 3, 2] x, float[N, 2, 2, 3] k) => (float[N, 2, 3, d] y)
      <{weights}, int64[4] cut = {{0, 0, 2, 2}}, float half = {{0.5}}, float two = {{2}}> {{
      m = MatMul(x, w) a = Add(m, b) r = Reshape(a, cut) t = Transpose <perm = [0, 2, 1, 3]> (r) {body} }}"""


@pytest.mark.parametrize(
    ("scaled", "plain"),
    [
        ("y = Mul(t, half)", "y = Transpose <perm = [0, 2, 1, 3]> (r)"),
        ("y = Div(t, two)", "y = Transpose <perm = [0, 2, 1, 3]> (r)"),
        ("s = Mul(half, t) y = MatMul(s, k)", "y = MatMul(t, k)"),
        ("s = MatMul(t, k) y = Div(s, two)", "y = MatMul(t, k)"),
        ("s = MatMul(t, k) y = Mul(s, half)", "y = MatMul(t, k)"),
    ],
)
def test_the_scale_of_an_attention_goes_into_the_query(rewrites, scaled, plain):
    """Before the product: ViT, BERT and CLIP of both torch exporters; behind it: old TorchScript exports of BERT."""
    expected = attention(plain, HALVED)
    if plain.startswith("y = Transpose"):
        expected = expected.replace("t = Transpose <perm = [0, 2, 1, 3]> (r) y", "y")
    rewrites(SinkScale(), attention(scaled, WEIGHTS), expected)


def test_it_goes_into_the_second_operand_of_a_product(rewrites):
    def text(body: str, weights: str) -> str:
        return f"""g (float[3, 2] x, float[5, 4] q) => (float[5, 3] y) <{weights}, float half = {{0.5}}> {{
             m = Gemm(x, w, b) t = Transpose <perm = [1, 0]> (m) {body} }}"""

    rewrites(
        SinkScale(),
        text("s = MatMul(q, t) y = Mul(s, half)", WEIGHTS),
        text("y = MatMul(q, t)", HALVED),
    )


def test_through_a_split_only_its_channels_are_scaled(rewrites):
    """GPT-2: one Gemm, Reshape, Split for query, key and value."""

    def text(body: str, weights: str) -> str:
        return f"""g (float[N, 2] x) => (float[N, 1, 1, 2] y, float[N, 1, 2] z)
             <{weights}, int64[3] three = {{-1, 1, 4}}, int64[4] four = {{-1, 1, 1, 2}}, int64[2] sizes = {{2, 2}},
              float half = {{0.5}}> {{
             m = Gemm(x, w, b) r = Reshape(m, three) z, u = Split <axis = 2> (r, sizes) {body} }}"""

    rewrites(
        SinkScale(),
        text("v = Reshape(u, four) y = Mul(v, half)", WEIGHTS),
        text(
            "y = Reshape(u, four)",
            "float[2, 4] w = {1, 2, 1.5, 2, 5, 6, 3.5, 4}, float[4] b = {1, 2, 1.5, 2}",
        ),
    )


def test_through_a_split_of_the_heads(rewrites):
    """Query and key of one projection, cut into heads before they are split."""

    def text(body: str, weights: str) -> str:
        return f"""g (float[N, 3, 2] x) => (float[N, 1, 3, 2] y, float[N, 1, 3, 2] z)
             <{weights}, int64[4] cut = {{0, 3, 2, 2}}, int64[2] sizes = {{1, 1}}, float half = {{0.5}}> {{
             m = MatMul(x, w) a = Add(m, b) r = Reshape(a, cut) t = Transpose <perm = [0, 2, 1, 3]> (r) {body} }}"""

    rewrites(
        SinkScale(),
        text("z, u = Split <axis = 1> (t, sizes) y = Mul(u, half)", WEIGHTS),
        text(
            "z, y = Split <axis = 1> (t, sizes)",
            "float[2, 4] w = {1, 2, 1.5, 2, 5, 6, 3.5, 4}, float[4] b = {1, 2, 1.5, 2}",
        ),
    )


@pytest.mark.parametrize(
    "body",
    [
        "r = Reshape(m, swapped) z, u = Split <axis = 0> (r) y = Mul(u, half)",  # rows and channels mixed
        "r = Reshape(m, cut) t = Transpose <perm = [0, 2, 1]> (r) z, u = Split <axis = 1> (t) y = Mul(u, half)",
    ],
)
def test_parts_that_are_no_range_of_channels_stay(keeps, body):
    keeps(
        SinkScale(),
        f"""g (float[6, 2] x) => (y, z)
             <{WEIGHTS}, float half = {{0.5}}, int64[2] swapped = {{4, 6}}, int64[3] cut = {{6, 2, 2}}> {{
             m = MatMul(x, w) {body} }}""",
    )


def test_a_split_of_another_axis_stays(keeps):
    keeps(
        SinkScale(),
        """g (float[6, 2] x) => (float[2, 3] y, float[3, 2] z) <float[2, 2] w = {1, 2, 3, 4}, float half = {0.5}> {
             m = MatMul(x, w) z, u = Split <axis = 0> (m) t = Transpose <perm = [1, 0]> (u) y = Mul(t, half) }""",
    )


def test_into_a_convolution(rewrites):
    def text(body: str, weights: str) -> str:
        return f"""g (float[1, 1, 4] x) => (float[8] y)
             <float[2, 1, 1] w = {{{weights}}}, int64[1] s = {{-1}}, float[1] half = {{0.5}}> {{ c = Conv(x, w) {body} }}"""

    rewrites(
        SinkScale(),
        text("r = Reshape(c, s) y = Mul(r, half)", "1, 2"),
        text("y = Reshape(c, s)", "0.5, 1"),
    )


def test_next_to_the_operator_it_is_for_fuse_affine(keeps):
    keeps(
        SinkScale(),
        f"g (float[3, 2] x) => (float[3, 4] y) <{WEIGHTS}, float half = {{0.5}}> {{ m = Gemm(x, w, b) y = Mul(m, half) }}",
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("y = Mul(t, huge)", "too large or too small"),
        ("y = Mul(t, tiny)", "too large or too small"),
        ("u = Mul(t, half) y = Add(u, t)", ""),  # used elsewhere
        ("u = Relu(t) y = Mul(u, half)", ""),
        ("y = Mul(t, row)", ""),  # not one number
        ("y = Div(half, t)", ""),
        ("y = Div(t, zero)", ""),
        ("u = MatMul(t, t) v = MatMul(u, t) y = Mul(v, half)", ""),
    ],
)
def test_what_stays(keeps, body, reason):
    keeps(
        SinkScale(),
        f"""g (float[2, 2] x) => (float[2, 2] y) <float[2, 2] w = {{1, 2, 3, 4}}, float half = {{0.5}}, float zero = {{0}},
             float huge = {{1e6}}, float tiny = {{1e-6}}, float[2] row = {{1, 2}}> {{
             m = MatMul(x, w) t = Transpose <perm = [1, 0]> (m) {body} }}""",
        reason=reason,
    )


def test_a_constant_that_adds_an_axis_stays(keeps):
    keeps(
        SinkScale(),
        """g (float[2, 2] x) => (float[1, 2, 2] y) <float[2, 2] w = {1, 2, 3, 4}, float[1, 1, 1] half = {0.5}> {
             m = MatMul(x, w) t = Transpose <perm = [1, 0]> (m) y = Mul(t, half) }""",
    )


def test_weights_that_are_not_constant_give_a_reason(keeps):
    keeps(
        SinkScale(),
        """g (float[2, 2] x, float[2, 2] w) => (float[2, 2] y) <float half = {0.5}> {
             m = Gemm(x, w) t = Transpose <perm = [1, 0]> (m) y = Mul(t, half) }""",
        reason="are not constant",
    )


@pytest.mark.parametrize(("factor", "reason"), [(0.5, None), (2.0, "might overflow ahead of the product")])
def test_a_product_in_float16_only_gets_smaller_factors(in_type, rewrites, keeps, factor, reason):
    def text(body: str, weights: str) -> ir.Model:
        return in_type(
            f"""g (float[2, 2] x, float[2, 2] k) => (float[2, 2] y) <float[2, 2] w = {{{weights}}}, float c = {{{factor}}}> {{
             m = MatMul(x, w) t = Transpose <perm = [1, 0]> (m) {body} }}""",
            ir.DataType.FLOAT16,
        )

    before = text("s = MatMul(t, k) y = Mul(s, c)", "1, 2, 3, 4")
    if reason is None:
        rewrites(SinkScale(), before, text("y = MatMul(t, k)", "0.5, 1, 1.5, 2"))
    else:
        keeps(SinkScale(), before, reason=reason)


def test_inside_a_branch(rewrites):
    def text(body: str, weights: str) -> str:
        return f"""g (bool p, float[2, 2] x) => (float[2, 2] y) <float[2, 2] w = {{{weights}}}, float half = {{0.5}}> {{
             y = If (p) <then_branch = t () => (float[2, 2] u) {{ m = MatMul(x, w) {body} }},
                         else_branch = e () => (float[2, 2] v) {{ v = Neg(x) }}> }}"""

    before = text("t = Transpose <perm = [1, 0]> (m) u = Mul(t, half)", "1, 2, 3, 4")
    after = text("u = Transpose <perm = [1, 0]> (m)", "0.5, 1, 1.5, 2")
    rewrites(SinkScale(), before, after)


def test_both_operands_scaled_are_one_scaled(rewrites):
    """Llama and Qwen2 of both torch exporters: rotary embeddings stand between the scales and the projections."""

    def text(body: str, constants: str) -> str:
        return f"g (float[N, 3, 2] q, float[N, 2, 5] k) => (float[N, 3, 5] y) <{constants}> {{ {body} }}"

    rewrites(
        SinkScale(),
        text("a = Mul(q, half) b = Mul(k, two) y = MatMul(a, b)", "float half = {0.5}, float two = {4}"),
        text("a = Mul(q, c) y = MatMul(a, k)", "float c = {2}"),
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("a = Mul(q, half) b = Mul(k, huge) y = MatMul(a, b)", "too large or too small"),
        ("a = Mul(q, row) b = Mul(k, half) y = MatMul(a, b)", "not a constant of one element"),
        (
            "a = Mul(q, half) b = Mul(k, half) c = MatMul(a, b) d = ReduceMax <keepdims = 0> (a) y = Add(c, d)",
            "used elsewhere",
        ),
    ],
)
def test_operands_that_stay_scaled(keeps, body, reason):
    keeps(
        SinkScale(),
        f"""g (float[N, 3, 2] q, float[N, 2, 5] k) => (float[N, 3, 5] y)
          <float half = {{0.5}}, float huge = {{1e6}}, float[2] row = {{1, 2}}> {{ {body} }}""",
        reason=reason,
    )


@pytest.mark.parametrize("rule", RULES.rules, ids=lambda rule: rule.pattern)
def test_each_rule_holds_on_random_shapes(rule):
    fuzz(
        rule,
        shapes={"x": "b m k", "y": "b k n", "a": "", "b": ""},
        values={"a": lambda rng, _: rng.uniform(0.1, 2), "b": lambda rng, _: rng.uniform(0.1, 2)},
    )
