"""A graph being written: names, nodes, constants, inputs and outputs."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from values import NUMPY_TYPES, ONNX_TYPES, Fuzzed, Shape, Value

OPSETS = (11, 13, 15, 17, 18, 20, 21)
LIBRARY = "fuzz"
_MOST_ELEMENTS = 600

Step = Callable[["Maker"], None]
"""Adds a few nodes, or none where nothing fits."""


@dataclass
class Scope:
    """A graph being written; ``values`` starts with what it can see of the graphs around it."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    depth: int = 0
    is_function: bool = False


class Maker:
    """Writes one random graph.

    Args:
        rng: where all choices come from.
        steps: what the graph is made of.
        simple_steps: what deeply nested graphs are made of.
    """

    def __init__(self, rng: random.Random, steps: Sequence[Step], simple_steps: Sequence[Step]) -> None:
        self.rng = rng
        self.steps, self.simple_steps = tuple(steps), tuple(simple_steps)
        self.opset = rng.choice(OPSETS)
        self.count = 0
        self.functions: list[tuple[onnx.FunctionProto, list[Value], list[Value]]] = []
        self.scope = Scope()
        self.focus: Value | None = None
        self.numpy = np.random.default_rng(rng.randrange(2**32))
        self.assignments = 5
        self.symbols = self._symbols()

    def _symbols(self) -> dict[str, tuple[int, ...]]:
        """Sizes of the symbols: two usual assignments, two with ones, the last with zeros."""
        rng = self.rng
        big = [tuple(rng.sample(range(2, 6), 3)) for _ in range(2)]
        last = [rng.choice((0, 1, 2, 3)) for _ in range(3)]
        names = {
            name: (big[0][k], big[1][k], rng.choice((1, 2)), rng.choice((1, 3)), last[k])
            for k, name in enumerate(("N", "S", "T"))
        }
        one_or_n = tuple(rng.choice((1, size)) for size in names["N"])
        return {**names, "B": one_or_n}

    def _fixed(self, size: int) -> tuple[int, ...]:
        return (size,) * self.assignments

    def fresh(self, hint: str = "v") -> str:
        self.count += 1
        return f"{hint}{self.count}"

    def node(self, operator: str, inputs: Sequence[Value | str], outputs: int = 1, **attributes: object) -> list[str]:
        names = [self.fresh() for _ in range(outputs)]
        given = [item.name if isinstance(item, Value) else item for item in inputs]
        domain = attributes.pop("domain", "")
        self.scope.nodes.append(
            helper.make_node(operator, given, names, name=self.fresh("n"), domain=str(domain), **attributes)
        )
        return names

    def add(self, name: str, kind: str, shapes: Sequence[Shape], elements: Sequence[np.ndarray] | None = None) -> Value:
        if elements is not None and any(item.size > 16 for item in elements):
            elements = None
        value = Value(name, kind, tuple(map(tuple, shapes)), tuple(elements) if elements is not None else None)
        self.scope.values.append(value)
        return value

    def apply(
        self,
        operator: str,
        inputs: Sequence[Value | str],
        kind: str,
        shapes: Sequence[Shape],
        elements: Sequence[np.ndarray] | None = None,
        **attributes: object,
    ) -> Value:
        return self.add(self.node(operator, inputs, **attributes)[0], kind, shapes, elements)

    def constant(self, array: np.ndarray, hint: str = "c") -> Value:
        """An initialiser, a Constant node, or either behind Identity or Cast."""
        rng = self.rng
        name = self.fresh(hint)
        tensor = numpy_helper.from_array(np.asarray(array), name)
        if self.scope.is_function or rng.random() < 0.3:
            self.scope.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.scope.initializers.append(tensor)
        if rng.random() < 0.1:
            name = self.node("Identity", [name])[0]
        elif rng.random() < 0.05 and array.dtype == np.int64 and np.abs(array).max(initial=0) < 100:
            name = self.node("Cast", [self.node("Cast", [name], to=TensorProto.INT32)[0]], to=TensorProto.INT64)[0]
        kind = next(key for key, dtype in NUMPY_TYPES.items() if dtype == array.dtype)
        known = [array] * self.assignments if kind == "i" else None
        elements = tuple(known) if known is not None and array.size <= 16 else None
        return Value(name, kind, (tuple(np.shape(array)),) * self.assignments, elements)

    def ints(self, *numbers: int) -> Value:
        return self.constant(np.array(numbers, np.int64), "k")

    def floats(self, shape: Shape) -> np.ndarray:
        return (self.numpy.integers(-8, 9, shape) / 4).astype(np.float32)

    def pick(self, kind: str = "f", where: Callable[[Value], bool] = lambda value: True) -> Value | None:
        """One of the values, rather a recent one."""
        focus = self.focus
        if focus is not None and focus.kind == kind and where(focus) and self.rng.random() < 0.9:
            return focus
        found = [value for value in self.scope.values if value.kind == kind and where(value)]
        if not found:
            return None
        recent = found[-5:]
        return self.rng.choice(recent if self.rng.random() < 0.65 else found)

    def small(self, shapes: Sequence[Shape]) -> bool:
        return all(int(np.prod(shape, dtype=np.int64)) <= _MOST_ELEMENTS for shape in shapes)

    def model(self) -> Fuzzed:
        rng = self.rng
        inputs: list[tuple[str, str, list[int | str | None], Value]] = []
        for _ in range(rng.randint(1, 3)):
            inputs.append(self._input("f"))
        if rng.random() < 0.25:
            inputs.append(self._input("i"))
        if rng.random() < 0.35:
            inputs.append(self._scalar_input("b"))
        if rng.random() < 0.2:
            inputs.append(self._input(rng.choice("hdlsu")))
        defaults: dict[str, np.ndarray] = {}
        if rng.random() < 0.2:
            value = inputs[0][3]
            channels = (value.shapes[0][-1],) if value.rank and len(set(value.size(-1))) == 1 else ()
            array = self.floats(channels)
            name = self.fresh("default")
            self.scope.initializers.append(numpy_helper.from_array(array, name))
            inputs.append((name, "f", list(array.shape), self.add(name, "f", [array.shape] * self.assignments)))
            defaults[name] = array
        for _ in range(rng.randint(4, 22)):
            rng.choice(self.steps)(self)
        outputs = self._outputs({item[0] for item in inputs})
        graph = helper.make_graph(
            self.scope.nodes,
            "fuzzed",
            [helper.make_tensor_value_info(name, ONNX_TYPES[kind], dims) for name, kind, dims, _ in inputs],
            outputs,
            self.scope.initializers,
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", self.opset)]
            + ([helper.make_opsetid(LIBRARY, 1)] if self.functions else []),
            ir_version=8 if self.opset < 20 else 10,
            functions=[function for function, _, _ in self.functions],
        )
        return Fuzzed(model, [self._feed(inputs, defaults, index) for index in range(self.assignments)])

    def _input(self, kind: str) -> tuple[str, str, list[int | str | None], Value]:
        rng = self.rng
        dims: list[int | str | None] = []
        sizes: list[tuple[int, ...]] = []
        for axis in range(rng.choice((1, 2, 2, 3, 3, 4, 4))):
            if rng.random() < (0.5 if axis in (0, 2) else 0.25):
                symbol = rng.choice(("N", "N", "S", "S", "T", "B"))
                dims.append(symbol if rng.random() < 0.85 else rng.choice((None, "?")))
                sizes.append(self.symbols[symbol])
            else:
                size = rng.choice((1, 2, 3, 4, 4, 6))
                dims.append(size)
                sizes.append(self._fixed(size))
        name = self.fresh("x")
        return name, kind, dims, self.add(name, kind, list(zip(*sizes, strict=True)))

    def _scalar_input(self, kind: str) -> tuple[str, str, list[int | str | None], Value]:
        name = self.fresh("p")
        return name, kind, [], self.add(name, kind, [()] * self.assignments)

    def _feed(self, inputs: Sequence[tuple], defaults: dict[str, np.ndarray], index: int) -> dict[str, np.ndarray]:
        feed: dict[str, np.ndarray] = {}
        for name, kind, _, value in inputs:
            shape = value.shapes[index]
            if name in defaults and self.numpy.random() < 0.6:
                continue
            match kind:
                case "f":
                    feed[name] = self.numpy.normal(0, 2, shape).astype(np.float32)
                case "b":
                    feed[name] = np.asarray(self.numpy.random(shape) < 0.5)
                case "h" | "d":
                    feed[name] = self.numpy.normal(0, 2, shape).astype(NUMPY_TYPES[kind])
                case _:
                    feed[name] = self.numpy.integers(0 if kind == "u" else -3, 6, shape).astype(NUMPY_TYPES[kind])
        return feed

    def _outputs(self, inputs: set[str]) -> list[onnx.ValueInfoProto]:
        rng = self.rng
        made = {name for node in self.scope.nodes for name in node.output}
        used = {name for node in self.scope.nodes for name in node.input}
        own = [value for value in self.scope.values if value.name in made]
        ends = [value for value in own if value.name not in used]
        chosen = {value.name: value for value in ends[-4:]}
        for value in rng.sample(own, min(len(own), rng.choice((0, 1, 1, 2)))):
            chosen[value.name] = value  # an inner value
        if not chosen or rng.random() < 0.1:
            value = rng.choice(self.scope.values)
            chosen.setdefault(self.fresh("o"), value)
        if rng.random() < 0.15:
            chosen[self.fresh("twin")] = rng.choice(list(chosen.values()))
        infos = []
        for name, value in chosen.items():
            if name != value.name:
                self.scope.nodes.append(helper.make_node("Identity", [value.name], [name]))
            infos.append(self._info(name, value))
        return infos

    def _info(self, name: str, value: Value, *, shape: bool = True) -> onnx.ValueInfoProto:
        dims: list[int | str | None] = []
        for axis in range(value.rank):
            sizes = set(value.size(axis))
            dims.append(sizes.pop() if len(sizes) == 1 and self.rng.random() < 0.5 else None)
        return helper.make_tensor_value_info(name, ONNX_TYPES[value.kind], dims if shape else None)

    # subgraphs and chains

    def inside(self, steps: int, inner: Sequence[Value] = ()) -> Scope:
        """A new graph that sees this one; the caller puts the outer one back."""
        outer = self.scope
        self.scope = Scope(values=[*outer.values, *inner], depth=outer.depth + 1, is_function=outer.is_function)
        return outer

    def finished(
        self, outer: Scope, name: str, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[Value]
    ) -> onnx.GraphProto:
        """The inner graph; outputs are given out under names of their own where they are not its own nodes'."""
        made = {item for node in self.scope.nodes for item in node.output}
        infos: list[onnx.ValueInfoProto] = []
        taken: set[str] = set()
        for value in outputs:
            result = value.name
            if result not in made or result in taken or self.rng.random() < 0.15:
                result = self.node("Identity", [value])[0]
            taken.add(result)
            rank = [None] * value.rank if name == "scan" else None  # a runtime wants the rank there
            infos.append(helper.make_tensor_value_info(result, ONNX_TYPES[value.kind], rank))
        graph = helper.make_graph(self.scope.nodes, name, list(inputs), infos, self.scope.initializers)
        self.scope = outer
        return graph

    def some_steps(self, most: int) -> None:
        for _ in range(self.rng.randint(1, most)):
            self.rng.choice(self.steps if self.scope.depth < 2 else self.simple_steps)(self)

    def chain(self, steps: Sequence[Step]) -> None:
        """Each step takes up what the one before it gave, where it can, and nothing else does until the end."""
        seen = len(self.scope.values)
        for step in steps:
            known = len(self.scope.values)
            step(self)
            if len(self.scope.values) > known:
                self.focus = self.scope.values[-1]
        self.focus = None
        if self.rng.random() < 0.7:
            del self.scope.values[seen:-1]  # what is in between has no other user
