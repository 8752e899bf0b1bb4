from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.execute.session import Session
from graphopt.ir import infer
from graphopt.passes.fuse.fuse_mish import FuseMish
from graphopt.pipeline import Context
from graphopt.pipeline.drive import drive

_HEADER = '<ir_version: 8, opset_import: ["": 18]>'

DIALECTS = {
    "torch, torchscript exporter": "s = Softplus(x) t = Tanh(s) y = Mul(x, t)",
    "keras": "e = Exp(x) a = Add(e, one) s = Log(a) t = Tanh(s) y = Mul(t, x)",
    "darknet": "e = Exp(x) a = Add(ones, e) s = Log(a) t = Tanh(s) y = Mul(x, t)",
}


def _text(body: str, header: str = _HEADER) -> str:
    return f"{header} g (float[N, 4] x) => (float[N, 4] y) <float one = {{1}}, float[1] ones = {{1}}> {{ {body} }}"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_mish_is_one_operator(rewrites, dialect):
    rewrites(FuseMish(), _text(DIALECTS[dialect]), _text("y = Mish(x)"))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_half_precision(rewrites, in_type, dialect):
    source = in_type(_text(DIALECTS[dialect]), ir.DataType.FLOAT16)
    rewrites(FuseMish(), source, in_type(_text("y = Mish(x)"), ir.DataType.FLOAT16))


def test_double_precision(rewrites, in_type):
    source = in_type(_text(DIALECTS["keras"]), ir.DataType.DOUBLE)
    rewrites(FuseMish(), source, in_type(_text("y = Mish(x)"), ir.DataType.DOUBLE))


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("x", [-np.inf, -1e20, -100.0, -20.0, -0.0, 20.0, 88.0, 89.0, 1e20, np.inf, np.nan])
def test_extreme_numbers_come_out_as_they_did(dialect, x):
    before = ir.from_onnx_text(_text(DIALECTS[dialect]))
    after = before.clone()
    infer(after)
    assert drive(FuseMish(), after, Context()).changed
    feeds = {"x": np.full((1, 4), x, np.float32)}
    wanted, found = (Session(model, optimized=False).run(feeds)["y"] for model in (before, after))
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=2e-6)


def test_it_is_nearer_to_the_truth_than_log_of_exp():
    """At -12, 1 + Exp(x) has lost most bits of Exp(x)."""
    before = ir.from_onnx_text(_text(DIALECTS["keras"]))
    after = before.clone()
    infer(after)
    drive(FuseMish(), after, Context())
    feeds = {"x": np.full((1, 4), -12.0, np.float32)}
    truth = -12 * np.tanh(np.log1p(np.exp(-12.0)))
    errors = [abs(Session(model, optimized=False).run(feeds)["y"] - truth).max() for model in (before, after)]
    assert errors[1] < errors[0] / 10


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("s = Softplus(x) t = Tanh(s) p = Mul(x, t) n = Neg(t) y = Add(p, n)", "Tanh 't' is also used elsewhere"),
        ("s = Softplus(x) t = Tanh(s) p = Mul(x, t) n = Mul(x, t) y = Add(p, n)", "also used elsewhere"),
    ],
)
def test_a_tanh_that_is_used_elsewhere_is_kept(keeps, body, reason):
    keeps(FuseMish(), _text(body), reason=reason)


def test_a_softplus_that_is_used_elsewhere_stays_beside_it(rewrites):
    body = "s = Softplus(x) t = Tanh(s) p = Mul(x, t) n = Neg(s) y = Add(p, n)"
    rewrites(FuseMish(), _text(body), _text("s = Softplus(x) p = Mish(x) n = Neg(s) y = Add(p, n)"))


def test_below_opset_18_it_is_kept(keeps):
    source = _text(DIALECTS["keras"], '<ir_version: 8, opset_import: ["": 17]>')
    keeps(FuseMish(), source, reason="Mish needs opset 18, this graph has 17")


@pytest.mark.parametrize(
    "body",
    [
        "s = Softplus(x) t = Tanh(s) n = Neg(x) y = Mul(n, t)",
        "s = Softplus(x) t = Tanh(s) y = Add(x, t)",
        "e = Exp(x) a = Add(e, e) s = Log(a) t = Tanh(s) y = Mul(x, t)",
        "e = Exp(x) a = Add(e, x) s = Log(a) t = Tanh(s) y = Mul(x, t)",
        "e = Exp(x) s = Log(e) t = Tanh(s) y = Mul(x, t)",
        "t = Tanh(x) y = Mul(x, t)",
    ],
)
def test_other_functions_are_no_sites(keeps, body):
    assert not keeps(FuseMish(), _text(body)).kept


def test_inside_a_branch(rewrites):
    def text(body: str) -> str:
        return f"""{_HEADER} g (bool p, float[2] x) => (float[2] y) <float one = {{1}}> {{
             y = If (p) <then_branch = t () => (float[2] u) {{ {body} }},
                         else_branch = e () => (float[2] v) {{ v = Neg(x) }}> }}"""

    body = "e = Exp(x) a = Add(e, one) s = Log(a) t = Tanh(s) u = Mul(t, x)"
    rewrites(FuseMish(), text(body), text("u = Mish(x)"))


def test_inside_a_function(rewrites):
    def text(body: str) -> str:
        return f"""<ir_version: 8, opset_import: ["": 18, "local": 1]>
            g (float[N, 3] x) => (float[N, 3] y) {{ y = local.act(x) }}
            <domain: "local", opset_import: ["": 18]> act (x) => (y) {{ {body} }}"""

    rewrites(FuseMish(), text("s = Softplus(x) t = Tanh(s) y = Mul(x, t)"), text("y = Mish(x)"))
