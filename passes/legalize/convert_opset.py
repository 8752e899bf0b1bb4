"""The same graph in the operators of another opset of the default domain.

Each node whose schema changed is rewritten by a rule of its own, or the whole conversion is refused and names the
node (graphopt.ir.convert_opset). Subgraphs and local functions are converted too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.events import Site, Sites
from graphopt.ir import convert_opset, copy_model
from graphopt.pipeline.adapters import adopt
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass


@dataclass(frozen=True)
class ConvertOpset(Pass):
    """Converts the model to an opset on request.

    Kept as it is, with the reason: a model with a node that cannot be expressed in the other opset.

    Attributes:
        version: the opset to convert to, 13 or newer to go down; 0 leaves the model as it is.
        at_least: raise a lower opset to this one, for the operators that came with it; a higher one stays.
    """

    name: ClassVar[str] = "convert-opset"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    version: int = 0
    at_least: int = 0

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site for the model."""
        now = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
        wanted = max(self.version or now, self.at_least)
        if now in (0, wanted):
            yield Site("model", f"it has opset {now}" if now else "it has no operators of the standard domain")
            return
        converted = copy_model(model)
        try:
            convert_opset(converted, wanted)
        except GraphoptError as error:
            yield Site("model", f"it stays at opset {now}: {error.what} ({error.where})")
            return
        yield Site("model", f"converted from opset {now} to {wanted}", lambda: adopt(model, converted))
