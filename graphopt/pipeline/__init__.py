"""Passes, recipes and the manager that runs them."""

from ..events import Site, Sites
from .adapters import GraphSurgeonPass, IrPass, RewritePass, RulePass
from .context import Context
from .manager import PassManager
from .outcome import Outcome, Outcomes
from .pass_ import Fidelity, Pass
from .recipe import Recipe, recipes

__all__ = [
    "Context",
    "Fidelity",
    "GraphSurgeonPass",
    "IrPass",
    "Outcome",
    "Outcomes",
    "Pass",
    "PassManager",
    "Recipe",
    "RewritePass",
    "RulePass",
    "Site",
    "Sites",
    "recipes",
]
