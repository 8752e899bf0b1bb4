"""Running a rule on random instances of its own pattern and comparing what the models compute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx.reference import ReferenceEvaluator

from graphopt.ir.shapes import infer
from graphopt.ir.tidy import tidy

from ..rule import Rewrite
from ..ruleset import RuleSet
from .instance import Instance, Sketch, draw
from .models import branches, function, plain


class Variant(StrEnum):
    """Where and how an instance of the pattern stands in the model."""

    STRAIGHT = "straight"
    COMMUTED = "commuted"
    BRANCH = "in a branch"
    FUNCTION = "in a function"
    EXPOSED = "with an inner value as output"


@dataclass
class FuzzResult:
    """What a fuzz test has seen.

    Attributes:
        tried: models that could be run, by variant.
        fused: models that the rule has changed, by variant.
        unusable: instances that no runtime could run (shapes that do not go together).
        reasons: the rule's refusals, with their number.
    """

    tried: Counter[str] = field(default_factory=Counter)
    fused: Counter[str] = field(default_factory=Counter)
    unusable: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


def fuzz(
    rule: Rewrite,
    *,
    trials: int = 16,
    seed: int = 0,
    opset: int = 21,
    dtypes: Sequence[ir.DataType] = (ir.DataType.FLOAT,),
    ulps: float = 32,
    shapes: Mapping[str, str] | None = None,
    attributes: Mapping[str, Any] | None = None,
    types: Mapping[str, ir.DataType] | None = None,
    values: Mapping[str, Any] | None = None,
    constants: Sequence[str] = (),
    largest: int = 5,
) -> FuzzResult:
    """Check that a rule does not change what a model computes, and that it fires where it should.

    Each trial draws an instance of the pattern and puts it into a model five times (``Variant``). The outputs
    before and after are compared in ONNX Runtime without optimisations, or in ONNX's reference evaluator
    where ONNX Runtime has no kernel. The result must be valid, a second application must change nothing,
    operands of commutative operators must not matter, and an inner value that is an output must keep the rule
    from firing.

    Args:
        rule: the rule.
        trials: random instances for each element type.
        seed: of the random generator.
        opset: the standard operator set of the models.
        dtypes: common element types to try.
        ulps: how many units in the last place outputs may differ by, relative to their largest magnitude.
        shapes: see ``Sketch``, as the others that follow.
        attributes: see ``Sketch``.
        types: see ``Sketch``.
        values: see ``Sketch``.
        constants: see ``Sketch``.
        largest: see ``Sketch``.

    Raises:
        AssertionError: the rule is wrong, or never fires; the message holds the model.
    """
    sketch = Sketch(shapes or {}, attributes or {}, types or {}, values or {}, constants, largest)
    result = FuzzResult()
    for number, dtype in enumerate(dtypes):
        for trial in range(trials):
            _trial(rule, sketch, [seed, number, trial], dtype, opset, ulps, result)
    for variant in (Variant.STRAIGHT, Variant.COMMUTED, Variant.BRANCH):
        assert result.tried[variant], f'no instance of "{rule.label}" could be run: give shapes, types or attributes'
        assert result.fused[variant], f'"{rule.label}" never fired {variant}: {dict(result.reasons)}'
    return result


def _trial(
    rule: Rewrite,
    sketch: Sketch,
    seed: Sequence[int],
    dtype: ir.DataType,
    opset: int,
    ulps: float,
    result: FuzzResult,
) -> None:
    def instance(commute: bool) -> Instance:
        order = np.random.default_rng([*seed, 1]) if commute else None
        return draw(rule, sketch, np.random.default_rng(seed), dtype, opset, order)

    straight, commuted = instance(False), instance(True)
    feeds = straight.feeds
    if _run(plain(straight, opset), feeds) is None:
        result.unusable += 1
        return
    check = _Check(rule, ulps, result)
    fired = check.same(Variant.STRAIGHT, plain(straight, opset), [feeds])
    swapped = check.same(Variant.COMMUTED, plain(commuted, opset), [feeds])
    assert fired == swapped, f'the order of operands matters to "{rule.label}":\n{_text(plain(commuted, opset))}'
    conditions = [{**feeds, "condition": np.asarray(choice)} for choice in (True, False)]
    check.same(Variant.BRANCH, branches(straight, opset), conditions)
    check.same(Variant.FUNCTION, function(straight, opset), [feeds])
    rng = np.random.default_rng([*seed, 2])
    if straight.inner:
        exposed = straight.inner[int(rng.integers(len(straight.inner)))]
        fired = check.same(Variant.EXPOSED, plain(straight, opset, [exposed]), [feeds])
        assert rule.shared or not fired, f"\"{rule.label}\" fired although '{exposed[0]}' is an output"


class _Check:
    def __init__(self, rule: Rewrite, ulps: float, result: FuzzResult) -> None:
        self.rule = rule
        self.ulps = ulps
        self.result = result

    def same(self, variant: Variant, before: onnx.ModelProto, feeds: Sequence[Mapping[str, np.ndarray]]) -> bool:
        """Rewrite a model and compare; true when the rule fired."""
        expected = [_run(before, item) for item in feeds]
        if any(item is None for item in expected):
            return False
        self.result.tried[variant] += 1
        model = ir.from_proto(before)
        infer(model)
        fired = self.apply(model)
        if not fired:
            return False
        self.result.fused[variant] += 1
        infer(model)
        assert not self.apply(model), f'"{self.rule.label}" does not reach its end at once:\n{_text(before)}'
        tidy(model)
        after = ir.to_proto(model)
        for output, wanted in zip(after.graph.output, expected[0] or (), strict=True):
            tensor = output.type.tensor_type
            tensor.shape.CopyFrom(onnx.helper.make_tensor_type_proto(tensor.elem_type, wanted.shape).tensor_type.shape)
        story = f'"{self.rule.label}", {variant}\nbefore:\n{_text(before)}\nafter:\n{_text(after)}'
        for item, wanted in zip(feeds, expected, strict=True):
            found = _run(after, item)
            assert found is not None, f"no runtime can run the result of {story}"
            for name, left, right in zip(
                [output.name for output in after.graph.output], wanted or (), found, strict=True
            ):
                assert (message := difference(left, right, self.ulps)) is None, f"{name} {message}: {story}"
        try:
            onnx.checker.check_model(after, full_check=True)
        except Exception as error:
            raise AssertionError(f"invalid model from {story}") from error
        return True

    def apply(self, model: ir.Model) -> bool:
        sites = RuleSet([self.rule]).sites(model)
        fired, answer = False, None
        while True:
            try:
                site = next(sites) if answer is None else sites.send(answer)
            except StopIteration:
                return fired
            answer = site.edit is not None
            if site.edit is None:
                self.result.reasons[site.text] += 1
            else:
                site.edit()
                fired = True


def difference(wanted: np.ndarray, found: np.ndarray, ulps: float) -> str | None:
    """How two outputs differ by more than rounding, or None; shape, type, NaN and infinity must be equal."""
    if wanted.dtype != found.dtype or wanted.shape != found.shape:
        return f"is {found.dtype}{list(found.shape)}, not {wanted.dtype}{list(wanted.shape)}"
    kind = ir.DataType.from_numpy(wanted.dtype)
    if not kind.is_floating_point():
        return None if np.array_equal(wanted, found) else "differs"
    left, right = wanted.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(left)
    if not np.array_equal(finite, np.isfinite(right)) or not np.array_equal(
        left[~finite], right[~finite], equal_nan=True
    ):
        return "has NaN or infinity in other places"
    if not finite.any():
        return None
    scale = max(float(np.abs(left[finite]).max()), 1e-3)
    error = float(np.abs(left[finite] - right[finite]).max())
    allowed = ulps * _EPSILON.get(kind, 2.0**-7) * scale
    return None if error <= allowed else f"differs by {error:.3g}, allowed {allowed:.3g}"


_EPSILON = {ir.DataType.FLOAT16: 2.0**-10, ir.DataType.FLOAT: 2.0**-23, ir.DataType.DOUBLE: 2.0**-52}


def _run(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray] | None:
    """The outputs, or None when neither runtime can run the model."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return [np.asarray(item) for item in session.run(None, dict(feeds))]
    except Exception:  # noqa: BLE001 it has many types, for shapes that do not fit as for missing kernels
        pass
    try:
        with np.errstate(all="ignore"):
            return [np.asarray(item) for item in ReferenceEvaluator(model).run(None, dict(feeds))]
    except Exception:  # noqa: BLE001 the reference evaluator raises whatever numpy does
        return None


def _text(model: onnx.ModelProto) -> str:
    return onnx.printer.to_text(model)
