from __future__ import annotations

import onnx
import onnx.defs
import pytest

from graphopt.passes.clean.remove_unused import _OPTIONAL_OUTPUTS, RemoveUnused


def test_dead_nodes_and_initialisers_go_users_first(rewrites):
    done = rewrites(
        RemoveUnused(),
        "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { a = Add(x, w) b = Neg(a) c = Exp(b) y = Abs(x) }",
        "g (float[2] x) => (float[2] y) { y = Abs(x) }",
    )
    assert [place.split()[0] for place, _ in done.changed] == ["Exp", "Neg", "Add", "tensor"]


def test_what_only_a_branch_reads_is_used(keeps):
    """A peer dropped values that are used only inside a subgraph."""
    keeps(
        RemoveUnused(),
        """g (float[2] x, bool k) => (float[2] y) <float[2] w = {1, 2}> {
             a = Exp(x)
             y = If (k) <
               then_branch = t () => (float[2] p) { p = Add(a, w) },
               else_branch = e () => (float[2] r) { r = Abs(x) }>
           }""",
    )


def test_dead_nodes_in_branches_and_functions(rewrites):
    rewrites(
        RemoveUnused(),
        """<ir_version: 8, opset_import: ["": 17, "local": 1]>
           g (float[2] x, bool k) => (float[2] y) {
             y = If (k) <
               then_branch = t () => (float[2] p) <float[2] w = {1, 2}> { d = Add(x, w) p = Neg(x) },
               else_branch = e () => (float[2] r) { r = local.f(x) }>
           }
           <domain: "local", opset_import: ["": 17]>
           f (a) => (b) { d = Exp(a) b = Abs(a) }""",
        """<ir_version: 8, opset_import: ["": 17, "local": 1]>
           g (float[2] x, bool k) => (float[2] y) {
             y = If (k) <
               then_branch = t () => (float[2] p) { p = Neg(x) },
               else_branch = e () => (float[2] r) { r = local.f(x) }>
           }
           <domain: "local", opset_import: ["": 17]>
           f (a) => (b) { b = Abs(a) }""",
    )


def test_functions_that_only_unused_functions_call_go_with_their_domains(rewrites):
    rewrites(
        RemoveUnused(),
        """<ir_version: 8, opset_import: ["": 17, "local": 1, "other": 1, "com.microsoft": 1]>
           g (float[2] x) => (float[2] y) { y = local.f(x) }
           <domain: "local", opset_import: ["": 17, "com.microsoft": 1, "local": 1]>
           f (a) => (b) { b = local.g(a) }
           <domain: "local", opset_import: ["": 17]>
           g (a) => (b) { b = Neg(a) }
           <domain: "other", opset_import: ["": 17, "other": 1]>
           h (a) => (b) { b = other.i(a) }
           <domain: "other", opset_import: ["": 17]>
           i (a) => (b) { b = Neg(a) }""",
        """<ir_version: 8, opset_import: ["": 17, "local": 1]>
           g (float[2] x) => (float[2] y) { y = local.f(x) }
           <domain: "local", opset_import: ["": 17, "local": 1]>
           f (a) => (b) { b = local.g(a) }
           <domain: "local", opset_import: ["": 17]>
           g (a) => (b) { b = Neg(a) }""",
    )


def test_imports_nothing_uses_go_and_the_default_stays(rewrites):
    done = rewrites(
        RemoveUnused(),
        """<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1, "ai.onnx.ml": 3]>
           g (float[2] x) => (float[2] y) { y = Neg(x) }""",
        "g (float[2] x) => (float[2] y) { y = Neg(x) }",
    )
    assert [text for _, text in done.changed] == [
        "nothing uses the operator set 'com.microsoft', import removed",
        "nothing uses the operator set 'ai.onnx.ml', import removed",
    ]


