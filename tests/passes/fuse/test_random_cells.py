"""Recurrent layers in the ways exporters and people write them, drawn at random, become one operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.passes.fuse.fuse_gru import FuseGru
from graphopt.passes.fuse.fuse_lstm import FuseLstm
from graphopt.pipeline import PassManager, Recipe
from graphopt.pipeline.drive import Drive

Agrees = Callable[..., Drive]
PASSES = {"lstm": FuseLstm(), "gru": FuseGru()}
FLOAT = ir.DataType.FLOAT


class Writer:
    """Nodes and constants of one graph, and of the bodies of its loops, under fresh names."""

    def __init__(self, opset: int, outer: Writer | None = None) -> None:
        self.opset = opset
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []
        self.names = [0] if outer is None else outer.names
        self.matrices: dict[Any, ir.Value] = {} if outer is None else outer.matrices
        self.root: Writer = self if outer is None else outer.root

    def name(self) -> str:
        self.names[0] += 1
        return f"v{self.names[0]}"

    def value(self, *shape: int | str | None, dtype: ir.DataType = FLOAT) -> ir.Value:
        return ir.Value(name=self.name(), type=ir.TensorType(dtype), shape=ir.Shape(shape))

    def constant(self, array: Any) -> ir.Value:
        array = np.asarray(array)
        array = array.astype({"f": np.float32, "i": np.int64}.get(array.dtype.kind, array.dtype))
        tensor = ir.tensor(array)
        value = ir.Value(name=self.name(), type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
        self.root.constants.append(value)
        return value

    def ops(self, op_type: str, *inputs: ir.Value | None, outputs: int = 1, **attributes: Any) -> list[ir.Value]:
        node = ir.node(op_type, list(inputs), attributes, num_outputs=outputs)
        for item in node.outputs:
            item.name = self.name()
        self.nodes.append(node)
        return list(node.outputs)

    def op(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        return self.ops(op_type, *inputs, **attributes)[0]

    def with_axes(self, op_type: str, value: ir.Value, axis: int) -> ir.Value:
        if self.opset >= 13:
            return self.op(op_type, value, self.constant([axis]))
        return self.op(op_type, value, axes=[axis])

    def split(self, value: ir.Value, sizes: list[int], axis: int) -> list[ir.Value]:
        if self.opset >= 13:
            return self.ops("Split", value, self.constant(sizes), outputs=len(sizes), axis=axis)
        return self.ops("Split", value, outputs=len(sizes), axis=axis, split=sizes)

    def graph(self, inputs: list[ir.Value], outputs: list[ir.Value], name: str = "g") -> ir.Graph:
        imports = {"": self.opset} if self.root is self else {}
        mine = self.constants if self.root is self else []
        return ir.Graph(inputs, outputs, nodes=self.nodes, initializers=mine, opset_imports=imports, name=name)


class Layer:
    """A layer with random weights that writes its steps in one random way."""

    def __init__(self, rng: np.random.Generator, kind: str, features: int, units: int) -> None:
        self.rng, self.kind, self.features, self.units = rng, kind, features, units
        self.gates = 4 if kind == "lstm" else 3
        draw = rng.standard_normal
        self.w = [draw((features, units)) * 0.5 for _ in range(self.gates)]
        self.r = [draw((units, units)) * 0.5 for _ in range(self.gates)]
        self.b = [draw(units) for _ in range(self.gates)] if rng.random() < 0.8 else None
        self.d = [draw(units) for _ in range(self.gates)] if rng.random() < 0.6 else None
        self.order = [int(index) for index in rng.permutation(self.gates)]
        self.product = str(rng.choice(["gemm", "matmul", "separate", "joint", "whole"]))
        self.turned = bool(rng.integers(2))
        self.cut = str(rng.choice(["split", "slice"]))
        self.swapped = bool(rng.integers(2))
        self.outside = bool(rng.integers(2))
        self.forget = kind == "lstm" and rng.random() < 0.3
        self.after = kind == "gru" and rng.random() < 0.6
        self.mixture = int(rng.integers(4))
        if kind == "gru" and self.product == "joint" and self.after:
            self.product = "gemm"
        if kind == "gru" and not self.after and self.product != "joint":
            self.product = "separate"

    def matrix(self, g: Writer, key: str, array: np.ndarray) -> ir.Value:
        """A constant that all steps share."""
        if key not in g.matrices:
            g.matrices[key] = g.constant(array)
        return g.matrices[key]

    def add(self, g: Writer, a: ir.Value, b: ir.Value) -> ir.Value:
        return g.op("Add", b, a) if self.swapped else g.op("Add", a, b)

    def mul(self, g: Writer, a: ir.Value, b: ir.Value) -> ir.Value:
        return g.op("Mul", b, a) if self.swapped else g.op("Mul", a, b)

    def linear(self, g: Writer, x: ir.Value, key: str, matrix: np.ndarray, bias: np.ndarray | None) -> ir.Value:
        """A product with a constant, and a bias."""
        if self.product in ("gemm", "whole", "joint") and key != "whole":
            weights = self.matrix(g, key, matrix.T if self.turned else matrix)
            more = [] if bias is None else [self.matrix(g, key + "b", bias)]
            return g.op("Gemm", x, weights, *more, transB=int(self.turned))
        made = g.op("MatMul", x, self.matrix(g, key, matrix))
        return made if bias is None else self.add(g, made, self.matrix(g, key + "b", bias))

    def columns(self, g: Writer, value: ir.Value, count: int, axis: int = 1) -> list[ir.Value]:
        """Equal parts."""
        units = self.units
        if self.cut == "split":
            return g.split(value, [units] * count, axis)
        bounds = [[g.constant([number]) for number in (k * units, (k + 1) * units, axis)] for k in range(count)]
        return [g.op("Slice", value, *bound) for bound in bounds]

    def sorted(self, arrays: list[np.ndarray] | None) -> np.ndarray | None:
        return None if arrays is None else np.concatenate([arrays[index] for index in self.order], axis=-1)

    def unsorted(self, parts: list[ir.Value]) -> list[ir.Value]:
        return [parts[self.order.index(index)] for index in range(self.gates)]

    def whole(self, g: Writer, x: ir.Value) -> ir.Value:
        """The product of a whole sequence."""
        matrix = self.sorted(self.w)
        assert matrix is not None
        return self.linear(g, x, "whole", matrix, self.sorted(self.b))

    def sums(self, g: Writer, x: ir.Value, h: ir.Value) -> list[ir.Value]:
        """The gates' sums of both products, in the order i f o g."""
        if self.product == "separate":
            return [self.separate(g, x, h, k) for k in range(self.gates)]
        wide = self.sorted(self.d)
        if self.product == "joint":
            both = g.op("Concat", x, h, axis=-1 if self.swapped else 1)
            matrix = np.concatenate([self.sorted(self.w), self.sorted(self.r)])
            bias = self.sorted(self.b)
            return self.unsorted(self.columns(g, self.linear(g, both, "wr", matrix, bias), self.gates))
        left, right = self.from_x(g, x), self.linear(g, h, "r", self.sorted(self.r), wide)
        if self.outside:
            pairs = zip(self.columns(g, left, self.gates), self.columns(g, right, self.gates), strict=True)
            return self.unsorted([self.add(g, a, b) for a, b in pairs])
        return self.unsorted(self.columns(g, self.add(g, left, right), self.gates))

    def from_x(self, g: Writer, x: ir.Value) -> ir.Value:
        if self.product == "whole":
            return x
        return self.linear(g, x, "w", self.sorted(self.w), self.sorted(self.b))

    def separate(self, g: Writer, x: ir.Value, h: ir.Value, k: int) -> ir.Value:
        a = self.linear(g, x, f"w{k}", self.w[k], None if self.b is None else self.b[k])
        return self.add(g, a, self.linear(g, h, f"r{k}", self.r[k], None if self.d is None else self.d[k]))

    def step(self, g: Writer, x: ir.Value, h: ir.Value, c: ir.Value) -> tuple[ir.Value, ir.Value]:
        """One cell: the new h and c."""
        if self.kind == "gru":
            made = self.gru(g, x, h)
            return made, made
        i, f, o, n = self.sums(g, x, h)
        if self.forget:
            f = self.add(g, f, self.matrix(g, "one", np.ones(())))
        kept = self.mul(g, g.op("Sigmoid", f), c)
        c = self.add(g, kept, self.mul(g, g.op("Sigmoid", i), g.op("Tanh", n)))
        return self.mul(g, g.op("Sigmoid", o), g.op("Tanh", c)), c

    def gru(self, g: Writer, x: ir.Value, h: ir.Value) -> ir.Value:
        if self.after and self.product != "separate":
            left = self.unsorted(self.columns(g, self.from_x(g, x), 3))
            right = self.unsorted(self.columns(g, self.linear(g, h, "r", self.sorted(self.r), self.sorted(self.d)), 3))
            z, r = (g.op("Sigmoid", self.add(g, left[k], right[k])) for k in (0, 1))
            n = g.op("Tanh", self.add(g, left[2], self.mul(g, r, right[2])))
        elif self.product == "joint":
            both = g.op("Concat", x, h, axis=1)
            matrices = [np.concatenate([self.w[k], self.r[k]]) for k in range(3)]
            biases = [None if self.b is None else self.b[k] for k in range(3)]
            pair = None if self.b is None else np.concatenate(self.b[:2])
            wide = self.linear(g, both, "zr", np.concatenate(matrices[:2], axis=1), pair)
            if self.outside:
                z, r = self.columns(g, g.op("Sigmoid", wide), 2)
            else:
                z, r = (g.op("Sigmoid", part) for part in self.columns(g, wide, 2))
            reset = g.op("Concat", x, self.mul(g, r, h), axis=1)
            n = g.op("Tanh", self.linear(g, reset, "n", matrices[2], biases[2]))
        else:
            z, r = (g.op("Sigmoid", self.separate(g, x, h, k)) for k in (0, 1))
            a = self.linear(g, x, "w2", self.w[2], None if self.b is None else self.b[2])
            bias = None if self.d is None else self.d[2]
            if self.after:
                b = self.mul(g, r, self.linear(g, h, "r2", self.r[2], bias))
            else:
                b = self.linear(g, self.mul(g, r, h), "r2", self.r[2], bias)
            n = g.op("Tanh", self.add(g, a, b))
        return self.mixed(g, z, h, n)

    def mixed(self, g: Writer, z: ir.Value, h: ir.Value, n: ir.Value) -> ir.Value:
        """The mixture of the old state and the new one: z is the share of the old, or of the new."""
        old, new = (h, n) if self.mixture < 2 else (n, h)
        if self.mixture % 2:
            return self.add(g, self.mul(g, g.op("Sub", old, new), z), new)
        rest = g.op("Sub", self.matrix(g, "one", np.ones(())), z)
        return self.add(g, self.mul(g, z, old), self.mul(g, rest, new))


