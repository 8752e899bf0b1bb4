"""A convolution of an image whose blocks were made channels is a larger convolution of the image:

    Conv{stride=s, pads=p}(Concat(x[.., i::b, j::b], ...), W)      =  Conv{stride=bs, pads=bp}(x, V)
    Conv{stride=s, pads=p}(SpaceToDepth{blocksize=b}(x), W)        =  Conv{stride=bs, pads=bp}(x, V)
    Conv{stride=s, pads=p}(pixel_unshuffle(x, b), W)               =  Conv{stride=bs, pads=bp}(x, V)

with V[o, c, b m + i, b n + j] = W[o, channel of (c, i, j), m, n]: the same products, without the moves. The stem of
YOLOv5 up to release 5 and of YOLOX is the first (its Focus layer; release 6 replaced it by the right-hand side,
ultralytics/yolov5 pull request 4825). torch writes pixel_unshuffle, the stem of Real-ESRGAN x2, as Reshape, Transpose
and Reshape. Slice from version 10 on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product as pairs
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Site, Sites
from graphopt.pipeline import Context, Fidelity, Pass

from ._affine import Refusal
from ._linear import Linear
from ._neighbours import linear, only_user
from ._sizes import product

_FAR = (1 << 31) - 1
Offsets = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Blocks:
    """Channels made of blocks.

    Attributes:
        image: what they are taken from.
        size: of a block, along each axis.
        parts: the places in a block, in order.
        inner: the places are counted within each channel of the image; else the channels within each place.
    """

    image: ir.Value
    size: int
    parts: tuple[Offsets, ...]
    inner: bool = False


@dataclass(frozen=True)
class FuseFocus(Pass):
    """Lets a convolution read the image instead of its blocks.

    Kept: a convolution with groups, dilations or an automatic padding, weights that are not constant, blocks that are
    also used elsewhere, and slices that do not hold the first and the last place of a block along each axis: only then
    is the image known to be made of whole blocks.
    """

    name: ClassVar[str] = "fuse-focus"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site for each convolution that reads blocks."""
        for body in gir.bodies(model):
            for node in body.nodes():
                if not gir.is_op(node, "Conv") or node.inputs[0] is None:
                    continue
                maker = node.inputs[0].producer()
                blocks = None if maker is None else _blocks(maker, body.version())
                if maker is None or blocks is None:
                    continue
                try:
                    edit = _plan(node, maker, blocks, body.version())
                except Refusal as refusal:
                    yield Site(gir.where(node), str(refusal))
                    continue
                yield Site(gir.where(node), f"reads the image of {gir.where(maker)} itself", edit)


def _blocks(node: ir.Node, version: int) -> _Blocks | None:
    """What a SpaceToDepth, or a Concat of strided slices, makes channels of; None for anything else."""
    if gir.has_reference(node) or node.inputs[0] is None:
        return None
    if gir.is_op(node, "SpaceToDepth"):
        size = int(gir.attribute(node, "blocksize", 1))
        return _Blocks(node.inputs[0], size, tuple(pairs(range(size), repeat=2)))
    if gir.is_op(node, "Reshape"):
        return _unshuffled(node)
    if not gir.is_op(node, "Concat") or gir.attribute(node, "axis", None) != 1 or version < 10 or len(node.inputs) < 4:
        return None
    found = [_strided(value) for value in node.inputs]
    known = [item for item in found if item is not None]
    if len(known) != len(found) or len({(item.image, item.size) for item in known}) != 1:
        return None
    return _Blocks(known[0].image, known[0].size, tuple(part for item in known for part in item.parts))


def _unshuffled(last: ir.Node) -> _Blocks | None:
    """Reshape, Transpose and Reshape that put the places of each block behind the channel they are of."""
    transpose = last.inputs[0].producer() if last.inputs[0] is not None else None
    if not gir.is_op(transpose, "Transpose") or transpose is None or transpose.inputs[0] is None:
        return None
    first = transpose.inputs[0].producer()
    if tuple(gir.attribute(transpose, "perm", ())) != (0, 1, 3, 5, 2, 4) or not gir.is_op(first, "Reshape"):
        return None
    image = first.inputs[0] if first is not None else None
    whole, cut, made = gir.dims(image), gir.dims(transpose.inputs[0]), gir.dims(last.outputs[0])
    if image is None or whole is None or cut is None or made is None or len(whole) != 4 or len(made) != 4:
        return None
    batch, channels, rows, size, columns, other = cut
    if not isinstance(size, int) or size != other or size < 2 or None in cut or 0 in cut:
        return None
    before, after = (batch, channels, (rows, size), (columns, size)), (batch, (channels, size, size), rows, columns)
    for shape, wanted in ((whole, before), (made, after)):
        for found, parts in zip(shape, wanted, strict=True):
            if product([found]) != product(parts if isinstance(parts, tuple) else [parts]):
                return None
    return _Blocks(image, size, tuple(pairs(range(size), repeat=2)), inner=True)


