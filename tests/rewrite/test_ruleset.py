"""How rules run over a whole model: everywhere, in order, to the end, and under the driver's control."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from graphopt.errors import GraphoptError
from graphopt.rewrite import Rewrite, RuleSet, near, that

NEG_NEG = Rewrite("Neg(Neg(x))", "Relu(x)", name="double negation")
NESTED = """g (float[N] x, bool c, int64 n) => (float[N] y)
{
  a = Neg(x)
  b = Neg(a)
  i = If(c) <
    then_branch = t () => (float[N] p) { p1 = Neg(b) p = Neg(p1) },
    else_branch = e () => (float[N] q) {
      q = If(c) <then_branch = tt () => (float[N] r) { r1 = Neg(b) r = Neg(r1) }, else_branch = ee
        () => (float[N] s) { s = Exp(x) }>
    }
  >
  l = Loop(n, c, i) <body = l (int64 k, bool u, float[N] v) => (bool w, float[N] o) { w =
    Identity(u) o1 = Neg(v) o = Neg(o1) }>
  y = own.F(l)
}
<domain: "own", opset_import: ["" : 20]> F (x) => (z) { m = Neg(x) z = Neg(m) }"""


def test_rules_work_in_subgraphs_at_any_depth_and_in_functions(rewritten, load):
    result = rewritten(load(NESTED, domains='"own" : 1'), NEG_NEG)
    assert {site.where for site in result.done} == {"Neg 'b'", "Neg 'p'", "Neg 'r'", "Neg 'o'", "Neg 'z'"}
    assert "Neg" not in result.text
    assert [node.op_type for node in next(iter(result.model.functions.values()))] == ["Relu"]


def test_a_match_does_not_reach_across_graphs(rewritten):
    """The inner node would run in every trip of the loop instead of once."""
    model = """g (float[N] x, bool c) => (float[N] y)
    { a = Neg(x) y = If(c) <then_branch = t () => (float[N] p) { p = Neg(a) }, else_branch = e ()
      => (float[N] q) { q = Exp(x) }> }"""
    assert not rewritten(model, NEG_NEG).done


def test_variables_may_come_from_an_outer_graph(rewritten):
    model = """g (float[N] x, bool c) => (float[N] y) <float k = {3}>
    { y = If(c) <then_branch = t () => (float[N] p) { p = Mul(x, k) }, else_branch = e () =>
      (float[N] q) { q = Exp(x) }> }"""
    assert "p = Sub(x, k)" in rewritten(model, Rewrite("Mul(x, k)", "Sub(x, k)", where=[near("k", 3.0)])).text


def test_new_constants_of_a_branch_belong_to_the_branch(rewritten):
    model = """g (float[N] x, bool c) => (float[N] y)
    { y = If(c) <then_branch = t () => (float[N] p) { p = Relu(x) }, else_branch = e () =>
      (float[N] q) { q = Exp(x) }> }"""
    result = rewritten(model, Rewrite("Relu(x)", "Mul(x, 2)"))
    branch = next(iter(result.model.graph)).attributes["then_branch"].as_graph()
    assert list(branch.initializers) == ["p_constant"]
    assert not result.model.graph.initializers


def test_the_earlier_rule_comes_first(rewritten):
    large = Rewrite("Relu(Neg(x))", "Exp(x)")
    small = Rewrite("Neg(x)", "Log(x)")
    model = "g (float[N] x) => (float[N] z) { n = Neg(x) z = Relu(n) }"
    assert rewritten(model, large, small).text == "z = Exp(x)\n-> z"
    assert rewritten(model, small, large).text == "n = Log(x)\nz = Relu(n)\n-> z"


def test_what_an_edit_makes_possible_is_found(rewritten):
    unfold = Rewrite("Exp(x)", "Neg(x)")
    model = "g (float[N] x) => (float[N] z) { a = Neg(x) b = Exp(a) c = Sin(b) d = Exp(c) e = Neg(d) z = Sin(e) }"
    assert rewritten(model, NEG_NEG, unfold).text == "b = Relu(x)\nc = Sin(b)\ne = Relu(c)\nz = Sin(e)\n-> z"


def test_a_value_that_loses_a_user_is_looked_at_again(rewritten):
    """The inner value m has two users until the second is rewritten away."""
    model = (
        "g (float[N] x) => (float[N] z, float[N] w) <float zero = {0}>"
        " { m = Neg(x) z = Neg(m) t = Mul(m, zero) w = Add(t, x) }"
    )
    result = rewritten(model, NEG_NEG, Rewrite("Add(Mul(y, 0), x)", "Exp(x)"))
    assert result.text == "z = Relu(x)\nw = Exp(x)\n-> z, w"
    assert result.reasons == ["double negation: the inner value 'm' is used elsewhere too"]


def test_values_that_become_one_are_looked_at_again(rewritten):
    model = "g (float[N] x) => (float[N] z) { i = Identity(x) s = Sigmoid(i) z = Mul(x, s) }"
    assert (
        rewritten(model, Rewrite("Mul(a, Sigmoid(a))", "Exp(a)"), Rewrite("Identity(a)", "a")).text
        == "z = Exp(x)\n-> z"
    )


def test_a_second_application_changes_nothing(rewritten, load):
    result = rewritten(load(NESTED, domains='"own" : 1'), NEG_NEG)
    assert not rewritten(result.model, NEG_NEG).done


def test_a_refused_site_is_left_and_not_offered_again(rewritten):
    model = "g (float[N] x) => (float[N] z) { a = Neg(x) b = Neg(a) c = Exp(b) d = Neg(c) z = Neg(d) }"
    offered = []

    def leave(site):
        offered.append(site.where)
        return site.where == "Neg 'b'"

    # the second rule changes a neighbour of the place that was left, which is looked at again
    result = rewritten(model, NEG_NEG, Rewrite("Exp(x)", "Sin(x)"), leave=leave)
    assert offered == ["Neg 'b'", "Neg 'z'", "Exp 'c'"]
    assert result.text == "a = Neg(x)\nb = Neg(a)\nc = Sin(b)\nz = Relu(c)\n-> z"


def test_nothing_changes_before_the_driver_applies_an_edit(load, rewritten):
    model = load(NESTED, domains='"own" : 1')
    before = ir.to_proto(model)
    result = rewritten(model, NEG_NEG, leave=lambda site: True)
    assert not result.done
    assert ir.to_proto(model) == before


def test_a_reason_is_given_once_per_place(rewritten):
    never = Rewrite("Neg(x)", "Relu(x)", where=[that("never", lambda match: False)])
    model = "g (float[N] x) => (float[N] z) { a = Exp(x) b = Neg(a) z = Exp(b) }"
    # the second rule changes both neighbours of the place, which is looked at again
    result = rewritten(model, never, Rewrite("Exp(x)", "Sin(x)"))
    assert [(site.where, site.text) for site in result.kept] == [("Neg 'b'", "never")]


def test_rules_that_undo_each_other_are_an_error(load):
    rules = RuleSet([Rewrite("Neg(x)", "Exp(x)"), Rewrite("Exp(x)", "Neg(x)")])
    sites = rules.sites(load("g (float[N] x) => (float[N] z) { z = Neg(x) }"))
    with pytest.raises(GraphoptError, match="undo each other and never end"):
        apply_all(sites)


def apply_all(sites):
    site = next(sites)
    while True:
        site.edit()
        site = sites.send(True)
