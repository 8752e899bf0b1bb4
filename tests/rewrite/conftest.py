"""What the tests of the rewriter share: models from text, rules applied, results as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import onnx
import onnx_ir as ir
import pytest

from graphopt.events import Site
from graphopt.ir.walk import subgraphs
from graphopt.rewrite import Rewrite, RuleSet

Body = Sequence[ir.Node] | ir.Graph


@dataclass
class Rewritten:
    """A model after some rules, and what they said."""

    model: ir.Model
    done: list[Site] = field(default_factory=list)
    kept: list[Site] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The main graph, a node a line, with the outputs of the graph at the end."""
        return show(self.model.graph)

    @property
    def reasons(self) -> list[str]:
        return [site.text for site in self.kept]


def show(graph: ir.Graph, indent: str = "") -> str:
    lines = []
    for node in graph:
        plain = [
            f"{name}={attribute.value if not attribute.is_ref() else '@' + str(attribute.ref_attr_name)}"
            for name, attribute in sorted(node.attributes.items())
            if attribute.type not in (ir.AttributeType.GRAPH, ir.AttributeType.TENSOR)
        ]
        operands = ", ".join("_" if value is None else str(value.name) for value in node.inputs)
        name = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        results = ", ".join(str(value.name) for value in node.outputs)
        lines.append(f"{indent}{results} = {name}{'{' + ', '.join(plain) + '}' if plain else ''}({operands})")
        lines.extend(show(inner, indent + "  ") for inner in subgraphs(node))
    lines.append(f"{indent}-> {', '.join(str(value.name) for value in graph.outputs)}")
    return "\n".join(lines)


@pytest.fixture
def load() -> Callable[..., ir.Model]:
    """Reads ``g (inputs) => (outputs) <initialisers> {nodes}``, with an opset."""

    def read(text: str, opset: int = 20, ir_version: int = 10, domains: str = "") -> ir.Model:
        imports = f'"" : {opset}' + (f", {domains}" if domains else "")
        return ir.from_proto(onnx.parser.parse_model(f"<ir_version: {ir_version}, opset_import: [{imports}]>\n{text}"))

    return read


@pytest.fixture
def rewritten(load: Callable[..., ir.Model]) -> Callable[..., Rewritten]:
    """Applies rules to a model (or its text); leaves out sites that ``leave`` names."""

    def apply(
        model: str | ir.Model, *rules: Rewrite, opset: int = 20, leave: Callable[[Site], bool] = lambda site: False
    ) -> Rewritten:
        if isinstance(model, str):
            model = load(model, opset)
        result = Rewritten(model)
        sites = RuleSet(rules).sites(model)
        answer: bool | None = None
        while True:
            try:
                site = next(sites) if answer is None else sites.send(answer)
            except StopIteration:
                break
            answer = site.edit is not None and not leave(site)
            if answer and site.edit is not None:
                site.edit()
                result.done.append(site)
            elif site.edit is None:
                result.kept.append(site)
        onnx.checker.check_model(ir.to_proto(model))
        return result

    return apply
