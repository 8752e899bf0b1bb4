"""GELU by its approximation with tanh, for whoever asks for it.

    Gelu(x)                 ->  Gelu{approximate="tanh"}(x)
    com.microsoft::Gelu(x)  ->  com.microsoft::FastGelu(x)

Source: Hendrycks and Gimpel, Gaussian Error Linear Units, 2016, section 2. Gelu: ONNX, version 20.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.events import Sites
from graphopt.pipeline import Context, Fidelity, Pass
from graphopt.rewrite import Rewrite, RuleSet, of_type
from graphopt.target import Target, targets

from ._forms import FLOATING, SINGLE_OR_HALF, welcome
from ._per_target import per_target

_FAST = "com.microsoft::FastGelu"


@per_target
def rules(target: Target) -> RuleSet:
    """The rules for a target."""
    standard = [of_type("x", *FLOATING), welcome(target, "Gelu")]
    contributed = [of_type("x", *SINGLE_OR_HALF), welcome(target, _FAST)]
    return RuleSet(
        [
            Rewrite("Gelu(x)", 'Gelu{approximate="tanh"}(x)', where=standard),
            Rewrite("com.microsoft::Gelu(x)", f"{_FAST}(x)", where=contributed),
        ]
    )


RULES = rules(targets()["onnx"])


@dataclass(frozen=True)
class ApproximateGelu(Pass):
    """Replaces GELU by its tanh approximation, which is off by at most 4.8e-4; in no preset, only when asked for.

    A GELU that is written out has to be found by fuse-gelu first.

    Attributes:
        db: by how many decibels the error of each output of the model must stay below the output.
    """

    db: float = 40.0

    name: ClassVar[str] = "approximate-gelu"
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def budget_db(self) -> float:
        """See ``Pass.budget_db``."""
        return self.db

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per GELU."""
        yield from rules(context.target).sites(model)
