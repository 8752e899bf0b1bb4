"""Which one operator an expression is written as: the first of its forms that opset, element type and target take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, cast

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Site, Sites
from graphopt.rewrite import Condition
from graphopt.rewrite.schema import make_attribute, schema
from graphopt.target import Target

from ._affine import Refusal

SINGLE_OR_HALF = frozenset((ir.DataType.FLOAT, ir.DataType.FLOAT16))
FLOATING = SINGLE_OR_HALF | {ir.DataType.DOUBLE}
_CONTRIB = 1  # the version of com.microsoft


@dataclass(frozen=True, eq=False)
class Form:
    """An operator that computes the expression.

    Attributes:
        name: as targets call it: ``Gelu``, ``com.microsoft::QuickGelu``.
        since: the first standard opset that has it; 1 for other domains.
        attributes: of the node.
        types: element types for which it is the same function, as exact, and has a kernel somewhere.
        remark: what reports say besides the name.
    """

    name: str
    since: int = 1
    attributes: Mapping[str, Any] = field(default_factory=dict)
    types: frozenset[ir.DataType] = FLOATING
    remark: str = ""

    @property
    def domain(self) -> str:
        """The operator set, ``""`` for the standard one."""
        return self.name.rpartition("::")[0]

    @property
    def op_type(self) -> str:
        """The operator."""
        return self.name.rpartition("::")[2]

    def objection(self, place: Place, x: ir.Value) -> str | None:
        """Why it cannot be written for that operand at a place, or None."""
        if x.dtype is None:
            return f"{self.op_type} needs an element type that is known"
        if x.dtype not in self.types:
            return f"{self.name} is not written for {x.dtype.name.lower()}"
        return place.objection(self) or place.target.objection(self.name, elements(x))


@dataclass(frozen=True, eq=False)
class Place:
    """Where a node is to be written.

    Attributes:
        model: the whole.
        body: the main graph or the local function.
        target: what it is for.
    """

    model: ir.Model
    body: gir.Body
    target: Target

    def objection(self, form: Form) -> str | None:
        """Why the operator sets that are imported here do not have the form, or None."""
        here, main = self.body.version(form.domain), self.model.opset_imports.get(form.domain)
        if form.domain:
            versions = {version or _CONTRIB for version in (here, main)}
            return None if versions == {_CONTRIB} else f"this model has another version of {form.domain}"
        if here < form.since:
            return f"{form.name} needs opset {form.since}, this graph has {here}"
        if main is not None and schema("", form.op_type, here) is not schema("", form.op_type, main):
            return f"{form.name} differs between the function's opset {here} and the model's {main}"
        return None

    def choose(self, forms: Sequence[Form], x: ir.Value) -> Form:
        """The first form that there is nothing against.

        Raises:
            Refusal: there is something against each; says what.
        """
        reasons = []
        for form in forms:
            reason = form.objection(self, x)
            if reason is None:
                return form
            reasons.append(reason)
        raise Refusal("; ".join(dict.fromkeys(reasons)))

    def site(
        self, last: ir.Node, forms: Sequence[Form], x: ir.Value, objection: str | None, factor: float = 1.0
    ) -> Site:
        """The site of a node whose result is written as a function of x, times a number.

        Args:
            last: the node.
            forms: what it may be written as, what is liked best first.
            x: the operand.
            objection: why it cannot be written at all, or None.
            factor: the number.
        """
        try:
            if objection is not None:
                raise Refusal(objection)
            form = self.choose(forms, x)
        except Refusal as refusal:
            return Site(gir.where(last), str(refusal))

        def edit() -> None:
            written = [self.node(form, [x])]
            if factor != 1:
                written += self._times(written[0].outputs[0], factor, x, last)
            gir.replace_node(last, written, [written[-1].outputs[0]])

        times = "" if factor == 1 else f", times {factor:.4g}"
        return Site(gir.where(last), f"written as {form.name}{form.remark}{times}", edit)

    def _times(self, value: ir.Value, factor: float, x: ir.Value, last: ir.Node) -> list[ir.Node]:
        assert last.graph is not None and x.dtype is not None
        value.type, value.shape = x.type, x.shape
        number = np.asarray(factor, dtype=x.dtype.numpy())
        if self.body.function is None and self.model.ir_version >= 4:
            return [ir.node("Mul", [value, gir.new_initializer(last.graph, number, f"{value.name or 'gelu'}_factor")])]
        # Functions have no initialisers, and those of older models can be overridden.
        constant = ir.node("Constant", [], {"value": ir.tensor(number)})
        return [constant, ir.node("Mul", [value, constant.outputs[0]])]

    def node(self, form: Form, inputs: Sequence[ir.Value | None]) -> ir.Node:
        """A new node of that form, not yet in a graph; its operator set is imported."""
        version = self.body.version(form.domain) or _CONTRIB
        if form.domain:
            for opsets in (self.body.opsets, self.model.opset_imports):
                cast("MutableMapping[str, int]", opsets).setdefault(form.domain, _CONTRIB)
        attributes = [
            make_attribute(form.domain, form.op_type, version, key, value) for key, value in form.attributes.items()
        ]
        return ir.Node(form.domain, form.op_type, inputs, attributes, num_outputs=1)


def elements(value: ir.Value) -> int | None:
    """How many elements a value has, where that is known before the run."""
    shape = gir.static_dims(value)
    return None if shape is None else prod(shape)


def sites_at(
    model: ir.Model, target: Target, operators: Sequence[str], look: Callable[[ir.Node, Place], Site | None]
) -> Sites:
    """What there is to say of each node of these operators."""
    for body in gir.bodies(model):
        place = Place(model, body, target)
        for node in body.nodes():
            site = look(node, place) if gir.is_op(node, *operators) else None
            if site is not None:
                yield site


def welcome(target: Target, form: str, name: str = "x") -> Condition:
    """The condition of a rule that the target has nothing against a form, at the size of that variable."""
    return Condition(lambda match: target.objection(form, elements(match[name])))
