"""Fresh, deterministic names for the values and nodes of one body."""

from __future__ import annotations

from graphopt.ir.walk import Body


class Names:
    """The names in use in a body. Collecting them is linear; a new one takes constant time.

    A name is unique in the whole body, which is stricter than ONNX asks for (a graph and the graphs around
    it).
    """

    def __init__(self, body: Body) -> None:
        self._used: set[str] = set()
        self._counts: dict[str, int] = {}
        for graph in body.graphs():
            self._used.update(value.name for value in graph.inputs if value.name)
            self._used.update(graph.initializers)
            for node in graph:
                self._used.update(value.name for value in node.outputs if value.name)
                if node.name:
                    self._used.add(node.name)

    def fresh(self, hint: str) -> str:
        """The hint when it is free, else the hint with the smallest number that makes it free."""
        name = hint
        count = self._counts.get(hint, 0)
        while name in self._used:
            count += 1
            name = f"{hint}_{count}"
        self._counts[hint] = count
        self._used.add(name)
        return name
