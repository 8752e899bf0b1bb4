"""Weights in 8, 4 or 2 bits, computed in float32: y = x W  ->  y = x DequantizeLinear(q, s, z).

Each column of W has a scale, or each block of inputs of a column; ``_blocks.py`` says how they and the codes are found.
Where the target has it, com.microsoft::MatMulNBits takes the place of both nodes: the weights stay as small in memory.

Sources: Dettmers and Zettlemoyer, The case for 4-bit precision (2023), for blocks; Frantar et al., GPTQ (2022); Badri
and Shaji, HQQ (2023). DequantizeLinear: ONNX 13 with a scale for each channel, 21 with blocks and 4 bits, 25
with 2 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, get_args

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.calibrate import Gram, Statistics, collect
from graphopt.errors import GraphoptError
from graphopt.events import Event, Site, Sites
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

from ._behind import behind
from ._blocks import Inputs, Layout, Rounding, encode
from ._roles import channel_axis
from ._stored import FORM, dequantise, import_microsoft, matmul_nbits, opset_of

FLOAT = ir.DataType.FLOAT
OPERATORS = ("MatMul", "Gemm", "Conv", "ConvTranspose", "LSTM", "GRU", "RNN")
_RECURRENT = ("LSTM", "GRU", "RNN")


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Stores weights as codes of 8, 4 or 2 bits with a scale for each output, or for each block of inputs of an output.

    Activations stay float32. Works in subgraphs and local functions. Kept, with the reason: weights with NaN or
    infinities, small ones, and codes that the opset has no DequantizeLinear for. Convolutions and recurrent cells have
    one scale for each channel whatever ``block`` says; runtimes make floats of them again, so they gain in size only.

    Attributes:
        bits: 8, 4 or 2.
        block: how many inputs have a scale together: 0 for all, 16, 32, 64, 128 and so on.
        symmetric: no zero points.
        rounding: nearest, mse (scales of the least squared error), hqq (zero points against outliers; asymmetric only),
            or gptq (errors made good by the inputs that follow, on the data; mse without data).
        operators: whose weights: MatMul, Gemm, Conv, ConvTranspose, LSTM, GRU, RNN.
        form: MatMulNBits or DequantizeLinear; empty takes the first that the target has measured as worth having.
        at_least: the least number of elements of a weight for which it pays.
        keep: what stays float32: names of nodes, of their outputs, or operator types.
        min_sqnr_db: a result whose error is nearer to the output than that is refused.
    """

    name: ClassVar[str] = "quantize-weights"
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    needs_shapes: ClassVar[bool] = True
    bits: int = 8
    block: int = 0
    symmetric: bool = True
    rounding: str = "mse"
    operators: tuple[str, ...] = ("MatMul", "Gemm")
    form: str = ""
    at_least: int = 4096
    keep: tuple[str, ...] = ()
    min_sqnr_db: float = 5.0

    def __post_init__(self) -> None:
        """Options that mean nothing are refused."""
        for option, given, known in (
            ("bits", self.bits, (8, 4, 2)),
            ("rounding", self.rounding, get_args(Rounding)),
            ("form", self.form, ("", "MatMulNBits", "DequantizeLinear")),
            *(("operators", operator, OPERATORS) for operator in self.operators),
        ):
            if given not in known:
                hint = f"one of {', '.join(str(item) for item in known if item)}"
                raise GraphoptError(f"{option} is '{given}'", self.name, hint, usage=True)
        if self.block and (self.block < 16 or self.block & (self.block - 1)):
            raise GraphoptError(f"block is {self.block}", self.name, "0, or a power of two from 16 on", usage=True)
        if self.rounding == "hqq" and self.symmetric:
            raise GraphoptError("hqq moves zero points", self.name, "symmetric=false", usage=True)

    def budget_db(self) -> float:
        """Below it a result is no approximation any more."""
        return self.min_sqnr_db

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site for each product with a weight."""
        seen = self._observe(model, context)
        for body in gir.bodies(model):
            for node in body.nodes():
                if not gir.is_op(node, *self.operators) or len(node.inputs) < 2:
                    continue
                arrays = {index: behind(node.inputs[index]) for index in _weights_of(node)}
                if all(array is None for array in arrays.values()):
                    continue  # a product of two activations is nothing that anyone would expect here
                bits = not self._nbits_refusal(node, context)
                reason = self._refusal(node, arrays, 0 if bits else body.version())
                if reason:
                    yield Site(gir.where(node), f"kept float32: {reason}")
                    continue
                each = (
                    f"a scale for each {self.block} inputs of an output"
                    if self._block(node)
                    else "a scale for each output"
                )
                form = "MatMulNBits" if bits else "DequantizeLinear"
                yield Site(
                    gir.where(node),
                    f"weight in {self.bits} bits, {each}, as {form}",
                    partial(self._edit, node, arrays, seen, (model, body) if bits else None),
                )

    def _block(self, node: ir.Node) -> int:
        return self.block if gir.is_op(node, "MatMul", "Gemm") else 0

    def _layout(self, node: ir.Node) -> Layout:
        return Layout(self.bits, self._block(node), self.symmetric)

    def _refusal(self, node: ir.Node, arrays: Mapping[int, np.ndarray | None], version: int) -> str:
        if {node.op_type, node.name, *(output.name for output in node.outputs)} & set(filter(None, self.keep)):
            return "asked for"
        if gir.has_reference(node):
            return "an attribute is a parameter of the function"
        needed = opset_of(self._layout(node))
        if version and version < needed:
            return f"these codes need opset {needed}, this has {version}: convert-opset raises it"
        for array in arrays.values():
            if array is None:
                return "one of its weights is no constant"
            if array.dtype != np.float32:
                return f"its weight is {array.dtype}"
            if array.ndim < 2 or (array.ndim != 2 and gir.is_op(node, "MatMul", "Gemm")) or not array.size:
                return f"its weight has the shape {list(array.shape)}"
            if not np.isfinite(array).all():
                return "its weight holds NaN or infinities"
        total = sum(array.size for array in arrays.values() if array is not None)
        return f"its weight has {total:,} elements, too few to pay" if total < self.at_least else ""

    def _nbits_refusal(self, node: ir.Node, context: Context) -> str:
        """Why a node becomes no MatMulNBits; "" when it does."""
        if self.form == "DequantizeLinear" or not self.block or not gir.is_op(node, "MatMul", "Gemm"):
            return "another form"
        if node.op_type == "Gemm":
            plain = not gir.attribute(node, "transA", 0)
            plain &= gir.attribute(node, "alpha", 1.0) == 1.0 and gir.attribute(node, "beta", 1.0) == 1.0
            if not plain or (len(node.inputs) > 2 and node.inputs[2] is not None and gir.rank(node.inputs[2]) != 1):
                return "alpha, beta, transA or its bias"
            shape = gir.dims(node.inputs[2]) if len(node.inputs) > 2 else None
            if shape is not None and shape != gir.dims(node.outputs[0])[-1:]:  # type: ignore[index]
                return "its bias is not one number for each column"
        elif gir.rank(node.inputs[0]) in (None, 1):
            return "its first operand may be a vector"
        if "com.microsoft" not in context.target.domains:
            return "the target takes no operators of com.microsoft"
        return "" if self.form else context.target.objection(FORM) or ""

    def _edit(
        self,
        node: ir.Node,
        arrays: Mapping[int, np.ndarray | None],
        seen: Mapping[str, Inputs],
        home: tuple[ir.Model, gir.Body] | None,
    ) -> None:
        layout = self._layout(node)
        for index, array in arrays.items():
            assert array is not None
            axis = 1 if node.op_type in _RECURRENT else channel_axis(node, array.ndim)
            if node.op_type in _RECURRENT or node.op_type.startswith("Conv"):
                rows = np.moveaxis(array, axis, 0)
                blocks = encode(rows.reshape(len(rows), -1), layout, self._rounding())
                moved = np.moveaxis(blocks.codes.reshape(rows.shape), 0, axis)
                flat = type(blocks)(layout, np.ascontiguousarray(moved), blocks.scale, blocks.zero)
                dequantise(node, index, flat, array.shape, axis, turned=False, blocked=False)
                continue
            turned = axis == 1  # the outputs lie along the second axis
            inputs = seen.get(str(node.inputs[0].name)) if node.inputs[0] is not None else None
            blocks = encode(array.T if turned else array, layout, self.rounding, inputs)  # type: ignore[arg-type]
            if home is not None:
                matmul_nbits(node, blocks, node.inputs[2] if len(node.inputs) > 2 else None)
                import_microsoft(*home)
            else:
                blocked = bool(layout.block)
                along = 1 - axis if blocked else axis
                dequantise(node, index, blocks, array.shape, along, turned=turned, blocked=blocked)

    def _rounding(self) -> Rounding:
        return "nearest" if self.rounding == "nearest" else "mse"

    def _observe(self, model: ir.Model, context: Context) -> Mapping[str, Inputs]:
        """The moments of what products read, by name: for gptq."""
        if self.rounding != "gptq":
            return {}
        data = context.data
        if data is None:
            text = "gptq without data is rounding to the scales of least squared error"
            context.events(Event("warning", {"text": text}))
            return {}
        products = [node for node in model.graph if gir.is_op(node, "MatMul", "Gemm")]
        wanted = {
            str(source.name): [Gram()]
            for node in products
            if (source := node.inputs[0]) is not None and behind(node.inputs[1]) is not None and behind(source) is None
        }
        found: Statistics = collect(model, data, wanted, events=context.events)
        observed = {name: found.get(name, Gram, -1).matrix for name in wanted}
        return {name: Inputs(matrix) for name, matrix in observed.items() if matrix is not None}


def _weights_of(node: ir.Node) -> tuple[int, ...]:
    """The indices of the weights of a node."""
    return (1, 2) if node.op_type in _RECURRENT else (1,)
