from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from graphopt.passes.fuse.fuse_gelu import FuseGelu
from graphopt.pipeline import Context
from graphopt.target import targets

_HEADER = '<ir_version: 10, opset_import: ["": 20]>'
_BOTH = '<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>'
_NAMES = """float half = {0.5}, float two = {2}, float three = {3}, float one = {1}, float root = {1.4142135},
    float turn = {0.70710677}, float back = {-0.70710677}, float s = {0.7978846}, float c = {0.044715},
    float product = {0.0356774}, float[1] halves = {0.5}, float[1, 1, 1] ones = {1}"""


def _context(*forms: str) -> Context:
    return Context(target=dataclasses.replace(targets()["x86-64"], forms=frozenset(forms)))


_CONTRIB = _context("com.microsoft::Gelu", "com.microsoft::FastGelu")


def _text(body: str, header: str = _HEADER) -> str:
    return f"{header} g (float[N, 3, 4] x) => (float[N, 3, 4] y) <{_NAMES}> {{ {body} }}"


ERF = {
    "torch, torchscript exporter": "a = Div(x, root) e = Erf(a) g = Add(e, one) p = Mul(x, g) y = Mul(p, half)",
    "tensorflow": "h = Mul(half, x) a = Div(x, root) e = Erf(a) g = Add(one, e) y = Mul(h, g)",
    "keras, the division folded": "a = Mul(x, turn) e = Erf(a) g = Add(one, e) h = Mul(half, x) y = Mul(g, h)",
    "paddle": "a = Div(x, root) e = Erf(a) g = Add(ones, e) p = Mul(x, g) y = Mul(p, halves)",
    "half on the bracket": "a = Mul(turn, x) e = Erf(a) g = Add(e, one) b = Mul(g, half) y = Mul(x, b)",
    "half inside the bracket": "a = Mul(turn, x) e = Erf(a) b = Mul(e, half) g = Add(b, half) y = Mul(g, x)",
    "divided by two": "a = Div(x, root) e = Erf(a) g = Add(e, one) p = Mul(x, g) y = Div(p, two)",
    "jax, by erfc": "n = Neg(x) a = Mul(n, turn) e = Erf(a) g = Sub(one, e) h = Mul(half, x) y = Mul(h, g)",
    "jax, by erfc, the sign folded": "a = Mul(x, back) e = Erf(a) g = Sub(one, e) h = Mul(half, x) y = Mul(h, g)",
    "onnx, the function behind Gelu": """h = Mul(half, x) a = Div(x, root) e = Erf(a) g = Sum(one, e)
        y = Mul(h, g)""",
    "multiplied out": "h = Mul(half, x) a = Div(x, root) e = Erf(a) p = Mul(h, e) y = Add(h, p)",
}

TANH = {
    "gpt2, both torch exporters": """h = Mul(x, half) p = Pow(x, three) q = Mul(p, c) a = Add(x, q) b = Mul(a, s)
        t = Tanh(b) g = Add(t, one) y = Mul(h, g)""",
    "jax, as in magika": """k = Mul(c, x) l = Mul(x, k) m = Mul(x, l) a = Add(x, m) b = Mul(s, a)
        t = Tanh(b) g = Add(one, t) h = Mul(half, g) y = Mul(x, h)""",
    "x times x times x": """k = Mul(x, x) l = Mul(k, x) m = Mul(c, l) a = Add(x, m) b = Mul(s, a)
        t = Tanh(b) g = Add(one, t) h = Mul(half, x) y = Mul(h, g)""",
    "gelu_fast of transformers": """r = Mul(x, s) k = Mul(x, c) l = Mul(k, x) m = Add(l, one) b = Mul(r, m)
        t = Tanh(b) g = Add(t, one) h = Mul(x, half) y = Mul(h, g)""",
    "numbers multiplied": """k = Pow(x, two) l = Mul(k, product) m = Add(l, s) b = Mul(x, m)
        t = Tanh(b) g = Add(t, one) h = Mul(x, half) y = Mul(h, g)""",
}


@pytest.mark.parametrize("dialect", ERF)
def test_erf_gelu_is_gelu(rewrites, dialect):
    rewrites(FuseGelu(), _text(ERF[dialect]), _text("y = Gelu(x)"))


@pytest.mark.parametrize("dialect", ERF)
def test_erf_gelu_is_the_contributed_one_below_opset_20(rewrites, dialect):
    source = _text(ERF[dialect], _BOTH.replace(', "com.microsoft": 1', ""))
    rewrites(FuseGelu(), source, _text("y = com.microsoft.Gelu(x)", _BOTH), context=_CONTRIB)


@pytest.mark.parametrize("dialect", TANH)
def test_tanh_gelu_stays_the_tanh_form(rewrites, dialect):
    rewrites(FuseGelu(), _text(TANH[dialect]), _text('y = Gelu <approximate = "tanh"> (x)'))


@pytest.mark.parametrize("dialect", TANH)
def test_tanh_gelu_is_fast_gelu_below_opset_20(rewrites, dialect):
    expected = _text("y = com.microsoft.FastGelu(x)", _BOTH)
    rewrites(FuseGelu(), _text(TANH[dialect], _BOTH), expected, context=_CONTRIB)


