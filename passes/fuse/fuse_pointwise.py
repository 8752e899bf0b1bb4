"""A product over the channels between two changes of layout is one operator in the other layout:

    Transpose(MatMul(Transpose(x), W) + b)    =  Conv(x, Wᵀ, b)        x: N, C, D1, ..., to channels last and back
    Transpose(f(MatMul(Transpose(x), W)))     =  f(Conv(x, Wᵀ))        f: element by element, and further products
    Transpose(Conv(Transpose(x), W, b))       =  MatMul(x, Wᵀ) + b     x: N, D1, ..., C; a kernel of size 1

The first is how PyTorch code applies a Linear to the channels of an image, the second the token mixing of MLP-Mixer
(Tolstikhin et al., MLP-Mixer: An all-MLP Architecture for Vision, 2021, section 2), the third what tf2onnx writes for a
pointwise convolution or a Dense layer. One to three axes D. Transpose, MatMul, Conv: all versions;
Add from version 7 on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Site, Sites
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass
from graphopt.rewrite import Match, Rewrite, RuleSet, constant, of_type
from graphopt.rewrite.tape import Tape
from graphopt.target import Target, targets

from ._affine import Refusal, per_channel
from ._channel_region import region, to_last, to_second
from ._per_target import per_target

_CONVOLVED = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


def _layouts(
    first: Callable[[int], tuple[int, ...]], last: Callable[[int], tuple[int, ...]]
) -> Callable[[Match], str | None]:
    def test(match: Match) -> str | None:
        before, after = tuple(match.attr("p", ())), tuple(match.attr("q", ()))
        if not 3 <= len(before) <= 5 or before != first(len(before)) or after != last(len(before)):
            return "the transpositions do not move the channels to the other side and back"
        return None

    return test


def _matrix(match: Match) -> str | None:
    return None if match.array("w").ndim == 2 else "its weights are no matrix"


def _bias(match: Match, outputs: int) -> np.ndarray:
    """The bias of a product, one number per channel; raises ``Refusal``."""
    return np.broadcast_to(per_channel(match.array("b"), len(match.attr("p")), -1, outputs), (outputs,))


def _per_channel(match: Match) -> str | None:
    try:
        _bias(match, match.array("w").shape[1])
    except Refusal as refusal:
        return str(refusal)
    return None


def _point(match: Match) -> str | None:
    """The convolution looks at one element only, and at all of them."""
    weights = match.array("w")
    if any(size != 1 for size in weights.shape[2:]) or weights.ndim != len(match.attr("p")):
        return "its kernel has more than one element"
    if match.attr("a.group", 1) != 1:
        return "it has groups"
    padded = match.attr("a.auto_pad", "NOTSET") == "NOTSET" and any(match.attr("a.pads", ()) or ())
    if padded or any(step != 1 for step in match.attr("a.strides", ()) or ()):
        return "it pads, or leaves elements out"
    return None


def _to_conv(match: Match, tape: Tape, *, biased: bool) -> ir.Value:
    weights = match.array("w")
    kernel = np.ascontiguousarray(weights.T).reshape(*weights.T.shape, *(1,) * (len(match.attr("p")) - 2))
    bias = tape.constant(np.ascontiguousarray(_bias(match, weights.shape[1])), "bias") if biased else None
    return tape.op("Conv", match["x"], tape.constant(kernel, "weights"), bias)


def _to_matmul(match: Match, tape: Tape) -> ir.Value:
    weights = match.array("w")
    matrix = np.ascontiguousarray(weights.reshape(weights.shape[:2]).T)
    product = tape.op("MatMul", match["x"], tape.constant(matrix, "weights"))
    bias = match.get("b")
    return product if bias is None else tape.op("Add", product, bias)


@per_target
def _rules(target: Target) -> RuleSet:
    def welcome(form: str) -> Callable[[Match], str | None]:
        def test(match: Match) -> str | None:
            return target.objection(form, _work(match["x"]))

        return test

    there_and_back = [constant("w"), of_type("x", *_CONVOLVED), _layouts(to_last, to_second), _matrix]
    return RuleSet(
        [
            Rewrite(
                "Transpose{perm=q}(Add(MatMul(Transpose{perm=p}(x), w), b))",
                build=lambda match, tape: _to_conv(match, tape, biased=True),
                where=[constant("b"), *there_and_back, _per_channel, welcome("Conv1x1")],
                matches=(7, 1 << 30),
                name="Transpose, MatMul, Add and Transpose to Conv",
            ),
            Rewrite(
                "Transpose{perm=q}(MatMul(Transpose{perm=p}(x), w))",
                build=lambda match, tape: _to_conv(match, tape, biased=False),
                where=[*there_and_back, welcome("Conv1x1")],
                name="Transpose, MatMul and Transpose to Conv",
            ),
            Rewrite(
                "Transpose{perm=q}(Conv{**a}(Transpose{perm=p}(x), w, b?))",
                build=_to_matmul,
                where=[
                    constant("w"),
                    of_type("x", *_CONVOLVED),
                    _layouts(to_second, to_last),
                    _point,
                    welcome("MatMul"),
                ],
                matches=(7, 1 << 30),
                name="Transpose, Conv and Transpose to MatMul",
            ),
        ]
    )


RULES = _rules(targets()["onnx"])


@dataclass(frozen=True)
class FusePointwise(Pass):
    """Writes MatMuls between two Transposes as Convs, and a Conv of kernel 1 between two Transposes as a MatMul.

    Only the order of the summation may change, and two moves of the tensor fall away.

    Kept: weights that are not constant, groups, strides and padding, element types other than float and float16 (few
    runtimes convolve those), and what the target objects to (``Conv1x1``, ``MatMul``).
    """

    name: ClassVar[str] = "fuse-pointwise"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site for each such row, then one for each longer region."""
        yield from _rules(context.target).sites(model)
        for body in gir.bodies(model):
            if body.version() < 7:
                continue
            for node in body.nodes():
                site = _region_site(node, context.target) if gir.is_op(node, "Transpose") else None
                if site is not None:
                    yield site


def _region_site(end: ir.Node, target: Target) -> Site | None:
    try:
        found = region(end)
        if found is None:
            return None
        source = found.start.inputs[0]
        if source is None or source.dtype not in _CONVOLVED:
            raise Refusal("its element type is not float or float16")
        reason = target.objection("Conv1x1", _work(source))
        if reason is not None:
            raise Refusal(reason)
        found.check()
    except Refusal as refusal:
        return Site(gir.where(end), str(refusal))
    return Site(gir.where(end), f"in place of the channels, without {gir.where(found.start)} before it", found.apply)


def _work(value: ir.Value) -> int | None:
    shape = gir.static_dims(value)
    return None if shape is None else prod(shape)
