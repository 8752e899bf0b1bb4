"""Let the operator that reads a padded tensor pad by itself.

    Conv{pads=q}(Pad(x, p, 0))                              ->  Conv{pads=p+q}(x)
    AveragePool{pads=q, count_include_pad}(Pad(x, p, 0))    ->  AveragePool{pads=p+q, count_include_pad=1}(x)
    LpPool{pads=q}(Pad(x, p, 0))                            ->  LpPool{pads=p+q}(x)
    MaxPool{pads=q}(Pad(x, p, v))                           ->  MaxPool{pads=p+q}(x)   no x is below v

A pool's own padding is not counted by AveragePool unless asked for, and is minus infinity to MaxPool.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, prod
from typing import ClassVar

import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Site, Sites
from graphopt.pipeline import Context, Fidelity, Pass

from ._affine import Refusal
from ._pad import Padding, is_never_negative, padding

_TAKES_PADS = frozenset(("Conv", "AveragePool", "MaxPool", "LpPool"))


@dataclass(frozen=True)
class FusePad(Pass):
    """Folds constant padding into the convolution or the pools that read it.

    All readers must take it up, else the Pad would stay. Only known, non-negative pads of spatial axes; the
    value is 0, or for MaxPool anything that no element is below (minus infinity, or 0 behind a Relu).

    Keeps it where the reader pads by SAME_UPPER or SAME_LOWER, where a pool's padding would reach its kernel
    size, where an AveragePool does not count what it pads itself, where a pool rounds its size up (ceil_mode
    counts windows that begin in the padding differently), and where MaxPool's indices are used.
    """

    name: ClassVar[str] = "fuse-pad"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """Anchor at each Pad with a reader that could pad."""
        for body in gir.bodies(model):
            for node in body.nodes():
                if not gir.is_op(node, "Pad"):
                    continue
                readers = list(dict.fromkeys(user for user, _ in node.outputs[0].uses()))
                if not any(gir.is_op(reader, *_TAKES_PADS) for reader in readers):
                    continue
                try:
                    edit = _plan(node, readers, body.version())
                except Refusal as refusal:
                    yield Site(gir.where(node), str(refusal))
                    continue
                names = ", ".join(gir.where(reader) for reader in readers)
                yield Site(gir.where(node), f"folded into {names}", edit)


def _plan(node: ir.Node, readers: list[ir.Node], version: int) -> Callable[[], None]:
    if node.outputs[0].is_graph_output():
        raise Refusal("its result is an output")
    pad = padding(node, version)
    settings: list[tuple[ir.Node, list[int]]] = []
    for reader in readers:
        name = gir.where(reader)
        if not gir.is_op(reader, *_TAKES_PADS) or reader.graph is not node.graph:
            raise Refusal(f"its result is also used by {name}")
        if [index for user, index in node.outputs[0].uses() if user is reader] != [0]:
            raise Refusal(f"{name} does not read it as data")
        if gir.has_reference(reader):
            raise Refusal(f"{name} has an attribute that is a parameter of the function")
        settings.append((reader, _joint_pads(reader, pad, version)))

    def edit() -> None:
        for reader, pads in settings:
            reader.attributes.pop("auto_pad", None)
            reader.attributes["pads"] = ir.AttrInt64s("pads", pads)
            if reader.op_type == "AveragePool":
                reader.attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 1)
            reader.replace_input_with(0, pad.source)
        gir.erase_if_dead(node)

    return edit


def _joint_pads(reader: ir.Node, pad: Padding, version: int) -> list[int]:
    """The reader's pads with those of the Pad added: all begins, then all ends.

    Raises:
        Refusal: the reader cannot pad that way.
    """
    name = gir.where(reader)
    kernel = _kernel(reader)
    if kernel is None:
        raise Refusal(f"the kernel of {name} is not known")
    mode = gir.attribute(reader, "auto_pad", "NOTSET")
    if mode not in ("NOTSET", "VALID"):
        raise Refusal(f"{name} pads by {mode}")
    own = tuple(gir.attribute(reader, "pads", ())) if mode == "NOTSET" else ()
    own = own or (0,) * (2 * len(kernel))
    pads = [before + after for before, after in zip(own, pad.spatial(len(kernel)), strict=True)]
    if reader.op_type == "Conv":
        if pad.value != 0:
            raise Refusal(f"it pads with {pad.value}, a convolution with 0")
        return pads
    if gir.attribute(reader, "ceil_mode", 0):
        raise Refusal(f"{name} rounds its size up (ceil_mode)")
    dilations = gir.attribute(reader, "dilations", (1,) * len(kernel))
    if any(size <= width for size, width in zip(kernel * 2, pads, strict=True)):
        raise Refusal(f"the padding of {name} would reach the size of its kernel")
    if reader.op_type == "MaxPool":
        _check_max(reader, pad, prod(dilations))
    elif pad.value != 0:
        raise Refusal(f"it pads with {pad.value}, {name} with 0")
    elif reader.op_type == "AveragePool" and version < 7:
        raise Refusal("AveragePool below opset 7 cannot count what it pads")
    elif reader.op_type == "AveragePool" and any(own) and not gir.attribute(reader, "count_include_pad", 0):
        raise Refusal(f"{name} does not count what it pads itself")
    return pads


def _check_max(reader: ir.Node, pad: Padding, dilation: int) -> None:
    """A window that covers one real element has the same maximum when what is padded is not above it."""
    name = gir.where(reader)
    if any(output.uses() or output.is_graph_output() for output in reader.outputs[1:]):
        raise Refusal(f"the indices that {name} gives count the padding")
    if dilation != 1:
        raise Refusal(f"a dilated window of {name} may hold nothing but padding")
    if pad.value == -inf or pad.lowest or (pad.value <= 0 and is_never_negative(pad.source)):
        return
    raise Refusal(f"it pads with {pad.value}, {name} with minus infinity, and its input may be below that")


def _kernel(reader: ir.Node) -> tuple[int, ...] | None:
    if reader.op_type == "Conv":
        weights = gir.static_dims(reader.inputs[1]) if len(reader.inputs) > 1 else None
        if weights is not None:
            return weights[2:]
    sizes = gir.attribute(reader, "kernel_shape")
    return None if sizes is None else tuple(sizes)
