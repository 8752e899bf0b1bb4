"""The choice of nodes that compute in a narrow type.

1. Nodes stay that have no narrow form, are on the keep list, compute with sizes, touch numbers beyond the type's range,
   or whose constants it cannot hold.
2. The others are ordered by their measured local error. As few of the worst as possible stay, so that the outputs of
   the whole model keep the budget: bisection over their number, one simulated run of the model for each try. Then those
   that stay are tried again, half by half: what does no harm beside the rest is narrowed.
3. Nodes that only choose and move numbers go with their neighbours, where that loses nothing.
4. Groups too small to be worth the casts around them stay.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from graphopt import ir as gir
from graphopt.errors import GraphoptError
from graphopt.execute.signature import Feeds
from graphopt.execute.staged import Program

from ._forms import FLOAT, Form, Kind, Refusal, form
from ._groups import Choice, small_groups
from ._measure import measure
from ._outputs import outputs, worst_db
from ._range import Range
from ._rounded import Simulator, key

MARGIN_DB = 1.0
"""How far above the budget the simulation must stay: a real kernel may round once more than the simulated one."""

MAX_TRIES = 32
"""Simulated runs of the whole model, at most."""

_SIZES = frozenset(("Shape", "Size"))
_LOOKUPS = frozenset(("Gather", "GatherElements", "GatherND"))


@dataclass
class Plan:
    """The choice for every node of the main graph that has float32 numbers, in the order of the graph.

    Attributes:
        choices: the nodes.
        sqnr_db: of the worst output in the simulation; infinite when nothing is lost.
        all_sqnr_db: the same with all nodes narrow that can be; None where the model then fails or gives inf or NaN.
        tries: how often the whole model was simulated.
        masks: constants that must first be brought within the range of the type (``_masks.py``).
    """

    choices: list[Choice] = field(default_factory=list)
    sqnr_db: float = math.inf
    all_sqnr_db: float | None = None
    tries: int = 0
    masks: Sequence[ir.Value] = ()


class Planner:
    """Decides for one model.

    Args:
        model: with the types of its tensors known; is not changed.
        narrow: the type.
        keep: names of nodes, operator types and outputs of nodes that stay float32.
        feeds: what is measured on.
        budget_db: how far the error of each output must stay below it.
        keep_io: inputs and outputs stay float32, so casts stand there too.
    """

    def __init__(
        self,
        model: ir.Model,
        narrow: ir.DataType,
        keep: Collection[str],
        feeds: Sequence[Feeds],
        budget_db: float,
        keep_io: bool,
    ) -> None:
        self._model, self._narrow, self._keep, self._feeds = model, narrow, frozenset(keep), feeds
        self._budget_db = budget_db
        self._aim_db = budget_db + MARGIN_DB
        self._keep_io = keep_io
        self._range = Range(narrow)
        self._simulator = Simulator(model, narrow)
        self._plan = Plan()
        self._by_node: dict[ir.Node, Choice] = {}

    def plan(self) -> Plan:
        """Decide.

        Raises:
            GraphoptError: the model cannot be run.
        """
        self._plan.choices = list(self._candidates())
        self._by_node = {choice.node: choice for choice in self._plan.choices}
        arithmetic = [item for item in self._open() if item.form is not None and item.form.kind is Kind.ARITHMETIC]
        numbers = measure(self._model, self._simulator, _forms(arithmetic), self._narrow, self._feeds)
        for choice in self._open():
            choice.reason = self._range.objection(choice, numbers)
        self._hold_budget([choice for choice in arithmetic if not choice.reason])
        self._move()
        for choice in small_groups(self._plan.choices, keep_io=self._keep_io):
            choice.reason = "there would be more casts around it than there are nodes to gain from"
        self._read()
        return self._plan

    def _open(self) -> Iterator[Choice]:
        return (choice for choice in self._plan.choices if not choice.reason)

    def _holds_narrow(self, value: ir.Value) -> bool:
        producer = value.producer()
        choice = self._by_node.get(producer) if producer is not None else None
        return choice is not None and choice.holds_narrow(value)

    def _candidates(self) -> Iterator[Choice]:
        main = next(gir.bodies(self._model))
        of_sizes: set[ir.Value] = set()
        for node in main.graph:
            operands = node.inputs[:1] if gir.is_op(node, *_LOOKUPS) else node.inputs  # a row of a table is no size
            inputs = [value for value in operands if value is not None and gir.constant(value) is None]
            if gir.is_op(node, *_SIZES) or (inputs and all(value in of_sizes for value in inputs)):
                of_sizes.update(node.outputs)
            if gir.is_op(node, "Constant"):
                continue
            found: Form | None = None
            try:
                if node.op_identifier() in self._model.functions:
                    raise Refusal("local functions stay float32; inline them first")
                found = form(node, main.version(node.domain if node.domain != "ai.onnx" else ""), self._narrow)
                if found is None:
                    continue
                if not self._keep.isdisjoint((node.name, node.op_type, *(value.name for value in node.outputs))):
                    raise Refusal("it is on the keep list")
                if node.outputs and node.outputs[0] in of_sizes and found.kind is not Kind.READING:
                    raise Refusal("it computes with sizes, which must be exact")
                self._range.check_constants(node, found)
            except Refusal as refusal:
                yield Choice(node, found, str(refusal))
            else:
                yield Choice(node, found)

    def _hold_budget(self, candidates: list[Choice]) -> None:
        """Let as few as possible stay, so that the whole model keeps the budget."""
        worst_first = sorted(candidates, key=lambda item: math.inf if item.sqnr_db is None else item.sqnr_db)
        truth = self._outputs(self._simulator.exact)
        low, high = -1, len(worst_first)
        while high - low > 1:
            middle = (low + high) // 2 if low >= 0 else 0
            if self._keeps_budget(worst_first[middle:], truth):
                high = middle
            else:
                low = middle
        chosen = worst_first[high:]
        self._give_back(worst_first[:high][::-1], chosen, truth)
        taken = set(chosen)
        stay = [choice for choice in worst_first if choice not in taken]
        for choice in stay:
            choice.reason = (
                f"it is one of {len(stay)} of {len(worst_first)} nodes that stay so that the outputs keep the budget "
                f"of {self._budget_db:g} dB (its local error: {_decibels(choice.sqnr_db)})"
            )

    def _give_back(self, group: list[Choice], chosen: list[Choice], truth: Sequence[Feeds]) -> None:
        """Narrow what of a group can be narrow beside the chosen: all of it, or else the two halves, one by one.

        A node that loses little may still do harm (the addition before a difference), and then all that lose more had
        to stay with it.
        """
        if not group or self._plan.tries >= MAX_TRIES:
            return
        if self._keeps_budget([*chosen, *group], truth):
            chosen += group
        elif len(group) > 1:
            half = (len(group) + 1) // 2
            self._give_back(group[:half], chosen, truth)
            self._give_back(group[half:], chosen, truth)

    def _keeps_budget(self, chosen: Sequence[Choice], truth: Sequence[Feeds]) -> bool:
        self._plan.tries += 1
        reached = self._reached(_forms(chosen), truth)
        if self._plan.tries == 1:
            self._plan.all_sqnr_db = reached
        if reached is None or reached < self._aim_db:
            return False
        self._plan.sqnr_db = reached
        return True

    def _outputs(self, program: Program) -> list[Feeds]:
        return outputs(program, self._feeds)

    def _reached(self, forms: dict[str, Form], truth: Sequence[Feeds]) -> float | None:
        """The worst output's ratio in dB when these nodes are narrow; None when one differs by more than numbers."""
        try:
            return worst_db(truth, self._outputs(self._simulator.simulated(forms)))
        except GraphoptError:
            return None

    def _move(self) -> None:
        """Moving nodes are narrow where all they take is narrow already, or all who use them want it narrow."""
        moving = [item for item in self._open() if item.form is not None and item.form.kind is Kind.MOVING]
        for choice in moving:
            choice.reason = "its neighbours compute in float32"
        for choice in moving:
            if self._gets_narrow(choice):
                choice.reason = ""
        for choice in reversed(moving):
            if choice.reason and self._is_wanted_narrow(choice.node):
                choice.reason = ""

    def _gets_narrow(self, choice: Choice) -> bool:
        assert choice.form is not None
        operands = [choice.node.inputs[index] for index in choice.form.operands]
        variable = [value for value in operands if value is not None and gir.constant(value) is None]
        return bool(variable) and all(
            self._holds_narrow(value) if value is not None and gir.constant(value) is None else self._range.holds(value)
            for value in operands
        )

    def _is_wanted_narrow(self, node: ir.Node) -> bool:
        for value in node.outputs:
            if value.dtype != FLOAT:
                continue
            if value.is_graph_output() and self._keep_io:
                return False
            for user, index in value.uses():
                choice = self._by_node.get(user)
                if choice is None or choice.reason or choice.form is None or index not in choice.form.operands:
                    return False
                if choice.form.kind is Kind.READING:
                    return False
        return any(value.uses() for value in node.outputs)

    def _read(self) -> None:
        """Nodes that only read are narrow where all they read is narrow."""
        for choice in self._open():
            if choice.form is not None and choice.form.kind is Kind.READING and not self._gets_narrow(choice):
                choice.reason = "what it reads is float32"


def _forms(choices: Sequence[Choice]) -> dict[str, Form]:
    return {key(choice.node): choice.form for choice in choices if choice.form is not None}


def _decibels(value: float | None) -> str:
    return "none" if value is None or value == math.inf else f"{-value:.0f} dB"
