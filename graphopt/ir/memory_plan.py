"""What a static plan of the memory of a run says: where in one arena each tensor lies.

``planner.py`` makes it. ONNX has no place for such a plan: it is for compilers and runtimes that allocate ahead of
time, and to be looked at.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Place:
    """Where a tensor lies.

    Attributes:
        names: of the tensor and of those that are it seen otherwise (Reshape).
        node: what makes it, as ``Conv 'conv1'``; "" for what a loop's body is given.
        operator: of that node.
        offset: of its first byte in the arena.
        bytes: of its elements; the place has as many, up to the next multiple of the alignment.
        first: position of the node that makes it; 0 for what a loop's body is given.
        last: position of the last node that uses it; of the graph's last node for an output.
        over: the tensor that it is written over, whose place it has; "" for most.
        guessed: the size is not known but guessed, or it holds strings or is no tensor.
    """

    names: tuple[str, ...]
    node: str
    operator: str
    offset: int
    bytes: int
    first: int
    last: int
    over: str = ""
    guessed: bool = False


@dataclass(frozen=True)
class Inner:
    """What runs inside a node: a branch, the body of a loop or of a local function.

    Attributes:
        node: the node, as ``If 'if1'``.
        first: its position.
        offset: where the plan's arena begins in the outer one.
        plan: of the body.
    """

    node: str
    first: int
    offset: int
    plan: MemoryPlan


@dataclass(frozen=True)
class MemoryPlan:
    """Places for the tensors of a graph that runs in its order.

    Attributes:
        graph: its name.
        nodes: how many nodes it has.
        alignment: every offset is a multiple of it, and sizes are rounded up to it.
        arena: bytes that the run needs.
        bound: bytes that live at the fullest moment: no plan of this order needs less.
        in_order: the same when no result is written over an operand.
        naive: bytes with a piece of memory of its own for each tensor.
        fullest: position of the node at which the most bytes live.
        places: of the tensors, as they are made.
        inner: of the subgraphs of its nodes, and of the local functions that it calls.
        assumed: open dimensions whose size was not given, with the size taken.
    """

    graph: str
    nodes: int
    alignment: int
    arena: int
    bound: int
    in_order: int
    naive: int
    fullest: int
    places: tuple[Place, ...]
    inner: tuple[Inner, ...] = ()
    assumed: tuple[tuple[str, int], ...] = ()

    @cached_property
    def offsets(self) -> dict[str, int]:
        """The offset of each tensor of the graph itself, by name."""
        return {name: item.offset for item in self.places for name in item.names}

    @property
    def guessed(self) -> int:
        """How many tensors have a guessed size, with those of inner graphs."""
        return sum(item.guessed for item in self.places) + sum(item.plan.guessed for item in self.inner)

    def alive(self, position: int) -> list[Place]:
        """The tensors alive while a node runs, the largest first; not what its result is written over."""
        found = [item for item in self.places if item.first <= position <= item.last]
        gone = {item.over for item in found if item.over and item.first == position}
        return sorted((item for item in found if item.names[0] not in gone), key=lambda item: -item.bytes)

    def as_json(self) -> dict[str, Any]:
        """The plan as a JSON object."""
        return asdict(self) | {"assumed": dict(self.assumed)}
