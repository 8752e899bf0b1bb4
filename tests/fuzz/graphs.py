"""Random valid ONNX graphs, made of what exporters write and what passes look for.

``make(seed)`` gives a model and feeds for it. Shapes are not symbolic here: each value carries its shape, and where it
is cheap its elements, under several *assignments* of sizes to the symbols at once, and an operator is only put where
it is valid under all of them. So the model runs on sizes that differ, 1 and 0 among them, and nothing of the generator
is shared with the shape inference it is to test.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Shape = tuple[int, ...]
OPSETS = (11, 13, 15, 17, 18, 20, 21)
_TYPES = {"f": TensorProto.FLOAT, "i": TensorProto.INT64, "b": TensorProto.BOOL}
_NUMPY = {"f": np.float32, "i": np.int64, "b": np.bool_}
_MOST_ELEMENTS = 600
_LIBRARY = "fuzz"


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor under every assignment.

    Attributes:
        name: in its graph.
        kind: f (float32), i (int64) or b (bool).
        shapes: one per assignment.
        elements: one array per assignment, for small integer tensors; else None.
    """

    name: str
    kind: str
    shapes: tuple[Shape, ...]
    elements: tuple[np.ndarray, ...] | None = None

    @property
    def rank(self) -> int:
        """Equal under all assignments."""
        return len(self.shapes[0])

    def size(self, axis: int) -> tuple[int, ...]:
        """One axis under every assignment."""
        return tuple(shape[axis] for shape in self.shapes)


@dataclass
class Fuzzed:
    """A model, and feeds it should run on."""

    model: onnx.ModelProto
    feeds: list[dict[str, np.ndarray]]


def make(seed: int) -> Fuzzed:
    """The graph of a seed: always the same one."""
    return _Maker(random.Random(seed)).model()


