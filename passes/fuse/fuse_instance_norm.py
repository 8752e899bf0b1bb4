"""Write every dialect of instance normalisation as one operator.

    c = mean(x);  d = x - c;  d / sqrt(mean(d d) + eps) * s + b  ->  InstanceNormalization{epsilon=eps}(x, s, b)
    y = InstanceNormalization(x, s, b);  y * t  ->  InstanceNormalization(x, s t, b t);  y + t  ->  ...(x, s, b + t)

where the means are over all axes behind the channels, and s, b, t have one number for each channel.

Source: Ulyanov et al., Instance Normalization, 2016, equation 2; ONNX InstanceNormalization, version 6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.events import Sites
from graphopt.pipeline import Context, Fidelity, Pass
from graphopt.rewrite import Match, Refused, RuleSet, Tape
from graphopt.target import Target, targets

from . import _norms as norms
from ._absorb import Absorb, by_channel
from ._per_target import per_target

_FORM = "InstanceNormalization"


def _channels(match: Match) -> int:
    shape, over = match.dims("x"), norms.common_axes(match)
    if len(shape) < 4 or over != tuple(range(2, len(shape))):
        raise Refused(f"it normalises axes {list(over)} of {len(shape)}, not all behind the channels of a picture")
    channels = shape[1]
    if not isinstance(channels, int) or channels < 1:
        raise Refused("the number of channels is not known")
    return channels


def _vector(match: Match, name: str, otherwise: float) -> np.ndarray:
    """The scale or bias that stands between the parts, one number for each channel."""
    channels, rank = _channels(match), len(match.dims("x"))
    if name not in match.pattern.variables:
        return np.full(channels, otherwise)
    if len(match.dims(name)) > rank:
        raise Refused("its scale or bias would add a dimension")
    return norms.spread(match.array(name), (channels, *(1,) * (rank - 2))).reshape(-1)


def _check(match: Match) -> None:
    for name in ("g", "h"):
        _vector(match, name, 0.0)


def _build(match: Match, tape: Tape) -> ir.Value:
    scale = tape.constant(_vector(match, "g", 1.0), "scale", like=match["x"])
    bias = tape.constant(_vector(match, "h", 0.0), "bias", like=match["x"])
    return tape.op(_FORM, match["x"], scale, bias, epsilon=norms.epsilon(match))


@per_target
def rules(target: Target) -> RuleSet:
    """The rules as far as the target has no objection to them."""
    return RuleSet(norms.rules((*norms.scaled(), *norms.centred()), target, _FORM, 6, _check, _build))


RULES = rules(targets()["onnx"])
ABSORB = Absorb(_FORM, by_channel)


@dataclass(frozen=True)
class FuseInstanceNorm(Pass):
    """Replaces the parts of an instance normalisation by InstanceNormalization, and puts what follows into it.

    A scale and a bias may stand between the parts, as TensorFlow writes them. Only from rank 4 on: of three axes, the
    last one alone is as well a layer normalisation, and that is what it nearly always is.

    Infinities and NaN: a channel that holds one becomes NaN in both forms. In float16 the parts overflow where
    deviations exceed 255, and a runtime that computes the operator in float does not.

    Keeps it for double and for an unknown number of channels; where a result in between is used elsewhere; and on
    targets that object.
    """

    name: ClassVar[str] = "fuse-instance-norm"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """The normalisations, then what is behind them."""
        liked = context.target.objection(_FORM) is None  # at every size
        yield from (RULES if liked else rules(context.target)).sites(model)
        yield from ABSORB.sites(model)
