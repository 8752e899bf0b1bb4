"""The pass manager: runs a recipe until nothing changes, and holds every pass to its promise.

Passes edit a copy. At the end (``verify="end"``) the copy is compared with the original once. If they differ,
bisection finds the first pass whose result differs, then the first of its edits that makes the difference; that
edit is left out and reported, and the recipe runs again. What raises is left out in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import onnx_ir as ir

from ..errors import GraphoptError
from ..events import Event, silent
from ..execute.verify import Verdict
from ..ir import check, copy_model, load
from .context import Context
from .drive import PassFailed
from .outcome import Outcome, Outcomes
from .pass_ import Pass
from .proof import Proof
from .recipe import Recipe, recipe_of
from .trial import Exclusions, Prefix, Trial, run_trial

Verify = Literal["end", "each", "off"]

MAX_ROUNDS = 12
MAX_GUILTY_SITES = 3  # of one pass; after that the whole pass is left out


class PassManager:
    """Runs a recipe.

    Args:
        recipe: the passes: a recipe, recipe text, one pass or any iterable of passes.
        verify: ``end`` compares once, at the end; ``each`` checks validity and compares after every pass that changed
            something; ``off`` compares nothing (the result's validity is checked all the same).
        strict: raise when a pass fails or breaks its promise, instead of doing without it.
        max_rounds: the recipe is repeated until a round changes nothing, at most so often.
    """

    def __init__(
        self,
        recipe: Recipe | str | Pass | Iterable[Pass],
        *,
        verify: Verify = "end",
        strict: bool = False,
        max_rounds: int = MAX_ROUNDS,
    ) -> None:
        if verify not in get_args(Verify):
            hint = f"one of {', '.join(get_args(Verify))}"
            raise GraphoptError(f"verify is {verify!r}", "PassManager", hint, usage=True)
        self.recipe = recipe_of(recipe)
        self.verify: Verify = verify
        self.strict = strict
        self.max_rounds = max_rounds

    def run(
        self, model: ir.Model | Path | str | Callable[[], ir.Model], context: Context | None = None
    ) -> tuple[ir.Model, Outcomes]:
        """Optimise a copy of a model.

        Args:
            model: a model, which is not touched; or the path of one, which is read afresh whenever a copy is needed
                (quicker than copying, and the way to keep memory low for large models); or a function that gives
                a new copy at each call.
            context: target, data, seed, tolerance and events; plain defaults without.

        Returns:
            the new model, and the outcome of every pass with the verdict.

        Raises:
            GraphoptError: the model is invalid; with ``strict``, a pass failed or broke its promise.
        """
        run = _Run(self, model, context or Context())
        return run.to_the_end()


class _Run:
    """One call of ``PassManager.run``: trials, and what they taught to leave out."""

    def __init__(
        self, manager: PassManager, model: ir.Model | Path | str | Callable[[], ir.Model], context: Context
    ) -> None:
        self._manager = manager
        self._context = context
        self._fresh = _copies(model)
        self._exclusions = Exclusions()
        self._proof = Proof(self._fresh, context) if manager.verify != "off" else None

    def to_the_end(self) -> tuple[ir.Model, Outcomes]:
        while True:
            guilty_step: int | None = None
            try:
                trial = self._trial(after_step=self._check_step if self._manager.verify == "each" else None)
                problem, verdict = self._problem(trial)
            except PassFailed as failure:
                self._leave_out(failure)
                continue
            except _Broken as broken:
                trial, problem, verdict = broken.trial, broken.problem, None
                guilty_step = len(trial.steps)
            if not problem:
                return trial.model, self._outcomes(trial, verdict)
            self._blame(trial, problem, guilty_step)

    def _trial(self, prefix: Prefix | None = None, after_step: Callable[[Trial], None] | None = None) -> Trial:
        return run_trial(
            self._fresh(),
            self._manager.recipe,
            self._context if prefix is None else replace(self._context, events=silent),
            self._exclusions,
            max_rounds=self._manager.max_rounds,
            prefix=prefix,
            after_step=after_step,
        )

    def _problem(self, trial: Trial) -> tuple[str, Verdict | None]:
        """Why the trial's model is not acceptable ("" when it is), and the comparison if there was one."""
        try:
            check(trial.finish())
        except GraphoptError as error:
            return f"the model became invalid: {error.what} ({error.where})", None
        if self._proof is None:
            return "", None
        verdict = self._proof.compare(trial.model, trial.promise, trial.budget_db)
        return (str(verdict) if verdict is not None and not verdict.ok else ""), verdict

    def _check_step(self, trial: Trial) -> None:
        copy = Trial(copy_model(trial.model), trial.interface, trial.steps, trial.rounds)
        problem, _ = self._problem(copy)
        if problem:
            raise _Broken(trial, problem)

    def _leave_out(self, failure: PassFailed) -> None:
        pass_ = failure.failed
        reason = f"{failure} (after {failure.after})" if failure.after else str(failure)
        if self._manager.strict:
            raise GraphoptError(f"the pass '{pass_.name}' failed: {failure}", failure.after) from failure
        self._context.events(Event("warning", {"pass": str(pass_), "text": f"failed and is left out: {reason}"}))
        if failure.site is not None and len(self._exclusions.sites.get(pass_, ())) < MAX_GUILTY_SITES:
            self._exclusions.sites.setdefault(pass_, {})[failure.site] = f"it failed: {failure}"
        else:
            self._exclusions.passes[pass_] = reason

    def _blame(self, trial: Trial, problem: str, guilty_step: int | None) -> None:
        """Find the first edit after which the result is wrong, and leave it out from now on."""
        events = self._context.events
        events(Event("warning", {"text": f"the result is wrong, searching the cause: {problem}"}))
        step = guilty_step or _first(len(trial.steps), lambda count: self._is_broken(Prefix(count)))
        if step is None:
            raise GraphoptError(
                f"the result is wrong: {problem}",
                "verification",
                "no single pass explains it; is the model deterministic? try --verify each",
            )
        pass_ = trial.steps[step - 1].applied
        edits = trial.steps[step - 1].done.changed
        edit = _first(len(edits), lambda count: self._is_broken(Prefix(step, count)))
        if self._manager.strict:
            place = edits[edit - 1][0] if edit is not None else "no single edit"
            raise GraphoptError(f"the pass '{pass_.name}' broke its promise {pass_.fidelity.name}: {problem}", place)
        guilty = self._exclusions.sites.setdefault(pass_, {})
        if edit is None or len(guilty) >= MAX_GUILTY_SITES:
            self._exclusions.passes[pass_] = f"broke its promise {pass_.fidelity.name}: {problem}"
            events(Event("warning", {"pass": str(pass_), "text": "broke its promise and is left out"}))
        else:
            guilty[edits[edit - 1]] = f"it broke the promise {pass_.fidelity.name}: {problem}"
            events(Event("warning", {"pass": str(pass_), "site": edits[edit - 1][0], "text": "left out as the cause"}))

    def _is_broken(self, prefix: Prefix) -> bool:
        return bool(self._problem(self._trial(prefix))[0])

    def _outcomes(self, trial: Trial, verdict: Verdict | None) -> Outcomes:
        outcomes: dict[Pass, Outcome] = {pass_: Outcome(pass_) for pass_ in self._manager.recipe.passes}
        for step in trial.steps:
            outcome = outcomes[step.applied]
            outcome.changed += step.done.changed
            outcome.kept = step.done.kept
            outcome.seconds += step.done.seconds
            outcome.node_delta += step.node_delta
        for pass_, sites in self._exclusions.sites.items():
            outcomes[pass_].left_out = list(sites)
            outcomes[pass_].causes = list(sites.values())
        for pass_, reason in self._exclusions.passes.items():
            outcomes[pass_].failed = reason
        unverified = "not asked for" if self._proof is None else self._proof.impossible
        return Outcomes(list(outcomes.values()), verdict, unverified, trial.rounds)


class _Broken(Exception):
    """The last step of a trial made the model invalid or wrong."""

    def __init__(self, trial: Trial, problem: str) -> None:
        super().__init__(problem)
        self.trial = trial
        self.problem = problem


def _copies(model: ir.Model | Path | str | Callable[[], ir.Model]) -> Callable[[], ir.Model]:
    if isinstance(model, ir.Model):
        return partial(copy_model, model)
    if isinstance(model, (Path, str)):
        return partial(load, Path(model))
    if not callable(model):
        kind = f"{type(model).__module__}.{type(model).__qualname__}"
        hint = "give an onnx_ir.Model, as go.load(path) returns it, or a path; onnx_ir.from_proto takes a ModelProto"
        raise GraphoptError(f"a {kind} is no model", "PassManager.run", hint, usage=True)
    return model


def _first(count: int, is_broken: Callable[[int], bool]) -> int | None:
    """The smallest n in 1..count for which the predicate holds, by bisection; None when it does not hold for count."""
    if count == 0 or not is_broken(count):
        return None
    low, high = 0, count  # not broken at low, broken at high
    while high - low > 1:
        middle = (low + high) // 2
        if is_broken(middle):
            high = middle
        else:
            low = middle
    return high
