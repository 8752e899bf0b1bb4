from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.execute.session import Session
from graphopt.ir import infer
from graphopt.passes.fuse.fuse_softmax import RULES, FuseSoftmax
from graphopt.pipeline import Context
from graphopt.pipeline.drive import drive
from graphopt.rewrite.fuzz import fuzz
from graphopt.target import targets

_HEADER = '<ir_version: 8, opset_import: ["": 17]>'
_NAMES = "int64[1] axes = {-1}, int64[1] axis = {1}, int64[2] column = {-1, 1}, float ninf = {-inf}"


def _text(body: str, shape: str = "N, 4", header: str = _HEADER) -> str:
    return f"{header} g (float[{shape}] x) => (float[{shape}] y) <{_NAMES}> {{ {body} }}"


SOFTMAX = {
    "tf2onnx": """m = ReduceMax <axes = [-1], keepdims = 1> (x) z = Sub(x, m) e = Exp(z)
        s = ReduceSum <keepdims = 1> (e, axes) y = Div(e, s)""",
    "jax, as in magika": """m = ReduceMax <axes = [1], keepdims = 0> (x) l = Max(ninf, m) r = Reshape(l, column)
        z = Sub(x, r) e = Exp(z) s = ReduceSum(e, axis) y = Div(e, s)""",
    "jax, before it is cleaned": """m = ReduceMax <axes = [1], keepdims = 0> (x) l = Max(ninf, m)
        r = Unsqueeze(l, axis) z = Sub(x, r) e = Exp(z) s = ReduceSum <keepdims = 0> (e, axes)
        t = Reshape(s, column) y = Div(e, t)""",
    "without the maximum": "e = Exp(x) s = ReduceSum(e, axes) y = Div(e, s)",
    "by the reciprocal": "e = Exp(x) s = ReduceSum(e, axis) r = Reciprocal(s) y = Mul(e, r)",
    "by the reciprocal, with the maximum": """m = ReduceMax <axes = [1]> (x) z = Sub(x, m) e = Exp(z)
        s = ReduceSum(e, axis) r = Reciprocal(s) y = Mul(e, r)""",
}
LOG = {
    "jax": """m = ReduceMax <axes = [-1]> (x) z = Sub(x, m) e = Exp(z) s = ReduceSum(e, axes)
        l = Log(s) y = Sub(z, l)""",
    "by log-sum-exp": """m = ReduceMax <axes = [-1]> (x) z = Sub(x, m) e = Exp(z) s = ReduceSum(e, axes)
        l = Log(s) n = Add(l, m) y = Sub(x, n)""",
    "without the maximum": "e = Exp(x) s = ReduceSum(e, axes) l = Log(s) y = Sub(x, l)",
    "by ReduceLogSumExp": "l = ReduceLogSumExp <axes = [1]> (x) y = Sub(x, l)",
}


@pytest.mark.parametrize("dialect", SOFTMAX)
def test_softmax_is_one_operator(rewrites, dialect):
    rewrites(FuseSoftmax(), _text(SOFTMAX[dialect]), _text("y = Softmax <axis = 1> (x)"))


@pytest.mark.parametrize("dialect", LOG)
def test_log_softmax_is_one_operator(rewrites, dialect):
    rewrites(FuseSoftmax(), _text(LOG[dialect]), _text("y = LogSoftmax <axis = 1> (x)"))


def test_the_logarithm_of_a_softmax(rewrites):
    rewrites(FuseSoftmax(), _text("s = Softmax(x) y = Log(s)"), _text("y = LogSoftmax(x)"))


def test_the_logarithm_of_a_softmax_that_is_written_out(rewrites):
    body = SOFTMAX["tf2onnx"].replace("y =", "p =") + " y = Log(p)"
    rewrites(FuseSoftmax(), _text(body), _text("y = LogSoftmax <axis = 1> (x)"))


def test_any_axis_from_opset_13_on(rewrites):
    body = """m = ReduceMax <axes = [1]> (x) z = Sub(x, m) e = Exp(z) s = ReduceSum(e, axis) y = Div(e, s)"""
    rewrites(FuseSoftmax(), _text(body, "N, 3, 4"), _text("y = Softmax <axis = 1> (x)", "N, 3, 4"))


def _older(axis: int) -> str:
    return f"""m = ReduceMax <axes = [{axis}]> (x) z = Sub(x, m) e = Exp(z) s = ReduceSum <axes = [{axis}]> (e)
        y = Div(e, s)"""