def test_the_standard_operator_is_preferred(rewrites):
    rewrites(FuseGelu(), _text(ERF["paddle"]), _text("y = Gelu(x)"), context=_CONTRIB)


def test_a_target_that_runs_gelu_badly_gets_the_other_form(rewrites):
    target = dataclasses.replace(_CONTRIB.target, lacks=frozenset({"Gelu"}))
    expected = _text("y = com.microsoft.Gelu(x)", _HEADER.replace("20", '20, "com.microsoft": 1'))
    rewrites(FuseGelu(), _text(ERF["paddle"]), expected, context=Context(target=target))


def test_the_operand_may_be_any_expression(rewrites):
    """x is found though it is a sum and a product with a number itself."""
    bias = "n = Add(x, three) m = Mul(n, two)"
    gelu = ERF["half on the bracket"].replace("x", "m")
    rewrites(FuseGelu(), _text(f"{bias} {gelu}"), _text(f"{bias} y = Gelu(m)"))


@pytest.mark.parametrize(
    ("end", "factor"),
    [("y = Mul(x, g)", "two"), ("p = Mul(x, g) y = Mul(p, three)", "six"), ("p = Mul(x, g) y = Div(p, three)", "rest")],
)
def test_a_multiple_of_gelu_is_left_where_the_half_went_into_the_next_weights(rewrites, end, factor):
    def text(body: str) -> str:
        return _text(body).replace("<float half", "<float six = {6}, float rest = {0.6666667}, float half")

    before = text(f"a = Mul(x, turn) e = Erf(a) g = Add(e, one) {end}")
    rewrites(FuseGelu(), before, text(f"z = Gelu(x) y = Mul(z, {factor})"))


def test_an_argument_that_is_needed_elsewhere_stays(rewrites):
    body = "a = Mul(x, turn) e = Erf(a) g = Add(e, one) h = Mul(x, half) z = Mul(h, g) n = Neg(a) y = Add(z, n)"
    rewrites(FuseGelu(), _text(body), _text("a = Mul(x, turn) z = Gelu(x) n = Neg(a) y = Add(z, n)"))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (ERF["paddle"].replace("y =", "z =") + " n = Neg(e) y = Add(z, n)", "Erf 'e' is also used elsewhere"),
        (ERF["paddle"].replace("y =", "z =") + " n = Neg(p) y = Add(z, n)", "Mul 'p' is also used elsewhere"),
        (ERF["paddle"].replace("root", "rough"), "the numbers in its Erf are not those of GELU: 0.7072136"),
        (TANH["gpt2, both torch exporters"].replace("c)", "d)"), "0.03566951, not 0.03567741"),
    ],
)
def test_what_is_nearly_gelu_is_kept_with_a_reason(keeps, body, reason):
    source = _text(body).replace("<float half", "<float rough = {1.414}, float d = {0.0447051}, float half")
    keeps(FuseGelu(), source, reason=reason)


def test_below_opset_20_in_standard_operators_it_is_kept(keeps):
    source = _text(ERF["paddle"], '<ir_version: 8, opset_import: ["": 17]>')
    done = keeps(FuseGelu(), source, reason="Gelu needs opset 20, this graph has 17")
    assert any("takes no operators of com.microsoft" in text for _, text in done.kept)


def test_a_form_nobody_measured_is_not_written(keeps):
    source = _text(ERF["paddle"], '<ir_version: 8, opset_import: ["": 17]>')
    keeps(FuseGelu(), source, reason="has not been measured", context=_context())


@pytest.mark.parametrize(
    "body",
    [
        "e = Erf(x) g = Add(e, one) p = Mul(x, g) y = Mul(p, half)",
        "a = Mul(x, turn) e = Erf(a) g = Add(e, one) y = Mul(g, half)",
        "a = Mul(x, turn) e = Erf(a) g = Sub(one, e) p = Mul(x, g) y = Mul(p, half)",
        "a = Mul(x, turn) e = Erf(a) g = Add(e, one) n = Sin(x) p = Mul(n, g) y = Mul(p, half)",
        "t = Tanh(x) g = Add(t, one) p = Mul(x, g) y = Mul(p, half)",
    ],
)
def test_other_functions_are_no_sites(keeps, body):
    assert not keeps(FuseGelu(), _text(body)).kept


def test_a_constant_that_adds_a_dimension_is_no_number(keeps):
    text = f"""{_HEADER} g (float[4] x) => (float[1, 4] y) <float one = {{1}}, float[1, 1] half = {{0.5}},
        float root = {{1.4142135}}> {{ {ERF["torch, torchscript exporter"]} }}"""
    keeps(FuseGelu(), text, reason="has rank 2")


def test_inside_a_branch(rewrites):
    def text(body: str) -> str:
        return f"""{_HEADER} g (bool p, float[2] x) => (float[2] y) <{_NAMES}> {{
             y = If (p) <then_branch = t () => (float[2] u) {{ {body} }},
                         else_branch = e () => (float[2] v) {{ v = Neg(x) }}> }}"""

    gelu = "a = Div(x, root) e = Erf(a) g = Add(e, one) q = Mul(x, g) u = Mul(q, half)"
    rewrites(FuseGelu(), text(gelu), text("u = Gelu(x)"))


