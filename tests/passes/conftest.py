"""The one way passes are tested: Before and Expected as ONNX text, then the same numbers, then idempotence."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.execute.compare import EXACT, compare, tolerance
from graphopt.execute.feeds import random_feeds
from graphopt.execute.session import Session
from graphopt.ir import check, forget, infer, nodes, subgraphs
from graphopt.pipeline import Context, Fidelity, Pass
from graphopt.pipeline.drive import Drive, drive
from graphopt.pipeline.interface import Interface


def _lines(graph: ir.Graph | ir.Function, numbers: dict[int, str], indent: str = "") -> list[str]:
    """A graph as lines in which values are numbered in order of appearance, so names do not matter."""

    def label(value: ir.Value | None) -> str:
        if value is None:
            return "_"
        if id(value) not in numbers:
            tensor = value.const_value if value.is_initializer() else None
            if tensor is not None:
                body = np.array2string(tensor.numpy(), precision=5, threshold=64, separator=",").replace("\n", "")
                numbers[id(value)] = f"{tensor.dtype.name}{list(tensor.shape)}{body}"
            else:
                numbers[id(value)] = f"v{len(numbers)}"
        return numbers[id(value)]

    lines = [indent + "in " + ", ".join(label(value) for value in graph.inputs)]
    for node in graph:
        attributes = []
        for name, item in sorted(node.attributes.items()):
            if item.is_ref():
                attributes.append(f"{name}=@{item.ref_attr_name}")
            elif item.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
                attributes.append(f"{name}=<graph>")
            elif item.type == ir.AttributeType.TENSOR:
                attributes.append(f"{name}={item.as_tensor().dtype.name}{item.as_tensor().numpy().tolist()}")
            else:
                attributes.append(f"{name}={item.value}")
        inputs = list(node.inputs)
        while inputs and inputs[-1] is None:
            inputs.pop()
        used = [label(value) for value in inputs]
        lines.append(f"{indent}{node.domain}.{node.op_type}{{{', '.join(attributes)}}}({', '.join(used)})")
        for inner in subgraphs(node):
            lines += _lines(inner, numbers, indent + "  ")
        outputs = [value for value in node.outputs if value.name or value.uses()]
        lines[-1] += " -> " + ", ".join(label(value) for value in outputs)
    return [*lines, indent + "out " + ", ".join(label(value) for value in graph.outputs)]


def structure(model: ir.Model) -> str:
    """A model's graphs without names: equal for models that differ in names only."""
    lines = _lines(model.graph, {})
    for function in model.functions.values():
        lines += [f"function {function.domain}.{function.name}", *_lines(function, {})]
    return "\n".join(lines)


def parse(text: str | ir.Model) -> ir.Model:
    """A model from ONNX text; the header ``<ir_version: 8, opset_import: ["": 17]>`` may be left out."""
    if isinstance(text, ir.Model):
        return text.clone()
    text = text.strip()
    if not text.startswith("<"):
        text = '<ir_version: 8, opset_import: ["": 17]>\n' + text
    return ir.from_onnx_text(text)


def run_pass(pass_: Pass, model: ir.Model, context: Context) -> tuple[ir.Model, Drive]:
    """One pass on a copy, with validity checked before and after and the interface kept."""
    check(model)
    copy = model.clone()
    interface = Interface.of(copy)
    if pass_.needs_shapes:
        infer(copy)
    done = drive(pass_, copy, context)
    forget(copy)
    if pass_.changes_interface:
        interface = interface.narrowed_to(copy)
    interface.impose(copy, by=pass_.name)
    check(copy)
    return copy, done


def assert_same_numbers(before: ir.Model, after: ir.Model, fidelity: Fidelity, seed: int = 0) -> None:
    """Both models on the same random feeds in ONNX Runtime with its optimisations off."""
    depth = sum(1 for _ in nodes(before))
    reference, candidate = Session(before, optimized=False), Session(after, optimized=False)
    kept = {value.name for value in after.graph.inputs}
    for feeds in random_feeds(before, seed=seed, count=2):
        expected = reference.run(feeds)
        actual = candidate.run({name: value for name, value in feeds.items() if name in kept})
        for name in actual:
            limit = EXACT if fidelity is Fidelity.EXACT else tolerance(np.asarray(expected[name]).dtype, depth)
            (difference,) = compare({name: expected[name]}, {name: actual[name]}, limit)
            assert difference.ok, f"{name}: {difference}"


@pytest.fixture
def rewrites() -> Callable[..., Drive]:
    """``rewrites(Pass(), before, expected)``: the pass turns one model into the other, and both compute the same."""

    def check_rewrite(
        pass_: Pass,
        before: str | ir.Model,
        expected: str | ir.Model,
        *,
        context: Context | None = None,
        runs: bool = True,
    ) -> Drive:
        context = context or Context()
        source = parse(before)
        after, done = run_pass(pass_, source, context)
        assert structure(after) == structure(parse(expected))
        if runs:
            assert_same_numbers(source, after, pass_.fidelity)
        again, second = run_pass(pass_, after, context)
        assert not second.changed, f"not idempotent: {second.changed}"
        assert structure(again) == structure(after)
        return done

    return check_rewrite


@pytest.fixture
def keeps(rewrites: Callable[..., Drive]) -> Callable[..., Drive]:
    """``keeps(Pass(), model, reason="...")``: nothing changes, and a reason is given."""

    def check_kept(pass_: Pass, before: str | ir.Model, *, reason: str = "", **options: object) -> Drive:
        done = rewrites(pass_, before, before, **options)
        assert not done.changed
        if reason:
            assert any(reason in text for _, text in done.kept), done.kept
        return done

    return check_kept
