"""One run of a recipe over a fresh copy of the model: round after round until nothing changes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import onnx_ir as ir

from ..events import Event
from ..ir import count_nodes, forget, infer
from .context import Context
from .drive import Drive, SiteKey, drive
from .interface import Interface
from .pass_ import Fidelity, Pass
from .recipe import Recipe


@dataclass
class Exclusions:
    """What the next trial does without: single edits of a pass, or a pass as a whole, each with the reason."""

    sites: dict[Pass, dict[SiteKey, str]] = field(default_factory=dict)
    passes: dict[Pass, str] = field(default_factory=dict)


@dataclass
class Step:
    """A pass that was run, in the order of running, and the nodes it left more (or fewer) than there were."""

    applied: Pass
    done: Drive
    node_delta: int = 0


@dataclass(frozen=True)
class Prefix:
    """Where a trial stops early: after so many steps, the last of which makes only so many edits."""

    steps: int
    edits_of_last: int | None = None


@dataclass
class Trial:
    """A copy of the model that a recipe, or a prefix of its run, has been applied to."""

    model: ir.Model
    interface: Interface
    steps: list[Step] = field(default_factory=list)
    rounds: int = 0

    @property
    def promise(self) -> Fidelity:
        """The loosest promise among the passes that changed something."""
        return max((step.applied.fidelity for step in self.steps if step.done.changed), default=Fidelity.EXACT)

    @property
    def budget_db(self) -> float:
        """What the LOSSY passes that changed something ask for together: the energies of their errors add up."""
        lossy = {step.applied for step in self.steps if step.done.changed and step.applied.fidelity is Fidelity.LOSSY}
        return -10 * math.log10(sum(10 ** (-pass_.budget_db() / 10) for pass_ in lossy)) if lossy else math.inf

    def finish(self) -> ir.Model:
        """The model as it will be written: the declared interface restored, inferred facts dropped.

        Raises:
            GraphoptError: a pass changed the names or the order of inputs or outputs unasked.
        """
        forget(self.model)
        self.interface.impose(self.model, by="the recipe")
        return self.model


def run_trial(
    model: ir.Model,
    recipe: Recipe,
    context: Context,
    exclusions: Exclusions,
    *,
    max_rounds: int,
    prefix: Prefix | None = None,
    after_step: Callable[[Trial], None] | None = None,
) -> Trial:
    """Apply a recipe to a model, in place.

    A pass that found nothing to do is not run again until another pass has changed something.

    Args:
        model: a copy nobody else needs.
        recipe: the passes.
        context: for the passes; its events hear ``pass-started`` and ``pass-finished``.
        exclusions: what to do without.
        max_rounds: most repetitions of the recipe.
        prefix: stop early, for bisection.
        after_step: called after each step that changed something.

    Raises:
        PassFailed: a pass raised.
    """
    trial = Trial(model, Interface.of(model))
    idle_since: dict[int, int] = {}  # position in the recipe -> edits made when the pass last found nothing
    edits = inferred_at = 0
    count = count_nodes(model)
    while trial.rounds < max_rounds:
        edits_before = edits
        shapes_known = False  # known facts are kept by edits, but new ones may follow from them
        trial.rounds += 1
        for position, pass_ in enumerate(recipe.passes):
            if prefix is not None and len(trial.steps) >= prefix.steps:
                return trial
            if pass_ in exclusions.passes or idle_since.get(position) == edits or (pass_.once and trial.rounds > 1):
                continue
            if pass_.needs_shapes and not shapes_known:
                infer(model)
                shapes_known, inferred_at = True, edits
            context.events(Event("pass-started", {"pass": str(pass_), "round": trial.rounds}))
            is_last = prefix is not None and len(trial.steps) == prefix.steps - 1
            done = drive(
                pass_,
                model,
                context,
                left_out=exclusions.sites.get(pass_, ()),
                limit=prefix.edits_of_last if prefix is not None and is_last else None,
            )
            before, count = count, count_nodes(model) if done.changed else count
            trial.steps.append(Step(pass_, done, count - before))
            context.events(Event("pass-finished", _facts(trial)))
            if not done.changed:
                if not pass_.needs_shapes or inferred_at == edits:
                    idle_since[position] = edits  # else more may be known by now: once more with new facts
                continue
            edits += len(done.changed)
            shapes_known = shapes_known and pass_.keeps_shapes
            if pass_.changes_interface:
                trial.interface = trial.interface.narrowed_to(model)
            if after_step is not None:
                after_step(trial)
        if edits == edits_before:
            break
    return trial


def _facts(trial: Trial) -> dict[str, object]:
    step = trial.steps[-1]
    return {
        "pass": str(step.applied),
        "round": trial.rounds,
        "changed": len(step.done.changed),
        "kept": len(step.done.kept),
        "left_out": len(step.done.left_out),
        "seconds": step.done.seconds,
        "node_delta": step.node_delta,
    }
