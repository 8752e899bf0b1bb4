"""graphopt: optimises neural-network graphs in ONNX, proves each result, and measures what it gained.

The names below are the public face. ``import graphopt`` itself loads none of onnx, onnx_ir or ONNX Runtime:
a name's module is imported when the name is first used (PEP 562), so a program that needs one thing pays
for one thing, and ``graphopt --help`` answers at once.

    import graphopt as go

    model = go.load("model.onnx")
    model, outcomes = go.PassManager(go.Recipe.parse("clean, fuse")).run(model, go.Context())
    go.save(model, "model.opt.onnx")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphopt.backends.registry import find_backend as find_backend
    from graphopt.calibrate import CalibrationData as CalibrationData
    from graphopt.errors import GraphoptError as GraphoptError
    from graphopt.events import Event as Event
    from graphopt.events import Events as Events
    from graphopt.events import Site as Site
    from graphopt.events import Sites as Sites
    from graphopt.execute import Tolerance as Tolerance
    from graphopt.execute import Verdict as Verdict
    from graphopt.execute import verify as verify
    from graphopt.flows.optimize import optimize as optimize
    from graphopt.ir import check as check
    from graphopt.ir import convert_opset as convert_opset
    from graphopt.ir import load as load
    from graphopt.ir import save as save
    from graphopt.ir.planner import plan_memory as plan_memory
    from graphopt.pipeline import Context as Context
    from graphopt.pipeline import Fidelity as Fidelity
    from graphopt.pipeline import GraphSurgeonPass as GraphSurgeonPass
    from graphopt.pipeline import IrPass as IrPass
    from graphopt.pipeline import Outcome as Outcome
    from graphopt.pipeline import Pass as Pass
    from graphopt.pipeline import PassManager as PassManager
    from graphopt.pipeline import Recipe as Recipe
    from graphopt.pipeline import RewritePass as RewritePass
    from graphopt.pipeline import RulePass as RulePass
    from graphopt.rewrite import Rewrite as Rewrite
    from graphopt.rewrite import RuleSet as RuleSet
    from graphopt.target import Target as Target
    from graphopt.target import find_target as find_target
    from graphopt.target import targets as targets

    __version__: str

# The one table behind the public face; the block above repeats it for type checkers, and
# tests/test_public_face.py holds the two together.
_FACE = {
    "CalibrationData": "graphopt.calibrate",
    "Context": "graphopt.pipeline",
    "Event": "graphopt.events",
    "Events": "graphopt.events",
    "Fidelity": "graphopt.pipeline",
    "GraphSurgeonPass": "graphopt.pipeline",
    "GraphoptError": "graphopt.errors",
    "IrPass": "graphopt.pipeline",
    "Outcome": "graphopt.pipeline",
    "Pass": "graphopt.pipeline",
    "PassManager": "graphopt.pipeline",
    "Recipe": "graphopt.pipeline",
    "Rewrite": "graphopt.rewrite",
    "RewritePass": "graphopt.pipeline",
    "RulePass": "graphopt.pipeline",
    "RuleSet": "graphopt.rewrite",
    "Site": "graphopt.events",
    "Sites": "graphopt.events",
    "Target": "graphopt.target",
    "Tolerance": "graphopt.execute",
    "Verdict": "graphopt.execute",
    "check": "graphopt.ir",
    "convert_opset": "graphopt.ir",
    "find_backend": "graphopt.backends.registry",
    "find_target": "graphopt.target",
    "load": "graphopt.ir",
    "optimize": "graphopt.flows.optimize",
    "plan_memory": "graphopt.ir.planner",
    "save": "graphopt.ir",
    "targets": "graphopt.target",
    "verify": "graphopt.execute",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name == "__version__":
        from importlib.metadata import version

        value: object = version("graphopt")
    elif name in _FACE:
        value = getattr(importlib.import_module(_FACE[name]), name)
    else:
        raise AttributeError(f"module 'graphopt' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_FACE, "__version__"})