def _take(g: Writer, way: str, x: ir.Value, steps: int, axis: int) -> list[ir.Value]:
    """The steps of a sequence."""
    if way == "gather":
        return [g.op("Gather", x, g.constant(step), axis=axis) for step in range(steps)]
    if way == "split":
        return [g.with_axes("Squeeze", part, axis) for part in g.split(x, [1] * steps, axis)]
    bounds = [[g.constant([number]) for number in (step, step + 1, axis)] for step in range(steps)]
    return [g.with_axes("Squeeze", g.op("Slice", x, *bound), axis) for bound in bounds]


def unrolled(seed: int, kind: str) -> ir.Model:
    """A layer written out step by step."""
    rng = np.random.default_rng(seed)
    opset = int(rng.choice([11, 12, 13, 17, 18, 20]))
    steps, features, units = int(rng.integers(1, 7)), int(rng.integers(1, 5)), int(rng.integers(1, 5))
    batch: int | str = [1, 2, 3, "B"][rng.integers(4)]
    g, layer = Writer(opset), Layer(rng, kind, features, units)
    axis, way = int(rng.integers(2)), str(rng.choice(["gather", "split", "slice", "apart"]))
    if way == "apart" and layer.product == "whole":
        way = "gather"
    inputs: list[ir.Value] = []
    if way == "apart":
        xs = [g.value(batch, features) for _ in range(steps)]
        inputs += xs
    else:
        more = 0 if way == "split" else int(rng.integers(3))
        shape: list[int | str] = [batch, batch, features]
        shape[axis] = steps + more
        x = g.value(*shape)
        inputs.append(x)
        xs = _take(g, way, layer.whole(g, x) if layer.product == "whole" else x, steps, axis)
    states: list[ir.Value] = []
    for _ in range(2 if kind == "lstm" else 1):
        begin = str(rng.choice(["given", "zeros", "one"]))
        joined = layer.product == "joint"  # a Concat does not repeat a state
        if begin == "given" or (joined and (begin == "one" or batch == "B")):
            states.append(g.value(batch, units))
            inputs.append(states[-1])
        elif begin == "one":
            states.append(g.constant(rng.standard_normal((1, units))))
        else:
            states.append(g.constant(np.zeros((1 if batch == "B" else int(batch), units))))
    h, c = states[0], states[-1]
    order = [int(step) for step in (range(steps) if rng.random() < 0.7 else reversed(range(steps)))]
    results: dict[int, ir.Value] = {}
    for step in order:
        h, c = layer.step(g, xs[step], h, c)
        results[step] = h
    outputs: list[ir.Value] = []
    wish = rng.random(4)
    if wish[0] < 0.6:
        behind = int(rng.integers(2))
        parts = [g.with_axes("Unsqueeze", results[step], behind) for step in range(steps)]
        outputs.append(g.op("Concat", *parts, axis=behind) if steps > 1 else parts[0])
    if wish[1] < 0.4:
        outputs.append(g.op("Neg", results[int(rng.integers(steps))]))
    if wish[2] < 0.4 and kind == "lstm":
        outputs.append(c)
    if wish[3] < 0.4 or not outputs:
        outputs.append(h)
    for value in outputs:
        value.type = ir.TensorType(FLOAT)
    return ir.Model(g.graph(inputs, outputs), ir_version=8)


