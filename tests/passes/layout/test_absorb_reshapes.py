from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.execute.session import Session
from graphopt.ir import infer
from graphopt.passes.layout.absorb_reshapes import AbsorbReshapes
from graphopt.pipeline import Context, PassManager
from graphopt.pipeline.drive import drive


def test_a_one_dimensional_convolution_of_tf2onnx(rewrites):
    def text(body: str, target: str = "<int64[4] s = {-1, 7, 3, 1}>") -> str:
        return f"g (float[N, 3, 1, 7] x) => (float[N, 7, 3, 1] y) {target} {{ {body} }}"

    rewrites(
        AbsorbReshapes(),
        text("a = Transpose<perm = [0, 2, 3, 1]>(x) y = Reshape(a, s)"),
        text("y = Transpose<perm = [0, 3, 1, 2]>(x)", ""),
    )


def test_a_reshape_in_front(rewrites):
    rewrites(
        AbsorbReshapes(),
        """g (float[2, 1, 3, 4] x) => (float[2, 4, 3, 1] y) <int64[4] s = {2, 3, 4, 1}> {
             a = Reshape(x, s) y = Transpose<perm = [0, 2, 1, 3]>(a) }""",
        "g (float[2, 1, 3, 4] x) => (float[2, 4, 3, 1] y) { y = Transpose<perm = [0, 3, 2, 1]>(x) }",
    )


def test_a_pair_that_undoes_itself_goes(rewrites):
    rewrites(
        AbsorbReshapes(),
        """g (float[2, 1, 3] x) => (float[2, 1, 3] y) <int64[3] s = {2, 1, 3}> {
             n = Neg(x) a = Transpose<perm = [1, 0, 2]>(n) b = Reshape(a, s) y = Relu(b) }""",
        "g (float[2, 1, 3] x) => (float[2, 1, 3] y) { n = Neg(x) y = Relu(n) }",
    )


@pytest.mark.parametrize(
    ("shape", "target"),
    [("2, 3, 4", "3, 4, 2"), ("N, 1, M", "-1, 1, 5"), ("2, 3, 4", "4, 6, 1"), ("2, 1, 3, 4", "2, 3, 4")],
)
def test_a_reshape_that_moves_elements_stays(keeps, shape, target):
    rank = shape.count(",") + 1
    perm = ", ".join(map(str, [1, 0, *range(2, rank)]))
    keeps(
        AbsorbReshapes(),
        f"""g (float[{shape}] x) => (float[{", ".join("ABCD"[: target.count(",") + 1])}] y)
             <int64[{target.count(",") + 1}] s = {{{target}}}> {{ a = Transpose<perm = [{perm}]>(x) y = Reshape(a, s) }}""",
        runs=False,
    )


def test_what_is_read_elsewhere_stays(keeps):
    keeps(
        AbsorbReshapes(),
        """g (float[2, 3, 1] x) => (float[3, 1, 2] y, float[3, 2, 1] z) <int64[3] s = {3, 1, 2}> {
             a = Transpose<perm = [1, 0, 2]>(x) y = Reshape(a, s) z = Relu(a) }""",
        reason="is read elsewhere too",
    )


def test_inside_a_branch(rewrites):
    def text(body: str) -> str:
        return f"""g (bool p, float[2, 3, 1] x) => (float[3, 1, 2] y) <int64[3] s = {{3, 1, 2}}, int64[3] r = {{3, 1, 2}}> {{
             y = If (p) <then_branch = t () => (float[3, 1, 2] u) {{ {body} }},
                         else_branch = e () => (float[3, 1, 2] v) {{ v = Reshape(x, r) }}> }}"""

    source = text("a = Transpose<perm = [1, 0, 2]>(x) u = Reshape(a, s)")
    model, _ = PassManager((AbsorbReshapes(),), verify="each", strict=True).run(
        ir.from_onnx_text('<ir_version: 8, opset_import: ["": 17]>' + source)
    )
    branch = model.graph[-1].attributes["then_branch"].as_graph()
    assert [node.op_type for node in branch] == ["Transpose"]


@given(st.data())
def test_random_pairs(data):
    rank = data.draw(st.integers(2, 5))
    sizes = data.draw(st.lists(st.sampled_from([1, 1, 2, 3]), min_size=rank, max_size=rank))
    perm = data.draw(st.permutations(range(rank)))
    moved = [sizes[axis] for axis in perm]
    rest = [size for size in moved if size != 1]
    while len(rest) < rank:
        rest.insert(data.draw(st.integers(0, len(rest))), 1)
    letters = ", ".join("ABCDE"[:rank])
    text = f"""<ir_version: 8, opset_import: ["": 17]> g (float[{", ".join(map(str, sizes))}] x) => (float[{letters}] y)
        <int64[{rank}] s = {{{", ".join(map(str, rest))}}}> {{
        a = Transpose<perm = [{", ".join(map(str, perm))}]>(x) b = Reshape(a, s) y = Neg(b) }}"""
    model = ir.from_onnx_text(text)
    feeds = {"x": np.arange(np.prod(sizes), dtype=np.float32).reshape(sizes)}
    (expected,) = Session(model, optimized=False).run(feeds).values()
    infer(model)
    drive(AbsorbReshapes(), model, Context())
    (found,) = Session(model, optimized=False).run(feeds).values()
    assert np.array_equal(found, expected)
