"""Runs a graph on tags instead of numbers, in an arena laid out by a plan: what a wrong plan destroys is missed."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.ir import bodies, captured_values, is_op, subgraphs
from graphopt.ir.memory_plan import MemoryPlan

ELEMENTWISE = ("Relu", "Tanh", "Exp", "Add", "Mul", "Where", "Sub", "Neg")


class ArenaRun:
    """Cells of one alignment each; every tensor writes its own tag and must find it whenever it is read."""

    def __init__(self, model: ir.Model, plan: MemoryPlan) -> None:
        self.step = plan.alignment
        self.cells: list[object] = [None] * (plan.arena // plan.alignment)
        self.tags: dict[ir.Value, tuple[range, object]] = {}
        self.functions = {body.function.identifier(): body.graph for body in bodies(model) if body.function is not None}
        self.graph(model.graph, plan, 0)

    def graph(self, graph: ir.Graph, plan: MemoryPlan, base: int) -> None:
        by_name = {name: item for item in plan.places for name in item.names}
        assert base % self.step == 0
        for item in plan.places:
            assert item.offset % self.step == 0 and item.offset + item.bytes <= plan.arena
        for value in graph.inputs:
            if value.name in by_name:
                self.write(value, base, by_name[value.name])
        for step, node in enumerate(graph):
            read = [value for value in dict.fromkeys(captured_values(node)) if value in self.tags]
            self.check(read, node)
            inner = [item for item in plan.inner if item.first == step]
            bodies_here = [*subgraphs(node), *filter(None, [self.functions.get(node.op_identifier())])]
            for body, item in zip(bodies_here, inner, strict=True):
                for _ in range(2):
                    assert item.offset + item.plan.arena <= plan.arena
                    self.graph(body, item.plan, base + item.offset)
                    self.check(read, node)
            for value in node.outputs:
                source = (
                    node.inputs[0] if is_op(node, "Reshape", "Identity", "Flatten", "Unsqueeze", "Squeeze") else None
                )
                if source in self.tags:
                    self.tags[value] = self.tags[source]
                elif value.name in by_name:
                    place = by_name[value.name]
                    if place.over:
                        assert is_op(node, *ELEMENTWISE)
                        taken = next(item for item in read if item.name in by_name[place.over].names)
                        read = [item for item in read if self.tags[item][1] is not self.tags[taken][1]]
                    self.write(value, base, place)
            self.check(read, node)
            self.check([value for value in node.outputs if value in self.tags], node)
        self.check([value for value in graph.outputs if value in self.tags], None)

    def write(self, value: ir.Value, base: int, place: object) -> None:
        start, size = base + place.offset, place.bytes
        cells = range(start // self.step, -(-(start + size) // self.step))
        tag = object()
        for cell in cells:
            self.cells[cell] = tag
        self.tags[value] = (cells, tag)

    def check(self, values: list[ir.Value], node: ir.Node | None) -> None:
        for value in values:
            cells, tag = self.tags[value]
            assert all(self.cells[cell] is tag for cell in cells), f"'{value.name}' is gone when {node} reads it"
