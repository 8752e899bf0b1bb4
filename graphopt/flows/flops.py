"""Floating-point operations of a node, from the shapes around it.

A multiply-accumulate is two operations: a matrix product of M x K by K x N has 2MKN, a convolution
2 * outputs * (channels / groups) * kernel. Elementwise operators have one for each element they give, reductions
and pooling one for each element they read, normalisations a few. Moving data costs none. The count is the
definition's, not the kernel's: a Winograd convolution does fewer.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx_ir as ir

from ..ir import STANDARD_DOMAINS, attribute, static_dims

_MICROSOFT = "com.microsoft"


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MOVES = _names(
    "BitCast Cast CastLike Compress Concat ConcatFromSequence Constant ConstantOfShape DepthToSpace Dropout Expand "
    "EyeLike Flatten Gather GatherElements GatherND Identity If Loop Scan NonMaxSuppression NonZero OneHot Optional "
    "OptionalGetElement OptionalHasElement Pad RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range "
    "Reshape ReverseSequence ScatterElements ScatterND Scatter SequenceAt SequenceConstruct SequenceEmpty "
    "SequenceErase SequenceInsert SequenceLength Shape Size Slice SpaceToDepth Split SplitToSequence Squeeze "
    "StringNormalizer Tile TensorScatter Transpose Trilu Unique Unsqueeze Upsample TopK"
)
_EACH_OUTPUT = _names(
    "Abs Acos Acosh Add And Asin Asinh Atan Atanh Bernoulli BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor "
    "Ceil Celu Clip Cos Cosh DequantizeLinear Div DynamicQuantizeLinear Elu Equal Erf Exp Floor Greater "
    "GreaterOrEqual HardSigmoid IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mod Mul Neg Not Or PRelu Pow "
    "QuantizeLinear Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish "
    "Tan Tanh ThresholdedRelu Where Xor BiasGelu FastGelu QuickGelu"
)
_SEVERAL = {
    "BatchNormalization": 2,
    "Gelu": 8,
    "GroupNormalization": 6,
    "HardSwish": 4,
    "Hardmax": 2,
    "InstanceNormalization": 6,
    "LRN": 6,
    "LayerNormalization": 6,
    "LogSoftmax": 4,
    "LpNormalization": 3,
    "MeanVarianceNormalization": 6,
    "Mish": 6,
    "RMSNormalization": 4,
    "Resize": 4,
    "RotaryEmbedding": 3,
    "SimplifiedLayerNormalization": 4,
    "SkipLayerNormalization": 7,
    "SkipSimplifiedLayerNormalization": 5,
    "Softmax": 4,
}
_EACH_INPUT = _names(
    "ArgMax ArgMin CumProd CumSum GlobalAveragePool GlobalLpPool GlobalMaxPool NegativeLogLikelihoodLoss "
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
    "ReduceSumSquare SoftmaxCrossEntropyLoss"
)


def is_counted(node: ir.Node) -> bool:
    """True for operators whose operations can be counted once the shapes are known."""
    if node.domain not in STANDARD_DOMAINS and node.domain != _MICROSOFT:
        return False
    known = (_MOVES, _EACH_OUTPUT, _EACH_INPUT, _SEVERAL, _COUNTERS)
    return any(node.op_type in group for group in known)


def flops(node: ir.Node) -> int | None:
    """The operations of one run of a node, its subgraphs left out; None when a shape it takes is not known.

    Args:
        node: one that ``is_counted``, in a model with static shapes.
    """
    if node.op_type in _MOVES:
        return 0
    if node.op_type in _COUNTERS:
        return _COUNTERS[node.op_type](node)
    if node.op_type in _EACH_INPUT:
        return _elements(node.inputs[0])
    elements = _elements(node.outputs[0])
    return None if elements is None else elements * _SEVERAL.get(node.op_type, 1)


def _elements(value: ir.Value | None) -> int | None:
    shape = static_dims(value)
    return None if shape is None else math.prod(shape)


def _input(node: ir.Node, index: int) -> tuple[int, ...] | None:
    return static_dims(node.inputs[index]) if index < len(node.inputs) else None


def _convolution(node: ir.Node, weight: int = 1) -> int | None:
    """Weight [out, in / groups, *kernel]: every output element reads one filter."""
    elements, shape = _elements(node.outputs[0]), _input(node, weight)
    return None if elements is None or shape is None else 2 * elements * math.prod(shape[1:])


def _transposed_convolution(node: ir.Node) -> int | None:
    """Weight [in, out / groups, *kernel]: every input element is spread over one filter."""
    elements, shape = _elements(node.inputs[0]), _input(node, 1)
    return None if elements is None or shape is None else 2 * elements * math.prod(shape[1:])


def _product(node: ir.Node) -> int | None:
    elements, left = _elements(node.outputs[0]), _input(node, 0)
    return None if elements is None or not left else 2 * elements * left[-1]


def _gemm(node: ir.Node) -> int | None:
    elements, left = _elements(node.outputs[0]), _input(node, 0)
    if elements is None or left is None or len(left) != 2:
        return None
    return 2 * elements * left[0 if attribute(node, "transA", 0) else 1]


def _quantized_weight_product(node: ir.Node) -> int | None:
    elements, inner = _elements(node.outputs[0]), attribute(node, "K")
    return None if elements is None or not isinstance(inner, int) else 2 * elements * inner


def _einsum(node: ir.Node) -> int | None:
    """The product of the sizes of all labels; twice that where operands are multiplied."""
    equation = str(attribute(node, "equation", "")).replace(" ", "").partition("->")[0]
    sizes: dict[str, int] = {}
    ellipsis: tuple[int, ...] = ()
    for labels, value in zip(equation.split(","), node.inputs, strict=False):
        shape = static_dims(value)
        if shape is None:
            return None
        before, dots, after = labels.partition("...")
        hidden = len(shape) - len(before) - len(after)
        if hidden < 0 or (hidden and not dots):
            return None
        if hidden:
            ellipsis = max(ellipsis, shape[len(before) : len(before) + hidden], key=math.prod)
        sizes.update(zip(before, shape, strict=False))
        sizes.update(zip(after, shape[len(shape) - len(after) :], strict=True))
    return (2 if len(node.inputs) > 1 else 1) * math.prod(sizes.values()) * math.prod(ellipsis)


def _recurrent(gates: int) -> Callable[[ir.Node], int | None]:
    def count(node: ir.Node) -> int | None:
        """X [steps, batch, inputs] (or batch first), W [directions, gates * hidden, inputs], R likewise."""
        x, w, r = _input(node, 0), _input(node, 1), _input(node, 2)
        if x is None or w is None or r is None or len(x) != 3 or len(w) != 3 or len(r) != 3:
            return None
        return 2 * x[0] * x[1] * w[0] * gates * r[2] * (w[2] + r[2])

    return count


def _pool(node: ir.Node) -> int | None:
    elements = _elements(node.outputs[0])
    return None if elements is None else elements * math.prod(attribute(node, "kernel_shape", (1,)))


def _attention(node: ir.Node) -> int | None:
    """Scores and their use: 2 * queries * keys * (size of a key + size of a value), for each batch and head."""
    q, k, v = (_input(node, index) for index in range(3))
    if q is None or k is None or v is None or not len(q) == len(k) == len(v):
        return None
    if len(q) == 4:
        return 2 * q[0] * q[1] * q[2] * k[2] * (q[3] + v[3])
    heads, shared = attribute(node, "q_num_heads"), attribute(node, "kv_num_heads")
    if len(q) != 3 or not heads or not shared:
        return None
    return 2 * q[0] * heads * q[1] * k[1] * (q[2] // heads + v[2] // shared)


def _fourier(node: ir.Node) -> int | None:
    """A fast transform of n points takes about 5 n log2(n)."""
    elements, shape = _elements(node.outputs[0]), static_dims(node.outputs[0])
    if elements is None or not shape or len(shape) < 2:
        return None
    return int(5 * elements / 2 * math.log2(max(shape[-2], 2)))


_COUNTERS: dict[str, Callable[[ir.Node], int | None]] = {
    "Attention": _attention,
    "AveragePool": _pool,
    "Conv": _convolution,
    "ConvInteger": _convolution,
    "ConvTranspose": _transposed_convolution,
    "DFT": _fourier,
    "DeformConv": _convolution,
    "Einsum": _einsum,
    "FusedConv": _convolution,
    "FusedGemm": _gemm,
    "FusedMatMul": _product,
    "GRU": _recurrent(3),
    "Gemm": _gemm,
    "LSTM": _recurrent(4),
    "LpPool": _pool,
    "MatMul": _product,
    "MatMulInteger": _product,
    "MatMulNBits": _quantized_weight_product,
    "MaxPool": _pool,
    "QLinearConv": lambda node: _convolution(node, weight=3),
    "QLinearMatMul": _product,
    "RNN": _recurrent(1),
    "STFT": _fourier,
}
