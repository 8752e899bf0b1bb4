"""A model's interface as data: its ports, and whether feeds fit them.

Everything that takes feeds checks them here first, so a wrong name, type or shape is reported with the
input's name before a runtime sees it. Nothing is converted silently: a float64 array is not a float32 input.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError

Dim = int | str | None
Feeds = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Port:
    """One public input or output.

    Attributes:
        name: the name in the file.
        kind: ``tensor``, ``sequence``, ``optional``, ``sparse`` or ``other`` (maps and the like).
        dtype: the element type; None when it is unknown.
        shape: ints, symbols, and None for a dimension nothing is known of; None when the rank is unknown
            (ONNX Runtime does not tell an unknown rank from a scalar; then this is None too).
        required: false for an input with a default value.
    """

    name: str
    kind: str
    dtype: ir.DataType | None
    shape: tuple[Dim, ...] | None
    required: bool = True

    def __str__(self) -> str:
        element = self.dtype.name.lower() if self.dtype is not None else "unknown type"
        if self.shape is None:
            return f"{element}[...]" if self.kind == "tensor" else f"{self.kind} of {element}"
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{element}[{sizes}]" if self.kind == "tensor" else f"{self.kind} of {element}[{sizes}]"


def signature(model: ir.Model) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """The inputs and outputs of a model, in its order; an input with an initialiser is not required."""
    inputs = tuple(port(value, required=not value.is_initializer()) for value in model.graph.inputs)
    return inputs, tuple(port(value) for value in model.graph.outputs)


def port(value: ir.Value, required: bool = True) -> Port:
    """The port of a graph input or output, as the file declares it."""
    kinds: dict[type[Any], str] = {
        ir.TensorType: "tensor",
        ir.SequenceType: "sequence",
        ir.OptionalType: "optional",
        ir.SparseTensorType: "sparse",
    }
    kind = "tensor" if value.type is None else kinds.get(type(value.type), "other")
    shape = None if value.shape is None else tuple(_dim(dim) for dim in value.shape.dims)
    return Port(value.name or "", kind, None if value.type is None else value.dtype, shape, required)


def _dim(dim: int | ir.SymbolicDim) -> Dim:
    """-1 and ``?`` are how exporters write "unknown": two of them are not one size."""
    size = dim if isinstance(dim, int) else dim.value
    return None if size in (-1, "", "?") else size


_ORT_TYPES: dict[str, ir.DataType] = {
    "float": ir.DataType.FLOAT,
    "double": ir.DataType.DOUBLE,
    "float16": ir.DataType.FLOAT16,
    "bfloat16": ir.DataType.BFLOAT16,
    "bool": ir.DataType.BOOL,
    "string": ir.DataType.STRING,
    "float8e4m3fn": ir.DataType.FLOAT8E4M3FN,
    "float8e4m3fnuz": ir.DataType.FLOAT8E4M3FNUZ,
    "float8e5m2": ir.DataType.FLOAT8E5M2,
    "float8e5m2fnuz": ir.DataType.FLOAT8E5M2FNUZ,
    "float4e2m1": ir.DataType.FLOAT4E2M1,
    "Float4E2M1x2": ir.DataType.FLOAT4E2M1,
    "int4": ir.DataType.INT4,
    "uint4": ir.DataType.UINT4,
    "Int4x2": ir.DataType.INT4,
    "UInt4x2": ir.DataType.UINT4,
    "int2": ir.DataType.INT2,
    "uint2": ir.DataType.UINT2,
    "Int2x4": ir.DataType.INT2,
    "UInt2x4": ir.DataType.UINT2,
    **{
        f"{sign}int{bits}": getattr(ir.DataType, f"{sign}int{bits}".upper())
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}
_ORT_KINDS = {"tensor": "tensor", "seq": "sequence", "optional": "optional", "sparse_tensor": "sparse"}


def runtime_dtype(text: str) -> ir.DataType | None:
    """The innermost element type of ONNX Runtime's ``seq(tensor(int64))`` and the like; None if unknown."""
    return _ORT_TYPES.get(text.rsplit("(", 1)[-1].rstrip(")"))


