"""Quantising: a model and data in, an integer model out that is held to a stated quality, each site accounted for.

1. Prepare in floats, proven: the target's own pipeline, and the rewrites that make a model easier to quantise.
2. Observe its tensors on the data, once.
3. Quantise by the scheme's recipe; judge on data that were not calibrated on.
4. Where the result is not good enough, measure what each site costs, and leave the fewest in float that mend it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ..backends.onnxruntime import session_settings
from ..calibrate import CalibrationData
from ..errors import GraphoptError
from ..events import Event, Events, silent
from ..execute.measure import Candidate, Measurement, measure
from ..execute.session import CPU
from ..ir import history, infer, load, save
from ..passes.quantize.correct_bias import CorrectBias
from ..passes.quantize.insert_qdq import InsertQdq
from ..passes.quantize.quantize_dynamic import QuantizeDynamic
from ..passes.quantize.round_weights import RoundWeights
from ..pipeline import Context, Fidelity, Outcomes, Pass, PassManager, Recipe
from ..target import Target, find_target, host
from .calibration import calibration_data, opset_first, refuse_no_data, refuse_nothing, statistics_folder, tell_doubts
from .feeding import refuse_nan
from .fused import Fused, fused
from .places import refuse_overwriting, refuse_unwritable
from .quality import Judge, Metric, Quality
from .sensitivity import Sensitivity, fewest_floats, sensitivities
from .stats import ModelStats, stats

SCHEMES = {
    "w8a8": "settle-weights, insert-qdq, round-weights, quantize-embeddings",
    "w8a8-quick": "settle-weights, insert-qdq, correct-bias, quantize-embeddings",
    "w4a8": 'settle-weights, convert-opset{at_least=21}, insert-qdq{weights="int4"}, round-weights, '
    "quantize-embeddings",
    "w8a8-dynamic": "quantize-dynamic, quantize-embeddings",
    "w8a16": 'settle-weights, insert-qdq{activations="uint16"}, correct-bias, quantize-embeddings',
    "w8": "quantize-weights{block=64}, quantize-embeddings",
    "w4": 'convert-opset{at_least=21}, quantize-weights{bits=4, block=32, symmetric=false, rounding="gptq"}, '
    "quantize-embeddings",
}
"""Recipe text by scheme."""

PLACING = (InsertQdq, QuantizeDynamic)
"""Passes whose sites can be told to stay float."""

_SEVERAL = 6  # samples for the sensitivity of a site


@dataclass(frozen=True)
class Request:
    """What to do with a model.

    Attributes:
        scheme: one of ``SCHEMES``.
        recipe: recipe text to run instead; the quality is held by the ``keep`` of its ``insert-qdq``.
        target: a target's name.
        data: to calibrate on.
        data_free: where there are no data, make inputs up from the model; not for accuracy.
        reuse: keep what was observed of tensors in the cache folder, and use it again for the same model and data.
        evaluation: to judge on; without it the calibration data, which flatter.
        metric: the user's score.
        max_drop: how much of the score may be lost, as a share (0.01 is 1 %); needs a metric.
        min_sqnr_db: how far the error of each output must stay below the output; None asks only that nothing collapses.
        threads: threads within an operator while calibrating and judging; 0 is all.
        seconds: how long to measure the latency of either side, at least; 0 measures none.
        seed: of everything random.
        events: hears what happens.
    """

    scheme: str = "w8a8"
    recipe: str | None = None
    target: str = "x86-64"
    data: CalibrationData | None = None
    data_free: bool = False
    reuse: bool = False
    evaluation: CalibrationData | None = None
    metric: Metric | None = None
    max_drop: float | None = None
    min_sqnr_db: float | None = None
    threads: int = 0
    seconds: float = 1.0
    seed: int = 0
    events: Events = field(default=silent, repr=False)


@dataclass(frozen=True)
class Quantized:
    """What came of it.

    Attributes:
        model: the quantised model.
        recipe: what made it, from the model that was given.
        target: for which place.
        prepared, outcomes: the accounts of the float preparation and of the quantisation.
        quality: beside the original.
        kept: first outputs of the products that stayed float for the sake of the quality.
        sites: what each product costs, where that was measured.
        fused: what the target's runtime makes of the result; None where it cannot be looked at here.
        measured: its latency beside the original's; None where the target is not this machine.
        before, after: node, operator, parameter and byte counts.
        judged_on: in words.
    """

    model: ir.Model
    recipe: Recipe
    target: Target
    prepared: Outcomes
    outcomes: Outcomes
    quality: Quality
    kept: tuple[str, ...]
    sites: tuple[Sensitivity, ...]
    fused: Fused | None
    measured: Measurement | None
    before: ModelStats
    after: ModelStats
    judged_on: str

    def as_json(self) -> dict[str, Any]:
        """The ``result`` event of ``graphopt quantize --json``."""
        return {
            "recipe": str(self.recipe),
            "target": self.target.name,
            "quality": self.quality.as_json(),
            "judged_on": self.judged_on,
            "kept": list(self.kept),
            "sites": [site.as_json() for site in self.sites],
            "fused": self.fused.as_json() if self.fused is not None else None,
            "measured": self.measured.as_json() if self.measured is not None else None,
            "before": self.before.as_json(),
            "after": self.after.as_json(),
        }


def quantize(
    source: Path | str | ir.Model, output: Path | str | None = None, request: Request | None = None
) -> Quantized:
    """Quantise a model, hold the result to the quality that was asked for, and write it.

    Args:
        source: the path of a model, or a model in memory; neither is touched.
        output: where to write the result; None writes nothing.
        request: scheme, data, quality and so on.

    Raises:
        GraphoptError: no data; the data do not fit; the model is invalid; or no choice of sites reaches the quality:
            the error says the best one found. Nothing is written then.
    """
    request = request or Request()
    _refuse_contradictions(request)
    refuse_no_data(request.data, data_free=request.data_free)
    path = None if isinstance(source, ir.Model) else Path(source)
    if output is not None:
        refuse_unwritable(Path(output))
        if path is not None:
            refuse_overwriting(path, Path(output))
    original = source if isinstance(source, ir.Model) else load(source)
    before = stats(original)
    data = calibration_data(
        original,
        request.data,
        data_free=request.data_free,
        seed=request.seed,
        threads=request.threads,
        events=request.events,
    )
    evaluation = request.evaluation.for_model(original) if request.evaluation is not None else data
    refuse_nan(evaluation)
    work = _Work(original, data, evaluation, request)
    result = work.run(before)
    history.record(result.model, f"quantize --target {result.target.name} --recipe '{result.recipe}'")
    if output is not None:
        request.events(Event("progress", {"stage": "writing", "path": str(output)}))
        save(result.model, Path(output))
    return result


def _refuse_contradictions(request: Request) -> None:
    if request.scheme not in SCHEMES:
        hint = f"one of {', '.join(SCHEMES)}"
        raise GraphoptError(f"there is no scheme '{request.scheme}'", "--scheme", hint, usage=True)
    if request.max_drop is not None and request.metric is None:
        hint = "--metric module:function gives it; --min-sqnr needs none"
        raise GraphoptError("a drop of what? there is no metric", "--max-drop", hint, usage=True)


class _Work:
    """One call of ``quantize``."""

    def __init__(
        self, original: ir.Model, data: CalibrationData, evaluation: CalibrationData, request: Request
    ) -> None:
        self._original = original
        self._request = request
        self._events = request.events
        self._target = find_target(request.target)
        self._judge = Judge(original, evaluation, request.metric, threads=request.threads, events=request.events)
        self._judged_on = f"{len(evaluation)} samples of {evaluation.where}"
        if request.evaluation is None:
            self._judged_on += ", which it was calibrated on"
        self._context = Context(
            target=self._target,
            data=data,
            seed=request.seed,
            events=request.events,
        )
        recipe = Recipe.read(request.recipe if request.recipe is not None else SCHEMES[request.scheme])
        lossy = (at for at, step in enumerate(recipe.passes) if step.fidelity is Fidelity.LOSSY)
        start = next(lossy, len(recipe.passes))
        raised = opset_first(original, recipe.passes)
        self._preparation = Recipe((*raised, *Recipe.parse(self._target.recipe).passes, *recipe.passes[:start]))
        self._steps = Recipe(recipe.passes[start:])
        self._float, self._prepared = PassManager(self._preparation).run(original, self._context)
        infer(self._float)
        self._places = next((step for step in self._steps.passes if isinstance(step, PLACING)), None)
        if isinstance(self._places, InsertQdq):
            statistics = self._places.observe(self._float, self._context, statistics_folder(request.reuse))
            tell_doubts(statistics, self._events)
            self._context = replace(self._context, statistics=statistics)

    def run(self, before: ModelStats) -> Quantized:
        """Quantise everything; if that is not good enough, look for the fewest sites to leave float."""
        model, outcomes, quality = self._attempt(())
        kept: tuple[str, ...] = ()
        taken = self._recipe(())
        sites: list[Sensitivity] = []
        if not self._accepts(quality):
            if self._places is None:
                raise self._failure(quality, "the recipe has no pass whose sites could stay float")
            sites = self._sensitivities(self._places)
            # the search rounds quickly: what is good enough then is better still when it is rounded with care
            attempts: dict[tuple[str, ...], tuple[ir.Model, Outcomes, Quality]] = {(): (model, outcomes, quality)}

            def accepted(names: tuple[str, ...]) -> bool:
                if names not in attempts:
                    attempts[names] = self._attempt(names, quick=True)
                return self._accepts(attempts[names][2])

            found = fewest_floats(sites, accepted)
            if found is None or len(found) == len(sites):
                tried = [item[2] for names, item in attempts.items() if len(names) < len(sites)]
                best = max(tried, key=lambda item: item.sqnr_db)
                raise self._failure(best, "not with a single product on integers")
            kept = found
            model, outcomes, quality = attempts[kept]
            quick = self._recipe(kept, quick=True)
            if str(quick) != str(self._recipe(kept)):
                careful = self._attempt(kept)
                if self._accepts(careful[2]) and careful[2].sqnr_db > quality.sqnr_db:
                    (model, outcomes, quality), quick = careful, self._recipe(kept)
            taken = quick
        recipe = Recipe((*self._preparation.passes, *taken.passes))
        return Quantized(
            model,
            recipe,
            self._target,
            self._prepared,
            outcomes,
            quality,
            kept,
            tuple(sites),
            self._fused(model),
            self._measured(model),
            before,
            stats(model),
            self._judged_on,
        )

    def _fused(self, model: ir.Model) -> Fused | None:
        return fused(model, self._target) if self._target.provider == CPU else None

    def _measured(self, model: ir.Model) -> Measurement | None:
        """The latency beside the original's, each as the target's runtime runs it."""
        if self._request.seconds <= 0 or self._target.name != host().name:
            return None
        self._events(Event("progress", {"stage": "measuring the latency"}))
        settings = session_settings(self._target)
        pair = [Candidate("original", self._original, **settings), Candidate("quantised", model, **settings)]
        assert self._context.data is not None
        return measure(pair, self._context.data.take(2), min_seconds=self._request.seconds, seed=self._request.seed)[1]

    def _recipe(self, kept: tuple[str, ...], *, quick: bool = False) -> Recipe:
        """The scheme with some sites in float; a quick one rounds to the nearest code, and corrects biases instead."""
        steps: list[Pass] = []
        for step in self._steps.passes:
            if isinstance(step, PLACING):
                steps.append(replace(step, keep=(*step.keep, *kept)))
            elif quick and isinstance(step, RoundWeights):
                steps.append(CorrectBias())
            else:
                steps.append(step)
        return Recipe(tuple(steps))

    def _attempt(self, kept: tuple[str, ...], *, quick: bool = False) -> tuple[ir.Model, Outcomes, Quality]:
        what = f"with {len(kept)} products in float32" if kept else "with every product on integers"
        self._events(Event("progress", {"stage": f"quantising {what}"}))
        manager = PassManager(self._recipe(kept, quick=quick), verify="off")
        model, outcomes = manager.run(self._float, self._context)
        if not kept:
            refuse_nothing(self._float, outcomes)
        quality = self._judge.quality(model)
        self._events(Event("attempt", {"kept": len(kept), **quality.as_json()}))
        return model, outcomes, quality

    def _sensitivities(self, places: InsertQdq | QuantizeDynamic) -> list[Sensitivity]:
        products = places.products(self._float, self._context)
        names = [str(node.outputs[0].name) for node in products]
        context = replace(self._context, events=silent)
        assert context.data is not None
        judge = Judge(self._float, context.data.take(_SEVERAL), threads=self._request.threads)

        def alone(name: str) -> Quality:
            others = tuple(other for other in names if other != name)
            one = replace(places, keep=(*places.keep, *others))
            model, _ = PassManager(one, verify="off").run(self._float, context)
            return judge.quality(model)

        return sensitivities(products, alone, self._events)

    def _accepts(self, quality: Quality) -> bool:
        request = self._request
        if quality.collapsed:
            return False
        if request.min_sqnr_db is not None and quality.sqnr_db < request.min_sqnr_db:
            return False
        return request.max_drop is None or (quality.drop is not None and quality.drop <= request.max_drop)

    def _failure(self, quality: Quality, why: str) -> GraphoptError:
        asked: list[str] = []
        if self._request.min_sqnr_db is not None:
            asked.append(f"{self._request.min_sqnr_db:g} dB")
        if self._request.max_drop is not None:
            asked.append(f"a drop of at most {self._request.max_drop:.2%}")
        best = f"{quality.sqnr_db:.1f} dB" + (f", a drop of {quality.drop:.2%}" if quality.drop is not None else "")
        wanted = " and ".join(asked) or "no output to collapse"
        return GraphoptError(
            f"the quality was not reached: asked for {wanted}, the best found is {best}",
            why,
            "ask for less, give more data, or try another scheme",
        )
