"""What the numbers of a model are like, and how much one node alone loses in a narrow type, measured on feeds.

    local error of a node = 10 log10(sum y**2 / sum (y - r(node(r(x))))**2)  dB,   x and y as recorded in float32

All nodes are measured in the same run: each has a shadow in a copy of the model (``_rounded.Simulator.shadowed``), and
both results are read out, stage by stage (``graphopt.execute.staged``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir

from graphopt.execute.signature import Feeds
from graphopt.execute.staged import Staged

from ._forms import FLOAT, Form
from ._rounded import Simulator


@dataclass
class Numbers:
    """What was seen of one tensor over all feeds.

    Attributes:
        largest: the largest finite magnitude.
        elements: the largest number of elements.
        nonzero, small: how many elements were not 0, and how many of them below the narrow type's normal numbers.
        signal, noise: energy of the tensor, and of what its node's narrow form adds to it.
        breaks: the narrow form gives inf or NaN where the tensor has a number.
    """

    largest: float = 0.0
    elements: int = 0
    nonzero: int = 0
    small: int = 0
    signal: float = 0.0
    noise: float = 0.0
    breaks: bool = False

    @property
    def sqnr_db(self) -> float:
        """The local error of the node that computes it; infinite where nothing is lost."""
        if self.breaks:
            return -math.inf
        if self.noise == 0.0:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf

    @property
    def share_small(self) -> float:
        """Which part of the numbers that are not 0 loses bits below the normal range."""
        return self.small / self.nonzero if self.nonzero else 0.0

    def see(self, exact: np.ndarray, normal: float) -> None:
        """Count elements."""
        with np.errstate(all="ignore"):
            sizes = np.abs(exact[np.isfinite(exact)])
        self.elements = max(self.elements, exact.size)
        self.largest = max(self.largest, float(sizes.max(initial=0.0)))
        self.nonzero += int(np.count_nonzero(sizes))
        self.small += int(np.count_nonzero((sizes > 0) & (sizes < normal)))

    def see_shadow(self, exact: np.ndarray, rounded: np.ndarray) -> None:
        """Compare with what the shadow computes of the same operands."""
        if exact.shape != rounded.shape:
            self.breaks = True
            return
        finite = np.isfinite(exact) & np.isfinite(rounded)
        same = finite | (exact == rounded) | (np.isnan(exact) & np.isnan(rounded))
        self.breaks = self.breaks or not bool(same.all())
        left, right = exact[finite].astype(np.float64), rounded[finite].astype(np.float64)
        self.signal += float(np.sum(left * left))
        self.noise += float(np.sum((left - right) ** 2))


def limits(narrow: ir.DataType) -> tuple[float, float]:
    """The largest finite number of a type, and its smallest normal one."""
    facts = ml_dtypes.finfo(narrow.numpy())
    return float(facts.max), float(facts.smallest_normal)


def measure(
    model: ir.Model, simulator: Simulator, forms: Mapping[str, Form], narrow: ir.DataType, feeds: Iterable[Feeds]
) -> dict[str, Numbers]:
    """Numbers of each float32 tensor of the main graph, by name.

    Args:
        model: with the types of its tensors known.
        simulator: of the model.
        forms: the nodes to shadow, by the name of their first output.
        narrow: the type.
        feeds: the runs.

    Raises:
        GraphoptError: the model does not run.
    """
    _, normal = limits(narrow)
    program, shadows = simulator.shadowed(forms)
    shadowed = frozenset(shadows.values())
    wide = frozenset(
        str(value.name)
        for node in model.graph
        for value in node.outputs
        if value.name and value.dtype == FLOAT and isinstance(value.type, ir.TensorType)
    )
    found: dict[str, Numbers] = {}
    staged = Staged(program, (*wide, *shadows))
    for feed in feeds:
        for value in model.graph.inputs:
            tensor = feed.get(str(value.name))
            tensor = value.const_value.numpy() if tensor is None and value.const_value is not None else tensor
            if isinstance(tensor, np.ndarray) and tensor.dtype == np.float32:
                found.setdefault(str(value.name), Numbers()).see(tensor, normal)
        waiting: dict[str, np.ndarray] = {}
        for name, tensor in staged.run(feed):
            exact = shadows.get(name)
            if exact is not None:
                with np.errstate(all="ignore"):
                    rounded = tensor.astype(narrow.numpy()).astype(np.float32)
                found[exact].see_shadow(waiting.pop(exact), rounded)
            elif name in wide:
                found.setdefault(name, Numbers()).see(tensor, normal)
                if name in shadowed:
                    waiting[name] = tensor
    return found
