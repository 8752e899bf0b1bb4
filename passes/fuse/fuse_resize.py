"""Upsampling by nearest neighbours as one Resize, in the form that runtimes have the fastest kernel for.

    Reshape(Expand(Unsqueeze(x)))                  ->  Resize{nearest, asymmetric, floor}(x, factors)
    Gather(x, [0, 0, 1, 1, ...])                   ->  the same, and what else is in ``_repeats``
    Resize(x, _, _, sizes)                         ->  Resize(x, _, factors)   where sizes = factors * shape of x
    Resize(x, _, scales), Upsample(x, scales)      ->  with constant scales, where they are proven to be whole numbers
    Resize{nearest, half_pixel, round}(x, factors) ->  Resize{nearest, asymmetric, floor}(x, factors)
    Resize(Resize(x, f), g)                        ->  Resize(x, f g)          both of the form above

Source: ONNX Resize, versions 10 to 19, and Upsample, versions 7 and 9. With a whole factor k, output i k + r, for r
from 0 to k - 1, is element i: asymmetric, floor((i k + r) / k) = i; half_pixel, round((i k + r + 1/2) / k - 1/2) = i,
for that is less than 1/2 from i; tf_half_pixel_for_nn, floor((i k + r + 1/2) / k) = i.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Site, Sites
from graphopt.pipeline import Context, Fidelity, Pass
from graphopt.target import Target

from ._affine import Refusal
from ._forms import elements
from ._repeats import Repeat, repeat, same
from ._resize_scales import given, option, repeats, sizes_of, whole_factors
from ._rotary import Dims

_TYPES = (ir.DataType.FLOAT, ir.DataType.INT32, ir.DataType.INT8, ir.DataType.UINT8)
_MOST_NODES = 16  # that compute a shape; exporters write four
_LONGEST = 1 << 20  # up to here coordinates in 32 bits are right
_ASYMMETRIC = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
_ROI_SINCE, _OPTIONAL_SINCE, _SQUEEZE_SINCE, _SINCE = 11, 13, 13, 9


@dataclass(frozen=True)
class FuseResize(Pass):
    """Writes each way of repeating elements as a Resize with constant factors.

    Only where elements are repeated along the last axis too: rows that are repeated as a whole, as the keys and values
    of grouped attention are, are copied faster by Expand. The coordinates are right up to 2^20 elements along an
    axis; where a size is not known before the run, only tensors of rank 4 or more, pictures, are taken.

    Keeps it for types of which ONNX Runtime has no Resize, below opset 9, where a result in between is used
    elsewhere, and on targets that object.
    """

    name: ClassVar[str] = "fuse-resize"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """Anchor at the last node."""
        for body in gir.bodies(model):
            version = body.version()
            for node in body.nodes():
                if gir.is_op(node, "Reshape", "Gather", "Transpose"):
                    found = repeat(node)
                    site = None if found is None else _repeated(found, version, context.target)
                elif gir.is_op(node, "Resize", "Upsample") and not gir.has_reference(node):
                    site = _resized(node, version, context.target)
                else:
                    continue
                if site is not None:
                    yield site


def _repeated(found: Repeat, version: int, target: Target) -> Site | None:
    last = found.nodes[0]
    if found.factors[-1] == 1 or last.graph is None:
        return None
    result, graph = gir.dims(last.outputs[0]), last.graph
    static = gir.static_dims(last.outputs[0])
    try:
        if result is None or not (same(result, found.result) or static is not None):
            raise Refusal("what is repeated is put together in a way that is not known before the run")
        for node in found.nodes[1:]:
            if not gir.is_op(node, "Unsqueeze") and not _goes(node, found.nodes):
                raise Refusal(f"the result of {gir.where(node)} is also used elsewhere")
        _check(found.x, found.shape, found.factors, version)
        if (objection := target.objection("Resize:nearest", elements(found.x))) is not None:
            raise Refusal(objection)
    except Refusal as refusal:
        return Site(gir.where(last), str(refusal))

    def edit() -> None:
        x, written = found.x, list[ir.Node]()
        if found.squeeze:
            written.append(_squeeze(graph, x, found.squeeze, version))
            x = written[-1].outputs[0]
            x.type, x.shape = found.x.type, ir.Shape(found.shape)
        written.append(_nearest(graph, x, found.factors, version))
        if not same(result, found.result):
            to = gir.new_initializer(graph, np.array(static, np.int64), "shape")
            value = written[-1].outputs[0]
            value.type, value.shape = found.x.type, ir.Shape(found.result)
            written.append(ir.node("Reshape", [value, to]))
        gir.replace_node(last, written, [written[-1].outputs[0]])

    return Site(gir.where(last), f"repeated {_by(found.factors)}: written as Resize", edit)


def _goes(node: ir.Node, inside: tuple[ir.Node, ...]) -> bool:
    """True when a result is used by these nodes alone, directly or by way of its shape."""
    pending = [node.outputs[0]]
    for value in pending:
        if value.is_graph_output() or len(pending) > _MOST_NODES:
            return False
        for user, _ in value.uses():
            if user in inside:
                continue
            if user.graph is not node.graph or (value is node.outputs[0] and not gir.is_op(user, "Shape")):
                return False
            pending += user.outputs
    return True


def _resized(node: ir.Node, version: int, target: Target) -> Site | None:
    x, shape, name = node.inputs[0], gir.dims(node.inputs[0]), gir.where(node)
    graph = node.graph
    if x is None or shape is None or graph is None or gir.attribute(node, "axes") is not None:
        return None
    factors = whole_factors(node, shape)
    told = given(node)
    made = told is not None and gir.constant(told) is None
    if factors is None or (max(factors, default=1) == 1 and not made):
        return None  # eliminate-resize's
    if not repeats(node) or max(factors) == 1:
        return Site(name, f"its scales are {_by(factors)}", lambda: _rescale(node, factors, version)) if made else None
    plain = version < _ROI_SINCE or all(option(node, key) == wanted for key, wanted in _ASYMMETRIC.items())
    source, inner = x, x.producer()
    total, below = factors, None if inner is None else gir.dims(inner.inputs[0])
    if inner is not None and inner.graph is graph and _merges(inner) and below is not None and inner.inputs[0]:
        more = whole_factors(inner, below)
        if more is not None:
            source, shape = inner.inputs[0], below
            total = tuple(one * two for one, two in zip(more, factors, strict=True))
    if plain and source is x and not made and sizes_of(node) is None:
        return None
    try:
        _check(source, shape, total, version)
        objection = None if plain else target.objection("Resize:asymmetric", elements(source))
        if objection is not None:
            raise Refusal(objection)
    except Refusal as refusal:
        if made:
            return Site(name, f"its scales are {_by(factors)}", lambda: _rescale(node, factors, version))
        return Site(name, str(refusal))

    def edit() -> None:
        new = _nearest(graph, source, total, version)
        gir.replace_node(node, [new], [new.outputs[0]])

    return Site(name, f"written as a Resize {_by(total)}", edit)


def _by(factors: tuple[int, ...]) -> str:
    return "by " + " x ".join(map(str, factors))


def _merges(node: ir.Node) -> bool:
    value = node.outputs[0]
    return (
        gir.is_op(node, "Resize", "Upsample")
        and not gir.has_reference(node)
        and gir.attribute(node, "axes") is None
        and repeats(node)
        and not value.is_graph_output()
        and len(value.uses()) == 1
    )


def _check(x: ir.Value, shape: Dims, factors: tuple[int, ...], version: int) -> None:
    if x.dtype not in _TYPES:
        raise Refusal(f"there is no Resize for {'an unknown type' if x.dtype is None else x.dtype.name.lower()}")
    if version < _SINCE:
        raise Refusal(f"opset {version} has no Resize and no scales that are computed")
    for size, factor in zip(shape, factors, strict=True):
        if factor > 1 and isinstance(size, int) and size * factor > _LONGEST:
            raise Refusal(f"{size * factor:,} elements along an axis are too many for coordinates in 32 bits")
        if factor > 1 and not isinstance(size, int) and len(shape) < 4:
            raise Refusal("how many elements there are along an axis is not known, and may be too many")


def _nearest(graph: ir.Graph, x: ir.Value, factors: tuple[int, ...], version: int) -> ir.Node:
    scales = gir.new_initializer(graph, np.array(factors, np.float32), "factors")
    if version < _ROI_SINCE:
        return ir.node("Upsample" if version < _ROI_SINCE - 1 else "Resize", [x, scales], {"mode": "nearest"})
    roi = None if version >= _OPTIONAL_SINCE else gir.new_initializer(graph, np.zeros(0, np.float32), "roi")
    return ir.node("Resize", [x, roi, scales], _ASYMMETRIC)


def _squeeze(graph: ir.Graph, x: ir.Value, axes: tuple[int, ...], version: int) -> ir.Node:
    if version < _SQUEEZE_SINCE:
        return ir.node("Squeeze", [x], {"axes": list(axes)})
    return ir.node("Squeeze", [x, gir.new_initializer(graph, np.array(axes, np.int64), "axes")])


def _rescale(node: ir.Node, factors: tuple[int, ...], version: int) -> None:
    """Give a Resize of another kind constant scales."""
    graph = node.graph
    assert graph is not None
    scales = gir.new_initializer(graph, np.array(factors, np.float32), "factors")
    if node.op_type == "Upsample" or len(node.inputs) == 2:
        node.replace_input_with(1, scales)
        return
    roi = node.inputs[1]
    if roi is None and version < _OPTIONAL_SINCE:
        roi = gir.new_initializer(graph, np.zeros(0, np.float32), "roi")
    new = ir.Node("", "Resize", [node.inputs[0], roi, scales], list(node.attributes.values()), num_outputs=1)
    gir.replace_node(node, [new], [new.outputs[0]])
