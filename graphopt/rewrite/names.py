"""Fresh, deterministic names for the values and nodes of one body."""

from __future__ import annotations

from graphopt.ir.walk import Body


class _Table:
    def __init__(self) -> None:
        self.used: set[str] = set()
        self.counts: dict[str, int] = {}

    def fresh(self, hint: str) -> str:
        name = hint
        count = self.counts.get(hint, 0)
        while name in self.used:
            count += 1
            name = f"{hint}_{count}"
        self.counts[hint] = count
        self.used.add(name)
        return name


class Names:
    """The names in use in a body. Collecting them is linear; a new one takes constant time.

    A name is unique in the whole body, which is stricter than ONNX asks for (a graph and the graphs around it).
    """

    def __init__(self, body: Body) -> None:
        self._values = _Table()
        self._nodes = _Table()
        for graph in body.graphs():
            self._values.used.update(value.name for value in graph.inputs if value.name)
            self._values.used.update(graph.initializers)
            for node in graph:
                self._values.used.update(value.name for value in node.outputs if value.name)
                if node.name:
                    self._nodes.used.add(node.name)

    def value(self, hint: str) -> str:
        """A name for a value: the hint when it is free, else with the smallest number that makes it free."""
        return self._values.fresh(hint)

    def node(self, hint: str) -> str:
        """A name for a node, likewise."""
        return self._nodes.fresh(hint)
