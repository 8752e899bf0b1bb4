"""fuse-affine: Mul, Add, Sub and Div by constants beside a linear operator."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from graphopt.passes.fuse.fuse_affine import FuseAffine

W = "float[2,1,1,2] w = {1, 2, 3, 4}"


def conv(parameters: str, body: str, x: str = "float[2,1,3,5] x") -> str:
    return f"g ({x}) => (float[?,?,?,?] y) <{parameters}> {{ {body} }}"


def dense(parameters: str, body: str, x: str = "float[4,3] x", y: str = "float[?,?] y") -> str:
    return f"g ({x}) => ({y}) <{parameters}> {{ {body} }}"


DENSE = "float[3,2] w = {1, 2, 3, 4, 5, 6}"


@pytest.mark.parametrize(
    ("operator", "weights", "bias"),
    [
        ("Mul(c, k)", "{2, 4, 12, 16}", "{20, 80}"),
        ("Mul(k, c)", "{2, 4, 12, 16}", "{20, 80}"),
        ("Div(c, k)", "{0.5, 1, 0.75, 1}", "{5, 5}"),
        ("Add(c, k)", "{1, 2, 3, 4}", "{12, 24}"),
        ("Add(k, c)", "{1, 2, 3, 4}", "{12, 24}"),
        ("Sub(c, k)", "{1, 2, 3, 4}", "{8, 16}"),
        ("Sub(k, c)", "{-1, -2, -3, -4}", "{-8, -16}"),
    ],
)
def test_each_operator_goes_into_the_conv_before_it(rewrites, operator, weights, bias):
    rewrites(
        FuseAffine(),
        conv(f"{W}, float[2] a = {{10, 20}}, float[2,1,1] k = {{2, 4}}", f"c = Conv(x, w, a) y = {operator}"),
        conv(f"float[2,1,1,2] w = {weights}, float[2] a = {bias}", "y = Conv(x, w, a)"),
    )


@pytest.mark.parametrize("shape", ["float k", "float[1] k", "float[1,1,1] k", "float[1,1,1,1] k"])
def test_one_number_scales_all_channels_and_makes_no_bias(rewrites, shape):
    rewrites(
        FuseAffine(),
        conv(f"{W}, {shape} = {{2}}", "c = Conv(x, w) y = Mul(c, k)"),
        conv("float[2,1,1,2] w = {2, 4, 6, 8}", "y = Conv(x, w)"),
    )


def test_a_chain_folds_in_one_go(rewrites):
    rewrites(
        FuseAffine(),
        conv(
            f"{W}, float k = {{2}}, float[1,2,1,1] t = {{1, -1}}, float[2,1,1] d = {{4, 8}}",
            "a = Conv(x, w) b = Mul(k, a) c = Add(b, t) y = Div(c, d)",
        ),
        conv("float[2,1,1,2] w = {0.5, 1, 0.75, 1}, float[2] b = {0.25, -0.125}", "y = Conv(x, w, b)"),
    )


@pytest.mark.parametrize(
    ("constant", "reason"),
    [
        ("float[2] k = {2, 4}", "not one number per channel"),  # along the width, were it 2
        ("float[5] k = {1, 2, 3, 4, 5}", "not one number per channel"),
        ("float[2,2,1,1] k = {1, 2, 3, 4}", "not one number per channel"),
        ("float[1,2,3,1] k = {1, 2, 3, 4, 5, 6}", "not one number per channel"),
        ("float[1,1,2,1,1] k = {1, 2}", "would add a dimension"),
        ("float[1,1,1,1,1] k = {2}", "would add a dimension"),
        ("float[2,1,1] k = {1, inf}", "NaN or infinity"),
        ("float k = {3e38}", "overflow"),
    ],
)
def test_other_constants_are_left(keeps, constant, reason):
    x = "float[2,1,3,3] x" if "[2] k" in constant else "float[2,1,3,5] x"
    x = x if "[5] k" not in constant else "float[2,1,3,6] x"
    text = conv(f"{W}, {constant}", "c = Conv(x, w) y = Mul(c, k)", x)
    y = "float[?,?,?,?,?] y" if "dimension" in reason else "float[?,?,?,?] y"
    keeps(FuseAffine(), text.replace("float[?,?,?,?] y", y), reason=reason, runs="NaN" not in reason)


def test_a_constant_that_widens_the_output_is_left(keeps):
    text = conv(
        "float[1,1,1,1] w = {2}, float[3,1,1] k = {1, 2, 3}", "c = Conv(x, w) y = Mul(c, k)", x="float[1,1,2,2] x"
    )
    keeps(FuseAffine(), text, reason="3 channels, not 1")


def test_a_division_by_zero_is_left(keeps):
    text = conv(f"{W}, float[2,1,1] k = {{1, 0}}", "c = Conv(x, w) y = Div(c, k)")
    keeps(FuseAffine(), text, reason="divides by zero", runs=False)


def test_a_division_of_a_constant_is_no_candidate(keeps):
    text = conv(f"{W}, float k = {{2}}", "c = Conv(x, w) y = Div(k, c)")
    assert not keeps(FuseAffine(), text).kept


def test_a_transposed_convolution_takes_them_too(rewrites):
    rewrites(
        FuseAffine(),
        conv(
            "float[4,2,1,1] w = {1, 2, 3, 4, 5, 6, 7, 8}, float[4,1,1] k = {1, 2, 3, 4}, float[4,1,1] t = {1, 2, 3, 4}",
            "c = ConvTranspose <group: int = 2> (x, w) d = Mul(c, k) y = Add(d, t)",
            x="float[1,4,2,2] x",
        ),
        conv(
            "float[4,2,1,1] w = {1, 4, 3, 8, 15, 24, 21, 32}, float[4] t = {1, 2, 3, 4}",
            "y = ConvTranspose <group: int = 2> (x, w, t)",
            x="float[1,4,2,2] x",
        ),
    )


def test_the_add_behind_a_matmul_is_its_bias_and_stays(keeps):
    text = dense(f"{DENSE}, float[2] b = {{1, 2}}", "c = MatMul(x, w) y = Add(c, b)")
    assert not keeps(FuseAffine(), text).kept


def test_a_second_add_and_a_mul_go_into_the_matmul_and_its_bias(rewrites):
    rewrites(
        FuseAffine(),
        dense(
            f"{DENSE}, float[2] b = {{1, 2}}, float[1,2] t = {{10, 20}}, float k = {{2}}",
            "c = MatMul(x, w) d = Add(b, c) e = Add(d, t) y = Mul(e, k)",
        ),
        dense("float[3,2] w = {2, 4, 6, 8, 10, 12}, float[2] b = {22, 44}", "c = MatMul(x, w) y = Add(b, c)"),
    )


def test_the_channels_of_a_matmul_are_its_last_axis_at_any_rank(rewrites):
    rewrites(
        FuseAffine(),
        dense(f"{DENSE}, float[2] k = {{2, 3}}", "c = MatMul(x, w) y = Mul(c, k)", "float[A,B,3] x", "float[?,?,?] y"),
        dense("float[3,2] w = {2, 6, 6, 12, 10, 18}", "y = MatMul(x, w)", "float[A,B,3] x", "float[?,?,?] y"),
    )


def test_a_constant_along_the_rows_of_a_matmul_is_left(keeps):
    text = dense(f"{DENSE}, float[4,1] k = {{1, 2, 3, 4}}", "c = MatMul(x, w) y = Mul(c, k)")
    keeps(FuseAffine(), text, reason="not one number per channel")


def test_a_product_of_two_variables_is_no_candidate(keeps):
    text = dense("float k = {2}", "c = MatMul(x, z) y = Mul(c, k)", "float[4,3] x, float[3,2] z")
    assert not keeps(FuseAffine(), text).kept


def test_gemm_with_transposed_weights_is_scaled_by_rows(rewrites):
    rewrites(
        FuseAffine(),
        dense(
            "float[2,3] w = {1, 2, 3, 4, 5, 6}, float[2] k = {2, 3}, float[2] t = {1, 2}",
            "c = Gemm <transB: int = 1, alpha: float = 2.0> (x, w) d = Mul(c, k) y = Add(d, t)",
        ),
        dense(
            "float[2,3] w = {2, 4, 6, 12, 15, 18}, float[2] t = {1, 2}",
            "y = Gemm <transB: int = 1, alpha: float = 2.0> (x, w, t)",
        ),
    )


def test_a_gemm_whose_bias_is_no_constant_is_left(keeps):
    text = dense(f"{DENSE}, float k = {{2}}", "c = Gemm(x, w, z) y = Mul(c, k)", "float[4,3] x, float[2] z")
    keeps(FuseAffine(), text, reason="the bias of Gemm 'c' is not a constant")


def test_a_gemm_whose_bias_varies_over_the_rows_is_left(keeps):
    text = dense(f"{DENSE}, float[4,1] b = {{1, 2, 3, 4}}, float k = {{2}}", "c = Gemm(x, w, b) y = Mul(c, k)")
    keeps(FuseAffine(), text, reason="not one number per channel")


def test_a_scale_before_a_conv_goes_in_though_it_pads(rewrites):
    rewrites(
        FuseAffine(),
        conv(
            "float[1,2,1,2] w = {1, 2, 3, 4}, float[1,2,1,1] k = {2, 3}",
            "c = Mul(x, k) y = Conv <pads = [0, 1, 0, 1]> (c, w)",
            x="float[1,2,3,3] x",
        ),
        conv("float[1,2,1,2] w = {2, 4, 9, 12}", "y = Conv <pads = [0, 1, 0, 1]> (x, w)", x="float[1,2,3,3] x"),
    )


def test_a_scale_before_a_grouped_conv_keeps_to_its_group(rewrites):
    rewrites(
        FuseAffine(),
        conv(
            "float[2,2,1,1] w = {1, 2, 3, 4}, float[4,1,1] k = {1, 2, 3, 4}",
            "c = Div(x, k) y = Conv <group: int = 2> (c, w)",
            x="float[1,4,2,2] x",
        ),
        conv("float[2,2,1,1] w = {1, 1, 1, 1}", "y = Conv <group: int = 2> (x, w)", x="float[1,4,2,2] x"),
    )


def test_a_scale_before_a_transposed_convolution_goes_in(rewrites):
    rewrites(
        FuseAffine(),
        conv(
            "float[2,1,1,2] w = {1, 2, 3, 4}, float[2,1,1] k = {2, 3}",
            "c = Mul(x, k) y = ConvTranspose <pads = [0, 1, 0, 0]> (c, w)",
            x="float[1,2,3,3] x",
        ),
        conv(
            "float[2,1,1,2] w = {2, 4, 9, 12}", "y = ConvTranspose <pads = [0, 1, 0, 0]> (x, w)", x="float[1,2,3,3] x"
        ),
    )


def test_normalisation_of_the_image_goes_into_a_conv_that_does_not_pad(rewrites):
    rewrites(
        FuseAffine(),
        conv(
            "float[1,2,1,2] w = {1, 2, 3, 4}, float[1,2,1,1] m = {1, 2}, float d = {2}",
            "a = Sub(x, m) c = Div(a, d) y = Conv(c, w)",
            x="float[1,2,3,3] x",
        ),
        conv("float[1,2,1,2] w = {0.5, 1, 1.5, 2}, float[1] b = {-8.5}", "y = Conv(x, w, b)", x="float[1,2,3,3] x"),
    )


def test_a_shift_before_a_conv_that_pads_is_left(keeps):
    text = conv(
        "float[1,2,1,2] w = {1, 2, 3, 4}, float k = {2}",
        "c = Add(x, k) y = Conv <pads = [0, 1, 0, 1]> (c, w)",
        x="float[1,2,3,3] x",
    )
    keeps(FuseAffine(), text, reason="pads its input with zeros")


def test_a_scale_passes_the_shift_that_must_stay(rewrites):
    rewrites(
        FuseAffine(),
        conv(
            "float[1,2,1,2] w = {1, 2, 3, 4}, float[2,1,1] k = {2, 4}, float t = {8}",
            "a = Mul(x, k) c = Add(t, a) y = Conv <pads = [0, 1, 0, 1]> (c, w)",
            x="float[1,2,3,3] x",
        ),
        conv(
            "float[1,2,1,2] w = {2, 4, 12, 16}, float[2,1,1] t = {4, 2}",
            "c = Add(t, x) y = Conv <pads = [0, 1, 0, 1]> (c, w)",
            x="float[1,2,3,3] x",
        ),
    )


def test_a_scale_passes_a_subtraction_too(rewrites):
    rewrites(
        FuseAffine(),
        conv(
            "float[1,1,1,2] w = {1, 2}, float k = {2}, float t = {8}",
            "a = Mul(x, k) c = Sub(a, t) y = Conv <pads = [0, 1, 0, 1]> (c, w)",
        ),
        conv(
            "float[1,1,1,2] w = {2, 4}, float[1,1,1] t = {4}",
            "c = Sub(x, t) y = Conv <pads = [0, 1, 0, 1]> (c, w)",
        ),
    )


def test_a_scale_that_makes_one_channel_several_is_left(keeps):
    text = conv(
        "float[1,2,1,1] w = {1, 2}, float[2,1,1] k = {2, 3}", "c = Mul(x, k) y = Conv(c, w)", x="float[1,1,3,3] x"
    )
    keeps(FuseAffine(), text, reason="the shape of its input is not known")


def test_a_scale_that_adds_the_batch_axis_is_left(keeps):
    text = conv(
        "float[1,2,1,1] w = {1, 2}, float[1,2,1,1] k = {2, 3}", "c = Mul(x, k) y = Conv(c, w)", x="float[2,3,3] x"
    )
    keeps(FuseAffine(), text, runs=True)


def test_before_a_matmul_they_stay_since_layer_normalisation_ends_so(keeps):
    text = dense(f"{DENSE}, float[3] k = {{1, 2, 3}}", "c = Mul(x, k) y = MatMul(c, w)")
    assert not keeps(FuseAffine(), text).kept


def test_an_intermediate_that_is_used_elsewhere_is_kept(keeps):
    text = f"""g (float[2,1,3,5] x) => (float[?,?,?,?] y, float[?,?,?,?] z) <{W}, float k = {{2}}>
        {{ c = Conv(x, w) y = Mul(c, k) z = Relu(c) }}"""
    keeps(FuseAffine(), text, reason="also used elsewhere")


def test_an_intermediate_that_is_an_output_is_kept(keeps):
    text = f"""g (float[2,1,3,5] x) => (float[?,?,?,?] c, float[?,?,?,?] y) <{W}, float k = {{2}}>
        {{ c = Conv(x, w) y = Mul(c, k) }}"""
    keeps(FuseAffine(), text, reason="also used elsewhere")


def test_weights_that_are_computed_are_left(keeps):
    text = conv("float k = {2}", "c = Conv(x, w) y = Mul(c, k)", "float[2,1,3,5] x, float[2,1,1,2] w")
    keeps(FuseAffine(), text, reason="the weights of Conv 'c' are not constant")


def test_integers_are_no_candidates(keeps):
    text = dense(f"{DENSE}, float k = {{2}}", "c = MatMul(x, w) y = Mul(c, k)").replace("float", "int32")
    assert not keeps(FuseAffine(), text).kept


def test_works_in_the_body_of_a_loop(rewrites):
    def body(parameters: str, nodes: str) -> str:
        return f"""g (int64 n, float[1,1,2,3] x) => (float[?,?,?,?] y) <bool c = {{1}}> {{
            y = Loop (n, c, x) <body = b (int64 i, bool o, float[1,1,2,3] v) => (bool p, float[1,1,2,3] r)
            <{parameters}> {{ p = Identity(o) {nodes} }}> }}"""

    rewrites(
        FuseAffine(),
        body("float[1,1,1,1] w = {0.5}, float k = {0.5}", "d = Conv(v, w) r = Mul(d, k)"),
        body("float[1,1,1,1] w = {0.25}", "r = Conv(v, w)"),
        runs=False,
    )


def test_works_in_a_local_function_where_ranks_are_unknown(rewrites):
    def function(nodes: str) -> str:
        return f"""<ir_version: 8, opset_import: ["": 17, "own": 1]>
            g (float[4,3] x) => (float[?,?] y) {{ y = own.block(x) }}
            <domain: "own", opset_import: ["": 17]> block (x) => (y) {{ {nodes} }}"""

    rewrites(
        FuseAffine(),
        function(
            """w = Constant <value = float[3,2] {1, 2, 3, 4, 5, 6}> ()
            k = Constant <value = float {2}> ()
            c = MatMul(x, w)
            y = Mul(c, k)"""
        ),
        function("w = Constant <value = float[3,2] {2, 4, 6, 8, 10, 12}> () y = MatMul(x, w)"),
    )


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16])
def test_weights_keep_their_type(rewrites, in_type, dtype):
    before = dense(
        f"{DENSE}, float[2] k = {{2, 3}}, float[2] t = {{1, 2}}", "c = MatMul(x, w) d = Mul(c, k) y = Add(d, t)"
    )
    after = dense("float[3,2] w = {2, 6, 6, 12, 10, 18}, float[2] t = {1, 2}", "c = MatMul(x, w) y = Add(c, t)")
    runs = dtype != ir.DataType.BFLOAT16  # the CPU provider has no MatMul for it
    rewrites(FuseAffine(), in_type(before, dtype), in_type(after, dtype), runs=runs)


def test_old_opsets_that_broadcast_by_attribute_are_left(keeps):
    text = conv(f"{W}, float[2] k = {{2, 3}}", "c = Conv(x, w) y = Mul <broadcast: int = 1, axis: int = 1> (c, k)")
    assert not keeps(FuseAffine(), f'<ir_version: 4, opset_import: ["": 6]> {text}', runs=False).kept
