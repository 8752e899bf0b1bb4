"""The two models of a micro-benchmark, from its texts."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...errors import GraphoptError
from ...rewrite.parser import parse
from ...rewrite.schema import make_attribute
from ...rewrite.syntax import Absent, AttributeVariable, Number, Operator, Program, Term, Variable, Vector
from ...rewrite.types import literal_type, result_type
from .micro import Micro, Sizes, shape

IR_VERSION = 10


def build(micro: Micro, which: str, sizes: Sizes, seed: int = 0, *, copies: int = 0) -> ir.Model:
    """The model of one side at one point.

    Args:
        micro: the benchmark.
        which: ``plain`` or ``fused``.
        sizes: one of its points.
        seed: of the weights.
        copies: of the pattern, one after the other; 0 for as many as the benchmark says.

    Raises:
        GraphoptError: the text does not follow the grammar, or uses a name that nothing defines.
    """
    program = parse(micro.text(which, sizes))
    writer = _Writer(micro.opset)
    inputs = {name: _declared(name, shape(dims, sizes)) for name, dims in micro.inputs.items()}
    scope = known = dict(inputs)
    first = next(iter(inputs))
    for copy in range(copies or micro.chain):
        writer.prefix = f"{copy}_"
        for name, array in micro.constants(sizes, seed, copy).items():
            known[name] = writer.constant(array, name)
        scope = writer.program(program, known)
        known[first] = scope[micro.outputs.split()[0]]
    outputs = [scope[name] for name in micro.outputs.split()]
    for name, value in zip(micro.outputs.split(), outputs, strict=True):
        value.name = name
    graph = ir.Graph(
        list(inputs.values()),
        outputs,
        nodes=writer.nodes,
        initializers=writer.constants,
        opset_imports={"": micro.opset, **dict.fromkeys(sorted(writer.domains), 1)},
        name=f"{micro.form} {which}",
    )
    return ir.Model(graph, ir_version=IR_VERSION, producer_name="graphopt profile-target")


def _declared(name: str, dims: tuple[int, ...]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(dims))


class _Writer:
    """Writes nodes for statements, each copy of them under names of its own."""

    def __init__(self, opset: int) -> None:
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []
        self.domains: set[str] = set()
        self.prefix = ""
        self._opset = opset

    def program(self, program: Program, known: dict[str, ir.Value]) -> dict[str, ir.Value]:
        """Write all statements; returns what every name means after them."""
        scope = dict(known)
        for statement in program.statements:
            assert isinstance(statement.term, Operator), "a statement is a call"
            found = self.call(statement.term, scope, max(1, len(statement.targets)))
            scope.update((name, value) for name, value in zip(statement.targets, found, strict=True) if name != "_")
        return scope

    def constant(self, array: np.ndarray, hint: str = "") -> ir.Value:
        """An initialiser."""
        name = f"{self.prefix}{hint or len(self.constants)}"
        tensor = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=name)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
        self.constants.append(value)
        return value

    def call(self, call: Operator, scope: dict[str, ir.Value], outputs: int) -> list[ir.Value]:
        """Write a call and what it is called with."""
        domain, op_type = call.choices[0]
        version = 1 if domain else self._opset
        operands = [self.operand(term, scope) for term in call.inputs]
        types = [None if value is None else value.dtype for value in operands]
        for position, term in enumerate(call.inputs):
            if isinstance(term, (Number, Vector)):
                numbers = term.value if isinstance(term, Number) else list(term.values)
                whole = isinstance(term, Vector) or isinstance(term.value, int)
                otherwise = ir.DataType.INT64 if isinstance(term, Vector) else ir.DataType.FLOAT
                kind = literal_type((domain, op_type), version, types, position, whole) or otherwise
                operands[position] = self.constant(np.asarray(numbers).astype(kind.numpy()))
        attributes = [
            make_attribute(domain, op_type, version, name, value)
            for name, value in call.attributes
            if not isinstance(value, AttributeVariable)
        ]
        name = f"{self.prefix}{op_type}_{len(self.nodes)}"
        node = ir.Node(domain, op_type, operands, attributes, num_outputs=outputs, name=name)
        for index, value in enumerate(node.outputs):
            value.name = f"{name}_{index}"
            value.type = ir.TensorType(result_type((domain, op_type), version, types, index) or ir.DataType.FLOAT)
        self.nodes.append(node)
        if domain:
            self.domains.add(domain)
        return list(node.outputs)

    def operand(self, term: Term, scope: dict[str, ir.Value]) -> ir.Value | None:
        """The value of a term; None for one that is left out, and for literals, whose type depends on the others."""
        if isinstance(term, Operator):
            return self.call(term, scope, 1)[0]
        if isinstance(term, (Absent, Number, Vector)):
            return None
        assert isinstance(term, Variable)
        if term.name not in scope:
            raise GraphoptError(f"nothing defines '{term.name}'", "micro-benchmark", f"known: {', '.join(scope)}")
        return scope[term.name]
