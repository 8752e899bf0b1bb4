"""Are the tensors of a parsed model what they claim to be? Asked before anything is trusted.

Of external data the path must stay in the model's folder (no absolute path, no ``..``, no symbolic link that
leads out), and the range must lie in the file, fit the tensor's type and shape, and not overlap another one
partly. Data inside the model file must fit type and shape too: a stripped weight would otherwise read as
zeros.

Sources: ONNX ``docs/ExternalData.md``; CVE-2022-25882, CVE-2024-27318 and GHSA-538c-55jv-c5g9 for what
hostile files do.
"""

from __future__ import annotations

import math
import ntpath
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import onnx
import onnx_ir as ir

from graphopt.errors import GraphoptError

from .external_data import DataFile, References
from .protos import Held, roots, tensors


@dataclass(frozen=True, slots=True)
class _Range:
    start: int
    end: int
    place: str


def validate(proto: onnx.ModelProto, path: str | os.PathLike[str] | None) -> References:
    """Check every tensor of a parsed model against its data, inline or external, without reading weights.

    Args:
        proto: the model as parsed; references without an explicit length get one.
        path: the model's file; None for a model that has none, which then must not refer to external data.

    Raises:
        GraphoptError: a path that leaves the folder, a missing or too short file, a range that does not fit
            the tensor or overlaps another one, inline data that does not fit type and shape.
    """
    base = os.path.dirname(os.fspath(path)) or os.curdir if path is not None else ""
    files: dict[str, DataFile] = {}
    ranges: dict[str, list[_Range]] = {}
    for root in roots(proto):
        for held in tensors(root):
            expected = _expected_bytes(held)
            if held.tensor.data_location != onnx.TensorProto.EXTERNAL:
                _check_inline(held, expected)
                continue
            if path is None:
                raise GraphoptError("external data is of no use without the model's file", held.place, "load by path")
            location, start, end = _range(held, expected)
            if location not in files:
                files[location] = DataFile(_resolve(location, path, held.place))
            if end > files[location].size:
                raise GraphoptError(
                    f"the data file has {files[location].size} bytes, but bytes {start} to {end} are needed",
                    f"{held.place} in {location}",
                    "the data file is truncated or belongs to another model: fetch it again",
                )
            if end > start:
                ranges.setdefault(os.path.realpath(files[location].path), []).append(_Range(start, end, held.place))
    for name, found in ranges.items():
        _check_overlaps(name, found)
    return References(base, files)


def _expected_bytes(held: Held) -> int:
    """The bytes that a tensor's type and shape ask for; 0 for strings."""
    tensor, place = held.tensor, held.place
    if tensor.HasField("segment"):
        raise GraphoptError("the tensor is stored in segments, which no runtime reads", place, "export it anew")
    try:
        dtype = ir.DataType(tensor.data_type)
    except ValueError:
        dtype = ir.DataType.UNDEFINED
    if dtype == ir.DataType.UNDEFINED:
        raise GraphoptError(f"the element type {tensor.data_type} is unknown", place, "export the model anew")
    if any(dim < 0 for dim in tensor.dims):
        raise GraphoptError(f"the shape {list(tensor.dims)} has a negative dimension", place, "export the model anew")
    return 0 if dtype == ir.DataType.STRING else math.ceil(math.prod(tensor.dims) * dtype.bitwidth / 8)


_FIELDS: dict[int, str] = {
    **dict.fromkeys((onnx.TensorProto.FLOAT, onnx.TensorProto.COMPLEX64), "float_data"),
    **dict.fromkeys((onnx.TensorProto.DOUBLE, onnx.TensorProto.COMPLEX128), "double_data"),
    **dict.fromkeys((onnx.TensorProto.UINT32, onnx.TensorProto.UINT64), "uint64_data"),
    onnx.TensorProto.INT64: "int64_data",
    onnx.TensorProto.STRING: "string_data",
}


