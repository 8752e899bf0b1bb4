"""float32 -> float16 or bfloat16, node by node, as far as the measured error allows.

    node(x, W) : float32   ->   Cast_up(node(Cast_down(x), W'))        W' = W rounded, once

and a Cast down of a Cast up is nothing, so casts stand only where the two types meet.

1. Which operands and results of a node can be narrow: its schema's type constraints (``_forms.py``).
2. On feeds, in float32: the range of every tensor, and the local error of every node (``_measure.py``).
3. Which nodes stay float32: those out of range, and the fewest of the worst that keep the budget (``_plan.py``).

The budget is a ratio of signal to error in each output, in decibels (6 dB are one bit). One rounding to float16,
which has 11 bits, is an error of about -74 dB, to bfloat16, of 8 bits, -56 dB. A thousand that add up are 30 dB more:
-44 and -26. So 40 dB and 25 dB are what a sound model of some depth reaches without a single node kept, and what is
far below them is a node that loses bits for a reason of its own (a difference of large numbers, a position in a long
sequence).

Source: Micikevicius et al., Mixed Precision Training (2018), sections 3 and 4; Kalamkar et al., A Study of BFLOAT16
(2019); NVIDIA ModelOpt's AutoCast and onnxconverter-common's float16 (lists of operators, where this measures); Cast:
ONNX 6, to bfloat16 13.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import ClassVar

import onnx_ir as ir

from graphopt import ir as gir
from graphopt.errors import GraphoptError
from graphopt.events import Event, Site, Sites
from graphopt.execute.feeds import random_feeds
from graphopt.execute.signature import Feeds
from graphopt.execute.staged import Program
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass
from graphopt.rewrite import schema

from ._forms import FLOAT
from ._groups import Choice
from ._masks import bound, bring_near, far_masks
from ._narrow import Narrower
from ._outputs import outputs, worst_db
from ._plan import Plan, Planner

TYPES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
DEFAULT_DB = {"float16": 40.0, "bfloat16": 25.0}
MAX_FEEDS = 32
"""How many samples of the data ranges and local errors are measured on, at most; whole models on fewer."""

RANDOM_FEEDS = 2
MASK_MARGIN_DB = 20.0
"""How far below the budget the error must stay that masks within the range make by themselves."""

_CPU = "CPUExecutionProvider"


@dataclass(frozen=True)
class ConvertPrecision(Pass):
    """Computes in float16 or bfloat16 what the measured error allows, and keeps the rest in float32.

    Each node is judged by what it does to the numbers of the feeds, not by its name. It stays float32 when its
    operator has no narrow form in the model's opset; when a number that goes in or out, a constant, or a sum on the
    way is beyond the type's range; when a constant holds NaN or a single constant would become 0; when it computes
    with sizes; and when it is one of the few nodes that must stay so that the outputs keep the budget. Constants that
    are used in both types are stored in both.

    A constant like -3.4e38 that only masks what a Softmax sees becomes one that the type holds, if the outputs stay
    what they were on the data. Rows that are masked altogether, whose result means nothing, may get other shares.

    Kept as they are: subgraphs of If, Loop and Scan, local functions, sequences, quantised parts, custom operators (of
    com.microsoft those that ONNX Runtime has a narrow form of), and whole models that hold narrow numbers already.

    Ranges are those of the first 32 samples of the data, and the error of the outputs that of the first 8 of them.
    Without data the feeds are random: the range of real activations is then not known. Give data for a model you ship.
    ONNX Runtime's CPU provider has few 16-bit kernels and mostly gets slower: this is for GPUs and NPUs, and a warning
    says so for targets that are such a processor.

    Attributes:
        to: float16, or bfloat16 (opset 13), which has float32's range and fewer bits.
        keep_io: inputs and outputs stay float32. If not, those change that only narrow nodes read or compute.
        keep: what stays float32 in any case: names of nodes, of their outputs, or operator types.
        min_sqnr_db: the budget: how many decibels the error of each output must stay below the output; 0 takes 40 for
            float16 and 25 for bfloat16.
    """

    name: ClassVar[str] = "convert-precision"
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    needs_shapes: ClassVar[bool] = True
    changes_interface: ClassVar[bool] = True
    once: ClassVar[bool] = True
    to: str = "float16"
    keep_io: bool = True
    keep: tuple[str, ...] = ()
    min_sqnr_db: float = 0.0

    def __post_init__(self) -> None:
        """Options that mean nothing are refused."""
        if self.to not in TYPES:
            raise GraphoptError(f"to is '{self.to}'", self.name, f"one of {', '.join(TYPES)}", usage=True)
        if not 0 <= self.min_sqnr_db < 200:
            hint = "decibels, from 0 to 200"
            raise GraphoptError(f"min_sqnr_db is {self.min_sqnr_db:g}", self.name, hint, usage=True)

    def budget_db(self) -> float:
        """The option, or the type's default."""
        return self.min_sqnr_db or DEFAULT_DB[self.to]

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per node of the main graph with float32 numbers."""
        place, reason, narrow = f"graph '{model.graph.name}'", self._refusal(model), TYPES[self.to]
        if reason:
            yield Site(place, reason)
            return
        try:
            plan = self.plan(model, context)
            left = 0
            for value in plan.masks:
                left += not (yield Site(gir.where(value), self._near, partial(bring_near, value, model.graph, narrow)))
            if left:
                plan = self._planned(model, context)
        except GraphoptError as error:
            yield Site(place, f"nothing could be measured: {error.what}")
            return
        context.events(Event("note", {"text": self._summary(plan, context)}))
        if context.target.provider == _CPU and any(not choice.reason for choice in plan.choices):
            self._warn(context)
        narrower = Narrower(model.graph, narrow)
        changed = False
        for choice in plan.choices:
            if choice.reason or choice.form is None:
                yield Site(gir.where(choice.node), f"kept float32: {choice.reason}")
            else:
                edit = partial(narrower.node, choice.node, choice.form)
                changed = (yield Site(gir.where(choice.node), self._text(choice), edit)) or changed
        if changed and not self.keep_io:
            yield from self._ports(model, narrower)

    def _warn(self, context: Context) -> None:
        """Say that the runtime has few kernels; not as a warning for a target that is any runtime."""
        is_any = context.target.architecture == "any"
        says = f"ONNX Runtime's CPU provider has few {self.to} kernels: the others cast to float32 and back"
        if is_any:
            context.events(Event("note", {"text": f"for GPUs and NPUs; {says}"}))
        else:
            text = f"{says}; on {context.target.name} that may cost more time than it saves: see `graphopt bench`"
            context.events(Event("warning", {"pass": str(self), "text": text}))

    def plan(self, model: ir.Model, context: Context) -> Plan:
        """The choice for each node with what was measured, for reports; the model needs ``graphopt.ir.infer``.

        Raises:
            GraphoptError: the model cannot be run here.
        """
        if not self._far(model):
            return self._planned(model, context)
        copy = gir.copy_model(model)
        for value in self._far(copy):
            bring_near(value, copy.graph, TYPES[self.to])
        if self._difference_db(model, copy, context) < self.budget_db() + MASK_MARGIN_DB:
            return self._planned(model, context)
        plan = self._planned(copy, context)
        mine = dict(zip(copy.graph, model.graph, strict=True))
        for choice in plan.choices:
            choice.node = mine[choice.node]
        if any(not choice.reason for choice in plan.choices):
            plan.masks = self._far(model)
        return plan

    def _difference_db(self, model: ir.Model, other: ir.Model, context: Context) -> float:
        feeds = _feeds(model, context)
        reached = worst_db(outputs(Program.of(model), feeds), outputs(Program.of(other), feeds))
        return -math.inf if reached is None else reached

    @property
    def _near(self) -> str:
        number = bound(TYPES[self.to])
        return f"beyond the range of {self.to} it becomes {number:g}: it only masks what a Softmax sees"

    def _planned(self, model: ir.Model, context: Context) -> Plan:
        feeds = _feeds(model, context)
        return Planner(model, TYPES[self.to], self.keep, feeds, self.budget_db(), self.keep_io).plan()

    def _far(self, model: ir.Model) -> tuple[ir.Value, ...]:
        return tuple(value for value in far_masks(model.graph, TYPES[self.to]) if value.name not in self.keep)

    def _refusal(self, model: ir.Model) -> str:
        narrow = TYPES[self.to]
        version = model.opset_imports.get("", 0)
        if narrow not in schema.allowed_types("", "Cast", version, "T2"):
            return f"opset {version} has no Cast to {self.to}"
        for node in gir.nodes(model):
            if any(value.dtype in TYPES.values() for value in node.outputs) and not gir.is_op(node, "Constant"):
                return "the model holds 16-bit numbers already: its precision has been decided"
        return ""

    def _text(self, choice: Choice) -> str:
        facts = [] if choice.sqnr_db is None else [f"local error {-choice.sqnr_db:.0f} dB"]
        if choice.share_small >= 0.005:
            facts.append(f"{choice.share_small:.0%} of its numbers below the normal range")
        return f"{self.to} ({', '.join(facts)})" if facts else f"{self.to}, as its neighbours"

    def _summary(self, plan: Plan, context: Context) -> str:
        narrow = sum(1 for choice in plan.choices if not choice.reason)
        is_real = context.data is not None and not context.data.synthetic
        feeds = "random feeds, which are not for accuracy"
        if is_real and context.data is not None:
            feeds = f"{min(len(context.data), MAX_FEEDS):,} of {len(context.data):,} feeds of the data"
        everything = "inf or NaN" if plan.all_sqnr_db is None else _error(plan.all_sqnr_db)
        budget = f"the budget is {self.budget_db():g} dB, and all that have the form would give {everything}"
        if not narrow:
            return f"no node becomes {self.to}, judged on {feeds}: {budget}"
        return (
            f"{narrow} of {len(plan.choices)} nodes become {self.to}: the worst output has {_error(plan.sqnr_db)} "
            f"on {feeds} ({budget})"
        )

    def _ports(self, model: ir.Model, narrower: Narrower) -> Sites:
        for value in tuple(model.graph.inputs):
            if value.dtype != FLOAT or not isinstance(value.type, ir.TensorType) or value.is_initializer():
                continue
            if narrower.wants_narrow(value):
                yield Site(gir.where(value), f"a {self.to} input", partial(narrower.input, value))
            else:
                yield Site(gir.where(value), "kept float32: nodes in float32 read it")
        for value in tuple(model.graph.outputs):
            source = value.producer()
            inner = source.inputs[0] if source is not None and gir.is_op(source, "Cast") else None
            if inner is not None and value.dtype == FLOAT and inner.dtype == TYPES[self.to]:
                yield Site(gir.where(value), f"a {self.to} output", partial(narrower.output, value))


def _error(sqnr_db: float) -> str:
    return "no error" if sqnr_db == math.inf else f"an error {sqnr_db:.1f} dB below it"


def _feeds(model: ir.Model, context: Context) -> Sequence[Feeds]:
    """Those that verification will take, and some more of the data."""
    if context.data is not None:
        return list(islice(context.data.for_model(model), MAX_FEEDS))
    return random_feeds(model, seed=context.seed, count=RANDOM_FEEDS, vary=True)
