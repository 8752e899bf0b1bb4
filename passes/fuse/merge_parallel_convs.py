"""Parallel branches that are added are one convolution (structural re-parameterisation):

    Conv(x; V, b) + Conv(x; W, c)                =  Conv(x; V + pad(W), b + c)
    Conv(x; V, b) + BatchNormalization(x)        =  Conv(x; V + pad(diag(a)), b + s)       a x + s: the normalisation
    Conv(x; V, b) + x                            =  Conv(x; V + pad(I), b)

pad puts the smaller kernel where its taps meet the same elements of x. Source: Ding et al., RepVGG: Making VGG-style
ConvNets Great Again, 2021, section 3.3; kernels 1 x k and k x 1 from Ding et al., ACNet, 2019, section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Site, Sites
from graphopt.pipeline import Context, Fidelity, Pass

from ._affine import Refusal
from ._batchnorm import inference_terms
from ._branches import Branch, by_channel, inside, of_convolution
from ._linear import COPY_LIMIT, Linear
from ._neighbours import linear, only_user


@dataclass(frozen=True)
class MergeParallelConvs(Pass):
    """Adds the kernels of convolutions of one tensor instead of their results, and the kernel that an identity is.

    The window of one branch must hold those of the other, so the convolution that is left costs what the larger
    one did. Strides and groups must agree, dilations where both kernels have several taps. New weights are computed
    in float64. Where x holds NaN or infinity, more elements of the result may: taps that are new and zero spread it.

    Kept when a branch is also used elsewhere, when weights are not constant, when the outputs might differ in size,
    and when weights above 1 MiB are shared.
    """

    name: ClassVar[str] = "merge-parallel-convs"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site for each branch that another takes in."""
        for body in gir.bodies(model):
            if body.version() < 8:  # Add and Sum broadcast in another way, or not at all
                continue
            for node in body.nodes():
                while gir.is_op(node, "Add", "Sum"):
                    site = _site(node, body.version())
                    if site is None:
                        break
                    applied = yield site
                    if not applied or site.edit is None:
                        break


def _site(node: ir.Node, version: int) -> Site | None:
    """The first pair of operands that can be merged, else the reason why the last pair cannot."""
    kept: Site | None = None
    for host in range(len(node.inputs)):
        conv = _producer(node, host)
        if conv is None or not gir.is_op(conv, "Conv"):
            continue
        for guest in range(len(node.inputs)):
            if guest == host or not _reads_the_same(node, guest, conv):
                continue
            try:
                edit = _plan(node, host, guest, version)
            except Refusal as refusal:
                kept = kept or Site(gir.where(node), str(refusal))
                continue
            other = _producer(node, guest)
            what = "its input" if other is None else gir.where(other)
            return Site(gir.where(node), f"{gir.where(conv)} takes in {what}", edit)
    return kept


def _producer(node: ir.Node, index: int) -> ir.Node | None:
    value = node.inputs[index]
    return None if value is None else value.producer()


def _reads_the_same(node: ir.Node, index: int, conv: ir.Node) -> bool:
    value, before = node.inputs[index], _producer(node, index)
    if value is conv.inputs[0]:
        return True
    return before is not None and gir.is_op(before, "Conv", "BatchNormalization") and before.inputs[0] is conv.inputs[0]


def _plan(node: ir.Node, host: int, guest: int, version: int) -> Callable[[], None]:
    conv, other, passed = _producer(node, host), _producer(node, guest), node.inputs[guest]
    assert conv is not None and passed is not None
    main = _convolution(conv, version)
    as_is = passed is conv.inputs[0]
    for branch in (conv,) if as_is or other is None else (conv, other):
        if only_user(branch.outputs[0]) is not node:
            raise Refusal(f"the result of {gir.where(branch)} is also used elsewhere")
    kernel = main.weights.shape[2:]
    larger = of_convolution(conv, main.weights, main.groups, main.bias())
    if as_is or other is None:
        smaller = by_channel(np.ones(main.inputs), None, main.groups, len(kernel))
    elif gir.is_op(other, "BatchNormalization"):
        smaller = by_channel(*inference_terms(other, version), main.groups, len(kernel))
    else:
        beside = _convolution(other, version)
        smaller = of_convolution(other, beside.weights, beside.groups, beside.bias())
    weights, bias = _sum(main, larger, smaller)

    def edit() -> None:
        result = main.assign(weights, bias)
        result.name = None
        rest = [value for index, value in enumerate(node.inputs) if index not in (host, guest)]
        if not rest:
            gir.succeed(node.outputs[0], result)
            gir.erase_if_dead(node)
            return
        for index, value in enumerate([result, *rest]):
            node.replace_input_with(index, value)
        node.resize_inputs(len(rest) + 1)
        gir.erase_if_dead(other)

    return edit


def _convolution(node: ir.Node, version: int) -> Linear:
    found = linear(node, version)
    owner = node.inputs[1]
    assert found is not None and owner is not None, "a Conv is one"
    if found.weights.nbytes > COPY_LIMIT and len(owner.uses()) > 1:
        size = found.weights.nbytes
        raise Refusal(f"the weights of {gir.where(node)} are shared, and a copy would add {size} bytes")
    return found


def _sum(main: Linear, larger: Branch, smaller: Branch) -> tuple[np.ndarray, np.ndarray | None]:
    place = inside(larger, smaller)
    wide = larger.weights.astype(np.float64)
    window = tuple(slice(start, start + size) for start, size in zip(place, smaller.kernel, strict=True))
    wide[(slice(None), slice(None), *window)] += smaller.weights
    with np.errstate(all="ignore"):
        weights = wide.astype(main.weights.dtype)
    if not np.isfinite(weights).all():
        raise Refusal(f"the new weights of {gir.where(main.node)} would overflow")
    parts = [branch.bias for branch in (larger, smaller) if branch.bias is not None]
    return weights, main.rounded_bias(
        np.sum([np.broadcast_to(part, (main.outputs,)) for part in parts], axis=0)
    ) if parts else None
