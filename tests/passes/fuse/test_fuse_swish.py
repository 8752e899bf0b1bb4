from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.passes.fuse.fuse_swish import FuseSwish
from graphopt.pipeline import Context
from graphopt.target import targets

_NEW = '<ir_version: 10, opset_import: ["": 24]>'
_OLD = '<ir_version: 8, opset_import: ["": 17]>'
_BOTH = '<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>'
_CONTRIB = Context(target=dataclasses.replace(targets()["x86-64"], forms=frozenset({"com.microsoft::QuickGelu"})))


def _text(body: str, header: str = _NEW) -> str:
    return f"""{header} g (float[N, 4] x) => (float[N, 4] y) <float k = {{1.702}}, float third = {{0.33333333}},
        float three = {{3}}, float one = {{1}}, float[1] unit = {{1}}> {{ {body} }}"""


SILU = {
    "torch, both exporters": "s = Sigmoid(x) y = Mul(x, s)",
    "tensorflow": "s = Sigmoid(x) y = Mul(s, x)",
    "paddle, with a beta of 1": "a = Mul(x, unit) s = Sigmoid(a) y = Mul(x, s)",
}
QUICK = {
    "clip, both torch exporters": "a = Mul(x, k) s = Sigmoid(a) y = Mul(x, s)",
    "keras": "a = Mul(k, x) s = Sigmoid(a) y = Mul(s, x)",
}


@pytest.mark.parametrize("dialect", SILU)
def test_silu_is_swish(rewrites, dialect):
    rewrites(FuseSwish(), _text(SILU[dialect]), _text("y = Swish(x)"))


@pytest.mark.parametrize("dialect", SILU)
def test_silu_is_quick_gelu_below_opset_24(rewrites, dialect):
    expected = _text("y = com.microsoft.QuickGelu <alpha = 1.0> (x)", _BOTH)
    rewrites(FuseSwish(), _text(SILU[dialect], _OLD), expected, context=_CONTRIB)


@pytest.mark.parametrize("dialect", QUICK)
def test_quick_gelu_is_swish_with_a_factor(rewrites, dialect):
    rewrites(FuseSwish(), _text(QUICK[dialect]), _text("y = Swish <alpha = 1.702> (x)"))


@pytest.mark.parametrize("dialect", QUICK)
def test_quick_gelu_is_quick_gelu_below_opset_24(rewrites, dialect):
    expected = _text("y = com.microsoft.QuickGelu <alpha = 1.702> (x)", _BOTH)
    rewrites(FuseSwish(), _text(QUICK[dialect], _OLD), expected, context=_CONTRIB)


def test_the_factor_may_be_negative_and_a_quotient(rewrites):
    source = _text("n = Neg(x) a = Div(n, three) s = Sigmoid(a) y = Mul(x, s)")
    rewrites(FuseSwish(), source, _text("y = Swish <alpha = -0.33333334> (x)"))


def test_a_scaled_operand_is_the_operand(rewrites):
    source = _text("z = Mul(x, k) s = Sigmoid(z) y = Mul(z, s)")
    rewrites(FuseSwish(), source, _text("z = Mul(x, k) y = Swish(z)"))


def test_where_the_target_measured_swish_as_slow_quick_gelu_is_taken(rewrites):
    target = dataclasses.replace(_CONTRIB.target, lacks=frozenset({"Swish"}))
    expected = _text("y = com.microsoft.QuickGelu <alpha = 1.0> (x)", _NEW.replace("24", '24, "com.microsoft": 1'))
    rewrites(FuseSwish(), _text("s = Sigmoid(x) y = Mul(x, s)"), expected, context=Context(target=target))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("s = Sigmoid(x) p = Mul(x, s) n = Neg(s) y = Add(p, n)", "Sigmoid 's' is also used elsewhere"),
        ("s = Sigmoid(x) p = Mul(x, s) n = Mul(x, s) y = Add(p, n)", "Sigmoid 's' is also used elsewhere"),
    ],
)
def test_a_sigmoid_that_is_used_elsewhere_is_kept(keeps, body, reason):
    keeps(FuseSwish(), _text(body), reason=reason)


def test_a_sigmoid_that_is_an_output_is_kept(keeps):
    text = f"{_NEW} g (float[4] x) => (float[4] y, float[4] s) {{ s = Sigmoid(x) y = Mul(x, s) }}"
    keeps(FuseSwish(), text, reason="used elsewhere")


