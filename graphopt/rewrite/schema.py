"""What ONNX says about operators: defaults of attributes, types, and when a call is legal."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from typing import Any

import onnx
import onnx_ir as ir

from .syntax import Absent, Operator, Variable

COMMUTATIVE = frozenset(
    {"Add", "Mul", "And", "Or", "Xor", "Max", "Min", "Sum", "Mean", "Equal"} | {"BitwiseAnd", "BitwiseOr", "BitwiseXor"}
)
"""Standard operators whose operands may be exchanged."""

BROADCASTING = COMMUTATIVE | frozenset(
    {"Sub", "Div", "Pow", "Mod", "PRelu", "Where", "BitShift"} | {"Greater", "GreaterOrEqual", "Less", "LessOrEqual"}
)
"""Standard operators whose result has the shape of all operands broadcast together."""


@cache
def _histories() -> Mapping[tuple[str, str], list[onnx.defs.OpSchema]]:
    found: dict[tuple[str, str], list[onnx.defs.OpSchema]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        found.setdefault((schema.domain, schema.name), []).append(schema)
    return found


def history(domain: str, op_type: str) -> list[onnx.defs.OpSchema]:
    """All versions of an operator, none for operators of foreign domains."""
    return _histories().get((domain, op_type), [])


@cache
def schema(domain: str, op_type: str, version: int) -> onnx.defs.OpSchema | None:
    """The operator as of an operator-set version, None when it does not exist then or is unknown."""
    known = [item for item in history(domain, op_type) if item.since_version <= version]
    newest = max(known, key=lambda item: item.since_version, default=None)
    return None if newest is None or newest.deprecated else newest


@cache
def defaults(domain: str, op_type: str, version: int) -> Mapping[str, ir.Attr]:
    """Attributes that have a default in that version, with it."""
    found = schema(domain, op_type, version)
    if found is None:
        return {}
    return {
        name: ir.serde.deserialize_attribute(attribute.default_value)
        for name, attribute in found.attributes.items()
        if attribute.default_value.type != onnx.AttributeProto.UNDEFINED
    }


def make_attribute(domain: str, op_type: str, version: int, name: str, value: Any) -> ir.Attr:
    """An attribute of the type that the operator asks for, so that ``alpha=1`` becomes a float.

    Args:
        domain: of the operator.
        op_type: of the operator.
        version: of the domain.
        name: of the attribute.
        value: its Python value, or an attribute (of any name) to repeat.
    """
    if isinstance(value, ir.Attr):
        if value.is_ref():
            return ir.RefAttr(name, str(value.ref_attr_name), value.type)
        return ir.Attr(name, value.type, value.value)
    found = schema(domain, op_type, version)
    wanted = None if found is None else found.attributes.get(name)
    kind = None if wanted is None else ir.AttributeType(int(wanted.type))  # type: ignore[arg-type]
    if isinstance(value, (tuple, list)):
        if kind == ir.AttributeType.FLOATS:
            value = [float(item) for item in value]
    elif kind == ir.AttributeType.FLOAT:
        value = float(value)
    return ir.convenience.convert_attribute(name, value, kind)


@cache
def operand_types(domain: str, op_type: str, version: int, count: int) -> tuple[str, ...] | None:
    """The type letter (``T``, or ``tensor(int64)``) of each of an operator's operands, None when unknown."""
    found = schema(domain, op_type, version)
    if found is None or not found.inputs:
        return None
    return tuple(found.inputs[min(index, len(found.inputs) - 1)].type_str for index in range(count))


@cache
def result_types(domain: str, op_type: str, version: int, count: int) -> tuple[str, ...] | None:
    """The type letter of each of an operator's results, None when unknown."""
    found = schema(domain, op_type, version)
    if found is None or not found.outputs:
        return None
    return tuple(found.outputs[min(index, len(found.outputs) - 1)].type_str for index in range(count))


@cache
def allowed_types(domain: str, op_type: str, version: int, letter: str) -> frozenset[ir.DataType]:
    """The element types that a type letter of an operator admits."""
    found = schema(domain, op_type, version)
    names = [letter]
    if found is not None:
        names = next(
            (list(item.allowed_type_strs) for item in found.type_constraints if item.type_param_str == letter),
            names,
        )
    return frozenset(kind for name in names if (kind := _data_type(name)) is not None)


def _data_type(name: str) -> ir.DataType | None:
    """``tensor(float16)`` as an element type."""
    if not name.startswith("tensor("):
        return None
    return ir.DataType.__members__.get(name[len("tensor(") : -1].upper())


@cache
def legal(
    domain: str,
    op_type: str,
    version: int,
    attributes: frozenset[str],
    rest: bool,
    fewest: int,
    most: int,
    outputs: int,
) -> bool:
    """True when a call may be written in an operator-set version; operators of foreign domains always may.

    Args:
        domain: of the operator.
        op_type: of the operator.
        version: of the domain.
        attributes: the attributes that are given.
        rest: true when more attributes may be given.
        fewest: the number of operands when optional ones are left out.
        most: the number of operands otherwise.
        outputs: the number of results.
    """
    if not history(domain, op_type):
        return True
    found = schema(domain, op_type, version)
    if found is None or not attributes <= found.attributes.keys():
        return False
    needed = {name for name, attribute in found.attributes.items() if attribute.required}
    if not rest and not needed <= attributes:
        return False
    return fewest <= found.max_input and most >= found.min_input and outputs <= found.max_output


def call_is_legal(operator: Operator, choice: tuple[str, str], version: int, outputs: int) -> bool:
    """``legal`` for an operator of a pattern or replacement."""
    domain, op_type = choice
    names = frozenset(name for name, _ in operator.attributes)
    most = len(operator.inputs)
    while most and isinstance(operator.inputs[most - 1], Absent):
        most -= 1
    fewest = most
    while fewest and isinstance(last := operator.inputs[fewest - 1], Variable) and (last.optional or last.variadic):
        fewest -= 1
    if operator.inputs and isinstance(last := operator.inputs[-1], Variable) and last.variadic:
        most = 1 << 30
    return legal(domain, op_type, version, names, operator.rest is not None, fewest, most, outputs)


def objection(operator: Operator, outputs: int) -> tuple[str, str] | None:
    """What is wrong with a call in every version there is, with a hint; None when nothing is."""
    for domain, op_type in operator.choices:
        versions = history(domain, op_type)
        if not versions:
            if domain == "":
                names = [name for known, name in _histories() if known == ""]
                close = difflib.get_close_matches(op_type, names, n=1)
                return f"ONNX has no operator '{op_type}'", f"did you mean '{close[0]}'?" if close else ""
            continue
        if any(call_is_legal(operator, (domain, op_type), item.since_version, outputs) for item in versions):
            continue
        given = {name for name, _ in operator.attributes}
        known = {name for item in versions for name in item.attributes}
        if given - known:
            return (
                f"'{op_type}' has no attribute '{min(given - known)}'",
                f"it has: {', '.join(sorted(known)) or 'none'}",
            )
        newest = max(versions, key=lambda item: item.since_version)
        missing = sorted(name for name, item in newest.attributes.items() if item.required and name not in given)
        if missing and operator.rest is None:
            return (
                f"'{op_type}' needs the attribute '{missing[0]}'",
                f"write {op_type}{{{missing[0]}=...}} or {op_type}{{**a}}",
            )
        return (
            f"'{op_type}' cannot be called like this",
            f"it has {newest.min_input} to {newest.max_input} operands",
        )
    return None
