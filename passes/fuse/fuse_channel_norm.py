"""Write a layer normalisation over the channels, which are not the last axis, as one operator between two Transposes.

    c = mean(x);  d = x - c;  d / sqrt(mean(d d) + eps) * s + b
        ->  Transpose(LayerNormalization{epsilon=eps}(Transpose(x), s, b))

where the means are over axis 1 of three or more, as the LayerNorm2d of ConvNeXt, SAM and NAFNet takes them.

Source: Ba et al., Layer Normalization, 2016, equations 3 and 4; Liu et al., A ConvNet for the 2020s, 2022, section 2.6;
ONNX LayerNormalization, version 17.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.events import Sites
from graphopt.pipeline import Context, Fidelity, Pass
from graphopt.rewrite import Match, Refused, RuleSet, Tape
from graphopt.target import Target, targets

from . import _norms as norms
from ._channel_region import to_last, to_second
from ._per_target import per_target

_FORM, _SINCE = "LayerNormalization:channels", 17


def _texts() -> Iterator[str]:
    """The dialects with scale g and bias h behind them, with one of these, and alone."""
    for text in norms.centred():
        start, _, quotient = text.rpartition("; ")
        yield f"{start}; Add(Mul({quotient}, g), h)"
    for text in norms.centred():
        start, _, quotient = text.rpartition("; ")
        yield f"{start}; Mul({quotient}, g)"
    yield from norms.centred()


def _channels(match: Match) -> int:
    shape = match.dims("x")
    over = norms.common_axes(match)
    if len(shape) < 3 or over != (1,):
        raise Refused(f"it normalises axes {list(over)} of {len(shape)}, not the channels")
    channels = shape[1]
    if not isinstance(channels, int) or channels < 1:
        raise Refused("the number of channels is not known")
    return channels


def _vector(match: Match, name: str, channels: int) -> np.ndarray:
    rank = len(match.dims("x"))
    if len(match.dims(name)) > rank:
        raise Refused("its scale or bias would add a dimension")
    return norms.spread(match.array(name), (channels, *(1,) * (rank - 2))).reshape(-1)


def _vectors(match: Match) -> list[np.ndarray]:
    """The scale, and the bias if there is one."""
    channels = _channels(match)
    names = [name for name in ("g", "h") if name in match.pattern.variables]
    return [_vector(match, name, channels) for name in names] or [np.ones(channels)]


def _build(match: Match, tape: Tape) -> ir.Value:
    x, rank = match["x"], len(match.dims("x"))
    constants = zip(_vectors(match), ("scale", "bias"), strict=False)
    operands = [tape.constant(item, hint, like=x) for item, hint in constants]
    turned = tape.op("Transpose", x, perm=to_last(rank))
    normal = tape.op("LayerNormalization", turned, *operands, axis=-1, epsilon=norms.epsilon(match))
    return tape.op("Transpose", normal, perm=to_second(rank))


@per_target
def rules(target: Target) -> RuleSet:
    """The rules as far as the target has no objection to them."""
    return RuleSet(norms.rules(_texts(), target, _FORM, _SINCE, _vectors, _build))


RULES = rules(targets()["onnx"])


@dataclass(frozen=True)
class FuseChannelNorm(Pass):
    """Replaces the parts of a layer normalisation over axis 1 by LayerNormalization of the transposed input.

    Nine passes over the elements become three, and the Transposes may meet others: on ONNX Runtime's CPU provider it
    takes .3 to .85 of the time. A scale and a bias with one number for each channel go into the operator.

    Infinities and NaN: a place that holds one becomes NaN in both forms. In float16 the parts overflow where
    deviations exceed 255, and LayerNormalization, which computes in float, does not.

    Keeps it for double and for an unknown number of channels; where a result in between is used elsewhere; where a
    scale or bias is computed or not one number for each channel; and on targets that object.
    """

    name: ClassVar[str] = "fuse-channel-norm"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per normalisation."""
        liked = context.target.objection(_FORM) is None  # at every size
        yield from (RULES if liked else rules(context.target)).sites(model)
