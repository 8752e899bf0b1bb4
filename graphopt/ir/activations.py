"""How much memory the tensors of a run need at most, for one order of the nodes.

The nodes of a graph run one after the other. A tensor lives from the node that computes it to the last node that uses
it, a graph output to the end. Counted is what the run has to allocate:

- not the graph's inputs, which belong to the caller, and not constants;
- Reshape, Squeeze, Unsqueeze, Flatten and Identity allocate nothing: their result is their operand seen otherwise;
- an element-wise operator may write its result over an operand of the same type and shape that nothing reads later;
- kernels need no scratch memory;
- while a node with subgraphs or a call of a local function runs, the highest peak among them comes on top, with the
  outputs of the body beside those of the node. What a Loop or Scan body is given lives as long as the body runs: it
  may be what the trip before has left.

Sizes are those of proven shapes. A symbol stands for one size throughout the model; what is not known at all counts
as much as the largest operand of its node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from .edits import captured_values
from .extents import ASSUMED, Extent, extents, owners_of
from .facts import constant, is_op
from .overwriting import overwritable
from .walk import Body, bodies, callers_first, subgraphs

_VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")


@dataclass(frozen=True)
class Work:
    """What running one node means.

    Attributes:
        node: the node.
        needs: positions of the nodes that must run before.
        makes: buffers that it allocates.
        reads: buffers that must live until it is done.
        inside: bytes that its subgraphs need on top while it runs.
        takes: those of ``reads`` that its one result may be written over, if nothing else reads them any more.
    """

    node: ir.Node
    needs: tuple[int, ...]
    makes: tuple[int, ...]
    reads: tuple[int, ...]
    inside: int = 0
    takes: tuple[int, ...] = ()


@dataclass
class Schedule:
    """The nodes of one graph with the buffers that they make and read.

    Attributes:
        work: the nodes in the order of the graph.
        sizes: bytes of each buffer.
        readers: by how many nodes each is read.
        stays: the buffers that live to the end: outputs of the graph.
        held: the buffers that live from the start.
        values: what each buffer holds: a value, and those that are it seen otherwise.
        guessed: the buffers whose size is not known.
    """

    work: list[Work] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    readers: list[int] = field(default_factory=list)
    stays: set[int] = field(default_factory=set)
    held: tuple[int, ...] = ()
    values: list[list[ir.Value]] = field(default_factory=list)
    guessed: set[int] = field(default_factory=set)

    def peak(self, order: Sequence[int] | None = None, *, in_place: bool = True) -> int:
        """The most bytes that live at once.

        Args:
            order: positions of the nodes, a topological order; by default that of the graph.
            in_place: whether results are written over operands where they may be.
        """
        sizes, stays, left = self.sizes, self.stays, list(self.readers)
        live = highest = sum(sizes[buffer] for buffer in self.held)
        for index in range(len(self.work)) if order is None else order:
            item = self.work[index]
            for buffer in item.makes:
                live += sizes[buffer]
            now = live + item.inside
            if in_place and any(left[buffer] == 1 and buffer not in stays for buffer in item.takes):
                now -= sizes[item.makes[0]]
            highest = max(highest, now)
            for buffer in item.reads:
                left[buffer] -= 1
            for buffer in (*item.reads, *item.makes):
                if left[buffer] == 0 and buffer not in stays:
                    live -= sizes[buffer]
                    left[buffer] = -1
        return highest

    def without_overwriting(self) -> Schedule:
        """The same work for a runtime that never writes a result over an operand."""
        return replace(self, work=[replace(item, takes=()) if item.takes else item for item in self.work])

    def reordered(self, order: Sequence[int]) -> Schedule:
        """The same work in another order."""
        position = {old: new for new, old in enumerate(order)}
        work = [
            replace(self.work[old], needs=tuple(sorted(position[index] for index in self.work[old].needs)))
            for old in order
        ]
        return replace(self, work=work)

    def least(self) -> int:
        """What no order can do with less: the operands and results of the node that has the most of them."""
        always = self.stays.intersection(self.held)
        return max((self._least(item, always) for item in self.work), default=0)

    def _least(self, item: Work, always: set[int]) -> int:
        size = sum(self.sizes[buffer] for buffer in {*item.makes, *item.reads, *always}) + item.inside
        over = any(buffer not in self.stays for buffer in item.takes)
        return size - self.sizes[item.makes[0]] if over else size


def schedules(
    model: ir.Model, shapes: Mapping[str, Sequence[int]] | None = None, assumed: int = ASSUMED
) -> list[tuple[ir.Graph, Schedule]]:
    """Every graph of a model with its schedule, inner graphs and called functions before those that use them.

    Args:
        model: is not changed.
        shapes: of the graph's inputs in a real run; what they do not say is assumed.
        assumed: size of a dimension that nothing is known of.
    """
    sizes = extents(model, shapes or {}, assumed)
    owners = owners_of(model)
    found: list[tuple[ir.Graph, Schedule]] = []
    peaks: dict[ir.Graph, int] = {}
    for body in inner_first(model):
        for graph in reversed(list(body.graphs())):
            made = schedule(
                graph,
                owners.get(graph),
                sizes,
                lambda node: max((peaks[inner] for inner in runs(model, node)), default=0),
            )
            peaks[graph] = made.peak()
            found.append((graph, made))
    return found


def inner_first(model: ir.Model) -> list[Body]:
    """The local functions, those that are called before those that call them, then the main graph."""
    main, *functions = bodies(model)
    return [*reversed([body for body, _ in callers_first(functions, [main])]), main]


def runs(model: ir.Model, node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs that run while a node does: its subgraphs, the body of the local function that it calls."""
    yield from subgraphs(node)
    if model.functions and node.op_identifier() in model.functions:
        yield model.functions[node.op_identifier()].graph