def looped(seed: int, kind: str, op_type: str) -> ir.Model:
    """A layer as a Loop or Scan over a sequence."""
    rng = np.random.default_rng(seed)
    opset = int(rng.choice([11, 13, 17, 20]))
    features, units = int(rng.integers(1, 5)), int(rng.integers(1, 5))
    batch: int | str = [1, 2, "B"][rng.integers(3)]
    steps: int | str = [1, 4, "T"][rng.integers(3)]
    g, layer = Writer(opset), Layer(rng, kind, features, units)
    axis, backward = int(rng.integers(2)), op_type == "Scan" and bool(rng.integers(2))
    x = g.value(*((steps, batch) if axis == 0 else (batch, steps)), features)
    inputs = [x]
    whole = layer.whole(g, x) if layer.product == "whole" else x
    count = 2 if kind == "lstm" else 1
    states: list[ir.Value] = []
    zeros = bool(rng.integers(2))
    for _ in range(count):
        if zeros and batch != "B":
            states.append(g.constant(np.zeros((int(batch), units))))
        else:
            states.append(g.value(batch, units))
            inputs.append(states[-1])
    body = Writer(opset, g)
    carried = [body.value(batch, units) for _ in range(count)]
    width = layer.gates * units if layer.product == "whole" else features
    if op_type == "Loop":
        trip, condition = body.value(dtype=ir.DataType.INT64), body.value(dtype=ir.DataType.BOOL)
        step = body.op("Gather", whole, trip, axis=axis)
        own = [trip, condition, *carried]
    else:
        step = body.value(batch, width)
        own = [*carried, step]
    h, c = layer.step(body, step, carried[0], carried[-1])
    new = [h, c][:count]
    scanned = body.op("Identity", h)
    made = [*new, scanned]
    for value in made:
        value.type, value.shape = ir.TensorType(FLOAT), ir.Shape((batch, units))
    if op_type == "Loop":
        again = body.op("Identity", condition)
        again.type, again.shape = ir.TensorType(ir.DataType.BOOL), ir.Shape(())
        made = [again, *made]
        trips = g.op("Gather", g.op("Shape", x), g.constant(axis), axis=0)
        if isinstance(steps, int) and rng.random() < 0.5:
            trips = g.constant(max(steps - int(rng.integers(2)), 1))
        true = g.constant(True)
        results = g.ops("Loop", trips, true, *states, outputs=count + 1, body=body.graph(own, made, "body"))
    else:
        settings: dict[str, Any] = {"num_scan_inputs": 1, "scan_input_axes": [axis]}
        settings["scan_output_axes"] = [int(rng.integers(2))]
        if backward:
            settings |= {"scan_input_directions": [1], "scan_output_directions": [1]}
        results = g.ops("Scan", *states, whole, outputs=count + 1, body=body.graph(own, made, "body"), **settings)
    outputs = [value for value in results if rng.random() < 0.7] or results[-1:]
    for value in outputs:
        value.type = ir.TensorType(FLOAT)
    return ir.Model(g.graph(inputs, outputs), ir_version=8)


