"""Which nodes give the same result whenever they get the same inputs."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.ir import STANDARD_DOMAINS, Body, is_op, scalar

_RANDOM = (
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
)
_DESCRIBED = STANDARD_DOMAINS | {"ai.onnx.ml"}


class Determinism:
    """Answers for one model; a local function is as deterministic as its body."""

    def __init__(self, model: ir.Model) -> None:
        self._functions = model.functions
        self._answers: dict[ir.OperatorIdentifier, str] = {}

    def reason_against(self, node: ir.Node, body: Body) -> str:
        """Why two runs of the node may differ; "" when they may not."""
        function = self._functions.get(node.op_identifier())
        if function is not None:
            return self._reason_against_function(function)
        if node.domain not in _DESCRIBED:
            return "a custom operator may give another result each time"
        return _randomness(node, body.version())

    def _reason_against_function(self, function: ir.Function) -> str:
        identifier = function.identifier()
        if identifier not in self._answers:
            self._answers[identifier] = "the function calls itself"  # until proven otherwise
            body = Body(function.graph, function.opset_imports, function)
            reasons = (self.reason_against(node, body) for node in body.nodes())
            self._answers[identifier] = next((reason for reason in reasons if reason), "")
        return self._answers[identifier]


def _randomness(node: ir.Node, version: int) -> str:
    if is_op(node, *_RANDOM):
        return "it draws random numbers"
    if is_op(node, "Dropout") and _in_training(node, version):
        return "it draws random numbers in training"
    return ""


def _in_training(node: ir.Node, version: int) -> bool:
    if version >= 12:
        mode = node.inputs[2] if len(node.inputs) > 2 else None
        return mode is not None and scalar(mode) is not False
    if version >= 7:
        return False
    is_test = node.attributes.get("is_test")
    return is_test is None or is_test.is_ref() or is_test.as_int() == 0
