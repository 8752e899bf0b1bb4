"""Inputs and outputs with channels last, or first, on request.

    f(x)  ->  f(Transpose{perm=0,3,1,2}(x))        x: N,C,H,W becomes N,H,W,C

The Transpose is put right behind the input (in front of the output); ``place-transposes`` moves it to where it costs
least or cancels it. Which inputs are images, and where their channels are, follows from the convolutions, poolings and
normalisations that read them through operators that work in any order. Transpose: all versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import onnx_ir as ir

from graphopt import ir as gir
from graphopt.errors import GraphoptError
from graphopt.events import Site, Sites
from graphopt.ir import orders
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

from ._channels import moved_to_last, orders_ahead, orders_behind
from ._region import inverted

LAYOUTS = ("keep", "nchw", "nhwc")


@dataclass(frozen=True)
class SetIoLayout(Pass):
    """Changes in which order of axes the model takes images and gives them back.

    Names and element types stay; the shape is permuted, and callers have to permute what they feed (the model's
    metadata say how, under ``graphopt.orders``). Verification does the same. Also for N,C,L and N,C,D,H,W.

    Kept, with the reason: an input with a default value, one whose order does not follow from the graph, and one that
    is read in both orders; by its name it can be changed all the same if it has rank 3 to 5.

    Attributes:
        inputs: ``nhwc``, ``nchw`` or ``keep``.
        outputs: the same for outputs.
        names: only these inputs and outputs, and these even if the graph does not tell where their channels are; they
            are taken for what they are to be changed from.
    """

    name: ClassVar[str] = "set-io-layout"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True
    changes_interface: ClassVar[bool] = True
    once: ClassVar[bool] = True
    inputs: str = "keep"
    outputs: str = "keep"
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for option in ("inputs", "outputs"):
            given = getattr(self, option)
            if given not in LAYOUTS:
                hint = f"one of {', '.join(LAYOUTS)}"
                raise GraphoptError(f"the layout of the {option} is '{given}'", self.name, hint, usage=True)

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site per input and output that could be meant."""
        version = model.opset_imports.get("", 0)
        known = {value.name for value in (*model.graph.inputs, *model.graph.outputs)}
        for name in self.names:
            if name not in known:
                yield Site(f"tensor '{name}'", "the model has no input or output of this name")
        for wanted, values, is_input in (
            (self.inputs, model.graph.inputs, True),
            (self.outputs, model.graph.outputs, False),
        ):
            if wanted == "keep":
                continue
            meant = [value for value in values if not self.names or value.name in self.names]
            sites = [self._site(model, value, wanted, version, is_input=is_input) for value in meant]
            if meant and not any(sites):
                yield Site(
                    "model", f"no {'input' if is_input else 'output'} is found to be an image; name those that are"
                )
            for site in sites:
                if site is not None:
                    yield site

    def _site(self, model: ir.Model, value: ir.Value, wanted: str, version: int, *, is_input: bool) -> Site | None:
        rank = gir.rank(value)
        named = value.name in self.names
        place = gir.where(value)
        if rank is None or not 3 <= rank <= 5 or not isinstance(value.type, ir.TensorType):
            return Site(place, f"its rank is {'not known' if rank is None else rank}, not 3 to 5") if named else None
        first, last = tuple(range(rank)), moved_to_last(rank)
        found = (orders_ahead if is_input else orders_behind)(value, rank, version)
        is_first, is_last = found == {first}, found == {inverted(last)}
        if not (is_first or is_last):
            if len(found) > 1:
                return Site(place, "it is used in more than one order")
            if found:
                return Site(place, f"its axes are in the order {', '.join(map(str, *found))}")
            if not named:
                return None
            is_first = wanted == "nhwc"
        if is_first == (wanted == "nchw"):
            return Site(place, f"it has its channels {'first' if is_first else 'last'} already")
        if value.is_initializer():
            return Site(place, "it has a default value")
        if value.is_graph_output() and value.is_graph_input():
            return Site(place, "it is input and output at once")
        order = last if is_first else inverted(last)
        edit = partial(_turn_input if is_input else _turn_output, model, value, order)
        text = f"{'taken' if is_input else 'given'} with its channels {'last' if is_first else 'first'}"
        return Site(place, text, edit)


def _turn_input(model: ir.Model, value: ir.Value, order: tuple[int, ...]) -> None:
    graph, uses = model.graph, tuple(value.uses())
    node = ir.node("Transpose", [value], {"perm": list(inverted(order))}, name=f"{value.name}_transposed")
    result = node.outputs[0]
    result.name, result.type, result.shape = f"{value.name}_transposed", value.type, value.shape
    for user, index in uses:
        user.replace_input_with(index, result)
    if len(graph):
        graph.insert_before(graph[0], node)
    else:
        graph.append(node)
    value.shape = _permuted(value.shape, order)
    orders.record(model, value.name or "", order)


def _turn_output(model: ir.Model, value: ir.Value, order: tuple[int, ...]) -> None:
    graph, name = model.graph, value.name
    node = ir.node("Transpose", [value], {"perm": list(order)}, name=f"{name}_transposed")
    result = node.outputs[0]
    result.type, result.shape = value.type, _permuted(value.shape, order)
    graph.append(node)
    value.name, result.name = f"{name}_own", name
    for index, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[index] = result
    orders.record(model, name or "", order)


def _permuted(shape: ir.Shape | None, order: tuple[int, ...]) -> ir.Shape | None:
    return None if shape is None else ir.Shape([shape.dims[axis] for axis in order])
