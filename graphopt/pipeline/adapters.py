"""Bring what you have: graphsurgeon functions, onnx_ir passes and onnxscript rewrite rules as graphopt passes.

Each runs on a copy, once, as one site, so it is verified, reported and left out like any other edit. They are made
in Python only: a function cannot be written into a recipe file.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import onnx_ir as ir

from ..events import Site, Sites
from ..ir import copy_model
from ..ir.serial import from_proto, to_proto
from ..rewrite import Rewrite, RuleSet
from .context import Context
from .pass_ import Fidelity, Pass

if TYPE_CHECKING:
    import onnx_graphsurgeon


def adopt(model: ir.Model, other: ir.Model) -> None:
    """Make ``model`` what ``other`` is; ``other`` must not be used afterwards."""
    model.graph = other.graph
    model.functions.clear()
    model.functions.update(other.functions)
    model.metadata_props.clear()
    model.metadata_props.update(other.metadata_props)
    model.ir_version = other.ir_version


@dataclass(frozen=True)
class RewritePass(Pass):
    """Rewrite rules of graphopt's own pattern language, used as a pass; one site per match.

    For rules in a script. A pass with a name of its own, which recipes can hold, is a class (fuse-scales is one).
    """

    name: ClassVar[str] = "rewrite"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    rules: tuple[Rewrite, ...] = ()

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """The sites of all rules, from one worklist."""
        yield from RuleSet(list(self.rules)).sites(model)

    def __str__(self) -> str:
        return f"{self.name}({', '.join(rule.name or rule.pattern for rule in self.rules)})"


@dataclass(frozen=True)
class _ForeignPass(Pass):
    """Runs someone else's transformation on a copy, and proposes its result as one edit."""

    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    once: ClassVar[bool] = True

    @abc.abstractmethod
    def transformed(self, copy: ir.Model) -> ir.Model | None:
        """The transformed model, or None when nothing changed."""

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site for the whole model."""
        result = self.transformed(copy_model(model))
        if result is None:
            yield Site("model", "nothing to change")
            return
        yield Site("model", f"transformed by {self.label}", lambda: adopt(model, result))

    @property
    @abc.abstractmethod
    def label(self) -> str:
        """The name of what is wrapped, for reports."""

    def __str__(self) -> str:
        return f"{self.name}({self.label})"


@dataclass(frozen=True)
class GraphSurgeonPass(_ForeignPass):
    """A function over ``onnx_graphsurgeon.Graph``, used as a pass.

    The function edits the graph in place or returns a new one.
    """

    name: ClassVar[str] = "graph-surgeon"
    function: Callable[[onnx_graphsurgeon.Graph], onnx_graphsurgeon.Graph | None]

    @property
    def label(self) -> str:
        """The function's name."""
        return getattr(self.function, "__name__", "function")

    def transformed(self, copy: ir.Model) -> ir.Model | None:
        """Through a ModelProto and back."""
        import onnx_graphsurgeon as gs

        before = to_proto(copy)
        graph = gs.import_onnx(before)
        graph = self.function(graph) or graph
        after = gs.export_onnx(graph)
        after.ir_version = before.ir_version
        after.metadata_props.extend(before.metadata_props)
        return None if after.graph == before.graph else from_proto(after)


@dataclass(frozen=True)
class IrPass(_ForeignPass):
    """A pass of the onnx_ir package (``onnx_ir.passes.PassBase``), used as a pass."""

    name: ClassVar[str] = "onnx-ir"
    wrapped: ir.passes.PassBase

    @property
    def label(self) -> str:
        """The wrapped class's name."""
        return type(self.wrapped).__name__

    def transformed(self, copy: ir.Model) -> ir.Model | None:
        """Trusts the pass's own word on whether it changed anything."""
        result = self.wrapped(copy)
        return result.model if result.modified else None


@dataclass(frozen=True)
class RulePass(_ForeignPass):
    """A rewrite rule of onnxscript, a sequence of them or a rule set, used as a pass."""

    name: ClassVar[str] = "onnxscript-rules"
    rules: Any  # RewriteRule | Sequence[RewriteRule] | RewriteRuleSet

    @property
    def label(self) -> str:
        """The rules' names."""
        rules = getattr(self.rules, "rules", self.rules)
        rules = rules if isinstance(rules, (list, tuple)) else [rules]
        return ", ".join(str(getattr(rule, "name", None) or type(rule).__name__) for rule in rules)

    def transformed(self, copy: ir.Model) -> ir.Model | None:
        """Applies the rules until onnxscript finds no more matches."""
        from onnxscript.rewriter import RewriteRuleSet

        rules = self.rules
        if not isinstance(rules, RewriteRuleSet):
            rules = RewriteRuleSet(list(rules) if isinstance(rules, (list, tuple)) else [rules])
        return copy if rules.apply_to_model(copy) else None
