"""quantize-embeddings: Before and Expected, dtypes, who else reads the table, and how near the rows are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.execute.session import Session
from graphopt.passes.quantize.quantize_embeddings import QuantizeEmbeddings
from graphopt.pipeline import PassManager, Recipe

SMALL = QuantizeEmbeddings(at_least=0)
TABLE = "<float[2,8] t = {127, -2, 0, 0, 5, 6, 7, 8, -254, 100, 0, 0, 2, 4, 6, 8}>"

# powers of two and codes without a fraction: what is stored is exact
BEFORE = f"g (int64[n] i) => (float[n,8] y) {TABLE} {{ y = Gather(t, i) }}"
EXPECTED = """g (int64[n] i) => (float[n,8] y)
<int8[2,8] q = {127, -2, 0, 0, 5, 6, 7, 8, -127, 50, 0, 0, 1, 2, 3, 4}, float[2,1] s = {1, 2}>
{ c = Gather(q, i)  f = Cast <to=1> (c)  r = Gather(s, i)  y = Mul(f, r) }"""


def table(dtype: type = np.float32, rows: int = 50, width: int = 8, text: str = "y = Gather(t, i)") -> ir.Model:
    kind = {np.float32: "float", np.float64: "double", np.float16: "float16"}[dtype]
    model = ir.from_onnx_text(
        f'<ir_version: 8, opset_import: ["": 17]> g (int64[a,b] i) => ({kind}[a,b,{width}] y) {{ {text} }}'
    )
    elements = np.random.default_rng(0).normal(size=(rows, width)).astype(dtype)
    value = next(value for node in model.graph for value in node.inputs if value is not None and value.name == "t")
    value.const_value = ir.tensor(elements, name="t")
    model.graph.initializers.add(value)
    return model


def test_rows_become_codes_with_a_scale(rewrites):
    rewrites(SMALL, BEFORE, EXPECTED)


def test_inside_a_branch_a_table_of_the_outer_graph_stays_there(rewrites):
    before = f"""g (bool c, int64[n] i) => (float[n,8] y) {TABLE}
    {{ y = If (c) <then_branch = a () => (float[n,8] p) {{ p = Gather(t, i) }},
                   else_branch = e () => (float[n,8] q) {{ z = Gather(t, i)  q = Neg(z) }}> }}"""
    expected = """g (bool c, int64[n] i) => (float[n,8] y)
    <int8[2,8] q = {127, -2, 0, 0, 5, 6, 7, 8, -127, 50, 0, 0, 1, 2, 3, 4}, float[2,1] s = {1, 2}>
    { y = If (c) <then_branch = a () => (float[n,8] p)
        { c1 = Gather(q, i)  f1 = Cast <to=1> (c1)  r1 = Gather(s, i)  p = Mul(f1, r1) },
      else_branch = e () => (float[n,8] qq)
        { c2 = Gather(q, i)  f2 = Cast <to=1> (c2)  r2 = Gather(s, i)  z = Mul(f2, r2)  qq = Neg(z) }> }"""
    rewrites(SMALL, before, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_each_number_is_within_half_a_step_of_its_row(dtype):
    model = table(dtype)
    result, _ = PassManager(Recipe((SMALL,)), verify="end", strict=True).run(model)
    rows = model.graph.initializers["t"].const_value.numpy().astype(np.float64)
    index = np.array([[0, 49, -1], [7, -50, 3]])
    found = Session(result, optimized=False).run({"i": index})["y"]
    assert found.dtype == dtype
    step = np.abs(rows).max(axis=1, keepdims=True) / 127
    slack = 0.51 if dtype is not np.float16 else 0.7
    assert (np.abs(found - rows[index]) <= slack * step[index]).all()
    assert "t" not in result.graph.initializers


def test_two_look_ups_share_the_codes():
    model = table(text="p = Gather(t, i)  j = Neg(i)  q = Gather(t, j)  y = Add(p, q)")
    result, outcomes = PassManager(Recipe((SMALL,)), verify="end", strict=True).run(model)
    assert len(outcomes[0].changed) == 2
    assert sorted(result.graph.initializers) == ["t_quantized", "t_scale"]


def test_a_table_that_something_else_reads_stays(keeps):
    text = f"""g (int64[n] i) => (float[n,8] y, float[2,8] z) {TABLE} {{ y = Gather(t, i)  z = Neg(t) }}"""
    keeps(SMALL, text, reason="reads the table 't' too")


def test_tables_that_are_small_asked_for_or_not_finite_stay(keeps):
    keeps(QuantizeEmbeddings(), BEFORE)
    keeps(replace(SMALL, keep=("t",)), BEFORE, reason="asked for")
    model = ir.from_onnx_text('<ir_version: 8, opset_import: ["": 17]>' + BEFORE)
    model.graph.initializers["t"].const_value = ir.tensor(np.full((2, 8), np.inf, np.float32), name="t")
    keeps(SMALL, model, reason="holds NaN or infinities", runs=False)


@pytest.mark.parametrize(
    "text",
    [
        "g (int64[n] i) => (float[3,n] y) <float[3,2] t = {1,2,3,4,5,6}> { y = Gather <axis=1> (t, i) }",
        "g (int64[n] i) => (float[n,2] y) <float[3,2] t = {1,2,3,4,5,6}> { y = Gather(t, i) }",
        "g (int64[n] i) => (float[n] y) <float[3] t = {1,2,3}> { y = Gather(t, i) }",
        "g (int64[n] i) => (int64[n,2] y) <int64[3,2] t = {1,2,3,4,5,6}> { y = Gather(t, i) }",
        "g (int64[n] i, float[3,8] t) => (float[n,8] y) { y = Gather(t, i) }",
    ],
)
def test_other_look_ups_are_no_sites(keeps, text):
    assert not keeps(SMALL, text).kept