@dataclass
class _Scope:
    """A graph being written; ``values`` starts with what it can see of the graphs around it."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    depth: int = 0
    is_function: bool = False


class _Maker:
    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.opset = rng.choice(OPSETS)
        self.count = 0
        self.functions: list[tuple[onnx.FunctionProto, list[Value], list[Value]]] = []
        self.scope = _Scope()
        self.focus: Value | None = None
        self.numpy = np.random.default_rng(rng.randrange(2**32))
        self.assignments = 5
        self.symbols = self._symbols()

    # sizes

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

    # names and nodes

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
        kind = {"f": "f", "i": "i", "b": "b"}[np.asarray(array).dtype.kind]
        known = [array] * self.assignments if kind == "i" else None
        elements = tuple(known) if known is not None and array.size <= 16 else None
        return Value(name, kind, (tuple(np.shape(array)),) * self.assignments, elements)

    def ints(self, *numbers: int) -> Value:
        return self.constant(np.array(numbers, np.int64), "k")

    def floats(self, shape: Shape) -> np.ndarray:
        return (self.numpy.integers(-8, 9, shape) / 4).astype(np.float32)

    # picking

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

    # the model

    def model(self) -> Fuzzed:
        rng = self.rng
        inputs: list[tuple[str, str, list[int | str | None], Value]] = []
        for _ in range(rng.randint(1, 3)):
            inputs.append(self._input("f"))
        if rng.random() < 0.25:
            inputs.append(self._input("i"))
        if rng.random() < 0.35:
            inputs.append(self._scalar_input("b"))
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
            rng.choice(_STEPS)(self)
        outputs = self._outputs({item[0] for item in inputs})
        graph = helper.make_graph(
            self.scope.nodes,
            "fuzzed",
            [helper.make_tensor_value_info(name, _TYPES[kind], dims) for name, kind, dims, _ in inputs],
            outputs,
            self.scope.initializers,
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", self.opset)]
            + ([helper.make_opsetid(_LIBRARY, 1)] if self.functions else []),
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
                case "i":
                    feed[name] = self.numpy.integers(-3, 6, shape)
                case _:
                    feed[name] = np.asarray(self.numpy.random(shape) < 0.5)
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
        return helper.make_tensor_value_info(name, _TYPES[value.kind], dims if shape else None)

    # arithmetic

    def unary(self) -> None:
        value = self.pick()
        if value is None:
            return
        operators = ["Relu", "Abs", "Neg", "Sigmoid", "Tanh", "Identity", "Ceil", "Softplus", "Dropout", "LeakyRelu"]
        operator = self.rng.choice(operators)
        self.apply(operator, [value], "f", value.shapes)

    def clip(self) -> None:
        value = self.pick()
        if value is None:
            return
        low, high = self.rng.choice(((-1.0, 1.0), (0.0, 6.0), (0.0, None), (None, 2.0), (2.0, 0.5)))
        bounds = ["" if item is None else self.constant(np.array(item, np.float32)) for item in (low, high)]
        self.apply("Clip", [value, *bounds], "f", value.shapes)

    def binary(self) -> None:
        first = self.pick()
        second = self.pick()
        if first is None or second is None:
            return None
        shapes = _broadcast(first.shapes, second.shapes)
        if shapes is None or not self.small(shapes):
            return self.with_constant()
        operator = self.rng.choice(("Add", "Add", "Mul", "Sub", "Max", "Min"))
        self.apply(operator, [first, second], "f", shapes)
        return None

    def with_constant(self) -> None:
        """An operand that is neutral, per channel, a scalar, or widens the result."""
        rng = self.rng
        value = self.pick()
        if value is None:
            return
        shape: Shape = rng.choice(((), (1,), (1,) * value.rank, (1,) * (value.rank + 1)))
        if value.rank and rng.random() < 0.5:
            axis = rng.randrange(-value.rank, 0)
            if len(set(value.size(axis))) == 1:
                shape = (value.shapes[0][axis],) + (1,) * (-axis - 1)
        operator = rng.choice(("Add", "Mul", "Sub", "Div", "Add", "Mul", "Pow"))
        if operator == "Pow":
            elements = np.full(shape, rng.choice((1.0, 2.0)), np.float32)
        elif rng.random() < 0.35:
            elements = np.full(shape, 0.0 if operator in ("Add", "Sub") else 1.0, np.float32)
        else:
            elements = self.floats(shape)
            if operator == "Div":
                elements = np.where(elements == 0, np.float32(2), elements).astype(np.float32)
        operands: list[Value] = [value, self.constant(elements)]
        if rng.random() < 0.25 and operator in ("Add", "Mul", "Sub"):
            operands.reverse()
        shapes = _broadcast(value.shapes, (shape,) * self.assignments)
        if shapes is not None and self.small(shapes):
            self.apply(operator, operands, "f", shapes)

    def repeat(self) -> None:
        """A node again, for common subexpressions."""
        if not self.scope.nodes:
            return
        old = self.rng.choice(self.scope.nodes[-8:])
        by_name = {value.name: value for value in self.scope.values}
        if len(old.output) != 1 or old.output[0] not in by_name or old.op_type in ("If", "Loop", "Scan", "Constant"):
            return
        value = by_name[old.output[0]]
        copy = onnx.NodeProto()
        copy.CopyFrom(old)
        copy.name = self.fresh("n")
        copy.output[0] = self.fresh()
        self.scope.nodes.append(copy)
        self.add(copy.output[0], value.kind, value.shapes, value.elements)

    def ramp(self) -> None:
        """What hard-sigmoid is written with, in any order and with any numbers."""
        rng = self.rng
        value = self.pick()
        if value is None:
            return

        def number(item: float) -> Value:
            return self.constant(np.array(item, np.float32))

        gate: Value | str = value
        for operator in rng.sample(("Add", "Mul", "Div", "Neg", "Sub"), rng.randint(1, 3)):
            if operator == "Neg":
                gate = self.node("Neg", [gate])[0]
                continue
            operands = [gate, number(rng.choice((3.0, 6.0, 0.5, 1.0, 2.0)))]
            if operator != "Div" and rng.random() < 0.3:
                operands.reverse()
            gate = self.node(operator, operands)[0]
        high = rng.choice((6.0, 1.0, 3.0))
        form = rng.random()
        if form < 0.4:
            gate = self.node("Clip", [gate, number(0.0), number(high)])[0]
        elif form < 0.7:
            gate = self.node("Min", [self.node("Relu", [gate])[0], number(high)])[0]
        else:
            gate = self.node("Max", [number(0.0), self.node("Min", [gate, number(high)])[0]])[0]
        if rng.random() < 0.6:
            gate = self.node(rng.choice(("Div", "Mul")), [gate, number(high)])[0]
        if rng.random() < 0.7:
            gate = self.node("Mul", rng.choice(([value, gate], [gate, value])))[0]
        if rng.random() < 0.4:
            gate = self.node(rng.choice(("Div", "Mul")), [gate, number(rng.choice((high, 1 / high)))])[0]
        self.add(str(gate), "f", value.shapes)

    def others(self) -> None:
        """Operators no pass looks for, but whose shapes are inferred."""
        rng = self.rng
        value = self.pick("f", lambda item: item.rank >= 1 and all(min(shape) > 0 for shape in item.shapes))
        if value is None:
            return
        axis = rng.randrange(-value.rank, value.rank)
        one = [tuple(1 if k == axis % value.rank else n for k, n in enumerate(shape)) for shape in value.shapes]
        match rng.choice(
            ("ArgMax", "CumSum", "Range", "TopK", "DepthToSpace", "LayerNormalization", "MaxPool", "Resize")
        ):
            case "ArgMax":
                self.apply("ArgMax", [value], "i", one, axis=axis)
            case "CumSum":
                self.apply("CumSum", [value, self.constant(np.array(axis))], "f", value.shapes)
            case "Range":
                size = self._size(value, axis % value.rank)
                scalar = self._with_axes("Squeeze", size, [0], [()] * self.assignments, None)
                lengths = [(shape[axis],) for shape in value.shapes]
                ends = [self.constant(np.array(number)) for number in (0, 1)]
                elements = [np.arange(length[0]) for length in lengths]
                self.apply("Range", [ends[0], scalar, ends[1]], "i", lengths, elements)
            case "TopK":
                names = self.node("TopK", [value, self.ints(1)], 2, axis=axis)
                self.add(names[0], "f", one)
                if rng.random() < 0.5:
                    self.add(names[1], "i", one)
            case "DepthToSpace" if value.rank == 4 and set(value.size(1)) == {4}:
                shapes = [(shape[0], 1, 2 * shape[2], 2 * shape[3]) for shape in value.shapes]
                if self.small(shapes):
                    self.apply("DepthToSpace", [value], "f", shapes, blocksize=2)
            case "LayerNormalization" if self.opset >= 17 and len(set(value.size(-1))) == 1:
                scale = self.constant(self.floats((value.shapes[0][-1],)))
                self.apply("LayerNormalization", [value, scale], "f", value.shapes)
            case "MaxPool" if value.rank == 4:
                names = self.node("MaxPool", [value], 2, kernel_shape=[1, 1])
                self.add(names[0], "f", value.shapes)
            case "Resize" if value.rank == 4 and self.opset >= 13:
                shapes = [(*shape[:2], 2 * shape[2], 2 * shape[3]) for shape in value.shapes]
                if self.small(shapes):
                    scales = self.constant(np.array([1, 1, 2, 2], np.float32))
                    self.apply("Resize", [value, "", scales], "f", shapes, mode="nearest")
            case _:
                return

    def layout_chain(self) -> None:
        """Two or three of one kind in a row: what the merge passes look at."""
        rng = self.rng
        self._chain([rng.choice(_LAYOUT_STEPS)] * rng.randint(2, 3))

    def linear_chain(self) -> None:
        """A linear operator with affine ones around it: what the fuse passes look at."""
        rng = self.rng
        around = (_Maker.with_constant, _Maker.with_constant, _Maker.batchnorm, _Maker.pad)
        before = rng.choices(around, k=rng.choice((0, 1, 2)))
        after = rng.choices(around, k=rng.choice((0, 1, 2)))
        self._chain([*before, rng.choice((_Maker.conv, _Maker.matmul, _Maker.pool)), *after])

    def _chain(self, steps: Sequence[Callable[[_Maker], None]]) -> None:
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

    def hard_swish(self) -> None:
        rng = self.rng
        value = self.pick()
        if value is None:
            return

        def number(item: float) -> Value:
            return self.constant(np.array(item, np.float32).reshape(rng.choice(((), (), (1,)))))

        if value.rank == 0:
            return
        gate = self.node("Add", [value, number(3.0)])[0]
        gate = self.node("Clip", [gate, number_scalar(self, 0.0), number_scalar(self, 6.0)])[0]
        if rng.random() < 0.5:
            gate = self.node("Div", [gate, number(6.0)])[0]
            if rng.random() < 0.3:
                self.add(gate, "f", value.shapes)
            self.apply("Mul", [value, gate], "f", value.shapes)
        else:
            product = self.node("Mul", [value, gate])[0]
            self.apply("Div", [product, number(rng.choice((6.0, 6.0, 5.0)))], "f", value.shapes)

    # linear

    def conv(self) -> None:
        rng = self.rng
        value = self.pick(
            "f", lambda item: item.rank in (3, 4) and len(set(item.size(1))) == 1 and item.shapes[0][1] > 0
        )
        if value is None:
            return
        channels, spatial = value.shapes[0][1], value.rank - 2
        out = rng.choice((1, 2, 4))
        transposed = rng.random() < 0.2
        group = channels if rng.random() < 0.2 else 1
        out = out * group
        kernel = tuple(rng.choice((1, 1, 2, 3)) for _ in range(spatial))
        pads = [rng.choice((0, 0, 1)) for _ in range(2 * spatial)] if rng.random() < 0.4 else [0] * (2 * spatial)
        stride = rng.choice((1, 1, 1, 2))
        shapes: list[Shape] = []
        for shape in value.shapes:
            sizes: list[int] = []
            for axis, size in enumerate(shape[2:]):
                both = pads[axis] + pads[axis + spatial]
                if transposed:
                    sizes.append(stride * (size - 1) + kernel[axis] - both if size else 0)
                else:
                    sizes.append((size + both - kernel[axis]) // stride + 1)
            if min(sizes) < 1 and 0 not in shape:
                return
            shapes.append((shape[0], out, *(max(size, 0) for size in sizes)))
        if not self.small(shapes):
            return
        weights = (channels, out // group, *kernel) if transposed else (out, channels // group, *kernel)
        inputs: list[Value | str] = [value, self.constant(self.floats(weights))]
        if rng.random() < 0.5:
            inputs.append(self.constant(self.floats((out,))))
        attributes: dict[str, object] = {"group": group, "strides": [stride] * spatial}
        if any(pads) or rng.random() < 0.5:
            attributes["pads"] = pads
        if rng.random() < 0.5:
            attributes["kernel_shape"] = list(kernel)
        result = self.apply("ConvTranspose" if transposed else "Conv", inputs, "f", shapes, **attributes)
        if rng.random() < 0.5:
            self._batchnorm(result)

    def batchnorm(self) -> None:
        value = self.pick("f", lambda item: item.rank >= 2 and len(set(item.size(1))) == 1 and item.shapes[0][1] > 0)
        if value is not None:
            self._batchnorm(value)

    def _batchnorm(self, value: Value) -> None:
        channels = value.shapes[0][1]
        scale, shift, mean = (self.constant(self.floats((channels,))) for _ in range(3))
        variance = self.constant(np.abs(self.floats((channels,))) + np.float32(0.5))
        self.apply("BatchNormalization", [value, scale, shift, mean, variance], "f", value.shapes)

    def matmul(self) -> None:
        rng = self.rng
        value = self.pick("f", lambda item: item.rank >= 1 and len(set(item.size(-1))) == 1 and item.shapes[0][-1] > 0)
        if value is None:
            return
        depth, out = value.shapes[0][-1], rng.choice((1, 2, 3, 4))
        shapes = [(*shape[:-1], out) for shape in value.shapes]
        if not self.small(shapes):
            return
        if value.rank == 2 and rng.random() < 0.4:
            transposed = rng.random() < 0.5
            inputs: list[Value | str] = [
                value,
                self.constant(self.floats((out, depth) if transposed else (depth, out))),
            ]
            if rng.random() < 0.6:
                inputs.append(self.constant(self.floats(rng.choice(((out,), (1, out), (1,), ())))))
            alpha, beta = rng.choice(((1.0, 1.0), (0.5, 2.0)))
            self.apply("Gemm", inputs, "f", shapes, transB=int(transposed), alpha=alpha, beta=beta)
            return
        result = self.apply("MatMul", [value, self.constant(self.floats((depth, out)))], "f", shapes)
        if rng.random() < 0.6:
            bias = self.floats(rng.choice(((out,), (1, out), (1,), (1, 1, out))))
            wide = _broadcast(result.shapes, (bias.shape,) * self.assignments)
            if wide is not None:
                operands = [result, self.constant(bias)]
                rng.shuffle(operands)
                self.apply("Add", operands, "f", wide)

    def matmul_of_two(self) -> None:
        first = self.pick("f", lambda item: item.rank >= 2)
        if first is None:
            return
        second = self.pick("f", lambda item: item.rank >= 2 and item.size(-2) == first.size(-1))
        if second is None:
            return
        batch = _broadcast([item[:-2] for item in first.shapes], [item[:-2] for item in second.shapes])
        if batch is None or any(0 in shape for shape in (*first.shapes, *second.shapes)):
            return
        shapes = [(*outer, a[-2], b[-1]) for outer, a, b in zip(batch, first.shapes, second.shapes, strict=True)]
        if self.small(shapes):
            self.apply("MatMul", [first, second], "f", shapes)

    def pool(self) -> None:
        rng = self.rng
        value = self.pick("f", lambda item: item.rank in (3, 4) and all(min(shape) > 0 for shape in item.shapes))
        if value is None:
            return
        spatial = value.rank - 2
        if rng.random() < 0.25:
            ones = [(*shape[:2], *(1,) * spatial) for shape in value.shapes]
            self.apply(rng.choice(("GlobalAveragePool", "GlobalMaxPool")), [value], "f", ones)
            return
        if rng.random() < 0.5:
            padded = self._pad(value, spatial_only=True)
            value = padded if padded is not None else value
        kernel = [rng.choice((1, 2, 2, 3)) for _ in range(spatial)]
        stride = rng.choice((1, 2))
        pads = [rng.choice((0, 0, 1)) if size > 1 else 0 for size in kernel * 2]
        ceil = int(rng.random() < 0.2 and stride <= min(kernel) and not any(pads))
        shapes: list[Shape] = []
        for shape in value.shapes:
            sizes: list[int] = []
            for axis, size in enumerate(shape[2:]):
                room = size + pads[axis] + pads[axis + spatial] - kernel[axis]
                sizes.append((-(-room // stride) if ceil else room // stride) + 1)
                if room < 0:
                    return
            shapes.append((*shape[:2], *sizes))
        operator = rng.choice(("AveragePool", "MaxPool", "MaxPool"))
        attributes: dict[str, object] = {"kernel_shape": kernel, "strides": [stride] * spatial, "ceil_mode": ceil}
        if any(pads):
            attributes["pads"] = pads
        if operator == "AveragePool" and rng.random() < 0.5:
            attributes["count_include_pad"] = 1
        self.apply(operator, [value], "f", shapes, **attributes)

    def pad(self) -> None:
        value = self.pick("f", lambda item: item.rank >= 1)
        if value is not None:
            padded = self._pad(value, spatial_only=self.rng.random() < 0.5)
            if padded is not None and self.rng.random() < 0.3:
                self._pad(padded, spatial_only=True)

    def _pad(self, value: Value, *, spatial_only: bool) -> Value | None:
        rng = self.rng
        first = 2 if spatial_only and value.rank > 2 else 0
        pads = [rng.choice((0, 0, 1, 2)) if axis % value.rank >= first else 0 for axis in range(2 * value.rank)]
        shapes = [
            tuple(size + pads[axis] + pads[axis + value.rank] for axis, size in enumerate(shape))
            for shape in value.shapes
        ]
        if not self.small(shapes):
            return None
        inputs: list[Value | str] = [value, self.ints(*pads)]
        if rng.random() < 0.5:
            inputs.append(self.constant(np.array(rng.choice((0.0, 0.0, 1.0)), np.float32)))
        mode = "constant"
        if rng.random() < 0.15 and all(min(shape) > 2 for shape in value.shapes):
            mode, inputs = rng.choice(("reflect", "edge")), inputs[:2]
        return self.apply("Pad", inputs, "f", shapes, mode=mode)

    # layout

    def transpose(self) -> None:
        value = self.pick(self.rng.choice("ffffi"), lambda item: item.rank >= 2)
        if value is None:
            return
        order = list(range(value.rank))
        self.rng.shuffle(order)
        if self.rng.random() < 0.15:
            order.sort()
        shapes = [tuple(shape[axis] for axis in order) for shape in value.shapes]
        result = self.apply("Transpose", [value], value.kind, shapes, perm=order)
        if self.rng.random() < 0.4:
            back = [order.index(axis) for axis in range(value.rank)]
            if self.rng.random() < 0.3:
                result = self.apply("Relu", [result], "f", shapes) if value.kind == "f" else result
            self.apply("Transpose", [result], value.kind, value.shapes, perm=back)

    def squeeze(self) -> None:
        rng = self.rng
        value = self.pick(rng.choice("fffi"))
        if value is None:
            return
        ones = [axis for axis in range(value.rank) if set(value.size(axis)) == {1}]
        if ones and rng.random() < 0.5:
            axes = rng.sample(ones, rng.randint(1, len(ones)))
            shapes = [tuple(size for axis, size in enumerate(shape) if axis not in axes) for shape in value.shapes]
            elements = _mapped(value.elements, lambda item: np.squeeze(item, tuple(axes)))
            axes = [axis - value.rank if rng.random() < 0.3 else axis for axis in axes]
            self._with_axes("Squeeze", value, axes, shapes, elements)
            return
        if value.rank > 4:
            return
        count = rng.choice((1, 1, 2))
        axes = sorted(rng.sample(range(value.rank + count), count))
        shapes = []
        for shape in value.shapes:
            sizes = list(shape)
            for axis in axes:
                sizes.insert(axis, 1)
            shapes.append(tuple(sizes))
        elements = _mapped(value.elements, lambda item: np.expand_dims(item, tuple(axes)))
        axes = [axis - (value.rank + count) if rng.random() < 0.3 else axis for axis in axes]
        self._with_axes("Unsqueeze", value, axes, shapes, elements)

    def _with_axes(
        self, operator: str, value: Value, axes: list[int], shapes: list[Shape], elements: tuple[np.ndarray, ...] | None
    ) -> Value:
        if self.opset >= 13:
            return self.apply(operator, [value, self.ints(*axes)], value.kind, shapes, elements)
        return self.apply(operator, [value], value.kind, shapes, elements, axes=axes)

    def reshape(self) -> None:
        """To a constant target with 0 and -1, or to sizes taken from the value itself."""
        rng = self.rng
        value = self.pick(rng.choice("fffffi"))
        if value is None:
            return
        if rng.random() < 0.12 and value.rank:
            axis = rng.randint(0, value.rank)
            flat = [_flat(shape, axis) for shape in value.shapes]
            self.apply("Flatten", [value], value.kind, flat, axis=axis)
            return
        if rng.random() < 0.4 and value.rank >= 2:
            self._reshape_by_sizes(value)
            return
        target: list[int] = []
        pieces = list(range(value.rank))
        while pieces:
            axis = pieces.pop(0)
            sizes = value.size(axis)
            fixed = len(set(sizes)) == 1
            roll = rng.random()
            if len(target) == axis and roll < 0.4:
                target.append(0)
            elif fixed and sizes[0] in (4, 6) and roll < 0.6:
                target += [2, sizes[0] // 2]
            elif fixed and pieces and len(set(value.size(pieces[0]))) == 1 and roll < 0.75:
                target.append(sizes[0] * value.size(pieces.pop(0))[0])
            elif fixed and (roll < 0.9 or -1 in target):
                target.append(sizes[0])
            elif -1 not in target:
                target.append(-1)
                if pieces and rng.random() < 0.4:
                    pieces.pop(0)
            else:
                return
        if rng.random() < 0.15:
            target.append(1)
        self._reshape(value, [np.array(target, np.int64)] * self.assignments, self.ints(*target))

    def _reshape(
        self, value: Value, targets: Sequence[np.ndarray], by: Value, *, computed: bool = False
    ) -> Value | None:
        shapes: list[Shape] = []
        for shape, target in zip(value.shapes, targets, strict=True):
            found = _reshaped(shape, target.tolist())
            if found is None:
                return None
            if computed and any(size == 0 != shape[axis] for axis, size in enumerate(target.tolist())):
                return None  # a size that happens to be 0 means "copy": shape inference takes it for a size
            shapes.append(found)
        if len({len(shape) for shape in shapes}) > 1 or len(shapes[0]) > 6:
            return None
        return self.apply("Reshape", [value, by], value.kind, shapes)

    def _reshape_by_sizes(self, value: Value) -> None:
        """Reshape(x, Concat(size of an axis, ..., -1)), as exporters write view() and flatten(); or two axes joined."""
        rng = self.rng
        if rng.random() < 0.4:
            joined = rng.randrange(value.rank - 1)
            parts = [self._size(value, axis) for axis in range(value.rank)]
            first, second = parts[joined : joined + 2]
            assert first.elements is not None and second.elements is not None
            elements = [a * b for a, b in zip(first.elements, second.elements, strict=True)]
            if any(0 in shape for shape in value.shapes):
                return  # fold-shapes writes [0, -1], which a runtime cannot resolve for an empty tensor
            parts[joined : joined + 2] = [self.apply("Mul", [first, second], "i", first.shapes, elements)]
        else:
            parts = [self._size(value, axis) for axis in rng.sample(range(value.rank), rng.randint(1, value.rank - 1))]
            parts.insert(rng.randint(0, len(parts)), self.ints(-1))
        by = self._concat(parts)
        if by.elements is not None:
            self._reshape(value, by.elements, by, computed=True)

    def _size(self, value: Value, axis: int) -> Value:
        """A tensor of one element, the size of an axis: Gather or Slice of Shape, sometimes computed with."""
        rng = self.rng
        if self.opset >= 15 and rng.random() < 0.3:
            return self.apply(
                "Shape", [value], "i", [(1,)] * self.assignments, _column(value.size(axis)), start=axis, end=axis + 1
            )
        shape = self._shape(value)
        counted = axis - value.rank if rng.random() < 0.4 else axis
        if rng.random() < 0.5:
            size = self.apply(
                "Gather", [shape, self.ints(counted)], "i", [(1,)] * self.assignments, _column(value.size(axis))
            )
        elif rng.random() < 0.5:
            index = self.constant(np.array(counted))
            scalars = [np.array(size) for size in value.size(axis)]
            gathered = self.apply("Gather", [shape, index], "i", [()] * self.assignments, scalars)
            size = self._with_axes("Unsqueeze", gathered, [0], [(1,)] * self.assignments, _column(value.size(axis)))
        else:
            inputs = [shape, self.ints(axis), self.ints(axis + 1)]
            if rng.random() < 0.5:
                inputs.append(self.ints(0))
            size = self.apply("Slice", inputs, "i", [(1,)] * self.assignments, _column(value.size(axis)))
        if rng.random() < 0.15:
            cast = self.node("Cast", [size], to=TensorProto.INT32)[0]
            return self.apply("Cast", [cast], "i", size.shapes, size.elements, to=TensorProto.INT64)
        return size

    def _shape(self, value: Value) -> Value:
        sizes = [np.array(shape, np.int64) for shape in value.shapes]
        return self.apply("Shape", [value], "i", [(value.rank,)] * self.assignments, sizes)

    def _concat(self, parts: list[Value]) -> Value:
        elements = None
        if all(part.elements is not None for part in parts):
            elements = [
                np.concatenate([part.elements[index] for part in parts if part.elements is not None])
                for index in range(self.assignments)
            ]
        shapes = [(sum(part.shapes[index][0] for part in parts),) for index in range(self.assignments)]
        return self.apply("Concat", list(parts), "i", shapes, elements, axis=0)

    def shape_arithmetic(self) -> None:
        """Integers out of sizes, sometimes used to shape something."""
        rng = self.rng
        value = self.pick("f", lambda item: item.rank >= 1)
        if value is None:
            return
        size = self._size(value, rng.randrange(value.rank))
        other = rng.choice((2, 3, 1, 0, -1))
        operator = rng.choice(("Add", "Mul", "Sub", "Div", "Max", "Mod"))
        if operator in ("Div", "Mod"):
            other = rng.choice((1, 2))
        if operator == "Max" and self.opset < 12:
            return
        functions = {"Add": np.add, "Mul": np.multiply, "Sub": np.subtract, "Div": np.floor_divide, "Max": np.maximum,
                     "Mod": np.mod}  # fmt: skip
        elements = _mapped(size.elements, lambda item: functions[operator](item, other))
        result = self.apply(operator, [size, self.ints(other)], "i", size.shapes, elements)
        if rng.random() < 0.5:
            self._fill(result)

    def _fill(self, sizes: Value) -> None:
        if sizes.elements is None or any((item < 0).any() or (item > 8).any() for item in sizes.elements):
            return
        shapes = [tuple(item.tolist()) for item in sizes.elements]
        filling = numpy_helper.from_array(np.array([self.rng.choice((0.0, 1.0, 0.5))], np.float32))
        if self.small(shapes):
            self.apply("ConstantOfShape", [sizes], "f", shapes, value=filling)

    def fill_like(self) -> None:
        value = self.pick("f", lambda item: item.rank >= 1)
        if value is not None:
            self._fill(self._shape(value))

    def expand(self) -> None:
        """Expand to a constant, to another's shape, or by Where(Equal(shape, -1), 1, shape)."""
        rng = self.rng
        value = self.pick("f", lambda item: item.rank <= 4)
        like = self.pick("f", lambda item: item.rank >= 1)
        if value is None or like is None:
            return
        roll = rng.random()
        if roll < (0.35 if self.focus is None else 0.8):
            target = [rng.choice((1, 1, 2, 3)) for _ in range(rng.randint(1, 3))]
            by = self.ints(*target)
        elif roll < 0.6:
            by = self._shape(like)
        else:
            parts = [
                self._size(like, axis) if rng.random() < 0.6 else self.ints(rng.choice((-1, 1)))
                for axis in range(like.rank)
            ]
            wanted = self._concat(parts)
            if wanted.elements is None:
                return
            length = wanted.shapes[0]
            filling = numpy_helper.from_array(np.array([1], np.int64))
            ones = self.apply(
                "ConstantOfShape", [self.ints(length[0])], "i", wanted.shapes,
                [np.ones(length, np.int64)] * self.assignments, value=filling,
            )  # fmt: skip
            minus = self.apply("Mul", [ones, self.ints(-1)], "i", wanted.shapes, _mapped(ones.elements, np.negative))
            same = self.node("Equal", [wanted, minus])[0]
            elements = _mapped(wanted.elements, lambda item: np.where(item == -1, 1, item))
            by = self.apply("Where", [same, ones, wanted], "i", wanted.shapes, elements)
        if by.elements is None:
            return
        shapes = _broadcast(value.shapes, [tuple(item.tolist()) for item in by.elements])
        if shapes is not None and self.small(shapes):
            self.apply("Expand", [value, by], "f", shapes)

    def slice(self) -> None:
        rng = self.rng
        value = self.pick(rng.choice("fffi"), lambda item: item.rank >= 1)
        if value is None:
            return
        axes = rng.sample(range(value.rank), rng.randint(1, min(2, value.rank)))
        large = 2**63 - 1
        starts = [rng.choice((0, 0, 1, -2, -1, 2)) for _ in axes]
        ends = [rng.choice((large, 2, 3, -1, 4, 1)) for _ in axes]
        steps = [rng.choice((1, 1, 1, 1, 2, -1)) for _ in axes]
        starts = [
            large if step < 0 and rng.random() < 0.5 else start for start, step in zip(starts, steps, strict=True)
        ]
        ends = [-large if step < 0 else end for end, step in zip(ends, steps, strict=True)]
        cut: dict[int, tuple[int, int, int]] = dict(zip(axes, zip(starts, ends, steps, strict=True), strict=True))

        def sliced(item: np.ndarray) -> np.ndarray:
            for axis, bounds in cut.items():
                item = np.take(item, list(_positions(item.shape[axis], *bounds)), axis)
            return item

        shapes = [sliced(np.empty(shape, np.bool_)).shape for shape in value.shapes]
        named = [axis - value.rank if rng.random() < 0.3 else axis for axis in axes]
        inputs: list[Value | str] = [value, self.ints(*starts), self.ints(*ends), self.ints(*named)]
        if any(step != 1 for step in steps) or rng.random() < 0.3:
            inputs.append(self.ints(*steps))
        self.apply("Slice", inputs, value.kind, shapes, _mapped(value.elements, sliced))

    def slice_by_size(self) -> None:
        """x[:, : size of another], as masks are cut."""
        value = self.pick("f", lambda item: item.rank >= 1)
        like = self.pick("f", lambda item: item.rank >= 1)
        if value is None or like is None:
            return
        axis = self.rng.randrange(value.rank)
        size = self._size(like, self.rng.randrange(like.rank))
        if size.elements is None:
            return
        shapes = [
            (*shape[:axis], min(shape[axis], int(item[0])), *shape[axis + 1 :])
            for shape, item in zip(value.shapes, size.elements, strict=True)
        ]
        self.apply("Slice", [value, self.ints(0), size, self.ints(axis)], "f", shapes)

    def concat(self) -> None:
        rng = self.rng
        value = self.pick(rng.choice("ffffi"), lambda item: item.rank >= 1)
        if value is None:
            return
        axis = rng.randrange(value.rank)

        def fits(item: Value) -> bool:
            others = (position for position in range(value.rank) if position != axis)
            return item.rank == value.rank and all(item.size(place) == value.size(place) for place in others)

        parts: list[Value] = [value]
        for _ in range(rng.choice((0, 1, 1, 2))):
            part = self.pick(value.kind, fits)
            assert part is not None
            parts.append(part)
        rng.shuffle(parts)
        shapes = [
            (*shape[:axis], sum(part.shapes[index][axis] for part in parts), *shape[axis + 1 :])
            for index, shape in enumerate(value.shapes)
        ]
        if self.small(shapes):
            self.apply(
                "Concat", list(parts), value.kind, shapes, axis=axis - value.rank if rng.random() < 0.3 else axis
            )

    def split(self) -> None:
        rng = self.rng
        value = self.pick("f", lambda item: any(set(item.size(axis)) in ({4}, {6}, {2}) for axis in range(item.rank)))
        if value is None:
            return
        axis = next(axis for axis in range(value.rank) if set(value.size(axis)) in ({4}, {6}, {2}))
        size = value.shapes[0][axis]
        even = rng.random() < 0.5
        lengths = [size // 2, size // 2] if even else [1, size - 1]
        attributes: dict[str, object] = {"axis": axis}
        inputs: list[Value | str] = [value]
        if not even or rng.random() < 0.5:
            if self.opset >= 13:
                inputs.append(self.ints(*lengths))
            else:
                attributes["split"] = lengths
        elif self.opset >= 18:
            attributes["num_outputs"] = 2
        names = self.node("Split", inputs, 2, **attributes)
        halves = [
            self.add(name, "f", [(*shape[:axis], length, *shape[axis + 1 :]) for shape in value.shapes])
            for name, length in zip(names, lengths, strict=True)
        ]
        if rng.random() < 0.4:
            if rng.random() < 0.5:
                halves.reverse()
            self.apply("Concat", list(halves), "f", value.shapes, axis=axis)

    def gather(self) -> None:
        rng = self.rng
        value = self.pick(rng.choice("fi"), lambda item: item.rank >= 1 and all(shape[0] > 0 for shape in item.shapes))
        if value is None:
            return
        index = np.array(rng.choice((0, -1, [0], [0, 0], [[0, -1]])), np.int64)
        shapes = [(*index.shape, *shape[1:]) for shape in value.shapes]
        elements = _mapped(value.elements, lambda item: np.take(item, index, 0))
        self.apply("Gather", [value, self.constant(index)], value.kind, shapes, elements, axis=0)

    def reduce(self) -> None:
        rng = self.rng
        value = self.pick("f", lambda item: item.rank >= 1 and all(min(shape) > 0 for shape in item.shapes))
        if value is None:
            return
        axes = sorted(rng.sample(range(value.rank), rng.randint(1, value.rank)))
        keep = rng.random() < 0.5
        shapes = [
            tuple(1 if axis in axes else size for axis, size in enumerate(shape) if keep or axis not in axes)
            for shape in value.shapes
        ]
        usual = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin")
        operator = rng.choice(usual if self.focus is None else usual[:2])
        as_input = self.opset >= (13 if operator == "ReduceSum" else 18)
        if as_input:
            self.apply(operator, [value, self.ints(*axes)], "f", shapes, keepdims=int(keep))
        else:
            self.apply(operator, [value], "f", shapes, axes=axes, keepdims=int(keep))

    def softmax(self) -> None:
        value = self.pick("f", lambda item: item.rank >= 1 and all(min(shape) > 0 for shape in item.shapes))
        if value is not None:
            self.apply("Softmax", [value], "f", value.shapes, axis=self.rng.randrange(-1, value.rank))

    def tile(self) -> None:
        value = self.pick("f", lambda item: 1 <= item.rank <= 3)
        if value is None:
            return
        repeats = [self.rng.choice((1, 1, 2)) for _ in range(value.rank)]
        shapes = [tuple(size * times for size, times in zip(shape, repeats, strict=True)) for shape in value.shapes]
        if self.small(shapes):
            self.apply("Tile", [value, self.ints(*repeats)], "f", shapes)

    # types

    def casts(self) -> None:
        """There and back, through types that lose something and types that do not."""
        rng = self.rng
        value = self.pick(rng.choice("fib"))
        if value is None:
            return
        via = {
            "f": (TensorProto.DOUBLE, TensorProto.FLOAT),
            "i": (TensorProto.INT32, TensorProto.INT64, TensorProto.DOUBLE, TensorProto.FLOAT),
            "b": (TensorProto.INT64, TensorProto.FLOAT, TensorProto.INT32),
        }[value.kind]
        middle = self.node("Cast", [value], to=rng.choice(via))[0]
        target = rng.choice({"f": "f", "i": "if", "b": "bif"}[value.kind])
        self.apply("Cast", [middle], target, value.shapes, value.elements if target == "i" else None, to=_TYPES[target])

    def compare(self) -> None:
        rng = self.rng
        value = self.pick(rng.choice("fi"))
        if value is None:
            return
        number = np.array(rng.choice((0, 1, 2)), _NUMPY[value.kind])
        self.apply(rng.choice(("Greater", "Less", "Equal")), [value, self.constant(number)], "b", value.shapes)

    def logic(self) -> None:
        rng = self.rng
        value = self.pick("b")
        if value is None:
            return self.compare()
        if rng.random() < 0.4:
            self.apply("Not", [value], "b", value.shapes)
        else:
            neutral = self.constant(np.array(rng.random() < 0.5))
            self.apply(rng.choice(("And", "Or")), [value, neutral], "b", value.shapes)
        return None

    def choose(self) -> None:
        rng = self.rng
        first, second = self.pick(), self.pick()
        if first is None or second is None:
            return
        condition = self.pick("b") if rng.random() < 0.6 else self.constant(np.array(rng.random() < 0.5))
        if condition is None:
            return
        shapes = _broadcast(first.shapes, second.shapes)
        shapes = _broadcast(shapes, condition.shapes) if shapes is not None else None
        if shapes is not None and self.small(shapes):
            self.apply("Where", [condition, first, second], "f", shapes)

    # subgraphs and functions

    def _inside(self, steps: int, inner: Sequence[Value] = ()) -> _Scope:
        """A new graph that sees this one; the caller puts the outer one back."""
        outer = self.scope
        self.scope = _Scope(values=[*outer.values, *inner], depth=outer.depth + 1, is_function=outer.is_function)
        return outer

    def _finished(
        self, outer: _Scope, name: str, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[Value]
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
            infos.append(helper.make_tensor_value_info(result, _TYPES[value.kind], rank))
        graph = helper.make_graph(self.scope.nodes, name, list(inputs), infos, self.scope.initializers)
        self.scope = outer
        return graph

    def _some_steps(self, most: int) -> None:
        for _ in range(self.rng.randint(1, most)):
            self.rng.choice(_STEPS if self.scope.depth < 2 else _SIMPLE_STEPS)(self)

    def branch(self) -> None:
        """If: both branches give the shape of the same outer value, computed differently."""
        rng = self.rng
        if self.scope.depth > 1:
            return
        condition = self.pick("b", lambda item: item.rank == 0) if rng.random() < 0.7 else None
        if condition is None:
            if rng.random() < 0.5:
                value = self.pick("f", lambda item: item.rank >= 1)
                if value is None:
                    return
                size = self._size(value, rng.randrange(value.rank))
                scalar = self._with_axes("Squeeze", size, [0], [()] * self.assignments, None)
                condition = self.apply("Greater", [scalar, self.constant(np.array(2))], "b", [()] * self.assignments)
            else:
                condition = self.constant(np.array(rng.random() < 0.5))
        model = [value for value in (self.pick() for _ in range(rng.choice((1, 1, 2)))) if value is not None]
        if not model:
            return
        branches: list[onnx.GraphProto] = []
        for name in ("then", "else"):
            outer = self._inside(3)
            self._some_steps(4)
            results: list[Value] = []
            for value in model:
                found = self.pick("f", lambda item, v=value: item.shapes == v.shapes) or value
                if rng.random() < 0.5:
                    found = self.apply(rng.choice(("Relu", "Neg", "Abs")), [found], "f", found.shapes)
                results.append(found)
            branches.append(self._finished(outer, name, [], results))
        names = self.node("If", [condition], len(model), then_branch=branches[0], else_branch=branches[1])
        for name, value in zip(names, model, strict=True):
            self.add(name, "f", value.shapes)

    def loop(self) -> None:
        """Loop with a constant or computed number of trips, two carried values (swapped sometimes) and a scan output."""
        rng = self.rng
        if self.scope.depth > 1:
            return
        first = self.pick()
        second = self.pick("f", lambda item: first is not None and item.shapes == first.shapes)
        if first is None or second is None or first.rank > 3:
            return
        trips = rng.choice((0, 1, 1, 2, 3))
        count: Value = self.constant(np.array(trips, np.int64))
        trip_counts = (trips,) * self.assignments
        if rng.random() < 0.3 and first.rank:
            size = self._size(first, rng.randrange(first.rank))
            count = self._with_axes("Squeeze", size, [0], [()] * self.assignments, None)
            assert size.elements is not None
            trip_counts = tuple(int(item[0]) for item in size.elements)
        go = self.constant(np.array(True)) if rng.random() < 0.6 else None
        number, running = self.fresh("i"), self.fresh("go")
        carried = [Value(self.fresh("s"), "f", item.shapes) for item in (first, second)]
        grows = rng.random() < 0.2 and first.rank >= 1
        if grows:
            carried = [Value(item.name, "f", tuple((97,) * item.rank for _ in item.shapes)) for item in carried]
        outer = self._inside(3, carried)
        if not grows:
            self._some_steps(4)
        keep_on = self.node("Identity", [running])[0]
        if grows:
            part: Value | str = first
            if rng.random() < 0.5:  # a size that would be known if the value did not grow
                shape = self.node("Shape", [carried[0]])[0]
                part = self.node("Expand", [self.node("Relu", [carried[0]])[0], shape])[0]
                end = self.node("Gather", [self.node("Shape", [first])[0], self.ints(0)])[0]
                part = self.node("Slice", [part, self.ints(0), end, self.ints(0)])[0]
            name = self.node("Concat", [carried[0], part], axis=0)[0]
            results = [Value(name, "f", carried[0].shapes), carried[1]]
        else:
            results = [self.pick("f", lambda item: item.shapes == first.shapes) or carried[0], carried[0]]
            if rng.random() < 0.5:
                results.reverse()
        scanned = [] if grows or rng.random() < 0.5 else [self.pick("f", lambda item: item.rank <= 3) or carried[0]]
        inputs = [
            helper.make_tensor_value_info(number, TensorProto.INT64, []),
            helper.make_tensor_value_info(running, TensorProto.BOOL, []),
            *(helper.make_tensor_value_info(item.name, TensorProto.FLOAT, None) for item in carried),
        ]
        go_on = Value(keep_on, "b", ((),) * self.assignments)
        body = self._finished(outer, "body", inputs, [go_on, *results, *scanned])
        names = self.node("Loop", [count, go if go is not None else "", first, second], 2 + len(scanned), body=body)
        if grows:
            shapes = [
                (shape[0] * (1 + times), *shape[1:]) for shape, times in zip(first.shapes, trip_counts, strict=True)
            ]
            if self.small(shapes):
                self.add(names[0], "f", shapes)
            self.add(names[1], "f", second.shapes)
            return
        for name, value in zip(names, (first, second), strict=False):
            self.add(name, "f", value.shapes)
        if scanned:
            shapes = [(times, *shape) for times, shape in zip(trip_counts, scanned[0].shapes, strict=True)]
            if self.small(shapes) and 0 not in trip_counts:
                self.add(names[2], "f", shapes)

    def scan(self) -> None:
        if self.scope.depth > 1:
            return
        value = self.pick("f", lambda item: 1 <= item.rank <= 4 and all(min(shape) > 0 for shape in item.shapes))
        if value is None:
            return
        rows = Value(self.fresh("r"), "f", tuple(shape[1:] for shape in value.shapes))
        start = self.constant(np.array(0.5, np.float32))
        state = Value(self.fresh("s"), "f", ((),) * self.assignments)
        outer = self._inside(3, [rows, state])
        self._some_steps(3)
        after = self.pick("f", lambda item: item.rank == 0) or state
        given = self.pick("f", lambda item: item.shapes == rows.shapes) or rows
        inputs = [helper.make_tensor_value_info(item.name, TensorProto.FLOAT, None) for item in (state, rows)]
        body = self._finished(outer, "scan", inputs, [after, given])
        names = self.node("Scan", [start, value], 2, body=body, num_scan_inputs=1)
        self.add(names[0], "f", state.shapes)
        self.add(names[1], "f", value.shapes)

    def call(self) -> None:
        """A call of a local function, new or old, sometimes twice."""
        rng = self.rng
        if self.scope.depth or self.opset < 13:
            return
        if not self.functions or rng.random() < 0.6:
            self._function()
        if not self.functions:
            return
        function, parameters, results = rng.choice(self.functions)
        arguments = [self.pick("f", lambda item, p=parameter: item.shapes == p.shapes) for parameter in parameters]
        if any(argument is None for argument in arguments):
            return
        attributes = {"slope": rng.choice((0.1, 0.5))} if function.attribute else {}
        names = self.node(
            function.name, [item for item in arguments if item is not None], len(results), domain=_LIBRARY, **attributes
        )
        for name, value in zip(names, results, strict=True):
            self.add(name, "f", value.shapes)

    def _function(self) -> None:
        rng = self.rng
        given = [value for value in (self.pick() for _ in range(rng.choice((1, 2)))) if value is not None]
        if not given:
            return
        outer = self.scope
        parameters = [Value(self.fresh("a"), "f", value.shapes) for value in given]
        self.scope = _Scope(values=list(parameters), depth=1, is_function=True)
        attributes: list[str] = []
        if rng.random() < 0.4:
            name = self.fresh()
            node = helper.make_node("LeakyRelu", [parameters[0].name], [name])
            attribute = onnx.AttributeProto(name="alpha", type=onnx.AttributeProto.FLOAT, ref_attr_name="slope")
            node.attribute.append(attribute)
            self.scope.nodes.append(node)
            self.add(name, "f", parameters[0].shapes)
            attributes.append("slope")
        self._some_steps(5)
        made = {item for node in self.scope.nodes for item in node.output}
        results = [value for value in self.scope.values if value.kind == "f" and value.name in made][-2:]
        if results:
            function = helper.make_function(
                _LIBRARY,
                self.fresh("f"),
                [value.name for value in parameters],
                [value.name for value in results],
                self.scope.nodes,
                [helper.make_opsetid("", self.opset)],
                attributes,
            )
            self.functions.append((function, parameters, results))
        self.scope = outer


def number_scalar(maker: _Maker, item: float) -> Value:
    """A constant of rank 0."""
    return maker.constant(np.array(item, np.float32))


_SIMPLE_STEPS: tuple[Callable[[_Maker], None], ...] = (
    _Maker.unary, _Maker.binary, _Maker.with_constant, _Maker.transpose, _Maker.squeeze, _Maker.reshape, _Maker.slice,
    _Maker.concat, _Maker.choose, _Maker.casts, _Maker.repeat, _Maker.shape_arithmetic,
)  # fmt: skip
_LAYOUT_STEPS: tuple[Callable[[_Maker], None], ...] = (
    _Maker.slice, _Maker.slice, _Maker.squeeze, _Maker.reshape, _Maker.transpose, _Maker.pad, _Maker.concat,
    _Maker.expand, _Maker.reduce, _Maker.casts, _Maker.with_constant,
)  # fmt: skip
_STEPS: tuple[Callable[[_Maker], None], ...] = (
    *_SIMPLE_STEPS, *_SIMPLE_STEPS, _Maker.clip, _Maker.hard_swish, _Maker.conv, _Maker.conv, _Maker.batchnorm,
    _Maker.matmul, _Maker.matmul, _Maker.matmul, _Maker.conv, _Maker.matmul_of_two, _Maker.pool, _Maker.pad, _Maker.fill_like, _Maker.expand,
    _Maker.expand, _Maker.slice_by_size, _Maker.split, _Maker.gather, _Maker.reduce, _Maker.softmax, _Maker.tile,
    _Maker.compare, _Maker.logic, _Maker.branch, _Maker.loop, _Maker.scan, _Maker.call, _Maker.reshape,
    _Maker.ramp, _Maker.ramp, _Maker.others, _Maker.others, _Maker.layout_chain, _Maker.layout_chain, _Maker.layout_chain, _Maker.layout_chain,
    _Maker.linear_chain, _Maker.linear_chain, _Maker.linear_chain,
)  # fmt: skip


def _broadcast(first: Sequence[Shape], second: Sequence[Shape]) -> list[Shape] | None:
    try:
        return [np.broadcast_shapes(left, right) for left, right in zip(first, second, strict=True)]
    except ValueError:
        return None


def _mapped(
    elements: Sequence[np.ndarray] | None, function: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, ...] | None:
    return None if elements is None else tuple(np.asarray(function(item)) for item in elements)


def _column(sizes: Sequence[int]) -> list[np.ndarray]:
    return [np.array([size], np.int64) for size in sizes]


def _flat(shape: Shape, axis: int) -> Shape:
    return int(np.prod(shape[:axis], dtype=np.int64)), int(np.prod(shape[axis:], dtype=np.int64))


def _positions(size: int, start: int, end: int, step: int) -> range:
    """What a Slice takes of an axis, by the words of the ONNX specification."""
    start, end = (bound + size if bound < 0 else bound for bound in (start, end))
    if step > 0:
        return range(min(max(start, 0), size), min(max(end, 0), size), step)
    if not size:
        return range(0)
    return range(min(max(start, 0), size - 1), min(max(end, -1), size - 1), step)


def _reshaped(shape: Shape, target: Sequence[int]) -> Shape | None:
    """The result of Reshape, None where it is an error."""
    if any(size == 0 and axis >= len(shape) for axis, size in enumerate(target)) or min(target, default=0) < -1:
        return None
    sizes = [shape[axis] if size == 0 else size for axis, size in enumerate(target)]
    total = int(np.prod(shape, dtype=np.int64))
    if -1 in sizes:
        if sizes.count(-1) > 1:
            return None
        rest = int(np.prod([size for size in sizes if size != -1], dtype=np.int64))
        if rest == 0 or total % rest:
            return None
        sizes[sizes.index(-1)] = total // rest
    return tuple(sizes) if int(np.prod(sizes, dtype=np.int64)) == total else None
