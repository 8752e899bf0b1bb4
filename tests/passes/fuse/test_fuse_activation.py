from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.execute.session import Session
from graphopt.ir import infer
from graphopt.passes.fuse.fuse_activation import FuseActivation, rules
from graphopt.pipeline import Context
from graphopt.pipeline.drive import drive
from graphopt.rewrite.fuzz import fuzz
from graphopt.target import targets

_FORMS = frozenset({"com.microsoft::FusedConv", "com.microsoft::FusedGemm"})
_TARGET = dataclasses.replace(targets()["x86-64"], forms=_FORMS)
_CONTEXT = Context(target=_TARGET)
_OLD = '<ir_version: 8, opset_import: ["": 17]>'
_NEW = '<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>'

ACTIVATIONS = {
    "Relu(c)": 'activation = "Relu"',
    "Sigmoid(c)": 'activation = "Sigmoid"',
    "Tanh(c)": 'activation = "Tanh"',
    "LeakyRelu(c)": 'activation = "LeakyRelu", activation_params = [0.01]',
    "LeakyRelu <alpha = 0.25> (c)": 'activation = "LeakyRelu", activation_params = [0.25]',
    "HardSigmoid(c)": 'activation = "HardSigmoid", activation_params = [0.2, 0.5]',
    "HardSigmoid <alpha = 0.125> (c)": 'activation = "HardSigmoid", activation_params = [0.125, 0.5]',
    "Clip(c, zero, six)": 'activation = "Clip", activation_params = [0.0, 6.0]',
}


def _conv(body: str, header: str = _OLD) -> str:
    return f"""{header} g (float[N, 4, 9, 9] x, float[8, 2, 3, 3] w, float[8] b) => (float[N, 8, H, W] y)
        <float zero = {{0}}, float six = {{6}}, float two = {{2}}> {{ {body} }}"""


def _gemm(body: str, header: str = _OLD) -> str:
    return f"{header} g (float[N, 4] x, float[5, 4] w, float[5] b) => (float[N, 5] y) {{ {body} }}"


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_conv_and_its_activation_are_one_operator(rewrites, activation):
    rewrites(
        FuseActivation(),
        _conv(f"c = Conv <group = 2, strides = [2, 1], pads = [1, 0, 0, 2]> (x, w, b) y = {activation}"),
        _conv(
            f"""y = com.microsoft.FusedConv <group = 2, strides = [2, 1], pads = [1, 0, 0, 2],
                {ACTIVATIONS[activation]}> (x, w, b)""",
            _NEW,
        ),
        context=_CONTEXT,
    )


def test_without_a_bias(rewrites):
    rewrites(
        FuseActivation(),
        _conv("c = Conv <group = 2> (x, w) y = Relu(c)"),
        _conv('y = com.microsoft.FusedConv <group = 2, activation = "Relu"> (x, w)', _NEW),
        context=_CONTEXT,
    )


def test_a_bound_that_is_left_out_is_the_largest_number(rewrites):
    done = rewrites(
        FuseActivation(),
        _conv("c = Conv <group = 2> (x, w) y = Clip(c, zero)"),
        _conv(
            """y = com.microsoft.FusedConv <group = 2, activation = "Clip",
                activation_params = [0.0, 340282346638528859811704183484516925440.0]> (x, w)""",
            _NEW,
        ),
        context=_CONTEXT,
    )
    assert done.changed


def test_the_bounds_of_an_older_clip(rewrites):
    rewrites(
        FuseActivation(),
        _conv("c = Conv <group = 2> (x, w) y = Clip <min = -1.0, max = 2.0> (c)", _OLD.replace("17", "10")),
        _conv(
            'y = com.microsoft.FusedConv <group = 2, activation = "Clip", activation_params = [-1.0, 2.0]> (x, w)',
            _NEW.replace("17", "10"),
        ),
        context=_CONTEXT,
    )


