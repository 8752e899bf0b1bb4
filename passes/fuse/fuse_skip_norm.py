"""Put the addition in front of a normalisation into it, where the target gains by that.

    s = a + b;  LayerNormalization(s, g, h)       ->  com.microsoft::SkipLayerNormalization(a, b, g, h)
    s = a + b + c;  LayerNormalization(s, g, h)   ->  com.microsoft::SkipLayerNormalization(a, b, g, h, c)
    s = a + b;  RMSNormalization(s, g)            ->  com.microsoft::SkipSimplifiedLayerNormalization(a, b, g)

where a and b have the same shape and c has one number for each element of the last axis. The sum s, if it is used
elsewhere, is the fourth result.

Source: ONNX Runtime, contributed operators, version 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Sites
from graphopt.pipeline import Context, Fidelity, Pass
from graphopt.rewrite import Condition, Match, Refused, Rewrite, RuleSet, Tape, constant, of_type, same_shape
from graphopt.target import Target, targets

from ._forms import welcome
from ._per_target import per_target

_DOMAIN = "com.microsoft"
_LAYER, _RMS = "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"


def _row(match: Match) -> None:
    """The operator knows only one normalised axis, of three, and constants of its size."""
    shape = match.dims("a")
    if len(shape) != 3 or match.attr("l.axis", -1) not in (-1, 2):
        raise Refused(f"it normalises from axis {match.attr('l.axis', -1)} of {len(shape)}, not the last of three")
    if match.attr("l.stash_type", 1) != ir.DataType.FLOAT:
        raise Refused("it computes in another type than float")
    for name in ("g", "h", "c"):
        given = match.values.get(name)
        if given is not None and (gir.dims(given) != (shape[-1],) or given.dtype != match.dtype("a")):
            raise Refused(f"its constant {gir.where(given)} has not one number for each element of a row")


def _build(form: str, match: Match, tape: Tape) -> dict[str, ir.Value]:
    constants = [match.values.get(name) for name in ("g", "h", "c")]
    if form == _RMS:
        del constants[1]
    total = match["s"]
    needed = len(total.uses()) > 1 or total.is_graph_output()
    results = tape.ops(
        form,
        match["a"],
        match["b"],
        *constants,
        outputs=4 if needed else 1,
        domain=_DOMAIN,
        epsilon=float(match.attr("l.epsilon", 1e-5)),
    )
    for result in results[1:3]:
        result.name = ""  # the mean and the deviation, which nothing uses
    return {"y": results[0], "s": results[3]} if needed else {"y": results[0]}


def _rule(total: str, norm: str, form: str, target: Target) -> Rewrite:
    return Rewrite(
        f"s = {total}; y = {norm}",
        outputs="y, s",
        build=lambda match, tape: _build(form, match, tape),
        where=[
            of_type("a", ir.DataType.FLOAT, ir.DataType.FLOAT16),
            same_shape("a", "b"),
            *([constant("c")] if "c" in total else []),
            Condition(_row),
            welcome(target, f"{_DOMAIN}::{form}", "a"),
        ],
        domains={_DOMAIN: 1},
        name=form,
    )


@per_target
def rules(target: Target) -> RuleSet:
    """The rules as far as the target has no objection to them."""
    layer, rms = "LayerNormalization{**l}(s, g, h?)", "RMSNormalization{**l}(s, g)"
    return RuleSet(
        [
            _rule("Add(a, Add(b, c))", layer, _LAYER, target),
            _rule("Add(a, b)", layer, _LAYER, target),
            _rule("Add(a, Add(b, c))", rms, _RMS, target),
            _rule("Add(a, b)", rms, _RMS, target),
        ]
    )


RULES = rules(targets()["onnx"])


@dataclass(frozen=True)
class FuseSkipNorm(Pass):
    """Replaces Add and LayerNormalization, or Add and RMSNormalization, by one of ONNX Runtime's operators.

    Only where the target takes it: on ONNX Runtime's CPU provider these are slower than the two they replace.

    Keeps it where the operands are not proven to have the same shape (three dimensions), for constants that are not
    one number for each element of a row, and for element types other than float and float16.
    """

    name: ClassVar[str] = "fuse-skip-norm"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """The sites of the rules."""
        if all(_refused(context.target, form) for form in (_LAYER, _RMS)):
            return
        yield from rules(context.target).sites(model)


def _refused(target: Target, form: str) -> bool:
    """True when no size of the operator is welcome, which is no news to anyone."""
    return _DOMAIN not in target.domains or f"{_DOMAIN}::{form}" in target.lacks
