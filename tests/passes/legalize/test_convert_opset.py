from __future__ import annotations

from graphopt.passes.legalize.convert_opset import ConvertOpset


def test_axes_become_an_input(rewrites):
    rewrites(
        ConvertOpset(version=18),
        '<ir_version: 8, opset_import: ["": 11]> g (float[2, 3] x) => (float[2] y) { y = ReduceMean<axes = [1], keepdims = 0>(x) }',
        """<ir_version: 8, opset_import: ["": 18]> g (float[2, 3] x) => (float[2] y) {
             a = Constant<value = int64[1] {1}>() y = ReduceMean<keepdims = 0>(x, a) }""",
    )


def test_a_model_that_cannot_be_converted_is_left_whole(keeps):
    keeps(
        ConvertOpset(version=13),
        """<ir_version: 8, opset_import: ["": 17]> g (float[2, 3] x, float[3] s) => (float[2, 3] y) {
             a = Relu(x) y = LayerNormalization(a, s) }""",
        reason="stays at opset 17",
    )


def test_nothing_is_done_without_a_version(keeps):
    keeps(ConvertOpset(), "g (float[2] x) => (float[2] y) { y = Relu(x) }", reason="it has opset 17")


def test_a_lower_opset_is_raised_and_a_higher_one_stays(rewrites, keeps):
    def text(opset: int) -> str:
        return f'<ir_version: 10, opset_import: ["": {opset}]> g (float[2] x) => (float[2] y) {{ y = Relu(x) }}'

    rewrites(ConvertOpset(at_least=21), text(17), text(21))
    keeps(ConvertOpset(at_least=21), text(22), reason="it has opset 22")


def test_a_model_without_standard_operators_has_no_opset(keeps):
    keeps(
        ConvertOpset(at_least=21),
        '<ir_version: 8, opset_import: ["com.microsoft": 1]> g (float[2] x) => (float[2] y) { y = com.microsoft.Gelu(x) }',
        reason="no operators of the standard domain",
    )