def _strided(value: ir.Value | None) -> _Blocks | None:
    """One Slice, or several in a row, that together take every b-th element of all axes but the first two."""
    offsets: dict[int, int] = {}
    steps: set[int] = set()
    rank = gir.rank(value)
    while value is not None and rank is not None and len(offsets) < rank - 2:
        node = value.producer()
        taken = _slices(node, rank) if node is not None and gir.is_op(node, "Slice") else None
        if node is None or taken is None or offsets.keys() & taken.keys():
            return None
        for axis, (start, step) in taken.items():
            offsets[axis] = start
            steps.add(step)
        value = node.inputs[0]
    if value is None or rank is None or len(steps) != 1 or sorted(offsets) != list(range(2, rank)):
        return None
    (size,) = steps
    part = tuple(offsets[axis] for axis in range(2, rank))
    return _Blocks(value, size, (part,)) if all(0 <= start < size for start in part) else None


def _slices(node: ir.Node, rank: int) -> dict[int, tuple[int, int]] | None:
    """Start and step by axis, for a Slice that goes to the end."""
    starts, ends, axes, steps = (
        gir.known_ints(value) for value in (*node.inputs[1:], *(None,) * (5 - len(node.inputs)))
    )
    if starts is None or ends is None or steps is None:
        return None
    axes = tuple(range(len(starts))) if axes is None and (len(node.inputs) < 4 or node.inputs[3] is None) else axes
    shape = gir.dims(node.inputs[0])
    if axes is None or shape is None or not len(starts) == len(ends) == len(axes) == len(steps):
        return None
    if any(not -rank <= axis < rank for axis in axes):
        return None
    taken: dict[int, tuple[int, int]] = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = shape[axis]
        if end < (size if isinstance(size, int) else _FAR):
            return None
        taken[axis % rank] = (start, step)
    return taken


def _plan(conv: ir.Node, maker: ir.Node, blocks: _Blocks, version: int) -> Callable[[], None]:
    name, size = gir.where(conv), blocks.size
    if only_user(maker.outputs[0]) is not conv:
        raise Refusal(f"the result of {gir.where(maker)} is also used elsewhere")
    found = linear(conv, version)
    assert found is not None, "a Conv is one"
    count = found.weights.ndim - 2
    if found.groups != 1 or any(step != 1 for step in gir.attribute(conv, "dilations", ())):
        raise Refusal(f"{name} has groups or dilations")
    if gir.attribute(conv, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise Refusal(f"{name} pads by the size of its input")
    for axis in range(count):
        if not {0, size - 1} <= {part[axis] for part in blocks.parts}:
            raise Refusal("the slices do not cover their image")
    if found.inputs % len(blocks.parts) or count != len(blocks.parts[0]):
        raise Refusal(f"{name} has {found.inputs} input channels")
    weights = _spread(found, blocks)

    def edit() -> None:
        found.assign(weights, None)
        conv.replace_input_with(0, blocks.image)
        conv.attributes.pop("kernel_shape", None)
        strides = gir.attribute(conv, "strides", (1,) * count)
        conv.attributes["strides"] = ir.AttrInt64s("strides", [size * stride for stride in strides])
        if "pads" in conv.attributes:
            conv.attributes["pads"] = ir.AttrInt64s("pads", [size * pad for pad in gir.attribute(conv, "pads")])
        gir.erase_if_dead(maker)

    return edit


def _spread(found: Linear, blocks: _Blocks) -> np.ndarray:
    """The larger kernel; a place that no part holds is zero, one that two hold is their sum."""
    old, size = found.weights, blocks.size
    channels = found.inputs // len(blocks.parts)
    new = np.zeros((old.shape[0], channels, *(size * width for width in old.shape[2:])), dtype=np.float64)
    for index, part in enumerate(blocks.parts):
        places = tuple(slice(start, None, size) for start in part)
        taken = (
            slice(index, None, len(blocks.parts)) if blocks.inner else slice(index * channels, (index + 1) * channels)
        )
        new[(slice(None), slice(None), *places)] += old[:, taken]
    return new.astype(old.dtype)