def test_below_opset_13_the_last_axis(rewrites):
    old = '<ir_version: 6, opset_import: ["": 11]>'
    rewrites(FuseSoftmax(), _text(_older(-1), "N, 3, 4", old), _text("y = Softmax <axis = 2> (x)", "N, 3, 4", old))


def test_below_opset_13_no_other_axis(keeps):
    old = '<ir_version: 6, opset_import: ["": 11]>'
    keeps(FuseSoftmax(), _text(_older(1), "N, 3, 4", old), reason="flatten the axes behind axis 1")


def test_the_axes_of_the_maximum_may_be_an_operand(rewrites):
    new = '<ir_version: 8, opset_import: ["": 18]>'
    body = "m = ReduceMax(x, axes) z = Sub(x, m) e = Exp(z) s = ReduceSum(e, axes) y = Div(e, s)"
    rewrites(FuseSoftmax(), _text(body, header=new), _text("y = Softmax <axis = 1> (x)", header=new))


def test_transposes_around_it_go(rewrites):
    body = """a = Transpose <perm = [0, 2, 3, 1]> (x) s = Softmax <axis = -1> (a)
        y = Transpose <perm = [0, 3, 1, 2]> (s)"""
    rewrites(FuseSoftmax(), _text(body, "N, 3, 4, 5"), _text("y = Softmax <axis = 1> (x)", "N, 3, 4, 5"))


def test_transposes_without_a_perm_go(rewrites):
    body = "a = Transpose(x) s = LogSoftmax <axis = 0> (a) y = Transpose(s)"
    rewrites(FuseSoftmax(), _text(body), _text("y = LogSoftmax <axis = 1> (x)"))


def test_transposes_below_opset_13_stay(keeps):
    """torch exported a softmax over the channels like this, because it could not say so otherwise."""
    body = """a = Transpose <perm = [0, 2, 3, 1]> (x) s = Softmax <axis = 3> (a)
        y = Transpose <perm = [0, 3, 1, 2]> (s)"""
    old = '<ir_version: 6, opset_import: ["": 11]>'
    keeps(FuseSoftmax(), _text(body, "N, 3, 4, 5", old), reason="flatten")


@pytest.mark.parametrize(
    ("body", "shape", "reason"),
    [
        (SOFTMAX["without the maximum"].replace("axes)", "both)"), "3, 4", "along 2 axes"),
        (SOFTMAX["without the maximum"].replace(", axes", ""), "3, 4", "it is along all axes"),
        (SOFTMAX["tf2onnx"].replace("y =", "o =") + " n = Neg(e) y = Add(o, n)", "3, 4", "used elsewhere"),
        ("e = Exp(x) s = ReduceSum <keepdims = 0> (e, axis) r = Reshape(s, row) y = Div(e, r)", "4, 4", "get back"),
        ("l = ReduceLogSumExp <axes = [0], keepdims = 0> (x) y = Sub(x, l)", "4, 4", "does not keep the axis"),
        (
            "a = Transpose <perm = [1, 2, 0]> (x) s = Softmax(a) y = Transpose <perm = [1, 2, 0]> (s)",
            "3, 3, 3",
            "cancel",
        ),
    ],
)
def test_what_is_kept_has_a_reason(keeps, body, shape, reason):
    source = _text(body, shape).replace("float ninf", "int64[2] row = {1, 4}, int64[2] both = {0, 1}, float ninf")
    keeps(FuseSoftmax(), source, reason=reason)


@pytest.mark.parametrize(
    "shift",
    [
        "m = ReduceMax <axes = [0], keepdims = 1> (x)",
        "m = ReduceMax(x)",
        "n = ReduceMax <axes = [1], keepdims = 0> (x) m = Reshape(n, row)",
        "n = ReduceMax <axes = [1], keepdims = 1> (x) m = Max(n, some)",
        "m = ReduceMin <axes = [1], keepdims = 1> (x)",
    ],
)
def test_a_shift_that_is_not_the_maximum_stays(rewrites, shift):
    """It is the softmax of what is left."""

    def text(body: str) -> str:
        source = _text(f"{shift} z = Sub(x, m) {body}", "4, 4")
        return source.replace("float ninf", "int64[2] row = {1, 4}, float some = {0.5}, float ninf")

    softmax = "e = Exp(z) s = ReduceSum(e, axis) y = Div(e, s)"
    rewrites(FuseSoftmax(), text(softmax), text("y = Softmax <axis = 1> (z)"))