@pytest.mark.parametrize(
    ("activation", "attributes"),
    [
        ("Relu(c)", 'activation = "Relu"'),
        ("Tanh(c)", 'activation = "Tanh"'),
        ("LeakyRelu <alpha = 0.25> (c)", 'activation = "LeakyRelu", activation_alpha = 0.25'),
        (
            "HardSigmoid <beta = 0.25> (c)",
            'activation = "HardSigmoid", activation_alpha = 0.2, activation_beta = 0.25',
        ),
    ],
)
@pytest.mark.parametrize("operands", ["x, w, b", "x, w"])
def test_gemm_and_its_activation_are_one_operator(rewrites, activation, attributes, operands):
    rewrites(
        FuseActivation(),
        _gemm(f"c = Gemm <transB = 1, alpha = 0.5> ({operands}) y = {activation}"),
        _gemm(f"y = com.microsoft.FusedGemm <transB = 1, alpha = 0.5, {attributes}> ({operands})", _NEW),
        context=_CONTEXT,
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("c = Conv <group = 2> (x, w) r = Relu(c) n = Neg(c) y = Add(r, n)", "used elsewhere"),
        ("c = Conv <group = 2> (x, w) m = Neg(two) y = Clip(c, m)", "not a constant number"),
        ("c = Conv <group = 2> (x, w) y = Clip(c, six, two)", "above the upper one"),
    ],
)
def test_what_is_kept_has_a_reason(keeps, body, reason):
    keeps(FuseActivation(), _conv(body), reason=reason, context=_CONTEXT)


def test_a_form_nobody_measured_is_not_written(keeps):
    context = Context(target=dataclasses.replace(_TARGET, forms=frozenset()))
    body = "c = Conv <group = 2> (x, w) y = Relu(c)"
    keeps(FuseActivation(), _conv(body), reason="FusedConv has not been measured", context=context)


def test_in_standard_operators_there_is_nothing_to_say(keeps):
    assert not keeps(FuseActivation(), _conv("c = Conv <group = 2> (x, w) y = Relu(c)")).kept


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT16, ir.DataType.DOUBLE])
def test_other_types_are_kept(keeps, in_type, dtype):
    source = in_type(_conv("c = Conv <group = 2> (x, w) y = Relu(c)"), dtype)
    keeps(FuseActivation(), source, reason=f"has element type {dtype.name.lower()}", context=_CONTEXT)


def test_inside_a_branch(rewrites):
    def text(body: str, header: str) -> str:
        return f"""{header} g (bool p, float[2, 4] x, float[4, 4] w) => (float[2, 4] y) {{
             y = If (p) <then_branch = t () => (float[2, 4] u) {{ {body} }},
                         else_branch = e () => (float[2, 4] v) {{ v = Neg(x) }}> }}"""

    fused = 'u = com.microsoft.FusedGemm <activation = "Relu"> (x, w)'
    before, after = text("c = Gemm(x, w) u = Relu(c)", _OLD), text(fused, _NEW)
    rewrites(FuseActivation(), before, after, context=_CONTEXT)


def test_inside_a_function_an_attribute_may_be_its_parameter(rewrites):
    def text(body: str, imports: str) -> str:
        return f"""<ir_version: 8, opset_import: ["": 17, "local": 1{imports}]>
            g (float[N, 4] x, float[4, 4] w) => (float[N, 4] y) {{ y = local.act <t = 1> (x, w) }}
            <domain: "local", opset_import: ["": 17{imports}]> act <t> (x, w) => (y) {{ {body} }}"""

    before = "c = Gemm <transB: int = @t> (x, w) y = Relu(c)"
    after = 'y = com.microsoft.FusedGemm <transB: int = @t, activation = "Relu"> (x, w)'
    rewrites(FuseActivation(), text(before, ""), text(after, ', "com.microsoft": 1'), context=_CONTEXT)


@pytest.mark.parametrize("activation", [*ACTIVATIONS, "Clip(c, zero)"])
def test_nan_and_infinity_come_out_as_they_did(activation):
    text = _conv(f"c = Conv <group = 2> (x, w, b) y = {activation}")
    before = ir.from_onnx_text(text)
    after = before.clone()
    infer(after)
    assert drive(FuseActivation(), after, _CONTEXT).changed
    x = np.zeros((1, 4, 9, 9), np.float32)
    x[0, :, 2, 2], x[0, :, 5, 5], x[0, :, 8, 8] = np.nan, np.inf, -np.inf
    feeds = {"x": x, "w": np.ones((8, 2, 3, 3), np.float32), "b": np.zeros(8, np.float32)}
    wanted, found = (Session(model, optimized=False).run(feeds)["y"] for model in (before, after))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("rule", rules(_TARGET).rules, ids=lambda rule: rule.pattern)
def test_each_rule_holds_on_random_shapes(rule):
    conv = "Conv" in rule.pattern
    fuzz(
        rule,
        shapes={"x": "n 3 6 7", "w": "m 3 2 3", "b": "m", "low": "", "high": ""}
        if conv
        else {"x": "n k", "w": "k m", "b": "m"},
        values={"low": lambda rng, shape: np.full(shape, -0.5), "high": lambda rng, shape: np.full(shape, 1.5)},
        constants=("low", "high"),
    )
