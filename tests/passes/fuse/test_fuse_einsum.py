from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.ir import infer
from graphopt.passes.fuse._affine import Refusal
from graphopt.passes.fuse._einsum import parse
from graphopt.passes.fuse.fuse_einsum import FuseEinsum
from graphopt.pipeline import Context


def einsum(equation: str, *shapes: str, result: str, opset: int = 17) -> str:
    inputs = ", ".join(f"float[{shape}] {name}" for shape, name in zip(shapes, "xyz", strict=False))
    names = ", ".join("xyz"[: len(shapes)])
    return f"""<ir_version: 8, opset_import: ["": {opset}]>
      g ({inputs}) => (float[{result}] r) {{ r = Einsum <equation = "{equation}"> ({names}) }}"""


def plain(body: str, *shapes: str, result: str, constants: str = "", opset: int = 17) -> str:
    inputs = ", ".join(f"float[{shape}] {name}" for shape, name in zip(shapes, "xyz", strict=False))
    return f"""<ir_version: 8, opset_import: ["": {opset}]>
      g ({inputs}) => (float[{result}] r) {constants} {{ {body} }}"""


@pytest.mark.parametrize(
    ("equation", "shapes", "result", "body"),
    [
        ("ij,jk->ik", ("N, 3", "3, 4"), "N, 4", "r = MatMul(x, y)"),
        ("ij, jk", ("N, 3", "3, 4"), "N, 4", "r = MatMul(x, y)"),
        ("ij,jk->ki", ("N, 3", "3, 4"), "4, N", "m = MatMul(x, y) r = Transpose <perm = [1, 0]> (m)"),
        ("jk,ij->ik", ("3, 4", "N, 3"), "N, 4", "r = MatMul(y, x)"),
        ("i,i->", ("3", "3"), "", "r = MatMul(x, y)"),
        ("bsd,dn->bsn", ("N, S, 3", "3, 4"), "N, S, 4", "r = MatMul(x, y)"),
        ("...d,dn->...n", ("N, S, 2, 3", "3, 4"), "N, S, 2, 4", "r = MatMul(x, y)"),
        ("...ij,...jk->...ik", ("N, 2, 3", "N, 3, 4"), "N, 2, 4", "r = MatMul(x, y)"),
        (
            "bqhd,bkhd->bhqk",
            ("N, Q, 2, 3", "N, K, 2, 3"),
            "N, 2, Q, K",
            """p = Transpose <perm = [0, 2, 1, 3]> (x) q = Transpose <perm = [0, 2, 3, 1]> (y) r = MatMul(p, q)""",
        ),
        (
            "bhqk,bkhd->bqhd",
            ("N, 2, Q, K", "N, K, 2, 3"),
            "N, Q, 2, 3",
            """q = Transpose <perm = [0, 2, 1, 3]> (y) m = MatMul(x, q) r = Transpose <perm = [0, 2, 1, 3]> (m)""",
        ),
        ("bij,bij->bij", ("N, 2, 3", "N, 2, 3"), "N, 2, 3", "r = Mul(x, y)"),
        ("ij->ji", ("N, 3",), "3, N", "r = Transpose <perm = [1, 0]> (x)"),
    ],
)
def test_equations_without_constants(rewrites, equation, shapes, result, body):
    rewrites(FuseEinsum(), einsum(equation, *shapes, result=result), plain(body, *shapes, result=result))


@pytest.mark.parametrize(
    ("equation", "shapes", "result", "body", "constants"),
    [
        ("ij->j", ("N, 3",), "3", "r = ReduceSum <keepdims = 0> (x, a)", "int64[1] a = {0}"),
        ("ijk->k", ("N, 3, 2",), "2", "r = ReduceSum <keepdims = 0> (x, a)", "int64[2] a = {0, 1}"),
        ("bi,bi->b", ("N, 3", "N, 3"), "N", "m = Mul(x, y) r = ReduceSum <keepdims = 0> (m, a)", "int64[1] a = {1}"),
        ("i,j->ij", ("N", "M"), "N, M", "u = Unsqueeze(x, a) r = Mul(u, y)", "int64[1] a = {1}"),
        (
            "bshd,hdn->bsn",
            ("N, 5, 2, 3", "2, 3, 4"),
            "N, 5, 4",
            "p = Reshape(x, a) q = Reshape(y, b) r = MatMul(p, q)",
            "int64[3] a = {-1, 5, 6}, int64[2] b = {6, 4}",
        ),
        (
            "bsn,nhd->bshd",
            ("N, S, 4", "4, 2, 3"),
            "N, S, 2, 3",
            "p = Reshape(y, a) m = MatMul(x, p) r = Reshape(m, b)",
            "int64[2] a = {4, 6}, int64[4] b = {0, 0, 2, 3}",
        ),
        (
            "bij,j->bi",
            ("N, 2, 3", "3"),
            "N, 2",
            "r = MatMul(x, y)",
            "",
        ),
        (
            "bij,bj->bi",
            ("N, 2, 3", "N, 3"),
            "N, 2",
            "p = Reshape(y, a) m = MatMul(x, p) r = Reshape(m, b)",
            "int64[3] a = {-1, 3, 1}, int64[2] b = {-1, 2}",
        ),
    ],
)
def test_equations_with_constants(rewrites, equation, shapes, result, body, constants):
    rewrites(
        FuseEinsum(),
        einsum(equation, *shapes, result=result),
        plain(body, *shapes, result=result, constants=f"<{constants}>" if constants else ""),
    )


def test_before_opset_13_axes_are_attributes(rewrites):
    rewrites(
        FuseEinsum(),
        einsum("ij->j", "N, 3", result="3", opset=12),
        plain("r = ReduceSum <axes = [0], keepdims = 0> (x)", "N, 3", result="3", opset=12),
    )


