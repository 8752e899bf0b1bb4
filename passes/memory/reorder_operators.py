"""Another order of the same nodes, in which fewer bytes live at once.

    a = Big(x)  b = Big(x)  c = Small(a)  d = Small(b)    ->    a = Big(x)  c = Small(a)  b = Big(x)  d = Small(b)

What is counted is said in ``graphopt/ir/activations.py``, how an order is found in ``_order.py``.

Who runs a model in the order of its file gains: TVM's and other ahead-of-time compilers, microcontroller runtimes,
and ONNX Runtime with ``SessionOptions.execution_order = ExecutionOrder.PRIORITY_BASED`` (where Shape and Size still
come first) and its own optimisations off. By default ONNX Runtime makes its own order, depth first from the outputs
backwards, and only breaks ties by the place in the file, so its peak need not change (version 1.31; measured in
``docs/decisions/0012-memory-plans.md``).

Source: Liberis, Lane: Neural networks on microcontrollers: saving memory at inference via operator reordering (2019);
Ahn et al.: Ordering Chaos: Memory-Aware Scheduling of Irregularly Wired Neural Networks for Edge Devices (2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.events import Site, Sites
from graphopt.ir import is_op
from graphopt.ir.activations import ASSUMED, Schedule, schedules
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

from ._order import best_order

_RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
_WORTH = 0.001
_UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class ReorderOperators(Pass):
    """Puts the nodes of each graph in the order with the lowest peak of live activations that it finds.

    Nodes and numbers stay the same. The order is the best possible for graphs with few branches side by side and
    small graphs, and a good one for others; never one with a higher peak than before. For less than 0.1 % the nodes
    stay where they are. Sizes of dynamic dimensions are those of the first sample of the data, or else one assumed
    number for all.

    The peak is looked at twice: with element-wise results written over operands that nothing else reads, as compilers
    and some kernels do, and without. Neither is ever higher than before.

    Kept: graphs that draw random numbers, because they are drawn in the order of the nodes.

    Attributes:
        assumed: the size of a dynamic dimension where no data say it.
    """

    name: ClassVar[str] = "reorder-operators"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    keeps_shapes: ClassVar[bool] = True
    assumed: int = ASSUMED

    def __post_init__(self) -> None:
        """A dimension has a size."""
        if self.assumed < 1:
            raise GraphoptError(f"assumed is {self.assumed}", self.name, "1 or more", usage=True)

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per graph of two nodes or more."""
        shapes: dict[str, Sequence[int]] = {}
        if context.data is not None:
            shapes = {name: array.shape for name, array in context.data[0].items() if hasattr(array, "shape")}
        for graph, schedule in schedules(model, shapes, self.assumed):
            before = schedule.peak()
            if len(graph) < 2 or not before:
                continue
            place = f"graph '{graph.name}'"
            if any(is_op(node, *_RANDOM) for node in graph):
                yield Site(place, "it draws random numbers, in the order of its nodes")
                continue
            order = _best(schedule, context.seed)
            if order is not None:
                text = _told(schedule, order)
                yield Site(place, text, partial(_reorder, graph, [schedule.work[index].node for index in order]))
            else:
                why = "no order needs less" if before <= schedule.least() else "none that needs clearly less was found"
                yield Site(place, f"peak of activations {in_units(before)}; {why}")


def _best(schedule: Schedule, seed: int) -> list[int] | None:
    """The best order, from which no better one is found either: so a second application changes nothing."""
    order, current = list(range(len(schedule.work))), schedule
    while (found := _better(current, seed)) is not None:
        order, current = [order[index] for index in found], current.reordered(found)
    return order if current is not schedule else None


def _better(schedule: Schedule, seed: int) -> list[int] | None:
    """An order that is better for a runtime that writes over operands or for one that does not, and worse for none."""
    before = _peaks(schedule)
    for view in (schedule, schedule.without_overwriting()):
        order, _ = best_order(view, seed)
        gains = [was - now for was, now in zip(before, _peaks(schedule, order), strict=True)]
        if min(gains) >= 0 and any(gain > _WORTH * was for gain, was in zip(gains, before, strict=True)):
            return order
    return None


def _peaks(schedule: Schedule, order: Sequence[int] | None = None) -> tuple[int, int]:
    """The peak with results over operands, and without."""
    return schedule.peak(order), schedule.peak(order, in_place=False)


def _told(schedule: Schedule, order: Sequence[int]) -> str:
    (before, plain_before), (after, plain_after) = _peaks(schedule), _peaks(schedule, order)
    text = f"peak of activations {in_units(before)} -> {in_units(after)}"
    if (before, after) == (plain_before, plain_after):
        return text
    return f"{text}; {in_units(plain_before)} -> {in_units(plain_after)} where no result is written over an operand"


def _reorder(graph: ir.Graph, nodes: Sequence[ir.Node]) -> None:
    graph.remove(nodes)
    graph.extend(nodes)


def in_units(size: int) -> str:
    """``12.3 MB``, ``512 B``."""
    value, unit = float(size), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.1f} {_UNITS[unit]}" if unit else f"{size} B"
