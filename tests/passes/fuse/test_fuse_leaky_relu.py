from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.execute.session import Session
from graphopt.ir import infer
from graphopt.passes.fuse.fuse_leaky_relu import RULES, FuseLeakyRelu
from graphopt.pipeline import Context
from graphopt.pipeline.drive import drive
from graphopt.rewrite.fuzz import fuzz
from graphopt.target import targets

FORMS = {
    "keras": "p = Relu(x) n = Neg(x) r = Relu(n) m = Mul(minus, r) y = Add(p, m)",
    "keras, subtracted": "p = Relu(x) n = Neg(x) r = Relu(n) m = Mul(r, plus) y = Sub(p, m)",
    "by the minimum": "p = Relu(x) n = Min(x, zero) m = Mul(plus, n) y = Add(p, m)",
    "by minimum and maximum": "p = Max(zero, x) n = Min(zero, x) m = Mul(n, plus) y = Add(m, p)",
    "tensorflow": "m = Mul(x, plus) y = Max(m, x)",
    "jax": "b = GreaterOrEqual(x, zero) m = Mul(plus, x) y = Where(b, x, m)",
    "the other way round": "b = Less(x, zero) m = Mul(plus, x) y = Where(b, m, x)",
}
_SLOPES = {
    "": ("float plus = {0.25}, float minus = {-0.25}", "y = LeakyRelu <alpha = 0.25> (x)"),
    "[3]": ("float[3] plus = {0.25, 0.5, 0.75}, float[3] minus = {-0.25, -0.5, -0.75}", "y = PRelu(x, plus)"),
    "[2, 1]": ("float[2, 1] plus = {0.25, 0.5}, float[2, 1] minus = {-0.25, -0.5}", "y = PRelu(x, plus)"),
}


def _text(body: str, slope: str = "", shape: str = "N, 2, 3") -> str:
    names = f"{_SLOPES[slope][0]}, float zero = {{0}}, float two = {{2}}, float inf = {{inf}}"
    return f"""<ir_version: 8, opset_import: ["": 17]> g (float[{shape}] x) => (float[{shape}] y) <{names}> {{
        {body} }}"""


@pytest.mark.parametrize("slope", _SLOPES)
@pytest.mark.parametrize("form", FORMS)
def test_it_is_one_operator(rewrites, form, slope):
    rewrites(FuseLeakyRelu(), _text(FORMS[form], slope), _text(_SLOPES[slope][1], slope))


@pytest.mark.parametrize("slope", ["", "[3]"])
def test_half_precision(rewrites, in_type, slope):
    source = in_type(_text(FORMS["keras"], slope), ir.DataType.FLOAT16)
    rewrites(FuseLeakyRelu(), source, in_type(_text(_SLOPES[slope][1], slope), ir.DataType.FLOAT16))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("m = Mul(x, two) y = Max(m, x)", "not between 0 and 1"),
        ("m = Mul(x, minus) y = Max(m, x)", "not between 0 and 1"),
        (FORMS["jax"].replace("plus", "inf"), "not finite"),
        (FORMS["jax"].replace("plus", "s").replace("b =", "s = Neg(minus) b ="), "a is not a constant"),
        (FORMS["keras"].replace("y =", "o =") + " y = Sub(o, p)", "used elsewhere"),
    ],
)
def test_what_is_kept_has_a_reason(keeps, body, reason):
    keeps(FuseLeakyRelu(), _text(body), reason=reason)


def test_a_slope_that_enlarges_is_kept(keeps):
    text = _text(FORMS["by the minimum"], "[2, 1]", "1, 3").replace("(float[1, 3] y)", "(float[2, 3] y)")
    keeps(FuseLeakyRelu(), text, reason="not proven to broadcast")


def test_double_has_no_kernel(keeps, in_type):
    keeps(FuseLeakyRelu(), in_type(_text(FORMS["jax"]), ir.DataType.DOUBLE), reason="element type double")


def test_a_target_without_it_keeps_it(keeps):
    target = dataclasses.replace(targets()["onnx"], lacks=frozenset({"LeakyRelu"}))
    keeps(FuseLeakyRelu(), _text(FORMS["jax"]), reason="has no LeakyRelu", context=Context(target=target))


@pytest.mark.parametrize(
    "body",
    [
        "b = Greater(x, two) m = Mul(plus, x) y = Where(b, x, m)",
        "b = Greater(x, zero) m = Mul(plus, x) y = Where(b, m, x)",
        "p = Relu(x) n = Neg(x) r = Relu(n) y = Add(p, r)",
        "n = Sin(x) m = Mul(n, plus) y = Max(m, x)",
    ],
)
def test_other_functions_are_no_sites(keeps, body):
    assert not keeps(FuseLeakyRelu(), _text(body)).kept


def test_inside_a_branch(rewrites):
    def text(body: str) -> str:
        return f"""<ir_version: 8, opset_import: ["": 17]> g (bool p, float[2] x) => (float[2] y)
            <float plus = {{0.25}}> {{
             y = If (p) <then_branch = t () => (float[2] u) {{ {body} }},
                         else_branch = e () => (float[2] v) {{ v = Neg(x) }}> }}"""

    rewrites(FuseLeakyRelu(), text("m = Mul(x, plus) u = Max(x, m)"), text("u = LeakyRelu <alpha = 0.25> (x)"))


def test_inside_a_function(rewrites):
    def text(body: str) -> str:
        return f"""<ir_version: 8, opset_import: ["": 17, "local": 1]>
            g (float[N, 2] x) => (float[N, 2] y) {{ y = local.act(x) }}
            <domain: "local", opset_import: ["": 17]> act (x) => (y) {{
                plus = Constant <value_float = 0.25> () {body} }}"""

    after = text("y = LeakyRelu <alpha = 0.25> (x)").replace("plus = Constant <value_float = 0.25> ()", "")
    rewrites(FuseLeakyRelu(), text("m = Mul(x, plus) y = Max(x, m)"), after)


@pytest.mark.parametrize("slope", ["", "[3]"])
@pytest.mark.parametrize("form", FORMS)
def test_extreme_numbers_come_out_as_they_did(form, slope):
    before = ir.from_onnx_text(_text(FORMS[form], slope))
    after = before.clone()
    infer(after)
    assert drive(FuseLeakyRelu(), after, Context()).changed
    numbers = np.array([-np.inf, -1e30, -1e-40, -0.0, 1e-40, 1e30, np.inf, np.nan, 1.5], np.float32)
    feeds = {"x": np.repeat(numbers, 6).reshape(-1, 2, 3)}
    wanted, found = (Session(model, optimized=False).run(feeds)["y"] for model in (before, after))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("rule", RULES.rules, ids=lambda rule: rule.pattern)
def test_each_rule_holds_on_random_shapes(rule):
    fuzz(rule, constants=("a",), trials=24)
