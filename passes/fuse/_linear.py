"""Linear operators with constant weights, and what scaling their input or output means for weights and bias.

Conv, ConvTranspose (group aware), Gemm (alpha, beta, transB), and MatMul with or without an Add of a bias::

    s * linear(x; W, b) + t  =  linear(x; s W, s b + t)      s, t per output channel
    linear(s * x + t; W, b)  =  linear(x; W s, b + W t)      s, t per input channel, where no zero is padded

New weights are computed in float64 and rounded once to the type of the old ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir

from ._affine import Refusal, finite, number, per_channel

OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
COPY_LIMIT = 1 << 20  # bytes of shared weights that may be duplicated to fold into one of their users
_HALF_LOSS = 2.0**-8  # of a channel's largest weight: float16 weights below the normal range lose their bits


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear operator that can take new weights.

    Attributes:
        node: Conv, ConvTranspose, Gemm or MatMul.
        tail: the node whose output is the result: the Add of a MatMul's bias, else the node itself.
        weights: the constant weights in their own type.
        groups: of a convolution; 1 otherwise.
    """

    node: ir.Node
    tail: ir.Node
    weights: np.ndarray
    groups: int

    @property
    def result(self) -> ir.Value:
        """What the operator computes, bias included."""
        return self.tail.outputs[0]

    @property
    def convolves(self) -> bool:
        """True for Conv and ConvTranspose: the channels are axis 1, else the last axis."""
        return self.node.op_type in ("Conv", "ConvTranspose")

    @property
    def axis(self) -> int:
        """The channel axis of input and output."""
        return 1 if self.convolves else -1

    @property
    def rank(self) -> int | None:
        """The rank of input and output; None when unknown (MatMul only)."""
        if self.convolves:
            return self.weights.ndim
        return 2 if self.node.op_type == "Gemm" else gir.rank(self.node.inputs[0])

    @property
    def _transposed(self) -> bool:
        return self.node.op_type == "Gemm" and bool(gir.attribute(self.node, "transB", 0))

    @property
    def outputs(self) -> int:
        """How many output channels there are."""
        if self.node.op_type == "ConvTranspose":
            return self.weights.shape[1] * self.groups
        return self.weights.shape[0 if self.node.op_type == "Conv" or self._transposed else 1]

    @property
    def inputs(self) -> int:
        """How many input channels there are."""
        if self.node.op_type == "Conv":
            return self.weights.shape[1] * self.groups
        return self.weights.shape[1 if self._transposed else 0]

    def by_output(self, vector: np.ndarray) -> np.ndarray:
        """One number per output channel, so shaped that it broadcasts against the weights."""
        if vector.ndim == 0:
            return vector
        if self.node.op_type == "ConvTranspose":  # weights: C_in, C_out / groups, kernel
            rows = vector.reshape(self.groups, -1).repeat(self.inputs // self.groups, axis=0)
            return self._over_kernel(rows)
        if self.node.op_type == "Conv" or self._transposed:
            return vector.reshape(-1, *(1,) * (self.weights.ndim - 1))
        return vector

    def by_input(self, vector: np.ndarray) -> np.ndarray:
        """One number per input channel, so shaped that it broadcasts against the weights."""
        if vector.ndim == 0:
            return vector
        if self.node.op_type == "Conv":  # weights: C_out, C_in / groups, kernel
            rows = vector.reshape(self.groups, -1).repeat(self.outputs // self.groups, axis=0)
            return self._over_kernel(rows)
        if self._transposed:
            return vector
        return vector.reshape(-1, *(1,) * (self.weights.ndim - 1))

    def _over_kernel(self, rows: np.ndarray) -> np.ndarray:
        return rows.reshape(*rows.shape, *(1,) * (self.weights.ndim - 2))

    def response(self, vector: np.ndarray) -> np.ndarray:
        """The output, without bias, on an input that is constant over each channel: one number per output."""
        weighted = self.weights.astype(np.float64) * self.by_input(vector)
        if self.node.op_type == "Conv":
            return weighted.sum(axis=tuple(range(1, weighted.ndim)))
        return weighted.sum(axis=1 if self._transposed else 0) * self._alpha

    @property
    def _alpha(self) -> float:
        return number(self.node, "alpha", 1.0) if self.node.op_type == "Gemm" else 1.0

    def bias(self) -> np.ndarray | None:
        """The constant added to the output, in float64, shape ``()`` or ``(outputs,)``; None without one.

        Raises:
            Refusal: it is not a constant, or not one number per channel.
        """
        if self.node.op_type == "MatMul":
            if self.tail is self.node:
                return None
            value = next(value for value in self.tail.inputs if value is not self.node.outputs[0])
        else:
            value = self.node.inputs[2] if len(self.node.inputs) > 2 else None
            if value is None:
                return None
        elements = gir.array(value)
        if elements is None:
            raise Refusal(f"the bias of {gir.where(self.node)} is not a constant")
        wide = finite(elements, f"the bias of {gir.where(self.node)}")
        if self.node.op_type == "Gemm":
            wide = wide * number(self.node, "beta", 1.0)
        rank = 1 if self.convolves else self.rank
        return per_channel(wide, rank, -1, self.outputs)

    def scaled(self, factor: np.ndarray) -> np.ndarray | None:
        """The weights times a factor that broadcasts against them; None when it is one.

        Raises:
            Refusal: the new weights do not fit their type, or shared weights would be duplicated.
        """
        if (factor == 1).all():
            return None
        owner = self.node.inputs[1]
        assert owner is not None
        if self.weights.nbytes > COPY_LIMIT and len(owner.uses()) > 1:
            raise Refusal(f"its weights are shared, and a copy would add {self.weights.nbytes} bytes")
        new = np.empty_like(self.weights)
        with np.errstate(all="ignore"):
            np.multiply(self.weights, factor, out=new, dtype=np.float64, casting="unsafe")
        return self._fits(new, factor)

    def _fits(self, new: np.ndarray, factor: np.ndarray) -> np.ndarray:
        name = gir.where(self.node)
        if not np.isfinite(new).all():
            whose = "overflow" if np.isfinite(self.weights).all() else "hold NaN or infinity"
            raise Refusal(f"the new weights of {name} would {whose}")
        if new.dtype == np.float16:
            exact = self.weights.astype(np.float64) * factor
            lost = self._largest(np.abs(new - exact)) > self._largest(np.abs(exact)) * _HALF_LOSS
            if lost.any():
                raise Refusal(f"the new weights of {name} would be too small for float16")
        return new

    def _largest(self, magnitudes: np.ndarray) -> np.ndarray:
        axis = 0 if self.node.op_type == "Conv" or self._transposed else 1
        others = tuple(other for other in range(magnitudes.ndim) if other != axis)
        return magnitudes.max(axis=others, initial=0.0)

    def rounded_bias(self, bias: np.ndarray) -> np.ndarray:
        """A bias in the type of the weights, one number per output channel.

        Raises:
            Refusal: it does not fit.
        """
        with np.errstate(all="ignore"):
            new = np.broadcast_to(bias, (self.outputs,)).astype(self.weights.dtype)
        if not np.isfinite(new).all():
            raise Refusal(f"the new bias of {gir.where(self.node)} would overflow")
        return new

    def assign(self, weights: np.ndarray | None, bias: np.ndarray | None) -> ir.Value:
        """Give the operator new weights and a new bias (None keeps the old) and return its result.

        A MatMul that had no bias gets an Add behind it, which takes over all uses of its output.
        """
        node, graph, old = self.node, self.node.graph, self.node.inputs[1]
        assert graph is not None and old is not None
        hint = old.name or "weights"
        if weights is not None:
            node.replace_input_with(1, gir.new_initializer(graph, weights, hint))
        if bias is None:
            return self.result
        value = gir.new_initializer(graph, bias, f"{hint}_bias")
        if node.op_type != "MatMul":
            if len(node.inputs) < 3:
                node.resize_inputs(3)
            node.replace_input_with(2, value)
            node.attributes.pop("beta", None)
            return self.result
        if self.tail is not node:
            self.tail.replace_input_with(0 if self.tail.inputs[1] is node.outputs[0] else 1, value)
            return self.result
        add = ir.node("Add", [None, value])
        gir.insert_after(node, add)
        gir.replace(node.outputs[0], add.outputs[0])
        add.replace_input_with(0, node.outputs[0])
        return add.outputs[0]