def test_an_axis_that_is_fed_is_not_known(keeps):
    text = f"""{_HEADER} g (float[3, 4] x, int64[1] axes) => (float[3, 4] y) {{
        e = Exp(x) s = ReduceSum(e, axes) y = Div(e, s) }}"""
    source = ir.from_onnx_text(text)
    keeps(FuseSoftmax(), source, reason="axes of a reduction are not known", runs=False)


def test_a_target_without_softmax_keeps_it(keeps):
    target = dataclasses.replace(targets()["onnx"], lacks=frozenset({"Softmax"}))
    keeps(FuseSoftmax(), _text(SOFTMAX["tf2onnx"]), reason="has no Softmax", context=Context(target=target))


def test_inside_a_branch(rewrites):
    def text(body: str) -> str:
        return f"""{_HEADER} g (bool p, float[2, 3] x) => (float[2, 3] y) <{_NAMES}> {{
             y = If (p) <then_branch = t () => (float[2, 3] u) {{ {body} }},
                         else_branch = e () => (float[2, 3] v) {{ v = Neg(x) }}> }}"""

    body = SOFTMAX["tf2onnx"].replace("y =", "u =")
    rewrites(FuseSoftmax(), text(body), text("u = Softmax <axis = 1> (x)"))


def test_inside_a_function_of_unknown_rank(rewrites):
    def text(body: str) -> str:
        return f"""<ir_version: 8, opset_import: ["": 17, "local": 1]>
            g (float[N, 3] x) => (float[N, 3] y) {{ y = local.act(x) }}
            <domain: "local", opset_import: ["": 17]> act (x) => (y) {{ {body} }}"""

    rewrites(FuseSoftmax(), text("s = Softmax <axis = -1> (x) y = Log(s)"), text("y = LogSoftmax <axis = -1> (x)"))


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT16, ir.DataType.DOUBLE])
@pytest.mark.parametrize("dialect", ["tf2onnx", "jax, as in magika"])
def test_other_types(rewrites, in_type, dialect, dtype):
    expected = in_type(_text("y = Softmax <axis = 1> (x)"), dtype)
    rewrites(FuseSoftmax(), in_type(_text(SOFTMAX[dialect]), dtype), expected)


def test_it_is_a_number_where_the_exponential_overflows():
    before = ir.from_onnx_text(_text(SOFTMAX["without the maximum"]))
    after = before.clone()
    infer(after)
    assert drive(FuseSoftmax(), after, Context()).changed
    feeds = {"x": np.array([[1, 2, 3, 100]], np.float32)}
    wanted, found = (Session(model, optimized=False).run(feeds)["y"] for model in (before, after))
    assert np.isnan(wanted).any()
    np.testing.assert_allclose(found.sum(), 1)


_AXIS = {name: lambda rng, shape: np.ones(shape) for name in ("p", "q")}
_COLUMN = {name: lambda rng, shape: np.array([-1, 1]) for name in ("u", "v")}


@pytest.mark.parametrize(
    "body",
    [
        "l = LogSoftmax<axis = -1>(x) y = Exp(l)",
        "l = ReduceLogSumExp<axes = [-1], keepdims = 1>(x) z = Sub(x, l) y = Exp(z)",  # CNTK
    ],
)
def test_the_power_of_a_logarithm(rewrites, body):
    before, after = _text(body), _text("y = Softmax<axis = -1>(x)")
    done = rewrites(FuseSoftmax(), before, after if "LogSoftmax<" in body else after.replace("-1", "1"))
    assert done.changed


@pytest.mark.parametrize("rule", RULES.rules, ids=lambda rule: rule.pattern)
def test_each_rule_holds_on_random_shapes(rule):
    fuzz(
        rule,
        shapes={"x": "n 4", "p": "1", "q": "1", "u": "2", "v": "2", "floor": ""},
        types=dict.fromkeys("pquv", ir.DataType.INT64),
        values={**_AXIS, **_COLUMN, "floor": lambda rng, shape: np.full(shape, -np.inf)},
        constants=("p", "q", "u", "v", "floor"),
        attributes={"a": {"axis": 0}} if "Softmax" in rule.pattern else {},
        trials=24,
    )
