"""The public face of a model: inputs and outputs that no pass may change unless it was asked to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from ..errors import GraphoptError
from ..ir.orders import Order, between, read

_Port = tuple[str, ir.TypeProtocol | None, ir.Shape | None]


@dataclass(frozen=True)
class Interface:
    """Names, types and declared shapes of the inputs and outputs, in order."""

    inputs: tuple[_Port, ...]
    outputs: tuple[_Port, ...]
    orders: Mapping[str, Order] = field(default_factory=dict)

    @classmethod
    def of(cls, model: ir.Model) -> Interface:
        """As the file declares it."""
        return cls(_ports(model.graph.inputs), _ports(model.graph.outputs), read(model))

    def narrowed_to(self, model: ir.Model) -> Interface:
        """The same declarations after a pass that was asked to remove inputs and outputs or to change them."""
        now = read(model)
        turned = between(self.orders, now)
        inputs = _as_in(model.graph.inputs, self.inputs, turned)
        return Interface(inputs, _as_in(model.graph.outputs, self.outputs, turned), now)

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


def _as_in(values: Sequence[ir.Value], declared: tuple[_Port, ...], turned: Mapping[str, Order]) -> tuple[_Port, ...]:
    """The declarations of those that are left, with the types and the orders of axes they have now."""
    now = {value.name: value.type for value in values}
    return tuple(
        (name, now[name] if type_ is not None and now[name] is not None else type_, _turned(shape, turned.get(name)))
        for name, type_, shape in declared
        if name in now
    )


def _turned(shape: ir.Shape | None, order: Order | None) -> ir.Shape | None:
    if shape is None or order is None or len(shape) != len(order):
        return shape
    return ir.Shape([shape.dims[axis] for axis in order])


def _copy(shape: ir.Shape | None) -> ir.Shape | None:
    return None if shape is None else shape.copy()
