"""What has to hold for every graph: ``judge`` optimises one and says what does not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import sympy
from values import Fuzzed

from graphopt.errors import GraphoptError
from graphopt.execute import Taps
from graphopt.ir import dims, infer, known_ints, load, save
from graphopt.pipeline import Context, PassManager, Recipe
from graphopt.target import Target

Feed = Mapping[str, np.ndarray]
_LINEAR = {"Conv", "ConvTranspose", "Gemm", "MatMul"}  # ONNX Runtime packs constant weights: other kernels, other sums
_DISABLED = ["Pad_Fusion"]  # gives wrong maxima and pads that its own kernels refuse (ONNX Runtime 1.31)
_REFUSES_EMPTY = (
    "attention_helper"  # ONNX Runtime's Attention takes no empty batch and no length of 0: fuse-attention says so
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


parsed = cache(Recipe.parse)  # looks for other packages' presets each time


class Unusable(Exception):
    """The generator's graph does not run in ONNX Runtime: nothing to compare with."""


def judge(fuzzed: Fuzzed, folder: Path, recipe: str, target: Target) -> list[str]:
    """Optimise a graph and compare.

    Args:
        fuzzed: the graph and its feeds.
        folder: for the files.
        target: what the recipe is for.
        recipe: ``clean`` has to give the same bits, everything else the same up to rounding.

    Returns:
        what is wrong, a line each; empty when nothing is.

    Raises:
        Unusable: the original runs on none of the feeds.
    """
    context = Context(target=target)
    source, after_path = folder / "before.onnx", folder / "after.onnx"
    onnx.save(fuzzed.model, source)
    expected = _expected(fuzzed.model, fuzzed.feeds)
    if not expected:
        raise Unusable
    model, outcomes = PassManager(parsed(recipe), verify="off").run(load(source), context)
    problems = [f"{outcome.name} failed: {outcome.failed}" for outcome in outcomes if outcome.failed]
    problems += [f"{step.name} left out {step.left_out}" for step in outcomes if step.left_out]
    save(model, after_path)
    after = onnx.load(after_path)
    try:
        onnx.checker.check_model(after)
    except onnx.checker.ValidationError as error:
        problems.append(f"invalid: {error}")
    if _interface(fuzzed.model) != _interface(after):
        problems.append(f"interface: {_interface(fuzzed.model)} became {_interface(after)}")
    exact = recipe == "clean" and not _LINEAR & set(operators(fuzzed.model))
    problems += _differences(fuzzed.model, after, fuzzed.feeds, expected, exact=exact)
    again, second = PassManager(parsed(recipe), verify="off").run(load(after_path), context)
    problems += [f"second application, {step.name}: {step.changed[0]}" for step in second if step.changed]
    del again
    feeds = [fuzzed.feeds[index] for index in expected]
    problems += [f"before, {line}" for line in wrong_facts(source, feeds)]
    problems += [f"after, {line}" for line in wrong_facts(after_path, feeds)]
    return problems


def session(model: onnx.ModelProto, *, optimized: bool = False) -> onnxruntime.InferenceSession:
    """A session of one thread."""
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=_DISABLED
    )


def _run(found: onnxruntime.InferenceSession, feed: Feed) -> list[np.ndarray] | str:
    try:
        return list(found.run(None, dict(feed)))
    except Exception as error:  # noqa: BLE001  the runtime's exceptions have no common class of their own
        return str(error)


def _expected(model: onnx.ModelProto, feeds: Sequence[Feed]) -> dict[int, list[np.ndarray]]:
    """The outputs of the feeds that the original accepts."""
    try:
        found = session(model)
    except Exception as error:
        raise Unusable(str(error)) from error
    results = {index: _run(found, feed) for index, feed in enumerate(feeds)}
    return {index: result for index, result in results.items() if not isinstance(result, str)}


def _differences(
    before: onnx.ModelProto,
    after: onnx.ModelProto,
    feeds: Sequence[Feed],
    expected: Mapping[int, Sequence[np.ndarray]],
    *,
    exact: bool,
) -> Iterator[str]:
    names = [output.name for output in before.graph.output]
    for optimized in (False, True):
        words = "optimised by the runtime" if optimized else "as it is"
        try:
            found = session(after, optimized=optimized)
        except Exception as error:  # noqa: BLE001
            if not optimized or _loads(before):
                yield f"the result, {words}, does not load: {error}"
            continue
        for index, wanted in expected.items():
            result = _run(found, feeds[index])
            line = (
                result
                if isinstance(result, str)
                else _first_difference(names, wanted, result, exact=exact and not optimized)
            )
            if not line or (_REFUSES_EMPTY in line and _is_empty(feeds[index])):
                continue
            if optimized:  # the runtime's own optimiser may be wrong: then it is so with the original, too
                own = _run(session(before, optimized=True), feeds[index])
                if isinstance(own, str) or _first_difference(names, wanted, own, exact=False):
                    continue
            yield f"{words}, feed {index}: {line}"
            break


