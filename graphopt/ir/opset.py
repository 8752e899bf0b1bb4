"""Conversion of a model to another opset of the default domain.

A node whose schema is the same one at both opsets is left alone. Where the schema changed, the two are
compared: a node that both understand alike stays (attributes at a vanished default are dropped, a default
that changed is written out). What is left are the few operators whose form or meaning changed, each converted
by a rule of its own in ``opset_rules.py``. Anything else is refused, and then nothing at all is changed.

Why not the converters there are, tried on single nodes against ONNX Runtime: the C++ one of ``onnx`` 1.23
turns a Resize of opset 10 into one with other coordinates and leaves GroupNormalization as it is across 20/21
(wrong numbers, no word), needs shapes, copies all weights and drops what it does not know; the one of
``onnxscript`` 0.7 knows opsets 18 to 25, upwards, and skips what it cannot convert with a log message.
Schemas come from ``onnx.defs``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import onnx
import onnx_ir as ir

from graphopt.errors import GraphoptError

from .facts import STANDARD_DOMAINS, where
from .opset_facts import Facts, Unconvertible
from .opset_rules import RULES
from .reading import latest_opset
from .tidy import tidy
from .walk import Body, bodies

OLDEST_SOURCE = 7
"""Before opset 7, broadcasting was written differently; no runtime of today runs such models."""

OLDEST_TARGET = 13
"""Downwards, meanings changed too often before opset 13 (negative axes and indices, Softmax, per-axis quantization)."""

Schema = onnx.defs.OpSchema
Edit = Callable[[], None]


def convert_opset(model: ir.Model, version: int) -> None:
    """Convert a model to an opset, in place; or raise and change nothing.

    Subgraphs and local functions are converted too. Inputs, outputs, weights, metadata, other domains and the IR
    version stay.

    Args:
        model: imports opset 7 or newer.
        version: 13 or newer to go down, the model's or newer to go up; at most what the ``onnx`` package
            knows.

    Raises:
        GraphoptError: an opset out of range, or a node (named) that cannot be expressed in the new opset.
    """
    latest = latest_opset("") or 0
    if not 1 <= version <= latest:
        raise GraphoptError(
            f"the opset {version} is unknown",
            "conversion of the opset",
            f"known are 1 to {latest}",
            usage=True,
        )
    facts = Facts(model)
    edits: list[Edit] = []
    for body in bodies(model):
        edits.extend(_plan(body, version, facts))
    for edit in edits:
        edit()
    if edits:
        tidy(model)
    for owner in (model, *model.functions.values()):
        if "ai.onnx" in owner.opset_imports:
            del owner.opset_imports["ai.onnx"]
            owner.opset_imports[""] = version
        elif "" in owner.opset_imports:
            owner.opset_imports[""] = version


def _plan(body: Body, version: int, facts: Facts) -> list[Edit]:
    current = body.version("") or body.version("ai.onnx")
    if current in (0, version):
        return []
    if current < OLDEST_SOURCE:
        raise GraphoptError(
            f"models before opset {OLDEST_SOURCE} cannot be converted",
            f"opset {current}",
            "export the model anew",
        )
    if version < current and version < OLDEST_TARGET:
        raise GraphoptError(
            f"a model cannot be converted down below opset {OLDEST_TARGET}",
            f"opset {current} to {version}",
            "export the model for the older opset",
        )
    edits: list[Edit] = []
    for node in body.nodes():
        if node.domain not in STANDARD_DOMAINS:
            continue
        try:
            edit = _convert(node, current, version, facts)
        except Unconvertible as error:
            raise GraphoptError(
                f"{node.op_type} cannot be converted from opset {current} to {version}: {error}",
                where(node),
                "export the model for that opset, or choose another one",
            ) from error
        if edit is not None:
            edits.append(edit)
    return edits


def _convert(node: ir.Node, current: int, version: int, facts: Facts) -> Edit | None:
    old, new = _schema(node.op_type, current), _schema(node.op_type, version)
    if old is None:
        raise Unconvertible(f"the operator is not part of opset {current}")
    rule = RULES.get(node.op_type)
    if rule is not None:
        edit = rule(node, current, version, facts)
        if edit is not None:
            if new is not None and version < current:
                _require_types(node, new, facts)
            return edit
    if new is not None and old.since_version == new.since_version:
        return None
    if new is None or new.deprecated:
        raise Unconvertible(f"the operator is not part of opset {version}")
    return _same_form(node, old, new, facts if version < current else None)


@cache
def _schema(operator: str, version: int) -> Schema | None:
    try:
        return onnx.defs.get_schema(operator, version, "")
    except onnx.defs.SchemaError:
        return None


def _default(attribute: Schema.Attribute) -> Any:
    return onnx.helper.get_attribute_value(attribute.default_value) if attribute.default_value.name else None


def _same_form(node: ir.Node, old: Schema, new: Schema, facts: Facts | None) -> Edit | None:
    """The node as it is, with other attributes where a default went or changed; refused when that is not enough."""
    dropped: list[str] = []
    added: list[ir.Attr] = []
    for name, attribute in node.attributes.items():
        known, wanted = old.attributes.get(name), new.attributes.get(name)
        if wanted is None:
            if attribute.is_ref() or known is None or _value(attribute) != _default(known):
                raise Unconvertible(f"the attribute '{name}' is not part of it")
            dropped.append(name)
        elif known is not None and known.type != wanted.type:
            raise Unconvertible(f"the attribute '{name}' has another type there")
    for name, wanted in new.attributes.items():
        if name in node.attributes:
            continue
        before = _default(old.attributes[name]) if name in old.attributes else None
        if before is not None and before != _default(wanted):
            added.append(ir.convenience.convert_attribute(name, _text(before)))
        elif wanted.required:
            raise Unconvertible(f"it needs the attribute '{name}'")
    _require_fitting(node.inputs, new.inputs, new.max_input, "input")
    _require_fitting([v if v.name else None for v in node.outputs], new.outputs, new.max_output, "output")
    if facts is not None:
        _require_types(node, new, facts)
        _require_values(node, new.since_version)
    if not dropped and not added:
        return None

    def edit() -> None:
        for name in dropped:
            del node.attributes[name]
        for attribute in added:
            node.attributes[attribute.name] = attribute

    return edit


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _value(attribute: ir.Attr) -> Any:
    return attribute.value.encode() if isinstance(attribute.value, str) else attribute.value


def _require_fitting(values: Any, formals: Any, most: int, kind: str) -> None:
    given = len(values)
    while given and values[given - 1] is None:
        given -= 1
    if given > most:
        raise Unconvertible(f"it has {given} {kind}s, and only {most} are allowed there")
    for index, formal in enumerate(formals):
        if formal.option == Schema.FormalParameterOption.Single and (index >= given or values[index] is None):
            raise Unconvertible(f"the {kind} '{formal.name}' is required there")


def _require_types(node: ir.Node, new: Schema, facts: Facts) -> None:
    """Older operators take fewer element types. Types that are not known are left to the runtime."""
    for values, formals in ((node.inputs, new.inputs), (node.outputs, new.outputs)):
        for index, value in enumerate(values):
            kind = facts.type(value) if value is not None else None
            if kind is None or not formals:
                continue
            formal = formals[min(index, len(formals) - 1)]
            name = _type_name(kind)
            if name not in formal.types:
                raise Unconvertible(f"'{formal.name}' cannot be {name} there")


def _type_name(kind: ir.TypeProtocol) -> str:
    """As schemas write it: ``seq(tensor(float))``."""
    if isinstance(kind, ir.SequenceType):
        return f"seq({_type_name(kind.elem_type)})"
    if isinstance(kind, ir.OptionalType):
        return f"optional({_type_name(kind.elem_type)})"
    return f"tensor({kind.dtype.name.lower()})"


_VALUES_SINCE = {
    ("Pad", "mode", "wrap"): 19,
    ("ScatterElements", "reduction", "max"): 18,
    ("ScatterElements", "reduction", "min"): 18,
    ("ScatterND", "reduction", "max"): 18,
    ("ScatterND", "reduction", "min"): 18,
    ("Resize", "coordinate_transformation_mode", "half_pixel_symmetric"): 19,
}
"""Settings that schemas do not list, by the version of the operator that brought them."""


def _require_values(node: ir.Node, since: int) -> None:
    for name, attribute in node.attributes.items():
        needed = _VALUES_SINCE.get((node.op_type, name, attribute.value)) if isinstance(attribute.value, str) else None
        if needed is not None and since < needed:
            raise Unconvertible(f"the setting {name}={attribute.value} is not part of it")
