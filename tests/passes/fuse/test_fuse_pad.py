"""fuse-pad: which readers can pad by themselves, and where that would differ."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from graphopt.passes.fuse.fuse_pad import FusePad

PADS = "int64[8] p = {0, 0, 1, 2, 0, 0, 3, 4}"
W = "float[1,1,2,2] w = {1, 2, 3, 4}"
POOL = "kernel_shape = [5, 5]"


def model(parameters: str, nodes: str, *, x: str = "float[1,1,6,7] x", y: str = "float[?,?,?,?] y") -> str:
    return f"g ({x}) => ({y}) <{parameters}> {{ {nodes} }}"


CONV = model(W, "y = Conv <pads: ints = [1, 2, 3, 4]> (x, w)")


@pytest.mark.parametrize(
    ("parameters", "nodes"),
    [
        (PADS, "c = Pad(x, p)"),
        (PADS, 'c = Pad <mode = "constant"> (x, p)'),
        (f"{PADS}, float v = {{0}}", "c = Pad(x, p, v)"),
        ("int64[4] p = {1, 2, 3, 4}, int64[2] a = {2, 3}", "c = Pad(x, p, , a)"),
        ("int64[4] p = {2, 1, 4, 3}, int64[2] a = {-1, -2}, float v = {0}", "c = Pad(x, p, v, a)"),
    ],
)
def test_each_form_goes_into_a_conv(rewrites, parameters, nodes):
    header = '<ir_version: 8, opset_import: ["": 18]>'
    rewrites(FusePad(), header + model(f"{parameters}, {W}", f"{nodes} y = Conv(c, w)"), header + CONV)


def test_pads_as_attribute_of_old_opsets_go_in_too(rewrites):
    header = '<ir_version: 8, opset_import: ["": 10]>'
    before = model(W, "c = Pad <pads = [0, 0, 1, 2, 0, 0, 3, 4]> (x) y = Conv(c, w)")
    rewrites(FusePad(), header + before, header + CONV)


@pytest.mark.parametrize("own", ['auto_pad = "VALID"', 'auto_pad = "NOTSET"'])
def test_explicit_padding_replaces_auto_pad(rewrites, own):
    rewrites(FusePad(), model(f"{PADS}, {W}", f"c = Pad(x, p) y = Conv <{own}> (c, w)"), CONV)


def test_pads_of_the_conv_are_added(rewrites):
    rewrites(
        FusePad(),
        model(
            f"{PADS}, {W}", "c = Pad(x, p) y = Conv <pads = [1, 0, 0, 1], strides = [2, 1], dilations = [1, 2]> (c, w)"
        ),
        model(W, "y = Conv <pads: ints = [2, 2, 3, 5], strides: ints = [2, 1], dilations: ints = [1, 2]> (x, w)"),
    )


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
def test_a_conv_that_pads_by_size_is_left(keeps, mode):
    text = model(f"{PADS}, {W}", f'c = Pad(x, p) y = Conv <auto_pad = "{mode}"> (c, w)')
    keeps(FusePad(), text, reason=f"pads by {mode}")


@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_other_modes_are_left(keeps, mode):
    text = model("int64[8] p = {0, 0, 1, 2, 0, 0, 3, 4}, " + W, f'c = Pad <mode = "{mode}"> (x, p) y = Conv(c, w)')
    keeps(FusePad(), text, reason=f"pads by {mode}")


@pytest.mark.parametrize(
    ("pads", "reason"),
    [
        ("{0, 0, -1, 2, 0, 0, 3, 4}", "negative pads"),
        ("{1, 0, 1, 2, 0, 0, 3, 4}", "the batch or the channels"),
        ("{0, 0, 1, 2, 1, 0, 3, 4}", "the batch or the channels"),
    ],
)
def test_other_pads_are_left(keeps, pads, reason):
    text = model(f"int64[8] p = {pads}, {W}", "c = Pad(x, p) y = Conv(c, w)")
    keeps(FusePad(), text, reason=reason)


def test_padded_channels_are_left(keeps):
    text = model("int64[8] p = {0, 1, 0, 0, 0, 0, 0, 0}, float[1,2,1,1] w = {1, 2}", "c = Pad(x, p) y = Conv(c, w)")
    keeps(FusePad(), text, reason="the batch or the channels")


def test_pads_that_are_inputs_are_left(keeps):
    text = model(W, "c = Pad(x, p) y = Conv(c, w)", x="float[1,1,6,7] x, int64[8] p")
    keeps(FusePad(), text, reason="how much it pads is not known", runs=False)


def test_another_value_than_zero_is_left_before_a_conv(keeps):
    text = model(f"{PADS}, {W}, float v = {{1}}", "c = Pad(x, p, v) y = Conv(c, w)")
    keeps(FusePad(), text, reason="it pads with 1.0, a convolution with 0")


def test_padded_weights_are_left(keeps):
    text = model(
        "int64[8] p = {0, 0, 1, 0, 0, 0, 0, 0}",
        "c = Pad(w, p) y = Conv(x, c)",
        x="float[1,1,6,7] x, float[1,1,1,2] w",
    )
    keeps(FusePad(), text, reason="does not read it as data")


def test_two_convs_take_it_both(rewrites):
    y = "float[?,?,?,?] y, float[?,?,?,?] z"
    rewrites(
        FusePad(),
        model(f"{PADS}, {W}", "c = Pad(x, p) y = Conv(c, w) z = Conv <strides = [2, 2]> (c, w)", y=y),
        model(
            W,
            "y = Conv <pads: ints = [1, 2, 3, 4]> (x, w)"
            "z = Conv <pads: ints = [1, 2, 3, 4], strides: ints = [2, 2]> (x, w)",
            y=y,
        ),
    )


def test_another_reader_would_keep_it_alive_so_it_stays(keeps):
    text = model(f"{PADS}, {W}", "c = Pad(x, p) y = Conv(c, w) z = Relu(c)", y="float[?,?,?,?] y, float[?,?,?,?] z")
    keeps(FusePad(), text, reason="also used by Relu 'z'")


def test_an_output_stays(keeps):
    text = model(f"{PADS}, {W}", "c = Pad(x, p) y = Conv(c, w)", y="float[?,?,?,?] y, float[?,?,?,?] c")
    keeps(FusePad(), text, reason="an output")


def test_a_pad_without_a_reader_that_pads_is_no_candidate(keeps):
    assert not keeps(FusePad(), model(PADS, "c = Pad(x, p) y = Relu(c)")).kept


def test_an_average_pool_counts_what_it_pads(rewrites):
    pool = "y = AveragePool <kernel_shape = [5, 5], strides = [2, 3]"
    rewrites(
        FusePad(),
        model(PADS, f"c = Pad(x, p) {pool}> (c)"),
        f"""g (float[1,1,6,7] x) => (float[?,?,?,?] y)
        {{ {pool}, pads: ints = [1, 2, 3, 4], count_include_pad: int = 1> (x) }}""",
    )


def test_an_average_pool_that_counts_its_own_pads_adds_them(rewrites):
    rewrites(
        FusePad(),
        model(
            "int64[8] p = {0, 0, 1, 2, 0, 0, 3, 2}",
            f"c = Pad(x, p) y = AveragePool <{POOL}, pads = [1, 1, 1, 1], count_include_pad = 1> (c)",
        ),
        f"""g (float[1,1,6,7] x) => (float[?,?,?,?] y)
        {{ y = AveragePool <{POOL}, pads: ints = [2, 3, 4, 3], count_include_pad: int = 1> (x) }}""",
    )


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ("kernel_shape = [5, 5], pads = [0, 0, 0, 1]", "would reach the size"),
        ("kernel_shape = [5, 6], pads = [0, 0, 0, 1]", "does not count what it pads itself"),
        ("kernel_shape = [5, 5], ceil_mode = 1", "ceil_mode"),
        ("kernel_shape = [3, 5]", "would reach the size"),
        ('kernel_shape = [5, 5], auto_pad = "SAME_UPPER"', "pads by SAME_UPPER"),
    ],
)
def test_other_average_pools_are_left(keeps, attributes, reason):
    text = model(PADS, f"c = Pad(x, p) y = AveragePool <{attributes}> (c)")
    keeps(FusePad(), text, reason=reason)


def test_a_pool_behind_a_pad_of_another_value_is_left(keeps):
    text = model(f"{PADS}, float v = {{1}}", f"c = Pad(x, p, v) y = AveragePool <{POOL}> (c)")
    keeps(FusePad(), text, reason="it pads with 1.0")


def test_an_lp_pool_pads_with_zeros_as_well(rewrites):
    rewrites(
        FusePad(),
        model(PADS, f"c = Pad(x, p) y = LpPool <{POOL}> (c)"),
        f"g (float[1,1,6,7] x) => (float[?,?,?,?] y) {{ y = LpPool <{POOL}, pads: ints = [1, 2, 3, 4]> (x) }}",
    )


MAX = f"y = MaxPool <{POOL}, pads: ints = [1, 2, 3, 4]>"


def test_minus_infinity_is_what_a_max_pool_pads_with(rewrites):
    rewrites(
        FusePad(),
        model(f"{PADS}, float v = {{-inf}}", f"c = Pad(x, p, v) y = MaxPool <{POOL}> (c)"),
        f"g (float[1,1,6,7] x) => (float[?,?,?,?] y) {{ {MAX} (x) }}",
    )


@pytest.mark.parametrize("before", ["Relu(x)", "Sigmoid(x)", "Clip(x, z, o)", "Clip(x, o)"])
def test_zeros_do_no_harm_behind_what_is_never_negative(rewrites, before):
    used = "float z = {0}, float o = {6}" if "z" in before else "float o = {6}" if "o)" in before else ""
    parameters = f"{PADS}, {used}".rstrip(", ")
    rewrites(
        FusePad(),
        model(
            parameters, f"r = {before} t = Transpose <perm = [0, 1, 3, 2]> (r) c = Pad(t, p) y = MaxPool <{POOL}> (c)"
        ),
        model(used, f"r = {before} t = Transpose <perm = [0, 1, 3, 2]> (r) {MAX} (t)").replace("<>", ""),
    )


@pytest.mark.parametrize("before", ["Identity(x)", "Tanh(x)", "Clip(x, v)"])
def test_zeros_may_win_over_negative_elements_so_they_stay(keeps, before):
    text = model(f"{PADS}, float v = {{-1}}", f"r = {before} c = Pad(r, p) y = MaxPool <{POOL}> (c)")
    keeps(FusePad(), text if "v" in before else text.replace(", float v = {-1}", ""), reason="minus infinity")


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ("kernel_shape = [5, 5], ceil_mode = 1", "ceil_mode"),
        ("kernel_shape = [5, 5], dilations = [1, 2]", "dilated window"),
        ("kernel_shape = [5, 4]", "would reach the size"),
    ],
)
def test_other_max_pools_are_left(keeps, attributes, reason):
    text = model(PADS, f"r = Relu(x) c = Pad(r, p) y = MaxPool <{attributes}> (c)", x="float[1,1,9,9] x")
    keeps(FusePad(), text, reason=reason)


def test_the_indices_of_a_max_pool_count_the_padding(keeps):
    text = model(PADS, f"r = Relu(x) c = Pad(r, p) y, i = MaxPool <{POOL}> (c)", y="float[?,?,?,?] y, int64[?,?,?,?] i")
    keeps(FusePad(), text, reason="the indices")


@pytest.mark.parametrize(("dtype", "lowest"), [("int8", "-128"), ("uint8", "0")])
def test_the_least_integer_is_below_everything(rewrites, dtype, lowest):
    before = model(f"{PADS}, float v = {{{lowest}}}", f"c = Pad(x, p, v) y = MaxPool <{POOL}> (c)")
    after = f"g (float[1,1,6,7] x) => (float[?,?,?,?] y) {{ {MAX} (x) }}"
    rewrites(FusePad(), before.replace("float", dtype), after.replace("float", dtype))


def test_works_in_one_and_three_dimensions(rewrites):
    rewrites(
        FusePad(),
        "g (float[1,1,6] x) => (float[?,?,?] y) <int64[6] p = {0, 0, 1, 0, 0, 2}, float[1,1,2] w = {1, 2}>"
        "{ c = Pad(x, p) y = Conv(c, w) }",
        "g (float[1,1,6] x) => (float[?,?,?] y) <float[1,1,2] w = {1, 2}> { y = Conv <pads: ints = [1, 2]> (x, w) }",
    )
    header = '<ir_version: 8, opset_import: ["": 18]> g (float[1,1,3,3,3] x) => (float[?,?,?,?,?] y)'
    pads = "int64[6] p = {1, 0, 0, 0, 0, 1}, int64[3] a = {2, 3, 4}"
    rewrites(
        FusePad(),
        f"{header} <{pads}, float[1,1,1,1,2] w = {{1, 2}}> {{ c = Pad(x, p, , a) y = Conv(c, w) }}",
        f"{header} <float[1,1,1,1,2] w = {{1, 2}}> {{ y = Conv <pads: ints = [1, 0, 0, 0, 0, 1]> (x, w) }}",
    )


def test_float16_zeros_are_zeros(rewrites, in_type):
    before = model(f"{PADS}, {W}, float v = {{0}}", "c = Pad(x, p, v) y = Conv(c, w)")
    rewrites(FusePad(), in_type(before, ir.DataType.FLOAT16), in_type(CONV, ir.DataType.FLOAT16))


def test_works_in_an_if_branch(rewrites):
    def text(branch: str, pads: str = "") -> str:
        return f"""g (bool c, float[1,1,6,7] x) => (float[?,?,?,?] y) <{pads} {W}> {{ y = If (c) <
            then_branch = t () => (float[?,?,?,?] r) {{ {branch} }},
            else_branch = e () => (float[?,?,?,?] q) {{ q = Conv(x, w) }}> }}"""

    rewrites(
        FusePad(),
        text("o = Pad(x, p) r = Conv(o, w)", f"{PADS}, "),
        text("r = Conv <pads: ints = [1, 2, 3, 4]> (x, w)"),
    )


def test_works_in_a_local_function_by_the_kernel_it_names(rewrites):
    def text(nodes: str) -> str:
        return f"""<ir_version: 8, opset_import: ["": 17, "own": 1]>
            g (float[1,1,6,7] x, float[1,1,2,2] w) => (float[?,?,?,?] y) {{ y = own.block(x, w) }}
            <domain: "own", opset_import: ["": 17]> block (x, w) => (y) {{ {nodes} }}"""

    rewrites(
        FusePad(),
        text(
            """p = Constant <value = int64[8] {0, 0, 1, 2, 0, 0, 3, 4}> () c = Pad(x, p)
            y = Conv <kernel_shape = [2, 2]> (c, w)"""
        ),
        text("y = Conv <kernel_shape: ints = [2, 2], pads: ints = [1, 2, 3, 4]> (x, w)"),
    )