def runtime_port(argument: Any, required: bool = True) -> Port:
    """The port of an ONNX Runtime ``NodeArg``."""
    kind = _ORT_KINDS.get(argument.type.split("(", 1)[0], "other")
    shape: tuple[Dim, ...] | None = tuple(
        size if isinstance(size, int) and size >= 0 else (None if size in (-1, "", "?") else size)
        for size in argument.shape
    )
    return Port(argument.name, kind, runtime_dtype(argument.type), shape or None, required)


def checked(ports: Sequence[Port], feeds: Feeds, where: str = "feeds") -> dict[str, Any]:
    """The feeds in the order of the ports, arrays in native byte order and C layout.

    Raises:
        GraphoptError: a name the model does not have, a missing input, a wrong element type, rank or size.
    """
    by_name = {item.name: item for item in ports}
    for name in feeds:
        if name not in by_name:
            lower = {known.lower(): known for known in by_name}
            close = [lower[found] for found in difflib.get_close_matches(str(name).lower(), lower, 1)]
            raise GraphoptError(
                f"the model has no input '{name}'",
                where,
                f"did you mean '{close[0]}'?" if close else f"its inputs are: {_listed(by_name)}",
            )
    missing = [item.name for item in ports if item.required and item.name not in feeds]
    if missing:
        raise GraphoptError(
            f"input {_listed(missing)} is not fed" if len(missing) == 1 else f"inputs {_listed(missing)} are not fed",
            where,
            f"feed one array for each of: {_listed(by_name)}",
        )
    return {item.name: _fitting(item, feeds[item.name], where) for item in ports if item.name in feeds}


def _listed(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _fitting(item: Port, value: Any, where: str) -> Any:
    place = f"{where}, input '{item.name}'"
    if item.kind in ("sequence", "optional"):
        if value is None and item.kind == "optional":
            return None
        if isinstance(value, list):
            return [_array(element, item, place) for element in value]
        if item.kind == "optional":
            return _array(value, item, place)
        raise GraphoptError(
            f"the input is a sequence, the feed is a {type(value).__name__}", place, "feed a list of arrays"
        )
    if item.kind != "tensor":
        raise GraphoptError(
            f"inputs of this kind ({item.kind}) are not supported",
            place,
            "feed the model through onnxruntime itself",
        )
    array = _array(value, item, place)
    if item.shape is not None:
        wrong_rank = len(item.shape) != array.ndim
        if wrong_rank or any(
            isinstance(want, int) and want != has for want, has in zip(item.shape, array.shape, strict=True)
        ):
            raise GraphoptError(
                f"shape {list(array.shape)} does not fit {item}",
                place,
                "reshape the feed, or choose other data",
            )
    return array


def _array(value: Any, item: Port, place: str) -> np.ndarray:
    if not isinstance(value, (np.ndarray, np.generic)):
        raise GraphoptError(
            f"the feed is a {type(value).__name__}, not a numpy array",
            place,
            f"feed numpy.asarray(...) of {item}",
        )
    array = np.asarray(value, order="C")
    if array.dtype.kind in "USTO":
        if not all(isinstance(element, (str, bytes)) for element in array.reshape(-1).tolist()):
            raise GraphoptError("an array of Python objects is no tensor", place, f"feed {item}")
        actual = ir.DataType.STRING
        array = array.astype(object)
    else:
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        try:
            actual = ir.DataType.from_numpy(array.dtype)
        except TypeError:
            raise GraphoptError(f"{array.dtype} is no ONNX element type", place, f"feed {item}") from None
    if item.dtype is not None and actual != item.dtype:
        wanted = item.dtype.name.lower()
        raise GraphoptError(
            f"the feed is {actual.name.lower()}, the input wants {wanted}",
            place,
            "convert it yourself: numpy.asarray(...).astype(...); nothing is converted silently",
        )
    return array
