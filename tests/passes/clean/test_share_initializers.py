from __future__ import annotations

import time

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from graphopt.ir import load, save
from graphopt.passes.clean._content import equal_groups
from graphopt.passes.clean.share_initializers import ShareInitializers
from graphopt.pipeline import Context
from graphopt.pipeline.drive import drive


def test_the_first_of_two_equal_initialisers_stays(rewrites):
    rewrites(
        ShareInitializers(),
        """g (float[2] x) => (float[2] y) <float[2] a = {1, 2}, float[2] b = {1, 2}, float[2] c = {1, 3}> {
             p = Add(x, a) q = Add(p, b) y = Add(q, c) }""",
        """g (float[2] x) => (float[2] y) <float[2] a = {1, 2}, float[2] c = {1, 3}> {
             p = Add(x, a) q = Add(p, a) y = Add(q, c) }""",
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("float[2] a = {0, 1}", "float[2] b = {-0.0, 1}"),
        ("float[2] a = {1, 2}", "float[1, 2] b = {1, 2}"),
        ("float[2] a = {0, 0}", "double[2] b = {0, 0}"),
    ],
)
def test_every_bit_the_shape_and_the_type_count(keeps, first, second):
    keeps(
        ShareInitializers(),
        f"g (float[2] x) => (float[2] y, z) <{first}, {second}> {{ y = Add(x, a) z = Neg(b) }}",
    )


def test_an_inner_initialiser_gives_way_to_an_outer_one_and_branches_do_not_mix(rewrites):
    rewrites(
        ShareInitializers(),
        """g (float[2] x, bool k) => (float[2] y) <float[2] a = {1, 2}> {
             p = Add(x, a)
             y = If (k) <
               then_branch = t () => (float[2] q) <float[2] b = {1, 2}, float[2] c = {5, 6}> {
                 d = Mul(p, b) q = Add(d, c) },
               else_branch = e () => (float[2] r) <float[2] c2 = {5, 6}, float[2] c3 = {5, 6}> {
                 d2 = Add(p, c2) r = Mul(d2, c3) }>
           }""",
        """g (float[2] x, bool k) => (float[2] y) <float[2] a = {1, 2}> {
             p = Add(x, a)
             y = If (k) <
               then_branch = t () => (float[2] q) <float[2] c = {5, 6}> { d = Mul(p, a) q = Add(d, c) },
               else_branch = e () => (float[2] r) <float[2] c2 = {5, 6}> { d2 = Add(p, c2) r = Mul(d2, c2) }>
           }""",
    )


def test_constant_nodes_of_a_function(rewrites):
    model = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
        g (float[2] x) => (float[2] y) {{ y = local.f(x) }}
        <domain: "local", opset_import: ["": 17]>
        f (a) => (b) {{ p = Constant<value = float {{2}}>() {body} }}"""
    rewrites(
        ShareInitializers(),
        model.format(body="c = Mul(a, p) q = Constant<value = float {2}>() d = Add(c, q) b = Neg(d)"),
        model.format(body="c = Mul(a, p) d = Add(c, p) b = Neg(d)"),
    )


def test_the_default_of_an_input_is_never_shared(keeps):
    keeps(
        ShareInitializers(),
        """g (float[2] x, float[2] b = {1, 2}) => (float[2] y) <float[2] a = {1, 2}> {
             p = Add(x, a) y = Add(p, b) }""",
        reason="which a caller may override",
    )
    keeps(
        ShareInitializers(),
        "g (float[2] x, float[2] a = {1, 2}, float[2] b = {1, 2}) => (float[2] y) { p = Add(x, a) y = Add(p, b) }",
    )


def test_a_constant_that_is_an_output_keeps_its_value(keeps):
    keeps(
        ShareInitializers(),
        """g (float[2] x) => (float[2] y, float[2] b) <float[2] a = {1, 2}> {
             b = Constant<value = float[2] {1, 2}>() p = Add(x, a) y = Add(p, b) }""",
        reason="it is a graph output",
    )


def test_strings_are_compared(rewrites):
    rewrites(
        ShareInitializers(),
        """g (string[2] s) => (bool[2] z, bool[2] w) <string[2] t = {"p", "q"}, string[2] u = {"p", "q"}> {
             z = Equal(s, t) w = Equal(u, s) }""",
        """g (string[2] s) => (bool[2] z, bool[2] w) <string[2] t = {"p", "q"}> {
             z = Equal(s, t) w = Equal(t, s) }""",
        runs=False,  # the runtime has no Equal for strings before version 19
    )


def test_types_narrower_than_a_byte_are_compared(rewrites):
    head = '<ir_version: 10, opset_import: ["": 21]> g (float[2] x) => (float[2] y)'
    rewrites(
        ShareInitializers(),
        f"""{head} <int4[2] a = {{1, -2}}, int4[2] b = {{1, -2}}> {{
             p = Cast<to = 1>(a) q = Cast<to = 1>(b) r = Add(p, q) y = Add(r, x) }}""",
        f"""{head} <int4[2] a = {{1, -2}}> {{
             p = Cast<to = 1>(a) q = Cast<to = 1>(a) r = Add(p, q) y = Add(r, x) }}""",
        runs=False,  # the text parser writes a nibble a byte, which the runtime refuses
    )


def _weights(rng: np.random.Generator, count: int, size: int) -> list[ir.TensorProtocol]:
    return [ir.tensor(rng.random(size, dtype=np.float32), name=f"w{number}") for number in range(count)]


def test_big_tensors_that_differ_are_told_apart_by_a_sample():
    tensors = _weights(np.random.default_rng(0), 20, 1 << 20)
    start = time.process_time()
    assert equal_groups(range(20), lambda number: tensors[number]) == []
    assert time.process_time() - start < 0.1  # a digest of the 84 MB would take as long


def test_big_tensors_that_differ_in_one_element_outside_the_sample_are_told_apart():
    tensors = [np.zeros(1 << 18, np.float32) for _ in range(3)]
    tensors[1][12345] = 1
    groups = equal_groups(range(3), lambda number: ir.tensor(tensors[number]))
    assert groups == [[0, 2]]


def test_external_data_is_compared_without_staying_in_memory(tmp_path):
    shared = np.arange(1 << 18, dtype=np.float32)
    other = shared.copy()
    other[-1] = 0
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 17]> g (float[{1 << 18}] x) => (float[{1 << 18}] y) {{
            p = Add(x, a) q = Add(p, b) y = Add(q, c) }}"""
    )
    for name, content in (("a", shared), ("b", other), ("c", shared)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(content, name))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data")
    loaded = load(tmp_path / "m.onnx")
    done = drive(ShareInitializers(), loaded, Context())
    assert done.changed == [("tensor 'c'", "the same as 'a'")]
    save(loaded, tmp_path / "n.onnx")
    assert {item.name for item in onnx.load(tmp_path / "n.onnx", load_external_data=False).graph.initializer} == {
        "a",
        "b",
    }
