"""Every operator of ONNX as its authors test it: 1,884 small models, through every preset and to other opsets.

For each case the result must be valid, keep its interface, and compute what the original computes on the case's own inputs.
No pass may fail, and none may have to be left out.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import replace

import onnx_ir as ir
import pytest

from graphopt.calibrate.data import CalibrationData
from graphopt.errors import GraphoptError
from graphopt.pipeline import Context, PassManager, Recipe
from graphopt.pipeline.registry import find, names
from graphopt.target import Target, targets

SLICES = 4
OPSETS = (17, 24)

# What is in no preset: a user asks for it.
ON_REQUEST = (
    "fuse-activation, pad-channels{multiple=8}, reorder-operators",
    'set-io-layout{inputs="nhwc", outputs="nhwc"}',
    "approximate-gelu, convert-precision",
    "insert-fp8-qdq",
    "pack-channels{block=4}",
    "settle-weights, equalize-weights, absorb-bias, smooth-activations, convert-opset{at_least=13}, insert-qdq, "
    "round-weights, correct-bias, clip-on-codes, to-qoperator",
    "quantize-dynamic, quantize-embeddings, quantize-weights, fold-fake-quant",
)

# These two feed vectors of one element to Range, which wants scalars. ONNX Runtime runs them because the rank hides
# behind an If; a simpler graph shows it, is refused, and the edit that showed it is left out.
INVALID = {"test_affine_grid_2d_expanded", "test_affine_grid_2d_align_corners_expanded"}

# Of IR version 14, which ONNX Runtime does not load yet, and the reference evaluator lacks DequantizeLinear of opset 17:
# nothing can run the converted model, so the conversion is left out.
NOT_RUNNABLE = {("opset 17", "test_dequantizelinear"), ("opset 17", "test_dequantizelinear_axis")}


@functools.cache
def cases() -> list:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # onnx's own cases overflow on purpose
        return list(collect_testcases(None))


def data_of(case, model: ir.Model) -> CalibrationData | None:
    names = [value.name for value in model.graph.inputs]
    inputs, _ = case.data_sets[0]
    try:
        data = CalibrationData.open([dict(zip(names, inputs, strict=False))])
        next(iter(data.for_model(model)))
        return data
    except (GraphoptError, TypeError, ValueError):
        return None  # maps and the like: then random feeds, if the signature allows any


def ways() -> dict[str, tuple[str, Target]]:
    """Recipe and target: each target's pipeline, once for targets that want the same, and conversions up and down."""
    found: dict[tuple[str, frozenset[str]], Target] = {}
    for target in targets().values():
        found.setdefault((target.recipe, target.forms), target)
    pipelines = {target.name: (target.recipe, target) for target in found.values()}
    plain, liking = (
        targets()["onnx"],
        replace(targets()["x86-64"], forms=frozenset({"com.microsoft::FusedConv", "Float8"})),
    )
    asked_for = {text: (text, liking) for text in ON_REQUEST}
    return (
        pipelines
        | {f"opset {version}": (f"convert-opset{{version={version}}}", plain) for version in OPSETS}
        | asked_for
    )


def test_the_ways_reach_every_pass():
    used = {item.name for text, _ in ways().values() for item in Recipe.parse(text).passes}
    assert used == {name for name in names() if find(name).__module__.startswith("graphopt.")}


@pytest.mark.parametrize("part", range(SLICES))
@pytest.mark.parametrize("way", ways())
def test_every_node_case_survives(way, part):
    text, target = ways()[way]
    recipe = Recipe.parse(text)
    problems: list[str] = []
    verified = 0
    mine = cases()[part::SLICES]
    for case in mine:
        model = ir.from_proto(case.model)
        context = Context(target=target, data=data_of(case, model))
        try:
            _, outcomes = PassManager(recipe).run(model, context)
        except GraphoptError as error:
            problems.append(f"{case.name}: {error}")
            continue
        verified += outcomes.verdict is not None
        if case.name in INVALID or (way, case.name) in NOT_RUNNABLE:
            continue
        problems += [
            f"{case.name}: {step.name}: {step.failed or step.left_out}"
            for step in outcomes
            if step.failed or step.left_out
        ]
    assert not problems, "\n".join(problems)
    assert verified > 0.95 * len(mine)
