"""fuse-batchnorm: what is folded, where, and what is left alone."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from graphopt.passes.fuse.fuse_batchnorm import FuseBatchnorm

# scale / sqrt(var + epsilon) = 2, -1; shift = bias - that * mean = 1 - 2 * 1, 0.5 + 4
BN = "float[2] s = {4, -2}, float[2] b = {1, 0.5}, float[2] m = {1, 4}, float[2] v = {3.75, 3.75}"
EPS = "<epsilon: float = 0.25>"
W = "float[2,1,1,2] w = {1, 2, 3, 4}"


def conv(parameters: str, body: str, *, header: str = "", x: str = "float[2,1,3,5] x") -> str:
    return f"{header} g ({x}) => (float[?,?,?,?] y) <{parameters}> {{ {body} }}"


CONV_BN = conv(f"{W}, {BN}", f"c = Conv(x, w) y = BatchNormalization {EPS} (c, s, b, m, v)")
FOLDED = conv("float[2,1,1,2] w = {2, 4, -3, -4}, float[2] b = {-1, 4.5}", "y = Conv(x, w, b)")


def test_goes_into_the_conv_before_it(rewrites):
    done = rewrites(FuseBatchnorm(), CONV_BN, FOLDED)
    assert done.changed == [("BatchNormalization 'y'", "folded into Conv 'c' before it")]


def test_scales_the_bias_of_the_conv_too(rewrites):
    rewrites(
        FuseBatchnorm(),
        conv(f"{W}, float[2] a = {{10, 20}}, {BN}", f"c = Conv(x, w, a) y = BatchNormalization {EPS} (c, s, b, m, v)"),
        conv("float[2,1,1,2] w = {2, 4, -3, -4}, float[2] b = {19, -15.5}", "y = Conv(x, w, b)"),
    )


@pytest.mark.parametrize("opset", [7, 9, 14, 15, 17, 21])
def test_works_in_every_opset(rewrites, opset):
    header = f'<ir_version: 8, opset_import: ["": {opset}]>'
    rewrites(FuseBatchnorm(), header + CONV_BN, header + FOLDED)


@pytest.mark.parametrize(
    ("opset", "attributes"), [(6, "is_test: int = 1"), (1, "is_test: int = 1, consumed_inputs: ints = [0, 0, 0, 1, 1]")]
)
def test_inference_of_old_opsets_is_told_by_is_test(rewrites, opset, attributes):
    header = f'<ir_version: 4, opset_import: ["": {opset}]>'
    text = header + conv(
        f"{W}, {BN}", f"c = Conv(x, w) y = BatchNormalization <epsilon: float = 0.25, {attributes}> (c, s, b, m, v)"
    )
    rewrites(FuseBatchnorm(), text, header + FOLDED, runs=False)


def test_training_of_old_opsets_is_the_default(keeps):
    header = '<ir_version: 4, opset_import: ["": 6]>'
    keeps(FuseBatchnorm(), header + CONV_BN, reason="training mode", runs=False)


def test_spatial_0_of_old_opsets_is_left(keeps):
    text = CONV_BN.replace("<epsilon", "<spatial: int = 0, epsilon")
    keeps(FuseBatchnorm(), f'<ir_version: 4, opset_import: ["": 7]>{text}', reason="each position", runs=False)


def test_training_mode_is_left(keeps):
    text = conv(
        f"{W}, {BN}",
        "c = Conv(x, w) y, n, o = BatchNormalization <training_mode: int = 1, epsilon: float = 0.25> (c, s, b, m, v)",
    )
    keeps(FuseBatchnorm(), text, reason="training mode")


def test_several_outputs_mean_training_below_opset_14(keeps):
    text = conv(f"{W}, {BN}", f"c = Conv(x, w) y, a, e, i, o = BatchNormalization {EPS} (c, s, b, m, v)")
    keeps(FuseBatchnorm(), f'<ir_version: 7, opset_import: ["": 9]>{text}', reason="training mode", runs=False)


def test_groups_are_told_apart(rewrites):
    rewrites(
        FuseBatchnorm(),
        conv(
            f"{W}, {BN}",
            f"c = Conv <group: int = 2> (x, w) y = BatchNormalization {EPS} (c, s, b, m, v)",
            x="float[1,2,3,3] x",
        ),
        conv(
            "float[2,1,1,2] w = {2, 4, -3, -4}, float[2] b = {-1, 4.5}",
            "y = Conv <group: int = 2> (x, w, b)",
            x="float[1,2,3,3] x",
        ),
    )


def test_a_transposed_convolution_has_its_output_channels_second(rewrites):
    rewrites(
        FuseBatchnorm(),
        conv(
            f"float[1,2,1,2] w = {{1, 2, 3, 4}}, {BN}",
            f"c = ConvTranspose(x, w) y = BatchNormalization {EPS} (c, s, b, m, v)",
        ),
        conv("float[1,2,1,2] w = {2, 4, -3, -4}, float[2] b = {-1, 4.5}", "y = ConvTranspose(x, w, b)"),
    )


def test_a_grouped_transposed_convolution_numbers_its_channels_over_the_groups(rewrites):
    rewrites(
        FuseBatchnorm(),
        conv(
            f"float[4,1,1,1] w = {{1, 2, 3, 4}}, {BN}",
            f"c = ConvTranspose <group: int = 2> (x, w) y = BatchNormalization {EPS} (c, s, b, m, v)",
            x="float[1,4,2,2] x",
        ),
        conv(
            "float[4,1,1,1] w = {2, 4, -3, -4}, float[2] b = {-1, 4.5}",
            "y = ConvTranspose <group: int = 2> (x, w, b)",
            x="float[1,4,2,2] x",
        ),
    )


def dense(parameters: str, body: str, *, x: str = "float[4,3] x") -> str:
    return f"g ({x}) => (float[?,?] y) <{parameters}> {{ {body} }}"


def test_gemm_keeps_alpha_and_takes_beta_into_the_bias(rewrites):
    rewrites(
        FuseBatchnorm(),
        dense(
            f"float[2,3] w = {{1, 2, 3, 4, 5, 6}}, float[1,2] a = {{10, 20}}, {BN}",
            "c = Gemm <transB: int = 1, alpha: float = 0.5, beta: float = 2.0> (x, w, a)"
            f"y = BatchNormalization {EPS} (c, s, b, m, v)",
        ),
        dense(
            "float[2,3] w = {2, 4, 6, -4, -5, -6}, float[2] b = {39, -35.5}",
            "y = Gemm <transB: int = 1, alpha: float = 0.5> (x, w, b)",
        ),
    )


def test_a_matmul_gets_an_add(rewrites):
    rewrites(
        FuseBatchnorm(),
        dense(
            f"float[3,2] w = {{1, 2, 3, 4, 5, 6}}, {BN}",
            f"c = MatMul(x, w) y = BatchNormalization {EPS} (c, s, b, m, v)",
        ),
        dense("float[3,2] w = {2, -2, 6, -4, 10, -6}, float[2] b = {-1, 4.5}", "c = MatMul(x, w) y = Add(c, b)"),
    )


def test_a_matmul_with_an_add_keeps_it(rewrites):
    rewrites(
        FuseBatchnorm(),
        dense(
            f"float[3,2] w = {{1, 2, 3, 4, 5, 6}}, float[2] a = {{10, 20}}, {BN}",
            f"c = MatMul(x, w) d = Add(a, c) y = BatchNormalization {EPS} (d, s, b, m, v)",
        ),
        dense("float[3,2] w = {2, -2, 6, -4, 10, -6}, float[2] b = {19, -15.5}", "c = MatMul(x, w) y = Add(b, c)"),
    )


def test_behind_a_matmul_of_rank_3_it_normalises_another_axis(keeps):
    text = f"""g (float[1,2,3] x) => (float[?,?,?] y) <float[3,2] w = {{1, 2, 3, 4, 5, 6}}, {BN}>
        {{ c = MatMul(x, w) y = BatchNormalization {EPS} (c, s, b, m, v) }}"""
    keeps(FuseBatchnorm(), text, reason="axis 1, which is not the last")


def test_goes_into_the_conv_after_it_where_that_does_not_pad(rewrites):
    rewrites(
        FuseBatchnorm(),
        conv(
            f"float[1,2,1,2] w = {{1, 2, 3, 4}}, {BN}",
            f'c = BatchNormalization {EPS} (x, s, b, m, v) y = Conv <auto_pad = "VALID"> (c, w)',
            x="float[1,2,3,3] x",
        ),
        conv(
            "float[1,2,1,2] w = {2, 4, -3, -4}, float[1] b = {28.5}",
            'y = Conv <auto_pad = "VALID"> (x, w, b)',
            x="float[1,2,3,3] x",
        ),
    )


@pytest.mark.parametrize("padding", ["pads = [0, 0, 0, 1]", 'auto_pad = "SAME_UPPER"'])
def test_before_a_conv_that_pads_it_is_left(keeps, padding):
    text = conv(
        f"float[1,2,1,2] w = {{1, 2, 3, 4}}, {BN}",
        f"c = BatchNormalization {EPS} (x, s, b, m, v) y = Conv <{padding}> (c, w)",
        x="float[1,2,3,3] x",
    )
    keeps(FuseBatchnorm(), text, reason="pads its input with zeros")


def test_before_a_pointwise_conv_auto_pad_adds_nothing(rewrites):
    rewrites(
        FuseBatchnorm(),
        conv(
            f"float[1,2,1,1] w = {{1, 2}}, {BN}",
            f'c = BatchNormalization {EPS} (x, s, b, m, v) y = Conv <auto_pad = "SAME_UPPER"> (c, w)',
            x="float[1,2,3,3] x",
        ),
        conv(
            "float[1,2,1,1] w = {2, -2}, float[1] b = {8}",
            'y = Conv <auto_pad = "SAME_UPPER"> (x, w, b)',
            x="float[1,2,3,3] x",
        ),
    )


def test_before_a_transposed_convolution_it_is_left(keeps):
    text = conv(
        f"float[2,1,1,2] w = {{1, 2, 3, 4}}, {BN}",
        f"c = BatchNormalization {EPS} (x, s, b, m, v) y = ConvTranspose(c, w)",
        x="float[1,2,3,3] x",
    )
    keeps(FuseBatchnorm(), text, reason="not every weight takes part")


def test_goes_into_the_gemm_and_the_matmul_after_it(rewrites):
    rewrites(
        FuseBatchnorm(),
        dense(
            f"float[2,2] w = {{1, 2, 3, 4}}, float[2] a = {{10, 20}}, {BN}",
            f"c = BatchNormalization {EPS} (x, s, b, m, v)y = Gemm <alpha: float = 2.0, beta: float = 3.0> (c, w, a)",
            x="float[4,2] x",
        ),
        dense(
            "float[2,2] w = {2, 4, -3, -4}, float[2] b = {55, 92}",
            "y = Gemm <alpha: float = 2.0> (x, w, b)",
            x="float[4,2] x",
        ),
    )
    rewrites(
        FuseBatchnorm(),
        dense(
            f"float[2,2] w = {{1, 2, 3, 4}}, {BN}",
            f"c = BatchNormalization {EPS} (x, s, b, m, v) y = MatMul(c, w)",
            x="float[4,2] x",
        ),
        dense(
            "float[2,2] w = {2, 4, -3, -4}, float[2] b = {12.5, 16}", "c = MatMul(x, w) y = Add(c, b)", x="float[4,2] x"
        ),
    )


def test_before_a_gemm_that_transposes_its_input_it_is_left(keeps):
    text = dense(
        f"float[4,2] w = {{1, 2, 3, 4, 5, 6, 7, 8}}, {BN}",
        f"c = BatchNormalization {EPS} (x, s, b, m, v) y = Gemm <transA: int = 1> (c, w)",
        x="float[4,2] x",
    )
    keeps(FuseBatchnorm(), text, reason="transposes its input")


def test_an_intermediate_that_is_used_elsewhere_is_kept(keeps):
    text = f"""g (float[2,1,3,5] x) => (float[?,?,?,?] y, float[?,?,?,?] z) <{W}, {BN}>
        {{ c = Conv(x, w) y = BatchNormalization {EPS} (c, s, b, m, v) z = Relu(c) }}"""
    keeps(FuseBatchnorm(), text, reason="also used elsewhere")


def test_an_intermediate_that_is_an_output_is_kept(keeps):
    text = f"""g (float[2,1,3,5] x) => (float[?,?,?,?] y, float[?,?,?,?] c) <{W}, {BN}>
        {{ c = Conv(x, w) y = BatchNormalization {EPS} (c, s, b, m, v) }}"""
    keeps(FuseBatchnorm(), text, reason="also used elsewhere")


def test_a_public_output_keeps_its_name_and_is_listed_once(rewrites):
    rewrites(
        FuseBatchnorm(),
        f"""g (float[2,1,3,5] x) => (float[?,?,?,?] y, float[?,?,?,?] z) <{W}, {BN}>
        {{ c = Conv(x, w) y = BatchNormalization {EPS} (c, s, b, m, v) z = Relu(y) }}""",
        """g (float[2,1,3,5] x) => (float[?,?,?,?] y, float[?,?,?,?] z)
        <float[2,1,1,2] w = {2, 4, -3, -4}, float[2] b = {-1, 4.5}> { y = Conv(x, w, b) z = Relu(y) }""",
    )


def test_shared_weights_are_copied(rewrites):
    rewrites(
        FuseBatchnorm(),
        f"""g (float[2,1,3,5] x) => (float[?,?,?,?] y, float[?,?,?,?] z) <{W}, {BN}>
        {{ c = Conv(x, w) y = BatchNormalization {EPS} (c, s, b, m, v) z = Conv(x, w) }}""",
        """g (float[2,1,3,5] x) => (float[?,?,?,?] y, float[?,?,?,?] z)
        <float[2,1,1,2] w = {2, 4, -3, -4}, float[2] b = {-1, 4.5}, float[2,1,1,2] u = {1, 2, 3, 4}>
        { y = Conv(x, w, b) z = Conv(x, u) }""",
    )


def test_large_shared_weights_are_not_copied(keeps, monkeypatch):
    monkeypatch.setattr("graphopt.passes.fuse._linear.COPY_LIMIT", 15)
    text = f"""g (float[2,1,3,5] x) => (float[?,?,?,?] y, float[?,?,?,?] z) <{W}, {BN}>
        {{ c = Conv(x, w) y = BatchNormalization {EPS} (c, s, b, m, v) z = Conv(x, w) }}"""
    keeps(FuseBatchnorm(), text, reason="a copy would add 16 bytes")


def test_weights_that_an_input_may_override_are_no_constants(keeps):
    text = f"""g (float[2,1,3,5] x, float[2,1,1,2] w = {{1, 2, 3, 4}}) => (float[?,?,?,?] y) <{BN}>
        {{ c = Conv(x, w) y = BatchNormalization {EPS} (c, s, b, m, v) }}"""
    keeps(
        FuseBatchnorm(),
        text,
        reason="the weights of Conv 'c' are also an input of the model, which a caller may override",
    )


def test_parameters_that_are_computed_are_no_constants(keeps):
    text = f"""g (float[2,1,3,5] x, float[2] s) => (float[?,?,?,?] y) <{W}, {BN.split("}, ", 1)[1]}>
        {{ c = Conv(x, w) y = BatchNormalization {EPS} (c, s, b, m, v) }}"""
    keeps(FuseBatchnorm(), text, reason="its scale is not a constant")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("3.75, 3.75", "3.75, -1", "not positive"),
        ("3.75, 3.75", "3.75, -0.25", "not positive"),
        ("3.75, 3.75", "3.75, nan", "NaN or infinity"),
        ("{4, -2}", "{4, inf}", "NaN or infinity"),
        ("{4, -2}", "{4, 3e38}", "overflow"),
        ("{1, 0.5}", "{3e38, 0.5}, ", ""),
    ],
)
def test_numbers_without_a_finite_result_are_left(keeps, rewrites, old, new, reason):
    assert old in CONV_BN
    text = CONV_BN.replace(old, new).replace("}, ,", "},")
    if reason:
        keeps(FuseBatchnorm(), text, reason=reason, runs=False)
    else:
        rewrites(FuseBatchnorm(), text, FOLDED.replace("{-1, 4.5}", "{3e38, 4.5}"))


def test_without_a_linear_neighbour_it_is_left(keeps):
    text = conv(BN, f"c = Relu(x) y = BatchNormalization {EPS} (c, s, b, m, v)", x="float[1,2,3,3] x")
    keeps(FuseBatchnorm(), text, reason="no linear operator before or after it")


def test_works_in_the_branches_of_an_if(rewrites):
    before = f"""g (bool c, float[2,1,3,5] x) => (float[?,?,?,?] y) <{W}, {BN}> {{
        y = If (c) <
            then_branch = t () => (float[?,?,?,?] p) {{ q = Conv(x, w) p = BatchNormalization {EPS} (q, s, b, m, v) }},
            else_branch = e () => (float[?,?,?,?] r) {{ r = Conv(x, w) }}
        > }}"""
    expected = """g (bool c, float[2,1,3,5] x) => (float[?,?,?,?] y) <float[2,1,1,2] w = {1, 2, 3, 4}> {
        y = If (c) <
            then_branch = t () => (float[?,?,?,?] p) <float[2,1,1,2] u = {2, 4, -3, -4}, float[2] a = {-1, 4.5}>
                { p = Conv(x, u, a) },
            else_branch = e () => (float[?,?,?,?] r) { r = Conv(x, w) }
        > }"""
    rewrites(FuseBatchnorm(), before, expected)


def test_across_the_border_of_a_subgraph_it_is_left(keeps):
    text = f"""g (bool c, float[2,1,3,5] x) => (float[?,?,?,?] y) <{W}, {BN}> {{
        q = Conv(x, w)
        y = If (c) <
            then_branch = t () => (float[?,?,?,?] p) {{ p = BatchNormalization {EPS} (q, s, b, m, v) }},
            else_branch = e () => (float[?,?,?,?] r) {{ r = Abs(x) }}
        > }}"""
    keeps(FuseBatchnorm(), text, reason="also used elsewhere")


FUNCTION = """<ir_version: 8, opset_import: ["": 17, "own": 1]>
    g (float[2,1,3,5] x) => (float[?,?,?,?] y) { y = own.block(x) }
    <domain: "own", opset_import: ["": 17]> block (x) => (y) {
"""


def test_works_in_a_local_function(rewrites):
    before = (
        FUNCTION
        + f"""
        w = Constant <value = float[2,1,1,2] {{1, 2, 3, 4}}> ()
        s = Constant <value = float[2] {{4, -2}}> ()
        b = Constant <value = float[2] {{1, 0.5}}> ()
        m = Constant <value = float[2] {{1, 4}}> ()
        v = Constant <value = float[2] {{3.75, 3.75}}> ()
        c = Conv(x, w)
        y = BatchNormalization {EPS} (c, s, b, m, v) }}"""
    )
    expected = (
        FUNCTION
        + """
        b = Constant <value = float[2] {-1, 4.5}> ()
        w = Constant <value = float[2,1,1,2] {2, 4, -3, -4}> ()
        y = Conv(x, w, b) }"""
    )
    rewrites(FuseBatchnorm(), before, expected)


def test_an_epsilon_that_the_call_decides_is_left(keeps):
    text = """<ir_version: 8, opset_import: ["": 17, "own": 1]>
        g (float[2,1,3,5] x) => (float[?,?,?,?] y) { y = own.block <e = 0.25> (x) }
        <domain: "own", opset_import: ["": 17]> block <e> (x) => (y) {
        w = Constant <value = float[2,1,1,2] {1, 2, 3, 4}> ()
        s = Constant <value = float[2] {4, -2}> ()
        c = Conv(x, w)
        y = BatchNormalization <epsilon: float = @e> (c, s, s, s, s) }"""
    keeps(FuseBatchnorm(), text, reason="a parameter of the function", runs=False)


def test_layer_normalization_is_untouched(keeps):
    text = dense(
        "float[3,2] w = {1, 2, 3, 4, 5, 6}, float[2] s = {1, 2}", "c = MatMul(x, w) y = LayerNormalization(c, s, s)"
    )
    assert not keeps(FuseBatchnorm(), text).kept


def test_float16_weights_stay_float16(rewrites, in_type):
    rewrites(FuseBatchnorm(), in_type(CONV_BN, ir.DataType.FLOAT16), in_type(FOLDED, ir.DataType.FLOAT16))


def test_double_weights_stay_double(rewrites, in_type):
    before = dense(
        f"float[3,2] w = {{1, 2, 3, 4, 5, 6}}, {BN}", f"c = MatMul(x, w) y = BatchNormalization {EPS} (c, s, b, m, v)"
    )
    after = dense("float[3,2] w = {2, -2, 6, -4, 10, -6}, float[2] b = {-1, 4.5}", "c = MatMul(x, w) y = Add(c, b)")
    rewrites(FuseBatchnorm(), in_type(before, ir.DataType.DOUBLE), in_type(after, ir.DataType.DOUBLE))


def test_float16_weights_that_would_vanish_are_left(keeps, in_type):
    text = CONV_BN.replace("{4, -2}", "{4, 1.7e-7}")
    keeps(FuseBatchnorm(), in_type(text, ir.DataType.FLOAT16), reason="too small for float16")
