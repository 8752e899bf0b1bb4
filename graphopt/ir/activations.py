"""How much memory the tensors of a run need at most, for one order of the nodes.

The nodes of a graph run one after the other. A tensor lives from the node that computes it to the last node that uses
it, a graph output to the end. Counted is what the run has to allocate:

- not the graph's inputs, which belong to the caller, and not constants;
- Reshape, Squeeze, Unsqueeze, Flatten and Identity allocate nothing: their result is their operand seen otherwise;
- no node computes in place, and kernels need no scratch memory;
- while a node with subgraphs runs, the highest peak among them comes on top.

Sizes are those of proven shapes. A symbol stands for one size throughout the model; what is not known at all counts
as much as the largest operand of its node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from .edits import captured_values
from .facts import constant, dims, is_op
from .shapes import infer
from .tensors import copy_model
from .walk import bodies, subgraphs

ASSUMED = 64
"""Size of a dimension that nothing is known of: like a short sequence or a batch."""

_VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")
_STRING_BYTES = 16


@dataclass(frozen=True)
class Work:
    """What running one node means.

    Attributes:
        node: the node.
        needs: positions of the nodes that must run before.
        makes: buffers that it allocates.
        reads: buffers that must live until it is done.
        inside: bytes that its subgraphs need on top while it runs.
    """

    node: ir.Node
    needs: tuple[int, ...]
    makes: tuple[int, ...]
    reads: tuple[int, ...]
    inside: int = 0


@dataclass
class Schedule:
    """The nodes of one graph with the buffers that they make and read.

    Attributes:
        work: the nodes in the order of the graph.
        sizes: bytes of each buffer.
        readers: by how many nodes each is read.
        stays: the buffers that live to the end: outputs of the graph.
    """

    work: list[Work] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    readers: list[int] = field(default_factory=list)
    stays: set[int] = field(default_factory=set)

    def peak(self, order: Sequence[int] | None = None) -> int:
        """The most bytes that live at once.

        Args:
            order: positions of the nodes, a topological order; by default that of the graph.
        """
        left = list(self.readers)
        live = highest = 0
        for index in range(len(self.work)) if order is None else order:
            item = self.work[index]
            live += sum(self.sizes[buffer] for buffer in item.makes)
            highest = max(highest, live + item.inside)
            for buffer in item.reads:
                left[buffer] -= 1
            for buffer in (*item.reads, *item.makes):
                if left[buffer] == 0 and buffer not in self.stays:
                    live -= self.sizes[buffer]
                    left[buffer] = -1
        return highest

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
        return max(
            (sum(self.sizes[buffer] for buffer in {*item.makes, *item.reads}) + item.inside for item in self.work),
            default=0,
        )


def schedules(
    model: ir.Model, shapes: Mapping[str, Sequence[int]] | None = None, assumed: int = ASSUMED
) -> list[tuple[ir.Graph, Schedule]]:
    """Every graph of a model with its schedule, inner graphs before those they lie in.

    Args:
        model: is not changed.
        shapes: of the graph's inputs in a real run; what they do not say is assumed.
        assumed: size of a dimension that nothing is known of.
    """
    bytes_of = _bytes(model, shapes or {}, assumed)
    found: list[tuple[ir.Graph, Schedule]] = []
    peaks: dict[ir.Graph, int] = {}
    for body in bodies(model):
        for graph in reversed(list(body.graphs())):
            made = _schedule(graph, bytes_of, peaks)
            peaks[graph] = made.peak()
            found.append((graph, made))
    return found


def activation_peak(model: ir.Model, shapes: Mapping[str, Sequence[int]] | None = None, assumed: int = ASSUMED) -> int:
    """The peak of the main graph in bytes; arguments as for ``schedules``."""
    return next(made.peak() for graph, made in schedules(model, shapes, assumed) if graph is model.graph)


def _schedule(graph: ir.Graph, bytes_of: Mapping[ir.Value, int], peaks: Mapping[ir.Graph, int]) -> Schedule:
    made = Schedule()
    position = {node: index for index, node in enumerate(graph)}
    outputs = set(graph.outputs)
    buffer_of: dict[ir.Value, int] = {}
    for node in graph:
        used = [value for value in dict.fromkeys(captured_values(node)) if value.producer() in position]
        reads = {buffer_of[value] for value in used if value in buffer_of}
        needs = {position[producer] for value in used if (producer := value.producer()) is not None}
        makes: list[int] = []
        for index, value in enumerate(node.outputs):
            source = node.inputs[0] if node.inputs and index == 0 and is_op(node, *_VIEWS) else None
            if source is not None and source in buffer_of:
                buffer_of[value] = buffer_of[source]
            elif constant(value) is None and (source is None or value in outputs):
                buffer_of[value] = len(made.sizes)
                makes.append(len(made.sizes))
                made.sizes.append(bytes_of.get(value, 0))
            if value in outputs and value in buffer_of:
                made.stays.add(buffer_of[value])
        inside = max((peaks[inner] for inner in subgraphs(node)), default=0)
        made.work.append(Work(node, tuple(sorted(needs)), tuple(makes), tuple(sorted(reads)), inside))
    made.readers = [0] * len(made.sizes)
    for item in made.work:
        for buffer in item.reads:
            made.readers[buffer] += 1
    return made


def _bytes(model: ir.Model, shapes: Mapping[str, Sequence[int]], assumed: int) -> dict[ir.Value, int]:
    """Bytes of what each node computes, by inference on a copy whose inputs have sizes."""
    copy = copy_model(model)
    sizes: dict[str, int] = {}
    for value in copy.graph.inputs:
        declared = dims(value)
        given = shapes.get(value.name or "")
        if declared is None and given is not None:
            declared = tuple(given)
        if declared is None:
            continue
        fits = given is not None and len(given) == len(declared)
        for axis, dim in enumerate(declared):
            if isinstance(dim, str) and fits and given is not None:
                sizes.setdefault(dim, int(given[axis]))
        value.shape = ir.Shape(
            [
                dim
                if isinstance(dim, int)
                else int(given[axis])
                if fits and given is not None
                else sizes.get(dim or "", assumed)
                for axis, dim in enumerate(declared)
            ]
        )
    infer(copy)
    found: dict[ir.Value, int] = {}
    for body, twin in zip(bodies(model), bodies(copy), strict=True):
        for node, same in zip(body.nodes(), twin.nodes(), strict=True):
            largest = max((_size(value, assumed) or 0 for value in same.inputs if value is not None), default=0)
            for value, its in zip(node.outputs, same.outputs, strict=True):
                if value.name or value.uses():
                    size = _size(its, assumed)
                    found[value] = largest if size is None else size
    return found


def _size(value: ir.Value, assumed: int) -> int | None:
    """Bytes, with the assumed size for symbols that inference made up; None when the rank or type is not known."""
    shape = dims(value)
    if shape is None or not isinstance(value.type, ir.TensorType):
        return None
    elements = 1
    for dim in shape:
        elements *= dim if isinstance(dim, int) else assumed
    width = _STRING_BYTES if value.type.dtype is ir.DataType.STRING else value.type.dtype.itemsize
    return int(elements * width)
