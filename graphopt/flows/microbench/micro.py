"""One micro-benchmark: a form and the plain operators it stands for, both as texts, at several sizes.

The texts are written in the language of rewrite rules (``graphopt.rewrite.syntax``); ``$name`` stands for a size.
The same pattern is put into the model several times, one after the other, where its result has the shape of its
first input: so the time that a call of the runtime takes by itself counts less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from string import Template
from typing import Any, TypeAlias

import numpy as np

Sizes: TypeAlias = Mapping[str, int]
Arrays: TypeAlias = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Micro:
    """A form, what it stands for, and where to measure it.

    Attributes:
        form: as passes ask the target for it.
        plain: statements that compute the outputs as exporters write it, or as other passes leave it.
        fused: statements that compute the same with the form.
        inputs: shapes of what is fed, as ``"b s 768"``; the letters are sizes.
        sizes: what the letters stand for, one mapping for each point.
        weights: shapes of constants that are drawn at random.
        made: constants that follow from the sizes and the weights.
        outputs: the names of the results in both texts, with blanks between.
        opset: of the standard operators.
        work: letters whose product is the size of a point; "" for the elements of the first input.
        unit: what that product counts.
        chain: how often the pattern is in the model; 1 where the result cannot be the next first input, or where the
            runtime simplifies the end of one with the beginning of the next (transposes that cancel).
    """

    form: str
    plain: str
    fused: str
    inputs: Mapping[str, str]
    sizes: Sequence[Sizes]
    weights: Mapping[str, str] = field(default_factory=dict)
    made: Mapping[str, Callable[[Sizes, Arrays], Any]] = field(default_factory=dict)
    outputs: str = "y"
    opset: int = 17
    work: str = ""
    unit: str = "elements"
    chain: int = 4

    def size(self, sizes: Sizes) -> int:
        """The size of a point, in ``unit``."""
        return math.prod(shape(self.work or next(iter(self.inputs.values())), sizes))

    def text(self, which: str, sizes: Sizes) -> str:
        """``plain`` or ``fused`` with numbers for its sizes."""
        return Template(self.plain if which == "plain" else self.fused).substitute(
            {name: str(number) for name, number in sizes.items()}
        )

    def feeds(self, sizes: Sizes, seed: int = 0) -> dict[str, np.ndarray]:
        """Normally distributed numbers for every input."""
        return {
            name: _noise(shape(dims, sizes), (seed, 0, index)) for index, (name, dims) in enumerate(self.inputs.items())
        }

    def constants(self, sizes: Sizes, seed: int, copy: int) -> dict[str, np.ndarray]:
        """The constants of one copy of the pattern; the same for both texts."""
        drawn = {
            name: _weight(shape(dims, sizes), (seed, 1 + copy, index))
            for index, (name, dims) in enumerate(self.weights.items())
        }
        return drawn | {name: np.asarray(make(sizes, drawn)) for name, make in self.made.items()}


def shape(text: str, sizes: Sizes) -> tuple[int, ...]:
    """``"b s 768"`` with numbers for its letters."""
    return tuple(int(word) if word.isdigit() else sizes[word] for word in text.split())


def elementwise(form: str, plain: str, fused: str, *, opset: int = 17, **more: Any) -> Micro:
    """A form of one input whose cost depends on the number of elements only."""
    return Micro(form, plain, fused, {"x": "n"}, [{"n": 2**power} for power in (10, 14, 17, 20)], opset=opset, **more)


def _noise(dims: tuple[int, ...], seed: Sequence[int]) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(dims, dtype=np.float32)


def _weight(dims: tuple[int, ...], seed: Sequence[int]) -> np.ndarray:
    """Noise about 1 for vectors, and for matrices and kernels such that results are about as large as operands."""
    noise = _noise(dims, seed)
    if len(dims) < 2:
        return 1 + np.float32(0.1) * noise
    fan_in = dims[0] if len(dims) == 2 else math.prod(dims[1:])
    return noise / np.float32(math.sqrt(fan_in))
