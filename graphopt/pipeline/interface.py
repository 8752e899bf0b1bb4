"""The public face of a model: inputs and outputs that no pass may change unless it was asked to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ..errors import GraphoptError

_Port = tuple[str, ir.TypeProtocol | None, ir.Shape | None]


@dataclass(frozen=True)
class Interface:
    """Names, types and declared shapes of the inputs and outputs, in order."""

    inputs: tuple[_Port, ...]
    outputs: tuple[_Port, ...]

    @classmethod
    def of(cls, model: ir.Model) -> Interface:
        """As the file declares it."""
        return cls(_ports(model.graph.inputs), _ports(model.graph.outputs))

    def narrowed_to(self, model: ir.Model) -> Interface:
        """The same declarations without the inputs and outputs that a pass was asked to remove."""
        inputs = {value.name for value in model.graph.inputs}
        outputs = {value.name for value in model.graph.outputs}
        return Interface(
            tuple(port for port in self.inputs if port[0] in inputs),
            tuple(port for port in self.outputs if port[0] in outputs),
        )

    def impose(self, model: ir.Model, *, by: str) -> None:
        """Write the declared types and shapes back.

        Raises:
            GraphoptError: names or their order are no longer the same.
        """
        for kind, values, declared in (
            ("inputs", model.graph.inputs, self.inputs),
            ("outputs", model.graph.outputs, self.outputs),
        ):
            now = [value.name or "" for value in values]
            before = [name for name, _, _ in declared]
            if now != before:
                raise GraphoptError(f"the {kind} became {now}, they were {before}", by)
            for value, (_, type_, shape) in zip(values, declared, strict=True):
                value.type = type_ if type_ is not None else value.type
                value.shape = _copy(shape)


def _ports(values: Sequence[ir.Value]) -> tuple[_Port, ...]:
    return tuple((value.name or "", value.type, _copy(value.shape)) for value in values)


def _copy(shape: ir.Shape | None) -> ir.Shape | None:
    return None if shape is None else shape.copy()