def test_without_a_form_to_write_it_is_kept(keeps):
    done = keeps(FuseSwish(), _text(SILU["tensorflow"], _OLD), reason="Swish needs opset 24, this graph has 17")
    assert any("com.microsoft" in text for _, text in done.kept)


@pytest.mark.parametrize(
    "body",
    [
        "s = Sigmoid(x) n = Neg(x) y = Mul(n, s)",
        "a = Add(x, k) s = Sigmoid(a) y = Mul(x, s)",
        "a = Pow(x, three) s = Sigmoid(a) y = Mul(x, s)",
        "s = Sigmoid(x) y = Add(x, s)",
        "s = Sigmoid(x) y = Mul(s, s)",
    ],
)
def test_other_functions_are_no_sites(keeps, body):
    assert not keeps(FuseSwish(), _text(body)).kept


def test_a_gate_is_no_swish(keeps):
    text = f"{_NEW} g (float[4] x, float[4] z) => (float[4] y) {{ s = Sigmoid(x) y = Mul(z, s) }}"
    assert not keeps(FuseSwish(), text).kept


def test_a_factor_of_higher_rank_is_no_number(keeps):
    text = f"""{_NEW} g (float[4] x) => (float[1, 4] y) <float[1, 1] k = {{1.702}}> {{
        a = Mul(x, k) s = Sigmoid(a) y = Mul(x, s) }}"""
    keeps(FuseSwish(), text, reason="has rank 2")


def test_inside_a_branch_of_an_outer_value(rewrites):
    def text(body: str) -> str:
        return f"""{_NEW} g (bool p, float[2] x) => (float[2] y) <float k = {{1.702}}> {{
             y = If (p) <then_branch = t () => (float[2] u) {{ {body} }},
                         else_branch = e () => (float[2] v) {{ v = Neg(x) }}> }}"""

    body = "a = Mul(x, k) s = Sigmoid(a) u = Mul(s, x)"
    rewrites(FuseSwish(), text(body), text("u = Swish <alpha = 1.702> (x)"))


def test_a_factor_computed_outside_the_branch_stays_there(keeps):
    text = f"""{_NEW} g (bool p, float[2] x) => (float[2] y) <float k = {{1.702}}> {{ a = Mul(x, k)
        y = If (p) <then_branch = t () => (float[2] u) {{ s = Sigmoid(a) u = Mul(s, x) }},
                    else_branch = e () => (float[2] v) {{ v = Neg(a) }}> }}"""
    assert not keeps(FuseSwish(), text).kept


def test_inside_a_function(rewrites):
    def text(body: str) -> str:
        return f"""<ir_version: 10, opset_import: ["": 24, "local": 1]>
            g (float[N, 3] x) => (float[N, 3] y) {{ y = local.act(x) }}
            <domain: "local", opset_import: ["": 24]> act (x) => (y) {{ {body} }}"""

    rewrites(FuseSwish(), text("s = Sigmoid(x) y = Mul(x, s)"), text("y = Swish(x)"))


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT16, ir.DataType.DOUBLE])
def test_other_types(rewrites, in_type, dtype):
    rewrites(FuseSwish(), in_type(_text(SILU["tensorflow"]), dtype), in_type(_text("y = Swish(x)"), dtype))


def test_half_precision_rounds_the_factor_as_the_graph_does(rewrites, in_type):
    source = in_type(_text(QUICK["keras"]), ir.DataType.FLOAT16)
    expected = in_type(_text(f"y = Swish <alpha = {float(np.float16(1.702))}> (x)"), ir.DataType.FLOAT16)
    rewrites(FuseSwish(), source, expected)


def test_double_keeps_a_factor_that_needs_its_bits(keeps, in_type):
    source = in_type(_text(QUICK["keras"]), ir.DataType.DOUBLE)
    source.graph.initializers["k"].const_value = ir.tensor(np.array(1.702), name="k")
    keeps(FuseSwish(), source, reason="Swish is not written for double")


def test_bfloat16_is_kept(keeps, in_type):
    source = in_type(_text(SILU["tensorflow"]), ir.DataType.BFLOAT16)
    keeps(FuseSwish(), source, reason="Swish is not written for bfloat16", runs=False)
