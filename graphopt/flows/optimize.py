"""The main job: a model in, a proven and smaller model out, with the account of every decision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ..calibrate.data import CalibrationData
from ..errors import GraphoptError
from ..events import Event, Events, silent
from ..execute.verify import Verdict
from ..ir import constant, graphs, history, is_op, load, save
from ..pipeline import Context, Outcomes, PassManager, Recipe
from ..pipeline.manager import Verify
from ..target import Target, find_target
from .decisions import AskedTarget, Decision, decisions, profiles
from .feeding import refuse_nan
from .places import refuse_overwriting, refuse_unwritable
from .preflight import preflight
from .stats import ModelStats, stats


@dataclass(frozen=True)
class Optimized:
    """What came of an optimisation.

    Attributes:
        model: the optimised model; its weights may still be mapped from the source's files.
        recipe: what was run.
        target: for which place.
        outcomes: every pass's account, and the verdict.
        before, after: node, operator, parameter and byte counts.
        feeds: what verification ran on, in words.
        samples: how many feeds the data hold, of which verification takes the first few; None for random ones.
        decisions: which fused forms were used or refused, by which measurement.
    """

    model: ir.Model
    recipe: Recipe
    target: Target
    outcomes: Outcomes
    before: ModelStats
    after: ModelStats
    feeds: str = "random feeds"
    samples: int | None = None
    decisions: tuple[Decision, ...] = ()

    @property
    def verdict(self) -> Verdict | None:
        """The comparison with the original; None when there was none, and ``outcomes.unverified`` says why."""
        return self.outcomes.verdict

    def as_json(self) -> dict[str, Any]:
        """The ``result`` event of ``graphopt optimize --json``."""
        verdict = self.outcomes.verdict
        return {
            "recipe": str(self.recipe),
            "target": self.target.name,
            "profiles": profiles(self.target),
            "rounds": self.outcomes.rounds,
            "changed": self.outcomes.changed,
            "before": self.before.as_json(),
            "after": self.after.as_json(),
            "feeds": self.feeds,
            "samples": self.samples,
            "verify": verdict.as_json()
            if verdict is not None
            else {"verdict": "not verified", "why": self.outcomes.unverified},
            "left_out": [
                {"pass": step.name, "sites": step.left_out, "causes": step.causes, "error": step.failed}
                for step in self.outcomes
                if step.left_out or step.failed
            ],
            "decisions": [item.as_json() for item in self.decisions],
        }


@dataclass(frozen=True)
class Request:
    """What to do with a model.

    Attributes:
        recipe: recipe text, the path of a ``.toml`` file, or None for the target's own pipeline.
        target: a target's name.
        data: feeds to verify on; random ones without.
        verify: see ``PassManager``.
        strict: fail instead of doing without a pass that fails, or without a proof unless ``verify`` is off.
        seed: of the random feeds.
        isolate: try the model in a child process first, so that one that kills the runtime is an error, not a crash.
        events: hears what happens.
        input_layout: ``nhwc`` or ``nchw`` to have the model take its images so; ``keep`` as they are.
        output_layout: the same for what it gives.
        external_above: write weights of more bytes than that into ``<output>.data``; None does so for large models and
            those that came with external data.
    """

    recipe: str | None = None
    target: str = "onnx"
    data: CalibrationData | None = None
    verify: Verify = "end"
    strict: bool = False
    seed: int = 0
    isolate: bool = True
    events: Events = field(default=silent, repr=False)
    input_layout: str = "keep"
    output_layout: str = "keep"
    external_above: int | None = None


def optimize(
    source: Path | str | ir.Model, output: Path | str | None = None, request: Request | None = None
) -> Optimized:
    """Optimise a model, prove the result, and write it.

    Args:
        source: the path of a model, or a model in memory; neither is touched.
        output: where to write the result; None writes nothing (a dry run).
        request: recipe, target, data and so on; the target's pipeline with plain defaults without.

    Returns:
        the result with the account of every decision.

    Raises:
        GraphoptError: the model is invalid or kills the runtime, the recipe names what does not exist, the data do not
            fit, or the output cannot be written. Nothing is written then.
    """
    request = request or Request()
    target = find_target(request.target)
    recipe = read_recipe(request, target)
    path = None if isinstance(source, ir.Model) else Path(source)
    if output is not None:
        refuse_unwritable(Path(output))
        if path is not None:
            refuse_overwriting(path, Path(output))
    original = source if isinstance(source, ir.Model) else load(source)
    if output is not None and path is not None:
        refuse_overwriting(path, Path(output), original)
    before = stats(original)
    data = request.data.for_model(original) if request.data is not None else None
    if data is not None and request.verify != "off":
        refuse_nan(data)
    say = request.events
    for note in target.notes:
        say(Event("note", {"text": note}))
    say(Event("progress", {"stage": "start", "nodes": before.nodes, "passes": list(map(str, recipe.passes))}))
    if request.isolate and path is not None:
        say(Event("progress", {"stage": "trying the model in a child process"}))
        preflight(path, run=request.verify != "off", data=data, seed=request.seed)
    asked = AskedTarget.of(target)
    context = Context(target=asked, data=data, seed=request.seed, events=say)
    manager = PassManager(recipe, verify=request.verify, strict=request.strict)
    model, outcomes = manager.run(original if path is None else _read_once(original, path), context)
    if outcomes.changed:
        done = ", ".join(str(step.applied) for step in outcomes if step.changed)
        history.record(model, f"optimize --target {target.name}: {done}")
    feeds = data.where if data is not None else f"random feeds, seed {request.seed}"
    samples = len(data) if data is not None else None
    after = stats(model)
    why = decisions(asked, outcomes, before, after)
    result = Optimized(model, recipe, target, outcomes, before, after, feeds, samples, why)
    if outcomes.verdict is None and request.strict and request.verify != "off":
        raise GraphoptError(
            f"nothing was verified: {outcomes.unverified or 'nothing could be compared'}",
            "verification",
            "without --strict the model is optimised all the same; --verify off says that no proof is wanted",
        )
    if outcomes.verdict is not None:
        refuse_nan_weights(original, outcomes.verdict)
        say(Event("verify", outcomes.verdict.as_json()))
    if output is not None:
        say(Event("progress", {"stage": "writing", "path": str(output)}))
        save(model, Path(output), external_above=request.external_above)
    return result


def _read_once(loaded: ir.Model, path: Path) -> Callable[[], ir.Model]:
    """Copies for the manager: the model that is in memory already, then, if more are needed, the file again.

    The first goes to the proof, which only reads it, or, without one, to the only trial.
    """
    spare = [loaded]
    return lambda: spare.pop() if spare else load(path)


def read_recipe(request: Request, target: Target) -> Recipe:
    """The recipe that was asked for, or the target's own; where a layout was, what changes it stands at the end."""
    recipe = Recipe.read(request.recipe if request.recipe is not None else target.recipe)
    if (request.input_layout, request.output_layout) == ("keep", "keep"):
        return recipe
    options = f'inputs="{request.input_layout}", outputs="{request.output_layout}"'
    layout = Recipe.parse(f"set-io-layout{{{options}}}, place-transposes")
    return Recipe((*recipe.passes, *layout.passes))


def refuse_nan_weights(model: ir.Model, verdict: Verdict) -> None:
    """A comparison of NaN with NaN proves nothing: refuse it where broken weights are the reason.

    Raises:
        GraphoptError: an output is NaN in every element, and a weight holds NaN; names both.
    """
    drowned = [note for note in verdict.notes if "NaN" in note]
    if not drowned:
        return
    for graph in graphs(model):
        constants = [output for node in graph if is_op(node, "Constant") for output in node.outputs]
        for value in (*graph.initializers.values(), *constants):
            tensor = constant(value) or value.const_value
            if tensor is None or not tensor.dtype.is_floating_point():
                continue
            if np.isnan(tensor.numpy().astype(np.float32, copy=False)).any():
                raise GraphoptError(
                    f"the weight '{value.name}' holds NaN, and {drowned[0]}",
                    "verification",
                    "repair the weights; --verify off goes on without a proof",
                )