def test_nodes_of_undescribed_domains_may_have_effects(keeps):
    keeps(
        RemoveUnused(),
        """<ir_version: 8, opset_import: ["": 17, "acme": 1]>
           g (float[2] x) => (float[2] y) { a = acme.Log(x) y = Neg(x) }""",
        runs=False,
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("y, i = MaxPool<kernel_shape = [2]>(x)", "y = MaxPool<kernel_shape = [2]>(x)"),
        ("y, m = Dropout(x)", "y = Dropout(x)"),
        ("u, i, j, c = Unique(x) y = Cast<to = 1>(c)", 'u, "", "", c = Unique(x) y = Cast<to = 1>(c)'),
        (
            "y, m, d = LayerNormalization<axis = -1>(x, w)",
            "y = LayerNormalization<axis = -1>(x, w)",
        ),
    ],
)
def test_optional_outputs_nobody_uses_are_left_out(rewrites, before, after):
    constants = "<float[8] w = {1, 2, 3, 4, 5, 6, 7, 8}>" if " w)" in before else ""
    rewrites(
        RemoveUnused(),
        f"g (float[1, 1, 8] x) => (y) {constants} {{ {before} }}",
        f"g (float[1, 1, 8] x) => (y) {constants} {{ {after} }}",
    )


def test_of_a_recurrent_layer_the_states_in_the_middle_may_go(rewrites):
    head = "g (float[3, 1, 2] x, float[1, 8, 2] w, float[1, 8, 2] r) => (float[1, 1, 2] y)"
    rewrites(
        RemoveUnused(),
        f"{head} {{ a, y, c = LSTM<hidden_size = 2>(x, w, r) }}",
        f'{head} {{ "", y = LSTM<hidden_size = 2>(x, w, r) }}',
    )


def test_outputs_that_say_what_an_operator_does_are_kept(keeps):
    """Before version 14 it is the number of its outputs that puts BatchNormalization into training."""
    keeps(
        RemoveUnused(),
        """<ir_version: 8, opset_import: ["": 13]>
           g (float[2, 3] x, float[3] s, float[3] b, float[3] m, float[3] v) => (float[2, 3] y) {
             y, p, q, t, u = BatchNormalization(x, s, b, m, v) }""",
        runs=False,
    )
    keeps(
        RemoveUnused(),
        """<ir_version: 8, opset_import: ["": 15]>
           g (float[2, 3] x, float[3] s, float[3] b, float[3] m, float[3] v) => (float[2, 3] y) {
             y, p, q = BatchNormalization<training_mode = 1>(x, s, b, m, v) }""",
    )


def test_omitted_inputs_at_the_end_go_down_to_what_the_schema_wants(rewrites):
    done = rewrites(
        RemoveUnused(),
        'g (float[2] x, float s) => (float[2] y) { a = Clip(x, s, "") y = Clip(a, "", "") }',
        "g (float[2] x, float s) => (float[2] y) { a = Clip(x, s) y = Clip(a) }",
    )
    assert len(done.changed) == 2


def test_unused_inputs_go_only_when_asked(rewrites, keeps):
    model = "g (float[2] x, float[2] z, float[2] w = {1, 2}) => (float[2] y) { y = Neg(x) }"
    keeps(RemoveUnused(), model)
    rewrites(RemoveUnused(inputs=True), model, "g (float[2] x) => (float[2] y) { y = Neg(x) }")


def test_an_input_that_is_an_output_is_used(keeps):
    keeps(RemoveUnused(inputs=True), "g (float[2] x, float[2] z) => (float[2] y, z) { y = Neg(x) }", runs=False)


def test_all_outputs_we_leave_out_are_optional_in_today_s_schema():
    for operator, positions in _OPTIONAL_OUTPUTS.items():
        schema = onnx.defs.get_schema(operator)
        for position in positions:
            assert schema.outputs[position].option == onnx.defs.OpSchema.FormalParameterOption.Optional


def test_an_output_that_became_optional_later_is_kept_before(keeps):
    keeps(
        RemoveUnused(),
        """<ir_version: 3, opset_import: ["": 2]>
           g (float[3, 1, 2] x, float[1, 6, 2] w, float[1, 6, 2] r) => (y) {
             y, h = GRU<hidden_size = 2, output_sequence = 1>(x, w, r) }""",
        runs=False,
    )