def test_inside_a_loop(rewrites):
    def text(body: str) -> str:
        return f"""{_HEADER} g (float[2] x) => (float[2] y) <{_NAMES}, int64 n = {{3}}, bool yes = {{1}}> {{
             y = Loop (n, yes, x) <body = b (int64 i, bool go, float[2] v) => (bool on, float[2] u) {{
                 on = Identity(go) {body} }}> }}"""

    gelu = "a = Div(v, root) e = Erf(a) g = Add(e, one) q = Mul(v, g) u = Mul(q, half)"
    rewrites(FuseGelu(), text(gelu), text("u = Gelu(v)"))


def _function(body: str, inner: int, imports: str = "") -> str:
    return f"""<ir_version: 10, opset_import: ["": 20, "local": 1{imports}]>
        g (float[N, 3] x) => (float[N, 3] y) {{ y = local.act(x) }}
        <domain: "local", opset_import: ["": {inner}{imports}]> act (x) => (y) {{ {body} }}"""


_INNER = """half = Constant <value_float = 0.5> () one = Constant <value_float = 1.0> ()
    turn = Constant <value_float = 0.70710677> () a = Mul(x, turn) e = Erf(a) g = Add(e, one) h = Mul(x, half)
    y = Mul(h, g)"""


def test_inside_a_function(rewrites):
    rewrites(FuseGelu(), _function(_INNER, 20), _function("y = Gelu(x)", 20))


def test_a_function_imports_the_domain_it_needs(rewrites):
    target = dataclasses.replace(_CONTRIB.target, lacks=frozenset({"Gelu"}))
    expected = _function("y = com.microsoft.Gelu(x)", 20, ', "com.microsoft": 1')
    rewrites(FuseGelu(), _function(_INNER, 20), expected, context=Context(target=target))


def test_a_multiple_inside_a_function_has_its_factor_there(rewrites):
    double = _INNER.replace("h = Mul(x, half)", "").replace("Mul(h, g)", "Mul(x, g)")
    expected = "z = Gelu(x) two = Constant <value = float {2.0}> () y = Mul(z, two)"
    rewrites(FuseGelu(), _function(double, 20), _function(expected, 20))


def test_a_function_of_an_older_opset_keeps_it(keeps):
    keeps(FuseGelu(), _function(_INNER, 17), reason="Gelu needs opset 20, this graph has 17")


@pytest.mark.parametrize("dialect", ["tensorflow", "multiplied out"])
def test_half_precision(rewrites, in_type, dialect):
    source = in_type(_text(ERF[dialect]), ir.DataType.FLOAT16)
    rewrites(FuseGelu(), source, in_type(_text("y = Gelu(x)"), ir.DataType.FLOAT16))


def test_double_precision_by_the_reference(rewrites, in_type):
    """ONNX Runtime's CPU provider has no Erf for double, before or after."""
    source = in_type(_text(ERF["tensorflow"]), ir.DataType.DOUBLE)
    for name, number in {"root": 2**0.5, "half": 0.5, "one": 1.0}.items():
        source.graph.initializers[name].const_value = ir.tensor(np.array(number), name=name)
    expected = in_type(_text("y = Gelu(x)"), ir.DataType.DOUBLE)
    rewrites(FuseGelu(), source, expected, runs=False)
    x = np.random.default_rng(0).normal(size=(2, 3, 4)) * 3
    results = [ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": x})[0] for model in (source, expected)]
    np.testing.assert_allclose(results[0], results[1], rtol=1e-12, atol=1e-15)


def test_fast_gelu_is_not_exact_enough_for_double(keeps, in_type):
    source = in_type(_text(TANH["gelu_fast of transformers"], _BOTH), ir.DataType.DOUBLE)
    keeps(FuseGelu(), source, reason="com.microsoft::FastGelu is not written for double", context=_CONTRIB)


def test_bfloat16_is_kept(keeps, in_type):
    source = in_type(_text(ERF["tensorflow"]), ir.DataType.BFLOAT16)
    keeps(FuseGelu(), source, reason="Gelu is not written for bfloat16", runs=False)


@pytest.mark.parametrize("x", [-np.inf, -1e20, -100.0, -8.0, -1e-30, -0.0, 1e-30, 8.0, 100.0, 1e20, np.inf, np.nan])
@pytest.mark.parametrize("body", [ERF["tensorflow"], TANH["x times x times x"]])
def test_extreme_numbers_come_out_as_they_did(body, x):
    from graphopt.execute.session import Session
    from graphopt.ir import infer
    from graphopt.pipeline.drive import drive

    before = ir.from_onnx_text(_text(body))
    after = before.clone()
    infer(after)
    assert drive(FuseGelu(), after, Context()).changed
    feeds = {"x": np.full((1, 3, 4), x, np.float32)}
    wanted, found = (Session(model, optimized=False).run(feeds)["y"] for model in (before, after))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    onnx.checker.check_model(ir.to_proto(after))
