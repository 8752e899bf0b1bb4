"""Activation functions: one operator for a chain of elementwise ones."""

from __future__ import annotations

from .micro import elementwise

_ERF = "y = Mul(Mul(x, Add(Erf(Div(x, 1.4142135)), 1)), 0.5)"
_TANH = "y = Mul(Mul(0.5, x), Add(Tanh(Mul(0.7978846, Add(x, Mul(0.044715, Pow(x, 3))))), 1))"
_QUICK = "y = Mul(x, Sigmoid(Mul(x, 1.702)))"
_SILU = "y = Mul(x, Sigmoid(x))"
_RAMP = "y = Div(Mul(x, Clip(Add(x, 3), 0, 6)), 6)"
_MISH = "y = Mul(x, Tanh(Softplus(x)))"

ACTIVATIONS = (
    elementwise("Gelu", _ERF, "y = Gelu(x)", opset=20),
    elementwise("com.microsoft::Gelu", _ERF, "y = com.microsoft::Gelu(x)"),
    elementwise("Gelu:tanh", _TANH, 'y = Gelu{approximate="tanh"}(x)', opset=20),
    elementwise("com.microsoft::FastGelu", _TANH, "y = com.microsoft::FastGelu(x)"),
    elementwise("com.microsoft::QuickGelu", _QUICK, "y = com.microsoft::QuickGelu{alpha=1.702}(x)"),
    elementwise("com.microsoft::QuickGelu:silu", _SILU, "y = com.microsoft::QuickGelu{alpha=1.0}(x)"),
    elementwise("Swish", _SILU, "y = Swish(x)", opset=24),
    elementwise("HardSwish", _RAMP, "y = HardSwish(x)"),
    elementwise("HardSigmoid", _RAMP, "y = Mul(x, HardSigmoid{alpha=0.16666667, beta=0.5}(x))"),
    elementwise("Mish", _MISH, "y = Mish(x)", opset=18),
    elementwise("Softplus", "y = Log(Add(Exp(x), 1))", "y = Softplus(x)"),
)
