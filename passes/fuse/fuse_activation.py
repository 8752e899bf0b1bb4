"""Conv or Gemm and the activation after it, as the one operator that ONNX Runtime has for both.

    f(Conv{**a}(x, w, b))  ->  com.microsoft::FusedConv{activation=f, **a}(x, w, b)
    f(Gemm{**a}(x, w, b))  ->  com.microsoft::FusedGemm{activation=f, **a}(x, w, b)

with f = Relu, Sigmoid, Tanh, LeakyRelu, HardSigmoid, and for Conv also Clip. FusedConv, FusedGemm: ONNX Runtime's
contributed operators, version 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Sites
from graphopt.pipeline import Context, Fidelity, Pass
from graphopt.rewrite import Match, Refused, Rewrite, RuleSet, Tape, of_type
from graphopt.target import Target, targets

from ._forms import welcome
from ._per_target import per_target

_PARAMETERS = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta")}
_LARGEST = float(np.finfo(np.float32).max)


def _parameters(match: Match) -> list[float]:
    """The numbers of the activation, in the order in which the fused operators take them.

    Raises:
        Refused: they are not known.
    """
    kind = _kind(match)
    if kind == "Clip":
        low, high = _bound(match, "low", "min", -_LARGEST), _bound(match, "high", "max", _LARGEST)
        if not low <= high:
            raise Refused("the lower bound of the Clip is above the upper one")
        return [low, high]
    return [float(match.attr(f"p.{name}")) for name in _PARAMETERS.get(kind, ())]


def _bound(match: Match, operand: str, attribute: str, otherwise: float) -> float:
    value = match.get(operand)
    if value is None:
        return float(match.attr(f"p.{attribute}", otherwise))
    bound = gir.scalar(value)
    if not isinstance(bound, float):
        raise Refused("a bound of the Clip is not a constant number")
    return bound


def _kind(match: Match) -> str:
    return match.labels["f"][1] if "f" in match.labels else "Clip"


def _known(match: Match) -> bool:
    _parameters(match)
    return True


def _conv(match: Match, tape: Tape) -> ir.Value:
    numbers = _parameters(match)
    more = {"activation_params": numbers} if numbers else {}
    operands = match["x"], match["w"], match.get("b")
    attributes = {**match.attrs("a"), "activation": _kind(match), **more}
    return tape.op("FusedConv", *operands, domain="com.microsoft", attributes=attributes)


def _gemm(match: Match, tape: Tape) -> ir.Value:
    names = ("activation_alpha", "activation_beta")
    more = dict(zip(names, _parameters(match), strict=False))
    operands = match["x"], match["w"], match.get("b")
    attributes = {**match.attrs("a"), "activation": _kind(match), **more}
    return tape.op("FusedGemm", *operands, domain="com.microsoft", attributes=attributes)


@per_target
def rules(target: Target) -> RuleSet:
    """The rules for a target."""
    functions = "Relu|Sigmoid|Tanh|LeakyRelu|HardSigmoid@f{**p}"
    single = of_type("x", ir.DataType.FLOAT)
    conv = [single, _known, welcome(target, "com.microsoft::FusedConv")]
    gemm = [single, _known, welcome(target, "com.microsoft::FusedGemm")]
    return RuleSet(
        [
            Rewrite(f"{functions}(Conv{{**a}}(x, w, b?))", where=conv, build=_conv, name="FusedConv", matches=_SINCE),
            Rewrite(
                "Clip{**p}(Conv{**a}(x, w, b?), low?, high?)",
                where=conv,
                build=_conv,
                name="FusedConv",
                matches=_SINCE,
            ),
            Rewrite(f"{functions}(Gemm{{**a}}(x, w, b?))", where=gemm, build=_gemm, name="FusedGemm", matches=_SINCE),
        ]
    )


_SINCE = (7, 1 << 30)  # before, Gemm broadcast by attribute

RULES = rules(targets()["x86-64"])


@dataclass(frozen=True)
class FuseActivation(Pass):
    """Replaces Conv or Gemm and an activation by FusedConv or FusedGemm, for targets that are known to gain by it.

    The kernels apply the same function to the same sums, with the same results for NaN and infinity. ONNX Runtime
    does the same when it loads a model, so this pays only where it is not allowed to; and other runtimes cannot run the
    result, so it should come last.

    Keeps it when the result of Conv or Gemm is used elsewhere, for element types other than float, for a Clip whose
    bounds are computed, and where the operators have not been measured to be faster.
    """

    name: ClassVar[str] = "fuse-activation"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per pair; none for a target that takes no contributed operators."""
        if "com.microsoft" in context.target.domains:
            yield from rules(context.target).sites(model)
