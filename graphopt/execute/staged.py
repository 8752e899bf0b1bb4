"""A model run in stages: any tensor read out in one walk through it, in time and memory linear in the nodes.

The main graph, as messages, is cut in topological order. A stage takes what earlier ones computed and gives out what
later ones need, and what is asked for. One session with every tensor as an output would hold all of them at once, and
ONNX Runtime takes time quadratic in the nodes to load a graph of tens of thousands.

It cuts only where tensors cross: sequences and optional values stay within a stage.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.ir import is_op

from .loadable import Loadable
from .session import Session
from .signature import Feeds

STAGE_NODES = 1000
"""Nodes of a stage, at most: sessions of that size load in linear time."""

STAGE_BYTES = 128 << 20
"""What the tensors read out of a stage should weigh together, at most."""

STAGE_WEIGHTS = 512 << 20
"""Bytes of the constants in the message of a stage, at most where it has several nodes: a message ends at 2 GB."""

_FIRST_NODES = 100


@dataclass(frozen=True)
class Program:
    """A model as messages.

    Attributes:
        frame: the model with nothing in its graph: opsets, local functions.
        nodes: of the main graph, in topological order.
        constants: its initialisers by name.
        inputs: its inputs by name, as declared.
        outputs: the names of its outputs.
        whole: values that no stage may end between: what is no tensor, or of unknown kind.
        entries: what ONNX Runtime must be told to find external data.
    """

    frame: onnx.ModelProto
    nodes: Sequence[onnx.NodeProto]
    constants: Mapping[str, onnx.TensorProto]
    inputs: Mapping[str, onnx.ValueInfoProto]
    outputs: tuple[str, ...]
    whole: frozenset[str]
    entries: Mapping[str, str]

    @classmethod
    def of(cls, model: ir.Model) -> Program:
        """The messages of a model in memory, with the types of its values known (``graphopt.ir.infer``)."""
        payload, entries = Loadable(model).payload()
        assert isinstance(payload, bytes)
        proto = onnx.ModelProto.FromString(payload)
        nodes, constants = list(proto.graph.node), {item.name: item for item in proto.graph.initializer}
        inputs = {item.name: item for item in proto.graph.input}
        outputs = tuple(item.name for item in proto.graph.output)
        frame = onnx.ModelProto(
            ir_version=max(proto.ir_version, 4),  # before 4 an initialiser had to be an input
            opset_import=proto.opset_import,
            functions=proto.functions,
        )
        frame.graph.name = proto.graph.name
        values = (value for node in model.graph for value in node.outputs if not is_op(node, "Constant"))
        whole = frozenset(str(value.name) for value in values if not isinstance(value.type, ir.TensorType))
        return cls(frame, nodes, constants, inputs, outputs, whole, entries)

    def with_nodes(self, nodes: Iterable[onnx.NodeProto], constants: Mapping[str, onnx.TensorProto]) -> Program:
        """The same model with other nodes, and some more constants."""
        return replace(self, nodes=tuple(nodes), constants={**self.constants, **constants})


class Staged:
    """Runs a program.

    Args:
        program: the model.
        taps: names of the tensors to read out, besides the outputs.
        stage_nodes: of a stage, at most.
    """

    def __init__(self, program: Program, taps: Collection[str] = (), *, stage_nodes: int = STAGE_NODES) -> None:
        self._program = program
        self._most = stage_nodes
        self._wanted = frozenset(taps).union(program.outputs)
        self._reads = [tuple(dict.fromkeys(_reads(node))) for node in program.nodes]
        self._last: dict[str, int] = {}
        for index, names in enumerate(self._reads):
            self._last.update(dict.fromkeys(names, index))
        self._last.update((name, len(self._reads)) for name in program.outputs if name in program.whole)
        self._stages: list[_Stage] = []
        self._sizes: dict[str, int] = {}
        self._seen_bytes = self._seen_nodes = 0

    def run(self, feeds: Feeds) -> Iterator[tuple[str, Any]]:
        """Name and value of each tap and each output that a node computes, in the order of the nodes.

        Raises:
            GraphoptError: the model does not load, or fails.
        """
        alive: dict[str, Any] = dict(feeds)
        yield from ((name, alive[name]) for name in self._program.outputs if name in alive)
        start, position = 0, 0
        while start < len(self._program.nodes):
            if position == len(self._stages):
                self._stages.append(self._cut(start, alive))
            stage = self._stages[position]
            found = stage.run(alive)
            if position == len(self._stages) - 1:
                self._seen_nodes += stage.end - start
                self._seen_bytes += sum(value.nbytes for value in found.values() if isinstance(value, np.ndarray))
            for name, value in found.items():
                if name in self._wanted:
                    yield name, value
            alive.update(found)
            alive = {name: value for name, value in alive.items() if self._last.get(name, -1) >= stage.end}
            start, position = stage.end, position + 1

    def _cut(self, start: int, alive: Mapping[str, Any]) -> _Stage:
        """The next stage, for all runs."""
        program, count = self._program, self._count()
        end, reach, weight, held = start, start, 0, set[str]()
        while end < len(program.nodes) and ((end < start + count and weight < STAGE_WEIGHTS) or end < reach):
            for name in self._reads[end]:
                if name in program.constants and name not in held:
                    held.add(name)
                    weight += self._size(name)
            kept_whole = (name for name in program.nodes[end].output if name in program.whole)
            reach = max((reach, *(self._last[name] + 1 for name in kept_whole if name in self._last)))
            end += 1
        return self._stage(start, end, alive)

    def _size(self, name: str) -> int:
        if name not in self._sizes:
            self._sizes[name] = self._program.constants[name].ByteSize()
        return self._sizes[name]

    def _count(self) -> int:
        if not self._seen_nodes:
            return min(_FIRST_NODES, self._most)
        return int(min(max(STAGE_BYTES * self._seen_nodes / max(self._seen_bytes, 1), 1), self._most))

    def _stage(self, start: int, end: int, alive: Mapping[str, Any]) -> _Stage:
        program = self._program
        nodes = program.nodes[start:end]
        made = [name for node in nodes for name in node.output if name]
        outputs = [name for name in made if name in self._wanted or self._last.get(name, -1) >= end]
        own = frozenset(made)
        taken = dict.fromkeys(name for names in self._reads[start:end] for name in names if name not in own)
        proto = onnx.ModelProto()
        proto.CopyFrom(program.frame)
        proto.graph.node.extend(nodes)
        inputs = [name for name in taken if name in alive]
        constants = (program.constants[name] for name in taken if name not in alive and name in program.constants)
        proto.graph.initializer.extend(constants)
        proto.graph.input.extend(self._declared(name, alive[name]) for name in inputs)
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
        session = None
        if outputs:
            session = Session(_Part(proto, program.entries), optimized=False)
        return _Stage(session, tuple(inputs), end)

    def _declared(self, name: str, value: Any) -> onnx.ValueInfoProto:
        """The input that takes a value; nothing is said of the shape of a tensor."""
        if not isinstance(value, (np.ndarray, np.generic)):
            return self._program.inputs[name]
        dtype = ir.DataType.STRING if value.dtype.kind in "OUST" else ir.DataType.from_numpy(value.dtype)
        return onnx.helper.make_tensor_value_info(name, dtype, None)


@dataclass(frozen=True)
class _Stage:
    """Some nodes in a row.

    Attributes:
        session: None where nothing is needed of it.
        inputs: what it takes.
        end: the node behind it.
    """

    session: Session | None
    inputs: tuple[str, ...]
    end: int

    def run(self, alive: Mapping[str, Any]) -> dict[str, Any]:
        return {} if self.session is None else self.session.run({name: alive[name] for name in self.inputs})


class _Part(Loadable):
    """A message to load."""

    def __init__(self, proto: onnx.ModelProto, entries: Mapping[str, str]) -> None:
        super().__init__(ir.Model(ir.Graph([], [], nodes=[], name=proto.graph.name), ir_version=proto.ir_version))
        self._message = proto
        self._entries = dict(entries)

    def payload(self, outputs: Sequence[str] | None = None) -> tuple[str | bytes, dict[str, str]]:
        assert outputs is None, "the outputs of a stage are fixed"
        return self._message.SerializeToString(), dict(self._entries)

    def whole(self) -> onnx.ModelProto:
        for folder in self._entries.values():
            onnx.load_external_data_for_model(self._message, folder)
        return self._message


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """What a node takes, also from within its subgraphs."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs) if attribute.type in _GRAPHS else ():
            inside = {item.name for item in (*graph.input, *graph.initializer)}
            inside.update(name for item in graph.node for name in item.output)
            outer = (name for item in graph.node for name in _reads(item))
            yield from (name for name in (*outer, *(item.name for item in graph.output)) if name not in inside)


_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
