"""A short way to write an ``onnx_ir`` model down: values are arguments, operators are calls.

Names come from one counter and weights from one seeded generator, so the same program always gives the
same bytes. Bodies of If, Loop and Scan are sketches of their own that may use any value around them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

FLOAT = ir.DataType.FLOAT
INT64 = ir.DataType.INT64
BOOL = ir.DataType.BOOL

Dims = Sequence[int | str | None]


def declared(name: str, shape: Dims | None, dtype: ir.DataType = FLOAT) -> ir.Value:
    """A value with a declared type; ``shape=None`` declares the element type only."""
    return ir.Value(
        name=name,
        type=ir.TensorType(dtype),
        shape=None if shape is None else ir.Shape(list(shape)),
    )


class Sketch:
    """A graph in the making.

    Args:
        name: the graph's name.
        opset: version of the default domain.
        ir_version: the file format's version, for ``model()``.
        seed: of the weights.
        gain: of the weights' default scale, for deep models in which signals would fade.
        around: the sketch whose values this one may capture; it lends its names, weights and opset.
    """

    def __init__(
        self,
        name: str = "main",
        *,
        opset: int = 17,
        ir_version: int = 8,
        seed: int = 0,
        gain: float = 1.0,
        around: Sketch | None = None,
    ) -> None:
        self.name = name
        self.opset: int = around.opset if around else opset
        self.ir_version = ir_version
        self.gain: float = around.gain if around else gain
        self.inputs: list[ir.Value] = []
        self.outputs: list[ir.Value] = []
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []
        self._rng: np.random.Generator = around._rng if around else np.random.default_rng(seed)
        self._counts: dict[str, int] = around._counts if around else {}

    def _fresh(self, hint: str) -> str:
        number = self._counts.get(hint, 0)
        self._counts[hint] = number + 1
        return f"{hint}_{number}"

    def input(self, name: str, shape: Dims | None, dtype: ir.DataType = FLOAT) -> ir.Value:
        """Adds a graph input."""
        value = declared(name, shape, dtype)
        self.inputs.append(value)
        return value

    def weight(self, array: np.ndarray, hint: str = "weight", *, name: str | None = None) -> ir.Value:
        """Adds an initialiser that holds ``array``."""
        name = name or self._fresh(hint)
        tensor = ir.tensor(np.asarray(array, order="C"), name=name)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
        self.initializers.append(value)
        return value

    def noise(self, *shape: int, scale: float | None = None, shift: float = 0.0) -> np.ndarray:
        """Seeded float32 noise; the default scale keeps activations near one (gain / sqrt of the fan-in)."""
        if scale is None:
            fan_in = shape[0] if len(shape) == 2 else int(np.prod(shape[1:]))
            scale = self.gain / float(np.sqrt(max(fan_in, 1)))
        return (self._rng.standard_normal(shape) * scale + shift).astype(np.float32)

    def random(self, *shape: int, scale: float | None = None, shift: float = 0.0, hint: str = "weight") -> ir.Value:
        """Adds an initialiser of seeded noise."""
        return self.weight(self.noise(*shape, scale=scale, shift=shift), hint)

    def scalar(self, number: float, dtype: Any = np.float32) -> ir.Value:
        """Adds an initialiser of rank 0."""
        return self.weight(np.asarray(number, dtype), "scalar")

    def ints(self, *numbers: int) -> ir.Value:
        """Adds an int64 initialiser of rank 1."""
        return self.weight(np.asarray(numbers, np.int64), "ints")

    def constant(self, array: np.ndarray) -> ir.Value:
        """Adds a Constant node, as the torch and Paddle exporters write constants."""
        return self.op("Constant", value=ir.tensor(np.asarray(array)))

    def ops(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        outputs: int | Sequence[str],
        domain: str = "",
        name: str | None = None,
        **attributes: Any,
    ) -> tuple[ir.Value, ...]:
        """Adds a node with several outputs; a number of outputs names them itself."""
        name = name or self._fresh(op_type)
        names = [f"{name}_out{i}" for i in range(outputs)] if isinstance(outputs, int) else list(outputs)
        results = [ir.Value(name=result) for result in names]
        node = ir.node(op_type, list(inputs), attributes, domain=domain, outputs=results, name=name)
        self.nodes.append(node)
        return tuple(results)

    def op(self, op_type: str, *inputs: ir.Value | None, out: str | None = None, **options: Any) -> ir.Value:
        """Adds a node with one output, called ``out`` or numbered."""
        name = options.pop("name", None) or self._fresh(op_type)
        (result,) = self.ops(op_type, *inputs, outputs=[out or f"{name}_out"], name=name, **options)
        return result

    def output(
        self,
        value: ir.Value,
        shape: Dims | None = None,
        dtype: ir.DataType | None = FLOAT,
        name: str | None = None,
    ) -> ir.Value:
        """Makes ``value`` a graph output with that declared type, under its own name or a new one."""
        if name is not None:
            value.name = name
        if dtype is not None:
            value.type = ir.TensorType(dtype)
        if shape is not None:
            value.shape = ir.Shape(list(shape))
        self.outputs.append(value)
        return value

    def body(self, name: str) -> Sketch:
        """A body for If, Loop or Scan that shares this sketch's names and may capture its values."""
        return Sketch(self._fresh(name), around=self)

    def graph(self) -> ir.Graph:
        """The finished graph."""
        return ir.Graph(
            self.inputs,
            self.outputs,
            nodes=self.nodes,
            initializers=self.initializers,
            opset_imports={"": self.opset},
            name=self.name,
        )

    def model(self, functions: Sequence[ir.Function] = (), domains: dict[str, int] | None = None) -> ir.Model:
        """The finished model; ``domains`` are opset imports beside the default one."""
        graph = self.graph()
        graph.opset_imports.update(domains or {})
        return ir.Model(
            graph,
            ir_version=self.ir_version,
            producer_name="graphopt.models.builders",
            functions=list(functions),
        )
