"""fold-embeddings: BERT's and CLIP's embeddings as both exporters write them, and what is kept."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.passes.fuse.fold_embeddings import RULES, FoldEmbeddings
from graphopt.rewrite.fuzz import fuzz

Y = "float[?, ?, ?] y"
WORDS = "float[3, 2] words = {1, 2, 3, 4, 5, 6}"
PLACES = "float[4, 2] places = {10, 20, 30, 40, 50, 60, 70, 80}"
KINDS = "float[2, 2] kinds = {0.5, 0.25, 9, 9}"
NUMBERS = "int64[1] zero = {0}, int64[1] one = {1}, int64[1, 4] order = {0, 1, 2, 3}, int64[1, 4] none = {0, 0, 0, 0}"


def model(body: str, names: str, *, x: str = "int64[B, S] ids", y: str = Y, opset: int = 17) -> str:
    return f'<ir_version: 8, opset_import: ["": {opset}]> g ({x}) => ({y}) <{names}> {{ {body} }}'


LENGTH = "n = Shape<start = 1, end = 2>(ids) sizes = Shape(ids)"
INDICES = {
    "TorchScript": "k0 = Slice(none, zero, n, one, one) k = Expand(k0, sizes)",
    "dynamo": "o0 = Slice(order, zero, n, one, one) k0 = GatherElements<axis = 1>(none, o0) k = Expand(k0, sizes)",
    "zeros": "k = ConstantOfShape<value = int64[1] {0}>(sizes)",
}
AFTER = f"{WORDS}, float[1, 4, 2] places = {{10.5, 20.25, 30.5, 40.25, 50.5, 60.25, 70.5, 80.25}}"


@pytest.mark.parametrize("kinds", INDICES.values(), ids=INDICES)
def test_the_embeddings_of_bert(rewrites, kinds):
    body = f"""{LENGTH} {kinds} o = Slice(order, zero, n, one, one) w = Gather(words, ids) t = Gather(kinds, k)
        a = Add(w, t) p = Gather(places, o) y = Add(a, p)"""
    after = """n = Shape<start = 1, end = 2>(ids) w = Gather(words, ids) p = Slice(places, zero, n, ones, one)
        y = Add(w, p)"""
    names = f"{AFTER}, int64[1] zero = {{0}}, int64[1] ones = {{1}}, int64[1] one = {{1}}"
    before = model(body, f"{WORDS}, {PLACES}, {KINDS}, {NUMBERS}")
    rewrites(FoldEmbeddings(), before, model(after, names), runs=False)


def test_they_compute_the_same(agrees):
    body = f"""{LENGTH} {INDICES["dynamo"]} o = Slice(order, zero, n, one, one) w = Gather(words, ids)
        t = Gather(kinds, k) a = Add(w, t) p = Gather(places, o) y = Add(a, p)"""
    text = model(body, f"{WORDS}, {PLACES}, {KINDS}, {NUMBERS}", x="int64[2, 3] ids")
    assert len(agrees(FoldEmbeddings(), ir.from_onnx_text(text), 0).changed) == 3


def test_positions_are_a_slice_of_their_table(rewrites):
    """As CLIP's text model; the other order of the axes counts from the end."""
    body = "n = Shape<start = 1, end = 2>(ids) o = Slice(order, zero, n, last) y = Gather(places, o)"
    after = "n = Shape<start = 1, end = 2>(ids) y = Slice(places, zero, n, one)"
    names = "int64[1] zero = {0}, int64[1] last = {-1}, int64[1, 4] order = {3, 2, 1, -4}"
    now = "float[1, 4, 2] places = {70, 80, 50, 60, 30, 40, 10, 20}, int64[1] zero = {0}, int64[1] one = {1}"
    rewrites(FoldEmbeddings(), model(body, f"{PLACES}, {names}"), model(after, now), runs=False)


def test_two_tables_of_one_index(rewrites):
    names = "float[4, 2] other = {1, 2, 3, 4, 5, 6, 7, 8}, int64[2, 2] ids = {3, 0, -1, 2}"
    body = "i = Add(ids, x) a = Gather(places, i) b = Gather(other, i) y = Add(a, b)"
    after = "i = Add(ids, x) y = Gather<axis = 0>(places, i)"
    now = "float[4, 2] places = {11, 22, 33, 44, 55, 66, 77, 88}, int64[2, 2] ids = {3, 0, -1, 2}"
    rewrites(FoldEmbeddings(), model(body, f"{PLACES}, {names}", x="int64[1] x"), model(after, now, x="int64[1] x"),
             runs=False)  # fmt: skip