@pytest.mark.parametrize("kind", PASSES)
@pytest.mark.parametrize("seed", range(40))
def test_steps_one_by_one(seed: int, kind: str, agrees: Agrees) -> None:
    model = unrolled(seed, kind)
    done = agrees(PASSES[kind], model, seed)
    assert done.changed, done.kept


@pytest.mark.parametrize("kind", PASSES)
@pytest.mark.parametrize("op_type", ["Loop", "Scan"])
@pytest.mark.parametrize("seed", range(12))
def test_loops(seed: int, op_type: str, kind: str, agrees: Agrees) -> None:
    done = agrees(PASSES[kind], looped(seed, kind, op_type), seed)
    if op_type == "Loop":
        assert [text for _, text in done.changed] == [f"{kind.upper()} of all steps"]
    else:  # of a product of the whole sequence, a Scan's body sees only a step
        assert done.changed or "no sum of products" in done.kept[0][1]


@pytest.mark.parametrize("kind", PASSES)
def test_behind_the_other_passes_results_stay_right(kind: str) -> None:
    found = 0
    for seed in range(100, 130):
        _, outcomes = PassManager(Recipe.parse(f"clean, fuse-{kind}")).run(unrolled(seed, kind))
        assert outcomes.verdict is not None
        assert outcomes.verdict.ok
        assert not any(step.failed or step.left_out for step in outcomes)
        found += sum(len(step.changed) for step in outcomes if step.name == f"fuse-{kind}")
    assert found >= 20