def _check_inline(held: Held, expected: int) -> None:
    tensor = held.tensor
    elements = math.prod(tensor.dims)
    if tensor.HasField("raw_data") and tensor.data_type != onnx.TensorProto.STRING:
        found = len(tensor.raw_data)
        fits, unit, wanted = found == expected, "bytes", expected
    else:
        found = len(getattr(tensor, _FIELDS.get(tensor.data_type, "int32_data")))
        complex_pair = tensor.data_type in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128)
        wanted, unit = elements * (2 if complex_pair else 1), "elements"
        fits = found == wanted or (expected < elements and found == expected)  # 2- to 6-bit types may be packed
    if fits:
        return
    if not found:
        raise GraphoptError(
            f"a tensor of shape {list(tensor.dims)} has no data",
            held.place,
            "its weights were stripped: export it anew",
        )
    raise GraphoptError(
        f"a tensor of shape {list(tensor.dims)} needs {wanted} {unit} and has {found}",
        held.place,
        "the file is damaged: export it anew",
    )


def _range(held: Held, expected: int) -> tuple[str, int, int]:
    tensor, place = held.tensor, held.place
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if not held.dense or tensor.data_type == onnx.TensorProto.STRING:
        kind = "strings" if held.dense else "sparse tensors"
        raise GraphoptError(f"external data of {kind} is not supported", place, "keep them inside the model file")
    offset, length = _number(entries, "offset", 0, place), _number(entries, "length", expected, place)
    if length != expected:
        raise GraphoptError(
            f"the external data has {length} bytes, but type and shape {list(tensor.dims)} need {expected}",
            place,
            "the file is damaged: export it anew",
        )
    location = entries.get("location", "")
    tensor.ClearField("external_data")  # what else is there (a checksum of the file, unknown keys) is of no use here
    for key, text in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=text)
    return location, offset, offset + length


def _number(entries: dict[str, str], key: str, default: int, place: str) -> int:
    text = entries.get(key, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise GraphoptError(f"the {key} {text[:40]!r} of the external data is not a positive number", place)
    return int(text)


def _resolve(location: str, path: str | os.PathLike[str], place: str) -> str:
    """The file a location means; relative to the model's folder and inside it."""
    if not location or "\0" in location:
        raise GraphoptError("the external data has no usable location", place, "export the model anew")
    if os.path.isabs(location) or ntpath.isabs(location) or ntpath.splitdrive(location)[0]:
        raise GraphoptError(f"the external data lies at an absolute path, {location!r}", place, _STAY)
    if ".." in location.replace("\\", "/").split("/"):
        raise GraphoptError(f"the external data lies outside the model's folder, at {location!r}", place, _STAY)
    given = os.fspath(path)
    for model in (given, os.path.realpath(given)):  # a link to a model elsewhere: its data lies there
        base = os.path.dirname(model) or os.curdir
        candidate = os.path.join(base, location)
        if not os.path.lexists(candidate):
            continue
        if not _inside(candidate, base):
            raise GraphoptError(
                f"the external data {location!r} is a link that leads out of the model's folder", place, _STAY
            )
        if not os.path.exists(candidate):
            break
        if not stat.S_ISREG(os.stat(candidate).st_mode):
            raise GraphoptError(f"the external data {location!r} is not a regular file", place, _STAY)
        return candidate
    raise GraphoptError(
        f"the external data file {location!r} is missing", place, "copy it into the folder of the model"
    )


_STAY = "data must lie in the folder of the model or below it"


def _inside(path: str, folder: str) -> bool:
    real, root = os.path.realpath(path), os.path.realpath(folder)
    return os.path.commonpath((real, root)) == root


def _check_overlaps(name: str, ranges: Iterable[_Range]) -> None:
    """Shared weights may point at one and the same range; anything else must not touch."""
    ordered = sorted(ranges, key=lambda item: (item.start, item.end))
    for before, after in pairwise(ordered):
        if after.start < before.end and (after.start, after.end) != (before.start, before.end):
            raise GraphoptError(
                f"{before.place} (bytes {before.start} to {before.end}) and {after.place} "
                f"(bytes {after.start} to {after.end}) overlap",
                name,
                "the model is damaged: export it anew",
            )