def test_an_equation_that_does_nothing_goes(rewrites):
    rewrites(
        FuseEinsum(),
        'g (float[N, 3] x) => (float[N, 3] r) { a = Neg(x) b = Einsum <equation = "ij"> (a) r = Neg(b) }',
        "g (float[N, 3] x) => (float[N, 3] r) { a = Neg(x) r = Neg(a) }",
    )


@pytest.mark.parametrize(
    ("equation", "shapes", "result", "reason"),
    [
        ("ii->i", ("3, 3",), "3", "takes a diagonal"),
        ("ij,jk,kl->il", ("2, 3", "3, 4", "4, 5"), "2, 5", "it has 3 operands"),
        ("ij,jk->ik", ("2, 3", "1, 4"), "2, 4", "the sizes of j are not known to be equal"),
        ("hij,bhjd->bhid", ("2, I, J", "N, 2, J, 3"), "N, 2, I, 3", "two of the sizes to be joined are not known"),
    ],
)
def test_what_is_kept_has_a_reason(keeps, equation, shapes, result, reason):
    keeps(FuseEinsum(), einsum(equation, *shapes, result=result), reason=reason)


def test_an_unknown_rank_stays(keeps):
    keeps(
        FuseEinsum(),
        """g (float[3] x, int64[K] s) => (r) { z = Reshape(x, s) r = Einsum <equation = "...i->..."> (z) }""",
        reason="the rank of an operand is not known",
        runs=False,
    )


def test_other_element_types(rewrites, keeps, in_type):
    before = einsum("bid,bjd->bij", "2, 3, 4", "2, 5, 4", result="2, 3, 5")
    after = plain("t = Transpose <perm = [0, 2, 1]> (y) r = MatMul(x, t)", "2, 3, 4", "2, 5, 4", result="2, 3, 5")
    rewrites(FuseEinsum(), in_type(before, ir.DataType.DOUBLE), in_type(after, ir.DataType.DOUBLE))
    keeps(FuseEinsum(), in_type(before, ir.DataType.INT8), reason="its element type is int8", runs=False)


def test_an_equation_that_is_left_out_leaves_nothing_behind():
    model = ir.from_onnx_text(einsum("bqhd,bkhd->bhqk", "1, 2, 3, 4", "1, 5, 3, 4", result="1, 3, 2, 5"))
    infer(model)
    (site,) = FuseEinsum().apply(model, Context())
    assert site.edit is not None
    assert all(len(value.uses()) == 1 for value in model.graph.inputs)


def test_inside_a_branch_and_a_function(rewrites):
    def text(body: str) -> str:
        return f"""<ir_version: 8, opset_import: ["": 17, "f": 1]>
           g (bool p, float[2, 3] x) => (float[3, 2] y) {{
             y = If (p) <then_branch = t () => (float[3, 2] u) {{ u = f.F(x) }},
                         else_branch = e () => (float[3, 2] v) {{ v = {body} (x) }}> }}
           <domain: "f", opset_import: ["": 17]> F (x) => (y) {{ y = {body} (x) }}"""

    rewrites(FuseEinsum(), text('Einsum <equation = "ij->ji">'), text("Transpose <perm = [1, 0]>"))


@pytest.mark.parametrize("seed", range(60))
def test_random_equations_compute_the_same(agrees, seed):
    rng = np.random.default_rng(seed)
    letters = list(rng.permutation(list("abcdef"))[: int(rng.integers(2, 6))])
    sizes = {letter: int(rng.integers(1, 5)) for letter in letters}
    terms = [list(rng.permutation(letters)[: int(rng.integers(1, len(letters) + 1))]) for _ in range(2)]
    used = sorted({letter for term in terms for letter in term})
    result = list(rng.permutation(used)[: int(rng.integers(0, len(used) + 1))])
    inputs = [
        ir.val(f"x{index}", ir.DataType.FLOAT, [sizes[letter] for letter in term]) for index, term in enumerate(terms)
    ]
    equation = f"{''.join(terms[0])},{''.join(terms[1])}->{''.join(result)}"
    node = ir.node("Einsum", inputs, {"equation": equation})
    (r,) = node.outputs
    r.name, r.type, r.shape = "r", ir.TensorType(ir.DataType.FLOAT), ir.Shape([sizes[letter] for letter in result])
    graph = ir.Graph(inputs, [r], nodes=[node], opset_imports={"": 17})
    assert agrees(FuseEinsum(), ir.Model(graph, ir_version=8), seed).changed, equation


@pytest.mark.parametrize(
    ("text", "ranks", "operands", "result"),
    [
        ("ij,jk", (2, 2), (("i", "j"), ("j", "k")), ("i", "k")),
        ("ba", (2,), (("b", "a"),), ("a", "b")),
        ("i...,...", (3, 1), (("i", "1.", "0."), ("0.",)), ("1.", "0.", "i")),
        ("...->...", (2,), (("1.", "0."),), ("1.", "0.")),
        ("i ... -> ...", (2,), (("i", "0."),), ("0.",)),
    ],
)
def test_equations_are_read_like_numpys(text, ranks, operands, result):
    equation = parse(text, ranks)
    assert (equation.operands, equation.result) == (operands, result)


@pytest.mark.parametrize(
    ("text", "ranks"),
    [
        ("ij", (2, 2)),
        ("ij->ik", (2,)),
        ("ij->ii", (2,)),
        ("ij", (3,)),
        ("i...->i", (2,)),
        ("i1->i", (2,)),
        ("ijk...", (2,)),
    ],
)
def test_what_is_no_equation_is_refused(text, ranks):
    with pytest.raises(Refusal):
        parse(text, ranks)
