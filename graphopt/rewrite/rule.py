"""A rewrite rule: an equation between two pieces of a graph, and when it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

import onnx_ir as ir

from graphopt.errors import GraphoptError

from .conditions import Condition, Test, as_condition
from .match import Match
from .paths import ways_to
from .pattern import Pattern, compile_pattern
from .replacement import Let, Replacement, compile_replacement
from .tape import Tape

Build: TypeAlias = Callable[[Match, Tape], "ir.Value | Sequence[ir.Value] | Mapping[str, ir.Value]"]


@dataclass(frozen=True, eq=False)
class Rewrite:
    """A rule that reads as an equation::

        Rewrite(
            "Mul(Mul(x, Add(Erf(Div(x, r)), 1)), 0.5)",
            "Gelu(x)",
            where=[near("r", 2 ** 0.5)],
        )

    Nodes between the outputs of the pattern and its variables are removed, so their values must not be used
    elsewhere, unless the replacement uses them (then their nodes stay) or ``shared`` is set.

    A match is refused, with a reason, when a condition does not hold, when an inner value is used elsewhere,
    and when the replacement cannot be written in the operator set of the place.

    Attributes:
        pattern: what to look for (grammar: ``graphopt.rewrite.syntax``).
        replacement: what to write instead; or give ``build``.
        where: conditions; see ``graphopt.rewrite.conditions``.
        let: computed names for the replacement: attributes, or new constants.
        outputs: the names ``"y, z"`` of the values that may be used outside of the match, when the pattern
            does more than name the results of its last operators.
        opset: the least standard operator set the replacement may be written into. What ONNX's schemas say is
            known: Gelu needs 20. State it for what they do not say.
        matches: the first and last operator set in which the pattern means what the rule thinks it means.
        domains: the version of foreign operator sets that the replacement needs; 1 where none is given. A
            graph that does not import the domain gets the import.
        shared: inner values may be used elsewhere; their nodes then stay, and are computed twice.
        build: computes the new values, for a rule that a text cannot say. It gets the match and a tape, and
            returns the value, or the values of all outputs in order or by name.
        name: how reports and errors call the rule.
    """

    pattern: str
    replacement: str | None = None
    where: Sequence[Condition | Test] = ()
    let: Let = field(default_factory=dict)
    outputs: str = ""
    opset: int = 0
    matches: tuple[int, int] = (1, 1 << 30)
    domains: Mapping[str, int] = field(default_factory=dict)
    shared: bool = False
    build: Build | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if (self.replacement is None) == (self.build is None):
            raise GraphoptError("a rule needs either a replacement or a build function", f'rule "{self.pattern}"')
        self._check_connected()
        names = self.source.variables | self.source.names.keys()
        for condition in self.conditions:
            for name in condition.names:
                if name not in names:
                    raise GraphoptError(
                        f"a condition is about '{name}', no name of the pattern", f'rule "{self.pattern}"'
                    )
        if self.result is None and self.let:
            raise GraphoptError("a build function computes its own values, without let", f'rule "{self.pattern}"')

    def _check_connected(self) -> None:
        roots = self.source.roots
        ways = ways_to(self.source, roots[0])
        if any(root not in ways for root in roots):
            raise GraphoptError("the outputs of the pattern have nothing in common", f'rule "{self.pattern}"')
        if not any(not node.call.skippable for node in self.source.nodes):
            raise GraphoptError("all operators of the pattern may be missing", f'rule "{self.pattern}"')

    @cached_property
    def source(self) -> Pattern:
        """The compiled pattern."""
        return compile_pattern(self.pattern, [name.strip() for name in self.outputs.split(",") if name.strip()])

    @cached_property
    def result(self) -> Replacement | None:
        """The compiled replacement, None for a rule with a build function."""
        return None if self.replacement is None else compile_replacement(self.replacement, self.source, self.let)

    @cached_property
    def conditions(self) -> tuple[Condition, ...]:
        """The conditions, all of the same kind."""
        return tuple(as_condition(test) for test in self.where)

    @cached_property
    def kept(self) -> frozenset[int]:
        """Operators that stay, because the replacement uses them or leaves their output alone."""
        if self.result is None:
            return frozenset()
        names = self.result.kept | (self.source.outputs.keys() - set(self.result.assigned))
        return self.source.ancestors([self.source.names[name].node for name in names])

    @cached_property
    def rewritten(self) -> tuple[int, ...]:
        """Operators of the pattern whose results get a new value."""
        names = self.source.outputs if self.result is None else self.result.assigned
        return tuple(dict.fromkeys(self.source.outputs[name].node for name in names))

    @cached_property
    def label(self) -> str:
        """What reports call the rule."""
        return self.name or f"{_operators(self.pattern)} to {self.replacement or 'new nodes'}"

    @property
    def says(self) -> str:
        """What reports say about a rewritten place."""
        if self.name:
            return self.name
        return f"becomes {self.replacement}" if self.replacement else f"{_operators(self.pattern)} rewritten"

    def objection(self, match: Match, imports: Mapping[str, int]) -> str | None:
        """Why the replacement cannot be written at a place, or None.

        Args:
            match: the place.
            imports: the operator sets of the model. A local function may import others, but ONNX allows only
                operators in it that are the same in both.
        """
        if self.result is None and match.opset != imports.get("", match.opset):
            return f"the function has opset {match.opset}, the model {imports['']}"
        if match.opset < self.opset:
            return f"needs opset {self.opset}, this graph has {match.opset}"
        for domain, version in self.domains.items():
            if domain in match.body.opsets and match.body.version(domain) < version:
                return f"needs version {version} of {domain}, this graph has {match.body.version(domain)}"
        return None if self.result is None else self.result.objection(match, self.domains, imports)

    def write(self, match: Match, tape: Tape) -> dict[str, ir.Value]:
        """Write the new nodes; returns the new value of each output that gets one."""
        if self.result is not None:
            return self.result.write(match, tape)
        assert self.build is not None
        built = self.build(match, tape)
        names = tuple(self.source.outputs)
        if isinstance(built, ir.Value):
            built = (built,)
        if isinstance(built, Mapping):
            return dict(built)
        if len(built) != len(names):
            raise GraphoptError(f"build returned {len(built)} values for {len(names)} outputs", f"rule {self.label}")
        return dict(zip(names, built, strict=True))


def _operators(text: str) -> str:
    """A pattern on one line, for messages."""
    return " ".join(text.split())