def _is_empty(feed: Feed) -> bool:
    return any(0 in array.shape for array in feed.values())


def _loads(model: onnx.ModelProto) -> bool:
    try:
        session(model, optimized=True)
    except Exception:  # noqa: BLE001
        return False
    return True


def _first_difference(
    names: Sequence[str], wanted: Sequence[np.ndarray], found: Sequence[np.ndarray], *, exact: bool
) -> str:
    for name, left, right in zip(names, wanted, found, strict=True):
        if left.dtype != right.dtype or left.shape != right.shape:
            return f"'{name}' is {right.dtype}{list(right.shape)}, not {left.dtype}{list(left.shape)}"
        if exact or left.dtype.kind != "f":
            same = np.array_equal(left, right, equal_nan=left.dtype.kind == "f")
        else:
            same = _is_near(left, right)
        if not same:
            return f"'{name}' is {right.reshape(-1)[:6]}, not {left.reshape(-1)[:6]}"
    return ""


def _is_near(left: np.ndarray, right: np.ndarray) -> bool:
    """Up to rounding; where there are infinities, a rounding before them may have made all the difference."""
    if not np.isfinite(left).all():
        return True
    largest = float(np.abs(left).max(initial=1.0))
    return bool(np.isfinite(right).all() and np.allclose(left, right, rtol=1e-3, atol=1e-4 * largest))


def _interface(model: onnx.ModelProto) -> list[bytes]:
    items = [*model.graph.input, *model.graph.output]
    defaults = {item.name for item in model.graph.initializer} & {item.name for item in model.graph.input}
    return [item.SerializeToString() for item in items] + sorted(name.encode() for name in defaults)


def wrong_facts(path: Path, feeds: Sequence[Feed]) -> Iterator[str]:
    """What shape inference claims of the main graph, held against the real tensors."""
    model = load(path)
    taps = Taps(model)
    if not taps.names:
        return
    infer(model)
    values = {output.name: output for node in model.graph for output in node.outputs if output.name}
    try:
        found = taps.session(taps.names)
    except GraphoptError:
        return
    for feed in feeds:
        sizes: dict[str, int] = {}
        for value in model.graph.inputs:
            if value.name in feed:
                for size, real in zip(dims(value) or (), feed[value.name].shape, strict=True):
                    if isinstance(size, str):
                        sizes.setdefault(size, real)
        try:
            tensors = found.run(feed)
        except GraphoptError:
            continue
        for name, tensor in tensors.items():
            line = _wrong_fact(values[name], np.asarray(tensor), sizes)
            if line:
                yield f"'{name}' of {values[name].producer().op_type}: {line}"  # type: ignore[union-attr]
                return


def _wrong_fact(value: ir.Value, real: np.ndarray, sizes: dict[str, int]) -> str:
    shape, elements = dims(value), known_ints(value)
    if value.dtype is not None and value.dtype.numpy() != real.dtype:
        return f"the type is {real.dtype}, not {value.dtype}"
    if elements is not None and tuple(real.reshape(-1).tolist()) != elements:
        return f"the elements are {real.tolist()}, not {elements}"
    if shape is None:
        return ""
    if len(shape) != real.ndim:
        return f"the shape is {list(real.shape)}, not {shape}"
    for size, actual in zip(shape, real.shape, strict=True):
        claimed = size if isinstance(size, int) else _evaluated(size, sizes, actual)
        if claimed is not None and claimed != actual:
            return f"the shape is {list(real.shape)}, not {shape} with {sizes}"
    return ""


def _evaluated(size: str | None, sizes: dict[str, int], actual: int) -> int | None:
    """What a symbol, or an expression of symbols, stands for in this run; a new symbol stands for what it meets."""
    if size is None:
        return None
    if size in sizes or _NAME.fullmatch(size):
        return sizes.setdefault(size, actual)
    known = {name: sympy.Integer(number) for name, number in sizes.items() if _NAME.fullmatch(name)}
    functions = {name: getattr(sympy, name) for name in ("Max", "Min", "floor", "ceiling", "Mod")}
    try:
        result = sympy.sympify(size, locals={**{name: sympy.Symbol(name) for name in _NAME.findall(size)}, **functions})
        number = result.subs(known)
    except (TypeError, ValueError, sympy.SympifyError):
        return sizes.setdefault(size, actual)
    return int(number) if number.is_Integer else sizes.setdefault(size, actual)


def operators(model: onnx.ModelProto) -> Counter[str]:
    """How often each operator occurs, inner graphs and local functions included."""
    found: Counter[str] = Counter()
    pending = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while pending:
        node = pending.pop()
        found[node.op_type] += 1
        pending.extend(inner for attribute in node.attribute for inner in attribute.g.node)
    return found
