"""A pattern as a random piece of a model: nodes, constants and feeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir

from ..pattern import Output, PatternNode
from ..rule import Rewrite
from ..schema import COMMUTATIVE, make_attribute
from ..syntax import Absent, AttributeVariable, Number, Variable, Vector
from ..types import literal_type, result_type

Values: TypeAlias = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


@dataclass(frozen=True)
class Sketch:
    """What a fuzz test must know about a rule's variables that the pattern does not say.

    Attributes:
        shapes: by variable, dimensions as numbers and letters: ``"n c 3 3"``; a letter is the same random
            number everywhere. A variable without a shape gets one that broadcasts with the others.
        attributes: values of attribute variables, and for ``**a`` a dictionary; or a function of the random
            generator.
        types: element types of variables that do not have the common one.
        values: how to draw the elements of a variable; normally distributed by default.
        constants: variables that must be constants, besides those the rule's conditions name.
        largest: the largest random dimension.
    """

    shapes: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    types: Mapping[str, ir.DataType] = field(default_factory=dict)
    values: Mapping[str, Values] = field(default_factory=dict)
    constants: Sequence[str] = ()
    largest: int = 5


@dataclass
class Instance:
    """A pattern made concrete.

    Attributes:
        nodes: in topological order.
        feeds: arrays of the values that the model gets as inputs.
        constants: arrays of the values that the model holds.
        outputs: name and element type of the pattern's outputs.
        inner: name and element type of values that a rewrite removes.
        domains: foreign operator sets that it uses.
    """

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    feeds: dict[str, np.ndarray] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    outputs: list[tuple[str, ir.DataType]] = field(default_factory=list)
    inner: list[tuple[str, ir.DataType]] = field(default_factory=list)
    domains: set[str] = field(default_factory=set)


def draw(
    rule: Rewrite,
    sketch: Sketch,
    rng: np.random.Generator,
    dtype: ir.DataType,
    opset: int,
    commute: np.random.Generator | None,
) -> Instance:
    """Make a pattern concrete.

    Args:
        rule: whose pattern.
        sketch: what to know about its variables.
        rng: decides on everything but the order of operands, so two calls that differ only in ``commute``
            give the same computation.
        dtype: the common element type.
        opset: the version of the standard operator set.
        commute: when given, operands of commutative operators are exchanged at random.
    """
    return _Draw(rule, sketch, rng, dtype, opset, commute).instance()


class _Draw:
    def __init__(
        self,
        rule: Rewrite,
        sketch: Sketch,
        rng: np.random.Generator,
        dtype: ir.DataType,
        opset: int,
        commute: np.random.Generator | None,
    ) -> None:
        self.rule, self.sketch, self.rng, self.dtype, self.opset, self.commute = (
            rule,
            sketch,
            rng,
            dtype,
            opset,
            commute,
        )
        self.made = Instance()
        self.types: dict[str, ir.DataType] = {}
        self.results: dict[Output, str] = {}
        self.variables: dict[str, str] = {}
        self.letters: dict[str, int] = {}
        rank = int(rng.integers(0, 5))
        self.base = tuple(int(size) for size in rng.integers(1, sketch.largest + 1, size=rank))
        self.samples: dict[str, Any] = {}
        for condition in rule.conditions:
            self.samples.update(condition.sample)
        self.samples.update({name: None for name in sketch.constants if name not in self.samples})

    def instance(self) -> Instance:
        for node in self.rule.source.nodes:
            self.node(node)
        outputs = set(self.rule.source.outputs.values())
        for output in self.rule.source.outputs.values():
            name = self.results[output]
            self.made.outputs.append((name, self.types.get(name, self.dtype)))
        public = {name for name, _ in self.made.outputs} | self.variables.keys() | self.made.feeds.keys()
        for output, name in self.results.items():
            gone = output not in outputs and output.node not in self.rule.kept
            if gone and name not in public and name not in self.made.constants:
                self.made.inner.append((name, self.types.get(name, self.dtype)))
        return self.made

    def node(self, node: PatternNode) -> None:
        choices = sorted(node.choices)
        domain, op_type = choices[int(self.rng.integers(len(choices)))]
        skipped = node.call.skippable and bool(self.rng.integers(2))
        operands: list[str] = []
        literals: list[tuple[int, Number | Vector]] = []
        for term in node.operands:
            if isinstance(term, (Number, Vector)):
                literals.append((len(operands), term))
                operands.append("")
            elif isinstance(term, Output):
                operands.append(self.results[term])
            elif isinstance(term, Variable):
                operands.extend(self.variable(term))
            else:
                assert isinstance(term, Absent)
                operands.append("")
        if skipped:
            self.results[Output(node.index, 0)] = operands[0]
            return
        types = [self.types.get(name) for name in operands]
        for position, term in literals:
            operands[position] = self.literal(term, (domain, op_type), types, position)
        if self.commute is not None and domain == "" and op_type in COMMUTATIVE:
            operands = [operands[index] for index in self.commute.permutation(len(operands))]
        while operands and not operands[-1]:
            operands.pop()
        names = [f"t{node.index}_{index}" if target is None else target for index, target in enumerate(node.targets)]
        made = onnx.helper.make_node(op_type, operands, names, domain=domain, name=f"{op_type}_{node.index}")
        made.attribute.extend(self.attributes(node, domain, op_type))
        self.made.nodes.append(made)
        if domain:
            self.made.domains.add(domain)
        for index, name in enumerate(names):
            self.results[Output(node.index, index)] = name
            self.types[name] = self.result(made, domain, op_type, types, index)

    def result(
        self, made: onnx.NodeProto, domain: str, op_type: str, types: list[ir.DataType | None], index: int
    ) -> ir.DataType:
        for attribute in made.attribute:
            if op_type == "Cast" and attribute.name == "to":
                return ir.DataType(attribute.i)
        return result_type((domain, op_type), self.opset, types, index) or self.dtype

    def attributes(self, node: PatternNode, domain: str, op_type: str) -> list[onnx.AttributeProto]:
        wanted: dict[str, Any] = {}
        if node.call.rest is not None:
            wanted.update(self.drawn(node.call.rest, {}))
        for name, term in node.call.attributes:
            value = self.drawn(term.name, None) if isinstance(term, AttributeVariable) else term
            if value is not None:
                wanted[name] = value
        return [
            ir.serde.serialize_attribute(make_attribute(domain, op_type, self.opset, name, value))
            for name, value in wanted.items()
        ]

    def drawn(self, name: str, otherwise: Any) -> Any:
        value = self.sketch.attributes.get(name, otherwise)
        if callable(value):
            # The same variable twice is the same value.
            value = value(np.random.default_rng([len(name), *self.base, *map(ord, name)]))
        return value

    def variable(self, term: Variable) -> list[str]:
        if term.variadic:
            count = int(self.rng.integers(1, 4))
            return [self.value(f"{term.name}{index}", term.name) for index in range(count)]
        if term.name not in self.variables:
            absent = term.optional and bool(self.rng.integers(2))
            self.variables[term.name] = "" if absent else self.value(term.name, term.name)
        return [self.variables[term.name]]

    def value(self, name: str, variable: str) -> str:
        dtype = self.sketch.types.get(variable, self.dtype)
        number = self.samples.get(variable)
        if number is not None:
            self.made.constants[name] = np.full(self.small(), number).astype(dtype.numpy())
        else:
            shape = self.shape(variable)
            draw_values = self.sketch.values.get(variable, _normal(dtype))
            elements = np.asarray(draw_values(self.rng, shape)).astype(dtype.numpy())
            held = variable in self.samples or (variable not in self.sketch.shapes and self.rng.random() < 0.15)
            (self.made.constants if held else self.made.feeds)[name] = elements
        self.types[name] = dtype
        return name

    def small(self) -> tuple[int, ...]:
        """The shape of a constant of one element: mostly a scalar, at times of a higher rank."""
        return (1,) * int(self.rng.choice([0, 0, 0, 1, 2]))

    def shape(self, variable: str) -> tuple[int, ...]:
        if variable in self.sketch.shapes:
            return tuple(self.dim(word) for word in self.sketch.shapes[variable].split())
        if self.rng.random() < 0.6:
            return self.base
        shape = self.base[int(self.rng.integers(0, len(self.base) + 1)) :]
        return tuple(1 if self.rng.random() < 0.3 else size for size in shape)

    def dim(self, word: str) -> int:
        if word.isdigit():
            return int(word)
        if word not in self.letters:
            self.letters[word] = int(self.rng.integers(1, self.sketch.largest + 1))
        return self.letters[word]

    def literal(
        self, term: Number | Vector, choice: tuple[str, str], types: list[ir.DataType | None], position: int
    ) -> str:
        numbers = (term.value,) if isinstance(term, Number) else term.values
        whole = all(isinstance(number, int) for number in numbers)
        dtype = literal_type(choice, self.opset, types, position, whole) or self.dtype
        plain = np.asarray(term.value if isinstance(term, Number) else term.values).astype(dtype.numpy())
        name = f"c{len(self.made.constants)}"
        self.made.constants[name] = np.reshape(plain, self.small()) if isinstance(term, Number) else plain
        self.types[name] = dtype
        return name


def _normal(dtype: ir.DataType) -> Values:
    def values(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        if dtype == ir.DataType.BOOL:
            return rng.integers(0, 2, size=shape)
        if dtype.is_floating_point():
            return rng.normal(size=shape) * 2
        return rng.integers(-4, 9, size=shape) if dtype.is_signed() else rng.integers(0, 9, size=shape)

    return values