@pytest.mark.parametrize("order", ["y = Add(p, row)", "y = Add(row, p)"])
def test_a_row_goes_into_the_table(rewrites, order):
    names = f"{PLACES}, float[2] row = {{1, 2}}"
    now = "float[4, 2] places = {11, 22, 31, 42, 51, 62, 71, 82}"
    after = model("y = Gather<axis = 0>(places, ids)", now)
    rewrites(FoldEmbeddings(), model(f"p = Gather(places, ids) {order}", names), after, runs=False)


@pytest.mark.parametrize(
    ("body", "options", "reason"),
    [
        ("w = Gather(words, ids) t = Gather(kinds, k) y = Add(w, t)", {"x": "int64[B, S] ids, int64[B, S] k"},
         "not known to be all the same"),
        ("w = Gather(words, ids) k = Expand(zero, n) t = Gather(kinds, k) y = Add(w, t)",
         {"x": "int64[B, S] ids, int64[2] n"}, "the same shape"),
        ("w = Gather(words, ids) n = Shape(ids) k = Expand(far, n) t = Gather(kinds, k) y = Add(w, t)", {},
         "index 7 is outside"),
        ("w = Gather(words, ids) y = Add(w, r)", {"x": "int64[B, S] ids, float[2] r"}, "is computed"),
        ("w = Gather(words, ids) y = Add(w, column)", {}, "one number for each element of a row"),
    ],
)  # fmt: skip
def test_what_is_kept_has_a_reason(keeps, body, options, reason):
    names = f"{WORDS}, {KINDS}, {NUMBERS}, float[2] row = {{1, 2}}, int64[1] far = {{7}}, float[2, 1] column = {{1, 2}}"
    keeps(FoldEmbeddings(), model(body, names, **options), reason=reason, runs=False)


def test_a_large_table_that_is_used_elsewhere_is_kept(keeps):
    """As that of a language model whose last product has the words' table."""
    text = """<ir_version: 8, opset_import: ["": 17]> g (int64[B, S] ids) => (float[?, ?, ?] y) {
        n = Constant<value = int64[2] {300, 64}>() row = Constant<value = float[1] {2}>() w = Gather(words, ids)
        z = Add(w, row) t = Transpose(words) y = MatMul(z, t) }"""
    made = ir.from_onnx_text(text.replace("int64[B, S] ids", "int64[B, S] ids, float[300, 64] words"))
    words = made.graph.inputs.pop()
    words.const_value = ir.tensor(np.ones((300, 64), np.float32), name="words")
    made.graph.register_initializer(words)
    keeps(FoldEmbeddings(), made, reason="the table is also used elsewhere", runs=False)


def test_inside_a_branch(rewrites):
    def text(body: str, names: str) -> str:
        body = f"""y = If (b) <then_branch = d0 () => (float[?, ?, ?] y1) {{ {body} }},
                                  else_branch = e0 () => (float[?, ?, ?] z) {{ z = Neg(x) }}>"""
        return model(body, names, x="bool b, float[2, 3, 2] x")

    index = "s = Shape<start = 0, end = 2>(x) k = ConstantOfShape<value = int64[1] {-2}>(s)"
    before = text(f"{index} t = Gather(kinds, k) y1 = Add(x, t)", KINDS)
    rewrites(FoldEmbeddings(), before, text("y1 = Add(x, row)", "float[2] row = {0.5, 0.25}"))


@pytest.mark.parametrize("rule", RULES.rules, ids=lambda rule: rule.pattern)
def test_each_rule_holds_on_random_shapes(rule):
    variables = rule.source.variables
    sliced = {"b": 0, "e": 2, "a": 0, "s": 1}
    bounds = {"b": [0], "e": [2], "a": [0], "s": [1], "i": np.full((2, 3), 1), "c": [3, 1, 0]}
    constants = [name for name in ("t", "u", "r", "i", "a", "c") if name in variables]
    if "x" not in variables and "i" in variables:
        constants.remove("i")
    fuzz(
        rule,
        shapes={"t": "4 5", "u": "4 5", "r": "5", "i": "2 3", "c": "3"}
        | dict.fromkeys(sliced, "1")
        | {"x": "2 3 5" if "i" in variables else "2 5"},
        types=dict.fromkeys(bounds, ir.DataType.INT64),
        values={name: lambda rng, shape, number=number: np.array(number) for name, number in bounds.items()},
        constants=constants,
    )
