"""fuse-gemm: only matrices, only where the target likes it."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from graphopt.passes.fuse.fuse_gemm import FuseGemm
from graphopt.pipeline import Context
from graphopt.target import find_target

LIKES = Context(target=find_target("tensorrt"))
W = "float[3,2] w = {1, 2, 3, 4, 5, 6}"


def model(parameters: str, nodes: str, *, x: str = "float[4,3] x", y: str = "float[?,?] y") -> str:
    return f"g ({x}) => ({y}) <{parameters}> {{ {nodes} }}"


@pytest.mark.parametrize(
    "bias", ["float[2] b = {1, 2}", "float[1,2] b = {1, 2}", "float b = {1}", "float[4,1] b = {1, 2, 3, 4}"]
)
@pytest.mark.parametrize("order", ["c, b", "b, c"])
def test_matmul_and_add_become_gemm(rewrites, bias, order):
    rewrites(
        FuseGemm(),
        model(f"{W}, {bias}", f"c = MatMul(x, w) y = Add({order})"),
        model(f"{W}, {bias}", "y = Gemm(x, w, b)"),
        context=LIKES,
    )


def test_where_the_target_does_not_like_gemm_nothing_is_said(keeps):
    assert not keeps(FuseGemm(), model(f"{W}, float[2] b = {{1, 2}}", "c = MatMul(x, w) y = Add(c, b)")).kept


def test_two_variables_make_a_gemm_too(rewrites):
    x = "float[N,3] x, float[3,M] w, float[M] b"
    rewrites(
        FuseGemm(),
        f"g ({x}) => (float[?,?] y) {{ c = MatMul(x, w) y = Add(c, b) }}",
        f"g ({x}) => (float[?,?] y) {{ y = Gemm(x, w, b) }}",
        context=LIKES,
    )


def test_a_transpose_of_the_weights_becomes_trans_b(rewrites):
    v = "float[2,3] w = {1, 2, 3, 4, 5, 6}, float[2] b = {1, 2}"
    rewrites(
        FuseGemm(),
        model(v, "u = Transpose <perm = [1, 0]> (w) c = MatMul(x, u) y = Add(c, b)"),
        model(v, "y = Gemm <transB: int = 1> (x, w, b)"),
        context=LIKES,
    )


@pytest.mark.parametrize(
    ("x", "reason"), [("float[2,4,3] x", "rank 3 and 2, not matrices"), ("float[3] x", "rank 1 and 2, not matrices")]
)
def test_other_ranks_are_left(keeps, x, reason):
    text = model(
        f"{W}, float[2] b = {{1, 2}}", "c = MatMul(x, w) y = Add(c, b)", x=x, y="float[...] y".replace("[...]", "")
    )
    y = "float[?,?,?] y" if "2,4" in x else "float[?] y"
    keeps(FuseGemm(), text.replace("(float y)", f"({y})"), reason=reason, context=LIKES)


def test_an_unknown_rank_is_left(keeps):
    text = model(
        f"{W}, float[2] b = {{1, 2}}", "r = Reshape(x, n) c = MatMul(r, w) y = Add(c, b)", x="float[4,3] x, int64[k] n"
    )
    keeps(FuseGemm(), text, reason="a rank is not known", context=LIKES, runs=False)


def test_a_declared_rank_of_an_inner_tensor_is_not_believed(keeps):
    text = f"""g (float[4,3] x, int64[k] n) => (float[?,?] y) <{W}, float[2] b = {{1, 2}}, float[4,3] r>
        {{ r = Reshape(x, n) c = MatMul(r, w) y = Add(c, b) }}"""
    keeps(FuseGemm(), text, reason="a rank is not known", context=LIKES, runs=False)


@pytest.mark.parametrize(
    ("parameters", "x", "reason"),
    [
        ("float[3,1] w = {1, 2, 3}, float[2] b = {1, 2}", "float[4,3] x", "not proven to broadcast"),
        (f"{W}, float[4,2] b = {{1, 2, 3, 4, 5, 6, 7, 8}}", "float[1,3] x", "not proven to broadcast"),
        (f"{W}, float[4,2] b = {{1, 2, 3, 4, 5, 6, 7, 8}}", "float[N,3] x", "not proven to broadcast"),
        (f"{W}, float[1,1,2] b = {{1, 2}}", "float[4,3] x", "would add a dimension"),
    ],
)
def test_a_bias_that_makes_the_product_larger_is_left(keeps, parameters, x, reason):
    y = "float[?,?,?] y" if "dimension" in reason else "float[?,?] y"
    runs = "N" not in x
    keeps(
        FuseGemm(),
        model(parameters, "c = MatMul(x, w) y = Add(c, b)", x=x, y=y),
        reason=reason,
        context=LIKES,
        runs=runs,
    )


def test_a_product_that_is_used_elsewhere_is_kept(keeps):
    text = model(f"{W}, float[2] b = {{1, 2}}", "c = MatMul(x, w) y = Add(c, b)", y="float[?,?] y, float[?,?] c")
    keeps(FuseGemm(), text, reason="also used elsewhere", context=LIKES)


def test_integers_are_left(keeps):
    text = model(f"{W}, float[2] b = {{1, 2}}", "c = MatMul(x, w) y = Add(c, b)").replace("float", "int32")
    keeps(FuseGemm(), text, reason="INT32", context=LIKES)


def test_an_add_of_two_products_takes_one(rewrites):
    inputs = "float[4,3] x, float[3,2] v, float[3,2] w"
    rewrites(
        FuseGemm(),
        f"g ({inputs}) => (float[?,?] y) {{ a = MatMul(x, v) b = MatMul(x, w) y = Add(a, b) }}",
        f"g ({inputs}) => (float[?,?] y) {{ b = MatMul(x, w) y = Gemm(x, v, b) }}",
        context=LIKES,
    )


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT16, ir.DataType.DOUBLE])
def test_other_floating_types_have_a_kernel(rewrites, in_type, dtype):
    parameters = f"{W}, float[2] b = {{1, 2}}"
    rewrites(
        FuseGemm(),
        in_type(model(parameters, "c = MatMul(x, w) y = Add(c, b)"), dtype),
        in_type(model(parameters, "y = Gemm(x, w, b)"), dtype),
        context=LIKES,
    )


def test_works_in_an_if_branch(rewrites):
    def text(branch: str) -> str:
        return f"""g (bool c, float[4,3] x) => (float[?,?] y) <{W}, float[2] b = {{1, 2}}> {{ y = If (c) <
            then_branch = t () => (float[?,?] p) {{ {branch} }},
            else_branch = e () => (float[?,?] q) {{ q = MatMul(x, w) }}> }}"""

    rewrites(FuseGemm(), text("o = MatMul(x, w) p = Add(o, b)"), text("p = Gemm(x, w, b)"), context=LIKES)
