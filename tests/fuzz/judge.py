"""What has to hold for every graph: ``judge`` optimises one and says what does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
from claims import wrong_claims
from running import Feed, Running, Tensors, computes_in_half, operators, run_all
from values import Fuzzed

from graphopt.execute.widened import widened
from graphopt.ir import infer
from graphopt.ir.serial import from_proto, to_proto
from graphopt.pipeline import Context, PassManager, Recipe
from graphopt.target import Target

_LINEAR = {"Conv", "ConvTranspose", "Gemm", "MatMul"}  # ONNX Runtime packs constant weights: other kernels, other sums
_REFUSES_EMPTY = (
    "attention_helper"  # ONNX Runtime's Attention takes no empty batch and no length of 0: fuse-attention says so
)

parsed = cache(Recipe.parse)  # looks for other packages' presets each time


class Unusable(Exception):
    """The generator's graph does not run in ONNX Runtime: nothing to compare with."""


def judge(fuzzed: Fuzzed, recipe: str, target: Target) -> list[str]:
    """Optimise a graph and compare.

    Args:
        fuzzed: the graph and its feeds.
        recipe: ``clean`` has to give the same bits, everything else the same up to rounding.
        target: what the recipe is for.

    Returns:
        what is wrong, a line each; empty when nothing is.

    Raises:
        Unusable: the original runs on none of the feeds.
    """
    context = Context(target=target)
    before, feeds = fuzzed.model, fuzzed.feeds
    expected = run_all(before, feeds)
    half = computes_in_half(before)
    truth = run_all(_rounding(before), feeds) if half else expected
    if not expected or not truth:
        raise Unusable
    manager = PassManager(parsed(recipe), verify="off")
    model, outcomes = manager.run(_fresh(before), context)
    problems = [f"{outcome.name} failed: {outcome.failed}" for outcome in outcomes if outcome.failed]
    problems += [f"{step.name} left out {step.left_out}" for step in outcomes if step.left_out]
    after = to_proto(model)
    try:
        onnx.checker.check_model(after)
    except onnx.checker.ValidationError as error:
        problems.append(f"invalid: {error}")
    if _interface(before) != _interface(after):
        problems.append(f"interface: {_interface(before)} became {_interface(after)}")
    exact = recipe == "clean" and not _LINEAR & set(operators(before))
    found: dict[int, Tensors] = {}
    problems += _differences(before, after, feeds, truth, found, exact=exact)
    found = run_all(after, feeds) if half else found
    _, second = manager.run(_fresh(after), context)
    problems += [f"second application, {step.name}: {step.changed[0]}" for step in second if step.changed]
    problems += [f"before, {line}" for line in wrong_claims(before, feeds, expected)]
    problems += [f"after, {line}" for line in wrong_claims(after, feeds, found)]
    return problems


def _fresh(model: onnx.ModelProto) -> Callable[[], ir.Model]:
    def copy() -> ir.Model:
        proto = onnx.ModelProto()
        proto.CopyFrom(model)
        return from_proto(proto)

    return copy


def _differences(
    before: onnx.ModelProto,
    after: onnx.ModelProto,
    feeds: Sequence[Feed],
    expected: Mapping[int, Tensors],
    tensors: dict[int, Tensors],
    *,
    exact: bool,
) -> Iterator[str]:
    """What differs, as the result is and as the runtime optimises it; ``tensors`` takes what the result computes."""
    for optimized in (False, True):
        words = "optimised by the runtime" if optimized else "as it is"
        try:
            found = Running(after if optimized else _rounding(after), optimized=optimized)
        except Exception as error:  # noqa: BLE001
            if not optimized or _loads(before):
                yield f"the result, {words}, does not load: {error}"
            continue
        for index, wanted in expected.items():
            result = found.run(feeds[index])
            if isinstance(result, str):
                line = result
            else:
                line = _first_difference(before, wanted, result, exact=exact and not optimized, coarse=optimized)
                if not optimized:
                    tensors[index] = result
            if not line or (_REFUSES_EMPTY in line and _is_empty(feeds[index])):
                continue
            if optimized:  # the runtime's own optimiser may be wrong: then it is so with the original, too
                own = Running(before, optimized=True).run(feeds[index])
                if isinstance(own, str) or _first_difference(before, wanted, own, exact=False, coarse=True):
                    continue
            yield f"{words}, feed {index}: {line}"
            break


def _rounding(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with float16 computed in float and rounded at every node, which ONNX Runtime itself leaves open."""
    if not computes_in_half(model):
        return model
    typed = _fresh(model)()
    infer(typed)
    return to_proto(widened(typed))


def _is_empty(feed: Feed) -> bool:
    return any(0 in array.shape for array in feed.values())


def _loads(model: onnx.ModelProto) -> bool:
    try:
        Running(model, optimized=True)
    except Exception:  # noqa: BLE001
        return False
    return True


def _first_difference(before: onnx.ModelProto, wanted: Tensors, found: Tensors, *, exact: bool, coarse: bool) -> str:
    """``coarse``: the runtime computes float16 in float, and rounds in between where it happens to need the half."""
    for output in before.graph.output:
        left, right = wanted[output.name], found[output.name]
        if left.dtype != right.dtype or left.shape != right.shape:
            return f"'{output.name}' is {right.dtype}{list(right.shape)}, not {left.dtype}{list(left.shape)}"
        if exact or left.dtype.kind != "f":
            same = np.array_equal(left, right, equal_nan=left.dtype.kind == "f")
            same = same or (not exact and _is_tied(before, output.name, wanted, right))
        else:
            same = _is_near(left, right, coarse=coarse and computes_in_half(before))
        if not same:
            place = np.flatnonzero(np.atleast_1d(left != right))[:6]
            return f"'{output.name}' is {right.reshape(-1)[place]}, not {left.reshape(-1)[place]}, at {place}"
    return ""


def _is_tied(before: onnx.ModelProto, name: str, wanted: Tensors, found: np.ndarray) -> bool:
    """Positions of the largest element that differ are right when rounding alone decides between the two."""
    node = next((node for node in before.graph.node if name in node.output), None)
    if node is None or node.op_type not in ("ArgMax", "ArgMin") or node.input[0] not in wanted:
        return False
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    axis, kept = attributes.get("axis", 0), attributes.get("keepdims", 1)
    first, second = (item if kept else np.expand_dims(item, axis) for item in (wanted[name], found))
    data = wanted[node.input[0]]
    if second.min(initial=0) < 0 or second.max(initial=0) >= data.shape[axis]:
        return False
    return _is_near(np.take_along_axis(data, first, axis), np.take_along_axis(data, second, axis))


def _is_near(left: np.ndarray, right: np.ndarray, *, coarse: bool = False) -> bool:
    """Up to rounding; where there are infinities, a rounding before them may have made all the difference."""
    if not np.isfinite(left).all():
        return True
    largest, step = float(np.abs(left).max(initial=1.0)), 20.0 if coarse else 1.0
    close = np.allclose(left, right, rtol=1e-3 * step, atol=1e-4 * step * largest)
    return bool(np.isfinite(right).all() and close)


def _interface(model: onnx.ModelProto) -> list[bytes]:
    items = [*model.graph.input, *model.graph.output]
    defaults = {item.name for item in model.graph.initializer} & {item.name for item in model.graph.input}
    return [item.SerializeToString() for item in items] + sorted(name.encode() for name in defaults)
