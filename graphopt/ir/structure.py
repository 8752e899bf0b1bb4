"""The rules of names, scopes and order that every ONNX graph obeys, checked in one walk.

The same walk serves a parsed file, where a name is all there is, and a model in memory, where a name must
also mean the very value that the node holds. It costs time linear in nodes plus edges; only a graph found out
of order is looked at twice, to tell a cycle from mere disorder.

Source: ONNX ``docs/IR.md``, "Graphs" and "Names Within a Graph" (static single assignment, topological order,
names of a subgraph distinct from those visible around it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from graphopt.errors import GraphoptError

Named = tuple[str | None, object]
"""A name and what it stands for: the ``ir.Value`` itself, or None in a parsed file."""


@dataclass(slots=True)
class Step:
    """One node: what it reads and writes, and the graphs inside it."""

    place: Callable[[], str]
    domain: str
    reads: list[Named]
    writes: list[Named]
    bodies: list[View]
    calls: tuple[str, str, str] = ("", "", "")


@dataclass(slots=True)
class View:
    """One graph, however it is represented; its steps are made anew at each call, not kept."""

    place: str
    inputs: list[Named]
    initializers: list[Named]
    steps: Callable[[], Iterable[Step]]
    outputs: list[Named]


@dataclass(slots=True)
class Root:
    """The main graph or a local function, with the operator sets it imports."""

    view: View
    opsets: Mapping[str, int]
    key: tuple[str, str, str] | None = None


@dataclass(slots=True)
class Findings:
    """What is wrong but can be put right without guessing: the loader repairs it, ``check`` refuses it.

    Attributes:
        unsorted: nodes that read what a later node of the same graph produces (no cycle).
        shadows: inputs or initializers of a subgraph with the name of a tensor of an outer graph. (For the
            output of a node this is an error: runtimes refuse it.)
        repeated: graph outputs listed more than once.
    """

    unsorted: list[GraphoptError] = field(default_factory=list["GraphoptError"])
    shadows: list[GraphoptError] = field(default_factory=list["GraphoptError"])
    repeated: list[GraphoptError] = field(default_factory=list["GraphoptError"])

    def __iter__(self) -> Iterator[GraphoptError]:
        yield from self.unsorted
        yield from self.shadows
        yield from self.repeated


def examine(roots: Iterable[Root]) -> Findings:
    """Walk a whole model.

    Raises:
        GraphoptError: a name declared twice in one graph, a tensor that nothing in scope produces, a cycle, a
            graph output that the graph does not produce, a domain without opset import, a recursive or twice
            defined local function.
    """
    findings = Findings()
    called: dict[tuple[str, str, str], list[tuple[str, str, str]]] = {}
    for root in roots:
        if root.key is not None and root.key in called:
            raise GraphoptError(
                f"the local function {root.key[0]}::{root.key[1]} is defined twice",
                root.view.place,
                "rename one of them",
            )
        walk = _Walk(root, findings)
        walk.graph(root.view)
        walk.require_nothing_open()
        called[root.key or _MAIN] = walk.called
    _require_no_recursion(called)
    return findings


@dataclass(slots=True)
class _Open:
    """A read that nothing seen so far explains."""

    name: str
    value: object
    place: Callable[[], str]


class _Walk:
    def __init__(self, root: Root, findings: Findings) -> None:
        self._root = root
        self._findings = findings
        self._visible: dict[str, object] = {}
        self._open: list[_Open] = []
        self.called: list[tuple[str, str, str]] = []

    def graph(self, view: View) -> None:
        own: dict[str, object] = {}
        hidden: dict[str, object] = {}
        before, self._open = self._open, []
        for item in view.inputs:
            self._declare(item, own, hidden, lambda: f"input of {view.place}")
        seen: set[str | None] = set()
        for name, value in view.initializers:
            if name in seen:
                raise _twice(name, f"initializers of {view.place}")
            seen.add(name)
            if name not in own or own[name] is not value:  # on an input it is a default, not a second definition
                self._declare((name, value), own, hidden, lambda: f"initializer of {view.place}")
        for step in view.steps():
            self._step(step, own, hidden)
        self._outputs(view, own)
        late = [read for read in self._open if read.name in own and own[read.name] is read.value]
        if late:
            _require_acyclic(view)
            read = late[0]
            self._findings.unsorted.append(
                GraphoptError(f"tensor '{read.name}' is used before it is produced", read.place(), _SORT)
            )
        self._open = before + [read for read in self._open if not (read.name in own and own[read.name] is read.value)]
        for name in own:
            del self._visible[name]
        self._visible.update(hidden)

    def _step(self, step: Step, own: dict[str, object], hidden: dict[str, object]) -> None:
        if step.domain not in self._root.opsets:
            raise GraphoptError(
                f"the model does not import an operator set of the domain '{step.domain or 'ai.onnx'}'",
                step.place(),
                "add an opset_import for it",
            )
        self.called.append(step.calls)
        visible = self._visible
        for name, value in step.reads:
            if name and not (name in visible and visible[name] is value):
                self._open.append(_Open(name, value, step.place))
        for body in step.bodies:
            self.graph(body)
        for item in step.writes:
            if item[0] == "":
                continue
            if item[0] in visible and item[0] not in own:
                raise GraphoptError(
                    f"tensor '{item[0]}' is produced again inside a subgraph of its scope",
                    step.place(),
                    "rename it",
                )
            self._declare(item, own, hidden, step.place)

    def _declare(
        self, item: Named, own: dict[str, object], hidden: dict[str, object], place: Callable[[], str]
    ) -> None:
        name, value = item
        if not name:
            raise GraphoptError("a tensor has no name", place(), "name it")
        if name in own:
            raise _twice(name, place())
        if name in self._visible:
            hidden[name] = self._visible[name]
            self._findings.shadows.append(
                GraphoptError(f"tensor '{name}' has the name of a tensor of an outer graph", place(), "rename it")
            )
        own[name] = self._visible[name] = value

    def _outputs(self, view: View, own: dict[str, object]) -> None:
        listed: set[str] = set()
        for name, value in view.outputs:
            place = f"outputs of {view.place}"
            if not name:
                raise GraphoptError("a graph output has no name", place, "name it")
            if name not in own or own[name] is not value:
                if self._visible.get(name, self) is value:
                    raise GraphoptError(
                        f"the output '{name}' is a tensor of an outer graph",
                        place,
                        "put an Identity node in between",
                    )
                raise GraphoptError(f"the output '{name}' is not produced by any node", place, "the model is damaged")
            if name in listed:
                self._findings.repeated.append(
                    GraphoptError(f"the output '{name}' is listed twice", place, "put an Identity node in between")
                )
            listed.add(name)

    def require_nothing_open(self) -> None:
        for read in self._open:
            raise GraphoptError(
                f"tensor '{read.name}' is used, but nothing in its scope produces it",
                read.place(),
                "it is neither an input, an initializer nor the output of a node of this or an outer graph",
            )


_MAIN = ("", "", "main graph")
_SORT = "the nodes must be sorted topologically"


def _twice(name: str | None, place: str) -> GraphoptError:
    return GraphoptError(f"the name '{name}' is given to two tensors of one graph", place, "the model is damaged")


def _all_reads(step: Step) -> set[str]:
    """The names of its graph that a node needs, those captured by the graphs inside it too."""
    found = {name for name, _ in step.reads if name}
    for body in step.bodies:
        own = {name for name, _ in (*body.inputs, *body.initializers)}
        own.update(name for inner in body.steps() for name, _ in inner.writes)
        found.update(*(_all_reads(inner) - own for inner in body.steps()))
    return found


def _require_acyclic(view: View) -> None:
    """Kahn's algorithm over the nodes of one graph; what nested graphs capture counts as read by the node."""
    steps = list(view.steps())
    producer = {name: index for index, step in enumerate(steps) for name, _ in step.writes if name}
    users: list[list[int]] = [[] for _ in steps]
    missing = [0] * len(steps)
    for index, step in enumerate(steps):
        for source in {producer[name] for name in _all_reads(step) if name in producer}:
            users[source].append(index)
            missing[index] += 1
    ready = [index for index, count in enumerate(missing) if count == 0]
    done = 0
    while ready:
        done += 1
        for user in users[ready.pop()]:
            missing[user] -= 1
            if missing[user] == 0:
                ready.append(user)
    if done == len(steps):
        return
    first = next(index for index, count in enumerate(missing) if count)
    trail: dict[int, None] = {}
    while first not in trail:  # backwards along unmet needs: this must come round
        trail[first] = None
        first = next(p for n in sorted(_all_reads(steps[first])) if (p := producer.get(n)) is not None and missing[p])
    ring = list(trail)[list(trail).index(first) :]
    names = " <- ".join(steps[index].place() for index in (*ring[:4], ring[0]))
    raise GraphoptError(f"{view.place} has a cycle", names, "a node cannot need its own result: the model is damaged")


def _require_no_recursion(called: Mapping[tuple[str, str, str], list[tuple[str, str, str]]]) -> None:
    entered: dict[tuple[str, str, str], bool] = {}  # true while inside, false when done
    for start in called:
        if start in entered:
            continue
        entered[start] = True
        stack = [(start, iter(called[start]))]
        while stack:
            key, pending = stack[-1]
            callee = next((name for name in pending if name in called and entered.get(name) is not False), None)
            if callee is None:
                entered[key] = False
                stack.pop()
            elif callee in entered:
                raise GraphoptError(
                    "a local function calls itself",
                    f"function {callee[0]}::{callee[1]}",
                    "ONNX forbids recursion",
                )
            else:
                entered[callee] = True
                stack.append((callee, iter(called[callee])))
