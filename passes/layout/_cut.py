"""The minimum s-t cut of a network, by Dinic's algorithm.

E. A. Dinic, "Algorithm for solution of a problem of maximum flow in networks with power estimation", 1970: levels by
breadth-first search, then paths that augment along them, until the sink is out of reach. What the source still reaches
is one side of a minimum cut. Networks whose fixed ends all lie on one side, the usual case, cost one search.
"""

from __future__ import annotations

from collections import deque

SOURCE, SINK = 0, 1


class Network:
    """A directed network; vertices are numbers, of which ``SOURCE`` and ``SINK`` exist from the start."""

    def __init__(self) -> None:
        self._edges: list[list[int]] = [[], []]  # of each vertex: numbers of edges; edge e and e ^ 1 are opposite
        self._heads: list[int] = []
        self._room: list[int] = []
        self._levels: list[int] = []

    def vertex(self) -> int:
        """A new vertex."""
        self._edges.append([])
        return len(self._edges) - 1

    def edge(self, tail: int, head: int, capacity: int, back: int = 0) -> None:
        """What it costs to have the tail on the source's side and the head on the sink's; ``back``: the other way."""
        for start, end, room in ((tail, head, capacity), (head, tail, back)):
            self._edges[start].append(len(self._heads))
            self._heads.append(end)
            self._room.append(room)

    def cut(self, *, prefer_sink: list[bool] | None = None) -> list[bool]:
        """True for each vertex on the sink's side of a minimum cut.

        Args:
            prefer_sink: per vertex, where it would rather be. Vertices that both sides could have go together to where
                most of them want.
        """
        while self._reaches_sink():
            self._augment()
        sink_side = self._reaching_sink()
        free = [vertex for vertex, level in enumerate(self._levels) if level < 0 and not sink_side[vertex]]
        wishes = sum(1 if prefer_sink[vertex] else -1 for vertex in free) if prefer_sink is not None else 0
        if wishes > 0:
            for vertex in free:
                sink_side[vertex] = True
        return sink_side

    def _reaches_sink(self) -> bool:
        levels = [-1] * len(self._edges)
        levels[SOURCE] = 0
        queue = deque([SOURCE])
        heads, room = self._heads, self._room
        while queue:
            vertex = queue.popleft()
            for edge in self._edges[vertex]:
                head = heads[edge]
                if room[edge] > 0 and levels[head] < 0:
                    levels[head] = levels[vertex] + 1
                    queue.append(head)
        self._levels = levels
        return levels[SINK] >= 0

    def _reaching_sink(self) -> list[bool]:
        found = [False] * len(self._edges)
        found[SINK] = True
        queue = deque([SINK])
        while queue:
            vertex = queue.popleft()
            for edge in self._edges[vertex]:
                tail = self._heads[edge]
                if self._room[edge ^ 1] > 0 and not found[tail]:
                    found[tail] = True
                    queue.append(tail)
        return found

    def _augment(self) -> None:
        """A blocking flow: depth first along rising levels, without recursion; dead ends are not tried again."""
        heads, room, levels = self._heads, self._room, self._levels
        tried = [0] * len(self._edges)
        path: list[int] = []
        vertex = SOURCE
        while True:
            if vertex == SINK:
                amount = min(room[edge] for edge in path)
                first_full = 0
                for index in reversed(range(len(path))):
                    edge = path[index]
                    room[edge] -= amount
                    room[edge ^ 1] += amount
                    if room[edge] == 0:
                        first_full = index
                vertex = heads[path[first_full] ^ 1]
                del path[first_full:]
                continue
            edges = self._edges[vertex]
            while tried[vertex] < len(edges):
                edge = edges[tried[vertex]]
                if room[edge] > 0 and levels[heads[edge]] == levels[vertex] + 1:
                    path.append(edge)
                    vertex = heads[edge]
                    break
                tried[vertex] += 1
            else:
                if vertex == SOURCE:
                    return
                vertex = heads[path.pop() ^ 1]
                tried[vertex] += 1
