from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.execute.session import Session
from graphopt.ir import infer
from graphopt.passes.fuse.approximate_gelu import ApproximateGelu
from graphopt.pipeline import Context, PassManager, Recipe
from graphopt.pipeline.drive import drive
from graphopt.target import targets

_FAST = dataclasses.replace(targets()["x86-64"], forms=frozenset({"com.microsoft::FastGelu"}))


def _text(body: str, dtype: str = "float") -> str:
    return f"""<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]>
        g ({dtype}[N, 4] x) => ({dtype}[N, 4] y) {{ {body} }}"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("y = Gelu(x)", 'y = Gelu <approximate = "tanh"> (x)'),
        ('y = Gelu <approximate = "none"> (x)', 'y = Gelu <approximate = "tanh"> (x)'),
        ("y = com.microsoft.Gelu(x)", "y = com.microsoft.FastGelu(x)"),
    ],
)
def test_gelu_becomes_the_tanh_form(rewrites, before, after):
    rewrites(ApproximateGelu(), _text(before), _text(after), runs=False, context=Context(target=_FAST))


def test_the_error_is_what_the_documentation_says():
    before = ir.from_onnx_text(_text("y = Gelu(x)"))
    after = before.clone()
    infer(after)
    assert drive(ApproximateGelu(), after, Context()).changed
    feeds = {"x": np.linspace(-10, 10, 40000, dtype=np.float32).reshape(-1, 4)}
    exact, found = (Session(model, optimized=False).run(feeds)["y"] for model in (before, after))
    assert 4e-4 < np.abs(exact - found).max() < 4.8e-4


def test_the_manager_holds_it_to_its_budget():
    model = ir.from_onnx_text(_text("y = Gelu(x)"))
    _, outcomes = PassManager(Recipe((ApproximateGelu(),))).run(model, Context())
    assert outcomes[0].changed
    _, outcomes = PassManager(Recipe((ApproximateGelu(db=120.0),))).run(model, Context())
    assert not outcomes[0].changed


def test_the_contributed_form_needs_a_target_that_runs_it_well(keeps):
    keeps(ApproximateGelu(), _text("y = com.microsoft.Gelu(x)"), reason="com.microsoft", runs=False)


def test_bfloat16_is_kept(keeps):
    keeps(ApproximateGelu(), _text("y = Gelu(x)", "bfloat16"), reason="element type bfloat16", runs=False)


def test_no_preset_has_it():
    assert all("approximate-gelu" not in str(Recipe.parse(target.recipe)) for target in targets().values())
