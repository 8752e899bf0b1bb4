"""Convolutional networks on blocks of channels that fill a vector register, with the fewest conversions.

    Unpack(Conv'(Pack(x), pack(w), pack(b)))  =  Conv(x, w, b)        NCHW16c, OIHW16i16o; likewise the poolings
    f(Unpack(x))  =  Unpack(f'(x))                                    f for each element, or Concat of whole blocks

ONNX has no such convolution, so Conv' is a local function of the domain ``graphopt.packed``, whose body says what it
means in plain ONNX (``_packed.py``): every runtime can run it, slowly, and a compiler puts its own kernel in its place.
Which nodes are packed is a minimum s-t cut over whole graphs (``_packing.py``).

The layout is that of Georganas et al., "Anatomy of High-Performance Deep Learning Convolutions on SIMD Architectures",
2018, section II. Conv, MaxPool, AveragePool, GlobalAveragePool, GlobalMaxPool, ReduceMean, ReduceMax, Resize: ONNX
operators, from operator set 11 on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt import ir as gir
from graphopt.errors import GraphoptError
from graphopt.events import Site, Sites
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

from ._packable import Blocks
from ._packed import DOMAIN
from ._packed_forms import Forms
from ._packing import Packing, Part
from ._packing_writer import PartWriter

_SINCE = 11  # Pad takes its widths as an input
_OLDEST = 4  # IR version; up to 7 it is raised to the one that brought functions


@dataclass(frozen=True)
class PackChannels(Pass):
    """Stores images as N,C/16,H,W,16 from one convolution to the next, for compilers with kernels of that layout.

    Only on request: ONNX Runtime unpacks and packs around every convolution, which proves the result and costs time. A
    convolution is packed where that saves more than the conversions around it cost; sizes that are not known count as
    16. Pack and Unpack stand where tensors are small. An image of few channels is read as it comes.

    Blocks are filled up with channels that are zero after each convolution and meet weights of zero in the next. The
    sums have more terms then, all zero: equal up to rounding. An input that holds infinities may give NaN where there
    was an infinity. Operators of which the last bit depends on where an element stands (Log, Elu, Softplus, ...) are
    packed too.

    Kept, with the reason: convolutions whose weights or bias are not constant, whose channels are not known, whose
    groups are no whole blocks (unless each channel is its own), that are not 2-D; operator sets before 11.

    Attributes:
        block: channels in a block.
        fill: fill up the last block; without, convolutions of other numbers of channels stay, and so do operators whose
            last bit may change. The pass then promises equality bit for bit.
    """

    name: ClassVar[str] = "pack-channels"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    block: int = 16
    fill: bool = True

    def __post_init__(self) -> None:
        if self.block < 2:
            raise GraphoptError(f"a block has {self.block} channels", self.name, "4, 8 and 16 are usual", usage=True)
        if not self.fill:
            object.__setattr__(self, "fidelity", Fidelity.EXACT)

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site for what is packed together, and one for each convolution that is not."""
        version = model.graph.opset_imports.get("", 0)
        for body in list(gir.bodies(model)):  # edits add functions
            if body.function is not None and body.function.domain == DOMAIN:
                continue
            reason = _reason_against(body, model)
            for graph in list(body.graphs()):
                found = Packing(graph, Forms(Blocks(self.block, self.fill), version))
                yield from _refused(found, reason) if reason else _sites(found, model, body)


def _refused(found: Packing, reason: str) -> Sites:
    for node in found.convolutions:
        yield Site(gir.where(node), reason)


def _sites(found: Packing, model: ir.Model, body: gir.Body) -> Sites:
    packed: set[ir.Node] = set()
    for part in found.parts():
        packed.update(part.nodes)
        yield Site(gir.where(part.first), _text(part), PartWriter(part, model, body).write)
    for node, text in found.refused.items():
        yield Site(gir.where(node), text)
    for node in found.convolutions:
        if node not in packed:
            yield Site(gir.where(node), _COSTS)


_COSTS = "to pack and unpack around it costs more than it saves"


def _reason_against(body: gir.Body, model: ir.Model) -> str:
    version = model.graph.opset_imports.get("", 0)
    if body.version() != version:
        return f"the function is of operator set {body.version()}, the model of {version}"
    if model.ir_version < _OLDEST:
        return f"the model is of IR version {model.ir_version}, in which every constant is an input"
    return "" if version >= _SINCE else f"operator set {version} is too old, {_SINCE} is needed"


def _text(part: Part) -> str:
    packs, unpacks = part.conversions()
    count = part.convolutions
    alone = part.single()
    return (
        f"{count} convolution{'s' if count != 1 else ''} packed with {packs} Pack and {unpacks} Unpack"
        f"{f', not {alone} for each by itself' if count > 1 else ''}"
    )
