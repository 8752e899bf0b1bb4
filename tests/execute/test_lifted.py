"""Tensors inside If, Loop and Scan can be looked at."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.errors import GraphoptError
from graphopt.execute import Taps


def parse(text: str) -> ir.Model:
    return ir.from_onnx_text('<ir_version: 8, opset_import: ["": 17]> ' + text)


def test_a_branch_shows_its_tensor_when_it_is_taken_and_nothing_otherwise():
    model = parse(
        """g (bool p, float[2] x) => (float[2] y) {
             y = If (p) <then_branch = t () => (float[2] u) { a = Neg(x) u = Exp(a) },
                         else_branch = e () => (float[2] v) { v = Abs(x) }> }"""
    )
    before = ir.to_proto(model).SerializeToString()
    taps = Taps(model)
    assert set(taps.inner) == {"a", "u", "v"}
    feeds = {"p": np.array(True), "x": np.array([1, 2], np.float32)}
    found = dict(taps.values(feeds, ["a", "u", "v", "y"]))
    np.testing.assert_array_equal(found["a"], [-1, -2])
    np.testing.assert_array_equal(found["u"], found["y"])
    assert found["v"].shape == (0,)
    assert ir.to_proto(model).SerializeToString() == before


def test_a_loop_shows_every_trip():
    model = parse(
        """g (float[2] x) => (float[2] y) <int64 n = {3}, bool c = {1}> {
             y = Loop (n, c, x) <body = b (int64 i, bool k, float[2] s) => (bool k2, float[2] w) {
               k2 = Identity(k) m = Neg(s) w = Add(s, s) }> }"""
    )
    found = dict(Taps(model).values({"x": np.array([1, 2], np.float32)}, ["m"]))
    np.testing.assert_array_equal(found["m"], [[-1, -2], [-2, -4], [-4, -8]])


def test_an_if_inside_a_scan_is_reached_through_both():
    model = parse(
        """g (float[2] s, float[3, 2] x, bool p) => (last, all) {
             last, all = Scan <num_scan_inputs = 1, scan_output_axes = [0],
               body = b (float[2] i, float[2] e) => (float[2] c, float[2] o) {
               c = Add(i, e)
               o = If (p) <then_branch = t () => (float[2] u) { a = Neg(c) u = Exp(a) },
                           else_branch = f () => (float[2] v) { v = Abs(c) }>
             }> (s, x) }"""
    )
    feeds = {"s": np.zeros(2, np.float32), "x": np.ones((3, 2), np.float32), "p": np.array(True)}
    found = dict(Taps(model).values(feeds, ["a", "c", "all"]))
    np.testing.assert_array_equal(found["c"], [[1, 1], [2, 2], [3, 3]])
    np.testing.assert_array_equal(found["a"], -found["c"])


def test_a_tensor_inside_a_function_is_addressed_by_its_call():
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["": 17, "local": 1]> g (float[2] x) => (float[2] y, float[2] z) {
             y = local.f(x)
             z = local.f(y) }
           <domain: "local", opset_import: ["": 17]> f (a) => (c) { b = Neg(a) c = Exp(b) }"""
    )
    before = ir.to_proto(model).SerializeToString()
    taps = Taps(model)
    assert set(taps.inner) == {"y/b", "y/c", "z/b", "z/c"}
    found = dict(taps.values({"x": np.array([1, 2], np.float32)}, ["z/b", "y/b", "y/c", "y", "z"]))
    np.testing.assert_array_equal(found["y/b"], [-1, -2])
    np.testing.assert_array_equal(found["z/b"], -found["y"])
    np.testing.assert_array_equal(found["y/c"], found["y"])
    assert ir.to_proto(model).SerializeToString() == before


def test_calls_within_calls_and_branches_are_reached():
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["": 17, "local": 1]> g (float[2] x, bool p) => (float[2] y) {
             y = local.outer(x, p) }
           <domain: "local", opset_import: ["": 17, "local": 1]> outer (a, q) => (c) {
             b = local.inner(a)
             c = If (q) <then_branch = t () => (u) { d = local.inner(b) u = Exp(d) },
                         else_branch = e () => (v) { v = Abs(b) }> }
           <domain: "local", opset_import: ["": 17]> inner (i) => (k) { j = Neg(i) k = Add(j, j) }"""
    )
    taps = Taps(model)
    assert set(taps.inner) == {"y/b", "y/b/j", "y/b/k", "y/c", "y/d", "y/d/j", "y/d/k", "y/u", "y/v"}
    feeds = {"x": np.array([1, 2], np.float32), "p": np.array(True)}
    found = dict(taps.values(feeds, ["y/b/j", "y/d/j", "y/u", "y/v"]))
    np.testing.assert_array_equal(found["y/b/j"], [-1, -2])
    np.testing.assert_array_equal(found["y/d/j"], [2, 4])
    np.testing.assert_array_equal(found["y/u"], np.exp(np.float32([4, 8])))
    assert found["y/v"].shape == (0,)


def test_a_name_that_is_no_tensor_is_refused():
    model = parse("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    with pytest.raises(GraphoptError, match="no tensor 'y/b'"):
        Taps(model).session(["y/b"])