def activation_peak(model: ir.Model, shapes: Mapping[str, Sequence[int]] | None = None, assumed: int = ASSUMED) -> int:
    """The peak of the main graph in bytes; arguments as for ``schedules``."""
    return next(made.peak() for graph, made in schedules(model, shapes, assumed) if graph is model.graph)


def schedule(
    graph: ir.Graph, owner: ir.Node | None, sizes: Mapping[ir.Value, Extent], inside: Callable[[ir.Node], int]
) -> Schedule:
    """The schedule of one graph.

    Args:
        graph: any graph.
        owner: the node in which it lies.
        sizes: of what its nodes compute, and of the inputs of a loop's body.
        inside: the bytes that the graphs which run inside a node need on top.
    """
    made = Schedule()
    position = {node: index for index, node in enumerate(graph)}
    outputs = set(graph.outputs)
    buffer_of: dict[ir.Value, int] = {}

    def new(value: ir.Value) -> int:
        buffer, extent = len(made.sizes), sizes.get(value, Extent(0))
        buffer_of[value] = buffer
        made.sizes.append(extent.bytes)
        made.values.append([value])
        if not extent.known:
            made.guessed.add(buffer)
        return buffer

    if is_op(owner, "Loop", "Scan"):
        made.held = tuple(new(value) for value in graph.inputs)
        made.stays.update(made.held)
    for node in graph:
        reads: set[int] = set()
        needs: set[int] = set()
        for value in dict.fromkeys(captured_values(node)):
            producer = value.producer()
            if producer in position:
                needs.add(position[producer])
            if value in buffer_of:
                reads.add(buffer_of[value])
        makes: list[int] = []
        view = node.inputs[0] if node.inputs and is_op(node, *_VIEWS) else None
        for index, value in enumerate(node.outputs):
            if view is not None and index == 0 and view in buffer_of:
                buffer_of[value] = buffer_of[view]
                made.values[buffer_of[value]].append(value)
            elif constant(value) is None and (view is None or index or value in outputs):
                makes.append(new(value))
            if value in outputs and value in buffer_of:
                made.stays.add(buffer_of[value])
        takes = tuple(dict.fromkeys(buffer_of[value] for value in overwritable(node, sizes) if value in buffer_of))
        made.work.append(Work(node, tuple(sorted(needs)), tuple(makes), tuple(sorted(reads)), inside(node), takes))
    made.readers = [0] * len(made.sizes)
    for item in made.work:
        for buffer in item.reads:
            made.readers[buffer] += 1
    return made
