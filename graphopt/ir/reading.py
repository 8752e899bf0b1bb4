"""Reading the bytes of a model: what is not an ONNX model is told apart, by name where it is known."""

from __future__ import annotations

import mmap
import os
import stat

import onnx
from google.protobuf import text_format
from google.protobuf.message import DecodeError

from graphopt.errors import GraphoptError

TEXT_SUFFIXES = (".textproto", ".pbtxt", ".prototxt")
SYNTAX_SUFFIX = ".onnxtxt"

_PROTOBUF_LIMIT = (1 << 31) - 1
_NESTING_LIMIT = 100

_MAGIC = (
    (0, b"PK\x03\x04", "a zip archive (perhaps a PyTorch checkpoint)", "export it with torch.onnx.export"),
    (0, b"\x80\x02", "a Python pickle (perhaps a PyTorch checkpoint)", "export it with torch.onnx.export"),
    (0, b"\x89HDF", "an HDF5 file (perhaps a Keras model)", "convert it with tf2onnx"),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (0, b"GGUF", "a GGUF file", "export the original model to ONNX"),
    (4, b"TFL3", "a TensorFlow Lite model", "convert it with tf2onnx"),
    (4, b"ORTM", "a model in ONNX Runtime's own format", "use the .onnx file it was made from"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the model itself", "run: git lfs pull"),
    (0, b"<", "a web page or XML", "download the file itself"),
    (0, b"{", "JSON text", "give the .onnx file"),
)

_TOP_LEVEL = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
"""Wire type by field number of ``ModelProto``: 0 a number, 2 something with a length."""


def read_proto(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Parse a model file. External data is not looked at.

    Raises:
        GraphoptError: no such file, not a regular file, empty, not an ONNX model, truncated, over 2 GB.
    """
    name = os.fspath(path)
    try:
        facts = os.stat(name)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise GraphoptError("the file does not exist", name, "check the path") from error
    except (OSError, ValueError) as error:
        raise GraphoptError(f"the file cannot be read: {error}", repr(name), "check the path") from error
    if stat.S_ISDIR(facts.st_mode):
        raise GraphoptError("this is a folder, not a model file", name, "give the .onnx file inside it")
    if not stat.S_ISREG(facts.st_mode):
        raise GraphoptError("this is not a regular file", name, "give an .onnx file")
    if facts.st_size == 0:
        raise GraphoptError("the file is empty", name, "export or download it again")
    if facts.st_size > _PROTOBUF_LIMIT:
        raise GraphoptError("the file is over 2 GB, which protobuf cannot hold", name, "save it with external data")
    try:
        with open(name, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if name.endswith((*TEXT_SUFFIXES, SYNTAX_SUFFIX)):
                return _parse_text(content[:], name)
            with memoryview(content) as view:
                return _parse(view, name)
    except OSError as error:
        raise GraphoptError(f"the file cannot be read: {error.strerror or error}", name, "check its rights") from error


def require_versions(proto: onnx.ModelProto) -> None:
    """Check the versions that a model states.

    Raises:
        GraphoptError: no or an unknown IR version, no graph, no opset import, an unknown opset of ``ai.onnx``
            or ``ai.onnx.ml``, two versions of one operator set.
    """
    if not proto.ir_version and not proto.HasField("graph"):
        raise GraphoptError("this is not an ONNX model", "", "give an .onnx file")
    if proto.ir_version < 1:
        raise GraphoptError(f"the IR version {proto.ir_version} is not valid", "ir_version", "export the model anew")
    if proto.ir_version > onnx.IR_VERSION:
        raise GraphoptError(
            f"the IR version {proto.ir_version} is newer than the latest known one, {onnx.IR_VERSION}",
            "ir_version",
            "update the onnx package, or export for an older version",
        )
    if not proto.HasField("graph"):
        raise GraphoptError("the model has no graph", "", "the file is truncated, or holds something else than a model")
    if not proto.opset_import:
        raise GraphoptError(
            "the model has no opset import", "opset_import", "the file may be truncated: export it again"
        )
    _require_opsets(proto.opset_import, "opset_import")
    for function in proto.functions:
        _require_opsets(function.opset_import, f"opset_import of function {function.domain}::{function.name}")


def latest_opset(domain: str) -> int | None:
    """The newest known version of an operator set of ONNX; None for a domain that ONNX does not define."""
    if domain in ("", "ai.onnx"):
        return onnx.defs.onnx_opset_version()
    versions = [number for name, number in onnx.helper.OP_SET_ID_VERSION_MAP if name == domain == "ai.onnx.ml"]
    return max(versions, default=None)


def _require_opsets(imports: onnx.ModelProto | object, place: str) -> None:
    seen: dict[str, int] = {}
    for entry in imports:  # type: ignore[attr-defined]
        domain, latest = entry.domain or "ai.onnx", latest_opset(entry.domain)
        if seen.setdefault(domain, entry.version) != entry.version:
            raise GraphoptError(f"two versions of the operator set '{domain}' are imported", place, "keep one of them")
        if entry.version < 1 or (latest is not None and entry.version > latest):
            known = f"1 to {latest}" if latest is not None else "1 and up"
            raise GraphoptError(
                f"the opset {entry.version} of '{domain}' is unknown",
                place,
                f"known are {known}: update the onnx package, or export for an older opset",
            )


def _parse(view: memoryview, name: str) -> onnx.ModelProto:
    for offset, magic, kind, hint in _MAGIC:
        if bytes(view[offset : offset + len(magic)]) == magic:
            what = kind if ", not " in kind else f"{kind}, not an ONNX model"
            raise GraphoptError(f"this is {what}", name, hint)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(view)  # type: ignore[arg-type]
    except DecodeError as error:
        raise _explain(view, name, str(error)) from error
    return proto


def _explain(view: memoryview, name: str, reason: str) -> GraphoptError:
    """Follow the top-level fields to tell a truncated model from something that never was one."""
    position, fields = 0, 0
    try:
        while position < len(view):
            tag, position = _varint(view, position)
            wire = _TOP_LEVEL.get(tag >> 3)
            if wire is None or wire != tag & 7:
                return GraphoptError("this is not an ONNX model", name, "give an .onnx file")
            number, position = _varint(view, position)
            position += number if wire == 2 else 0
            fields += 1
    except IndexError:
        position = len(view) + 1
    if position > len(view) and fields:
        return GraphoptError("the file is truncated", name, "export or download it again")
    if "MaxDepth" in reason:
        return GraphoptError("the graphs in this file are nested too deeply", name, "ONNX files allow about 30 levels")
    return GraphoptError("the file is damaged, or not an ONNX model", name, "export or download it again")


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        byte = view[position]
        position += 1
        number |= (byte & 127) << shift
        if byte < 128:
            break
    return number, position


def _parse_text(content: bytes, name: str) -> onnx.ModelProto:
    try:
        text = content.decode()
        if name.endswith(TEXT_SUFFIXES):
            return text_format.Parse(text, onnx.ModelProto())
        _require_shallow(text, name)
        return onnx.parser.parse_model(text)
    except (
        UnicodeDecodeError,
        text_format.ParseError,
        onnx.parser.ParseError,
        RecursionError,
        ValueError,
    ) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise GraphoptError(f"the text is not an ONNX model: {reason[:200]}", name, "check the syntax") from error


def _require_shallow(text: str, name: str) -> None:
    """ONNX's own parser recurses in C++ without a limit: deep nesting would end the process."""
    depth = 0
    for character in text:
        if character in "{([<":
            depth += 1
            if depth > _NESTING_LIMIT:
                raise GraphoptError("the text is nested too deeply", name, "check the syntax")
        elif character in "})]>":
            depth -= 1
