"""Blocks of an image and its channels change places in one operator instead of Reshape, Transpose and Reshape:

    (N, b, b, C, H, W)  transposed by (0, 3, 4, 1, 5, 2)  =  DepthToSpace{mode="DCR"}: N, b²C, H, W to N, C, bH, bW
    (N, C, b, b, H, W)  transposed by (0, 1, 4, 2, 5, 3)  =  DepthToSpace{mode="CRD"}: torch's pixel_shuffle
    (N, C, H, b, W, b)  transposed by (0, 3, 5, 1, 2, 4)  =  SpaceToDepth: N, C, bH, bW to N, b²C, H, W

Source: the definitions of DepthToSpace (version 1; mode from version 11) and SpaceToDepth (version 1) in ONNX.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import onnx_ir as ir

from graphopt.events import Sites
from graphopt.ir.facts import static_dims
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass
from graphopt.rewrite import Match, Rewrite, RuleSet, of_type
from graphopt.target import Target, targets

from ._per_target import per_target
from ._sizes import product

Axes = tuple[tuple[int, ...], ...]
_TYPES = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


def _blocks(match: Match, axes: tuple[int, int]) -> str | None:
    middle = match.dims("r")
    first, second = (middle[axis] for axis in axes)
    if not isinstance(first, int) or first < 2 or first != second:
        return "its blocks are not known to be squares of at least 2"
    return None


def _shapes(match: Match, source: Axes, result: Axes) -> str | None:
    """The axes of the source and of the result are known to be these products of the axes in between."""
    middle = match.dims("r")
    for name, wanted in (("x", source), ("y", result)):
        shape = match.dims(name)
        if len(shape) != len(wanted):
            return f"{name} has rank {len(shape)}"
        for size, axes in zip(shape, wanted, strict=True):
            known = product([size])
            if known is None or known[0] == 0 or known != product([middle[axis] for axis in axes]):
                return f"the shape of {name} is not known to be made of whole blocks"
    return None


def _rule(target: Target, perm: str, replacement: str, axes: tuple[int, int], source: Axes, result: Axes) -> Rewrite:
    """One row of the table.

    Args:
        target: may object.
        perm: of the Transpose.
        replacement: what to write; b is the size of a block.
        axes: which axes in between are a block.
        source: of which axes in between the axes of x are made.
        result: and those of the result.
    """

    def welcome(match: Match) -> str | None:
        shape = static_dims(match["x"])
        return target.objection(replacement.partition("{")[0], None if shape is None else prod(shape))

    return Rewrite(
        f"r = Reshape{{**_}}(x, s); p = Transpose{{perm=[{perm}]}}(r); y = Reshape{{**_}}(p, t)",
        replacement,
        where=[
            of_type("x", *_TYPES),
            lambda match: _blocks(match, axes),
            lambda match: _shapes(match, source, result),
            welcome,
        ],
        let={"b": lambda match: match.dims("r")[axes[0]]},
    )


@per_target
def rules(target: Target) -> RuleSet:
    """One for each row of the table."""
    whole: Axes = ((0,), (1, 2, 3), (4,), (5,))
    dcr = "DepthToSpace{blocksize=b}(x)", (1, 2), whole, ((0,), (3,), (4, 1), (5, 2))
    crd = 'DepthToSpace{blocksize=b, mode="CRD"}(x)', (2, 3), whole, ((0,), (1,), (4, 2), (5, 3))
    deep = "SpaceToDepth{blocksize=b}(x)", (3, 5), ((0,), (1,), (2, 3), (4, 5)), ((0,), (1, 3, 5), (2,), (4,))
    return RuleSet(
        [
            _rule(target, "0, 3, 4, 1, 5, 2", *dcr),
            _rule(target, "0, 1, 4, 2, 5, 3", *crd),
            _rule(target, "0, 3, 5, 1, 2, 4", *deep),
        ]
    )


RULES = rules(targets()["onnx"])


@dataclass(frozen=True)
class FuseSpaceDepth(Pass):
    """Writes the exchange of blocks and channels as DepthToSpace or SpaceToDepth.

    Elements are moved to the same places. The shapes must be proven, with symbols for sizes that are free. torch's
    pixel_unshuffle puts the channels outside of the blocks, which SpaceToDepth does not: it is kept, without a word.

    Kept: element types other than float and double (runtimes have no kernels for the others), and what the target
    objects to.
    """

    name: ClassVar[str] = "fuse-space-depth"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site for each row of three."""
        yield from rules(context.target).sites(model)
