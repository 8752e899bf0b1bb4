from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.execute.session import Session
from graphopt.ir import infer
from graphopt.passes.fuse.fuse_softplus import RULES, FuseSoftplus
from graphopt.pipeline import Context
from graphopt.pipeline.drive import drive
from graphopt.rewrite.fuzz import fuzz


def _text(body: str) -> str:
    return f"""<ir_version: 8, opset_import: ["": 17]> g (float[N, 4] x) => (float[N, 4] y)
        <float one = {{1}}, float[1] ones = {{1}}, float two = {{2}}, float k = {{20}}> {{ {body} }}"""


@pytest.mark.parametrize(
    "body",
    [
        "e = Exp(x) a = Add(e, one) y = Log(a)",
        "e = Exp(x) a = Add(ones, e) y = Log(a)",
        "e = Exp(x) a = Sum(one, e) y = Log(a)",
    ],
)
def test_softplus_is_one_operator(rewrites, body):
    rewrites(FuseSoftplus(), _text(body), _text("y = Softplus(x)"))


def test_half_precision(rewrites, in_type):
    source = in_type(_text("e = Exp(x) a = Add(e, one) y = Log(a)"), ir.DataType.FLOAT16)
    rewrites(FuseSoftplus(), source, in_type(_text("y = Softplus(x)"), ir.DataType.FLOAT16))


def test_double_has_no_kernel(keeps, in_type):
    source = in_type(_text("e = Exp(x) a = Add(e, one) y = Log(a)"), ir.DataType.DOUBLE)
    keeps(FuseSoftplus(), source, reason="element type double")


def test_a_result_that_is_used_elsewhere_is_kept(keeps):
    keeps(FuseSoftplus(), _text("e = Exp(x) a = Add(e, one) l = Log(a) y = Add(l, e)"), reason="used elsewhere")


_TORCH = "s = Softplus(x) b = Greater(x, k) y = Where(b, x, s)"


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT, ir.DataType.FLOAT16])
def test_the_threshold_of_torch_goes(rewrites, in_type, dtype):
    rewrites(FuseSoftplus(), in_type(_text(_TORCH), dtype), in_type(_text("y = Softplus(x)"), dtype))


def test_a_lower_threshold_is_kept(keeps):
    keeps(FuseSoftplus(), _text(_TORCH.replace("k)", "two)")), reason="just above the threshold")


@pytest.mark.parametrize("body", ["e = Exp(x) a = Add(e, two) y = Log(a)", "a = Add(x, one) y = Log(a)"])
def test_other_functions_are_no_sites(keeps, body):
    assert not keeps(FuseSoftplus(), _text(body)).kept


@pytest.mark.parametrize(
    "body", ["e = Exp(x) a = Add(e, one) y = Log(a)", _TORCH], ids=["written out", "with a threshold"]
)
@pytest.mark.parametrize(
    ("x", "same"),
    [
        (-np.inf, True),
        (np.inf, True),
        (np.nan, True),
        (-200.0, True),
        (17.0, True),
        (20.000002, True),
        (80.0, True),
        (100.0, False),
    ],
)
def test_it_differs_only_where_the_exponential_overflows(body, x, same):
    before = ir.from_onnx_text(_text(body))
    after = before.clone()
    infer(after)
    assert drive(FuseSoftplus(), after, Context()).changed
    feeds = {"x": np.full((1, 4), x, np.float32)}
    wanted, found = (Session(model, optimized=False).run(feeds)["y"] for model in (before, after))
    np.testing.assert_allclose(found, wanted if same else feeds["x"], rtol=1e-6)


@pytest.mark.parametrize("rule", RULES.rules, ids=lambda rule: rule.pattern)
def test_each_rule_holds_on_random_shapes(rule):
    numbers = {"x": lambda rng, shape: rng.normal(size=shape) * 20, "k": lambda rng, shape: np.full(shape, 20.0)}
    values = numbers if "k" in rule.pattern else {}
    fuzz(rule, dtypes=(ir.DataType.FLOAT, ir.DataType.FLOAT16), values=values, shapes={"k": ""}, constants=("k",))
