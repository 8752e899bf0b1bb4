"""The plan of a model file's memory, made where a hostile model can do no harm."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from ..errors import GraphoptError
from ..execute.isolate import isolated
from ..ir import load
from ..ir.memory_plan import MemoryPlan
from ..ir.planner import plan_memory
from ..pipeline import PassManager, Recipe
from .limits import limits

_SECONDS = 300.0


def planned(path: Path, sizes: Mapping[tuple[str, int], int]) -> tuple[MemoryPlan | None, tuple[str, ...]]:
    """A plan of a model in the order of its file, and what is to be said about it.

    Args:
        path: the file.
        sizes: of its open dimensions, by input and axis.

    Returns:
        the plan, or None with the reason; where sizes are known only once shapes are folded, a plan of what the recipe
        ``clean`` makes of the model.
    """
    try:
        plan, cleaned = isolated(_plan, str(path), dict(sizes), stage=f"planning {path}", **limits(_SECONDS))
    except GraphoptError as error:
        return None, (f"no memory plan was made: {error.what}",)
    notes: list[str] = []
    if cleaned:
        notes.append("the memory plan is that of the model after the recipe clean: only then are most sizes known")
    if plan.guessed:
        notes.append(f"{plan.guessed} tensors of the memory plan depend on the data: their sizes are guessed")
    return plan, tuple(notes)


def _plan(path: str, sizes: dict[tuple[str, int], int]) -> tuple[MemoryPlan, bool]:
    """In a child: the plan, and whether it is that of the cleaned model."""
    model = load(path)
    plan = plan_memory(model, {f"{name}:{axis}": size for (name, axis), size in sizes.items()})
    if not plan.guessed:
        return plan, False
    for value in model.graph.inputs:
        if value.shape is not None:
            dims = [sizes.get((value.name or "", axis), dim) for axis, dim in enumerate(value.shape.dims)]
            value.shape = ir.Shape(dims)
    inlined = InlinePass()(model).model if model.functions else model
    better = plan_memory(PassManager(Recipe.parse("clean"), verify="off").run(inlined)[0])
    return (better, True) if better.guessed < plan.guessed else (plan, False)
