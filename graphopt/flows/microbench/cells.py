"""Recurrent layers: one operator for cells that are written out step by step, as torch's exporters write them."""

from __future__ import annotations

from typing import Any

import numpy as np

from .micro import Arrays, Micro, Sizes

_STEPS = 8
_SIZES = tuple({"b": 1, "h": units} for units in (16, 64, 256, 512))
_UNIT = "steps x batch x gates x units x (features + units)"

_LSTM = """
i, f, g, o = Split{{axis=1, num_outputs=4}}(Add(Gemm{{transB=1}}({h}, r, rb), Gemm{{transB=1}}({x}, w, wb)))
c{new} = Add(Mul(Sigmoid(f), {c}), Mul(Sigmoid(i), Tanh(g)))
h{new} = Mul(Sigmoid(o), Tanh(c{new}))
"""
_GRU = """
pr, pz, pn = Split{{axis=1, num_outputs=3}}(Gemm{{transB=1}}({x}, w, wb))
qr, qz, qn = Split{{axis=1, num_outputs=3}}(Gemm{{transB=1}}({h}, r, rb))
n = Tanh(Add(pn, Mul(Sigmoid(Add(pr, qr)), qn)))
h{new} = Add(Mul(Sub({h}, n), Sigmoid(Add(pz, qz))), n)
"""
_CELLS = {"LSTM": (_LSTM, (0, 3, 1, 2)), "GRU": (_GRU, (1, 0, 2))}
"""The text of a step, and where the gates are that the operator wants first, second, ..."""


def _sorted(name: str, order: tuple[int, ...]) -> Any:
    """Weights with the gates in the order of the operator."""

    def make(sizes: Sizes, arrays: Arrays) -> np.ndarray:
        return np.concatenate([np.split(arrays[name], len(order))[gate] for gate in order])[np.newaxis]

    return make


def _biases(order: tuple[int, ...]) -> Any:
    def make(sizes: Sizes, arrays: Arrays) -> np.ndarray:
        return np.concatenate([_sorted(name, order)(sizes, arrays) for name in ("wb", "rb")], axis=1)

    return make


def _step(number: int) -> Any:
    return lambda sizes, arrays: np.array(number)


def _zeros(sizes: Sizes, arrays: Arrays) -> np.ndarray:
    return np.zeros((sizes["b"], sizes["h"]), np.float32)


def _micro(operator: str, steps: int) -> Micro:
    text, order = _CELLS[operator]
    gates = len(order)
    sizes = [{**size, "g": gates * size["h"]} for size in _SIZES]
    reset = ", linear_before_reset=1" if operator == "GRU" else ""
    call = f"{operator}{{hidden_size=$h{reset}}}"
    more: dict[str, Any] = {"input": _sorted("w", order), "before": _sorted("r", order), "bias": _biases(order)}
    if steps == 1:
        state = ", Unsqueeze(c, [0])" if operator == "LSTM" else ""
        inputs = {"x": "b h", "h": "b h"} | ({"c": "b h"} if operator == "LSTM" else {})
        plain = text.format(x="x", h="h", c="c", new="1") + "y = Identity(h1)"
        fused = (
            f"_, s = {call}(Unsqueeze(x, [0]), input, before, bias, _, Unsqueeze(h, [0]){state})\ny = Squeeze(s, [0])"
        )
    else:
        inputs = {"x": f"{steps} b h"}
        rows = [
            text.format(x=f"Gather(x, t{t})", h=f"h{t - 1}" if t else "zero", c=f"c{t - 1}" if t else "zero", new=t)
            for t in range(steps)
        ]
        stack = ", ".join(f"Unsqueeze(h{t}, [0])" for t in range(steps))
        plain = "\n".join([*rows, f"y = Concat{{axis=0}}({stack})"])
        fused = f"s = {call}(x, input, before, bias)\ny = Squeeze(s, [1])"
        more |= {"zero": _zeros} | {f"t{t}": _step(t) for t in range(steps)}
    return Micro(
        operator if steps > 1 else f"{operator}:cell",
        plain,
        fused,
        inputs,
        sizes,
        {"w": "g h", "r": "g h", "wb": "g", "rb": "g"},
        made=more,
        opset=18,
        work=f"{2 * steps} b g h",
        unit=_UNIT,
        chain=1,
    )


CELLS = tuple(_micro(operator, steps) for operator in _CELLS for steps in (_STEPS, 1))
