"""Where results go: a place is refused at once, not after minutes of work, and never holds the input."""

from __future__ import annotations

import os
from pathlib import Path

import onnx_ir as ir

from ..errors import GraphoptError
from ..ir import graphs, load


def external_files(model: ir.Model) -> set[Path]:
    """The files beside a loaded model that hold weights of it."""
    tensors = (value.const_value for graph in graphs(model) for value in graph.initializers.values())
    return {Path(item.base_dir, item.location) for item in tensors if isinstance(item, ir.ExternalTensor)}


def file_bytes(path: Path | str) -> int:
    """Bytes of a model file and of the external data it refers to."""
    outside = external_files(load(path))
    return os.stat(path).st_size + sum(file.stat().st_size for file in outside if file.is_file())


def refuse_unwritable(output: Path) -> None:
    """Say that the result has no place to go.

    Raises:
        GraphoptError: the output is a folder, its folder does not exist or is read-only.
    """
    folder = output.parent
    if output.is_dir():
        raise GraphoptError("the output is a folder", str(output), "name a file, such as model.opt.onnx", usage=True)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise GraphoptError(f"the output's folder {what}", str(folder), "make it first", usage=True)
    if not os.access(folder, os.W_OK) or (output.exists() and not os.access(output, os.W_OK)):
        raise GraphoptError("the output cannot be written: no permission", str(output), "choose another place")


def refuse_overwriting(source: Path, output: Path, model: ir.Model | None = None) -> None:
    """Say that writing the output would destroy the input.

    Args:
        source: the input's file.
        output: where the result goes; its external data would go to ``<output>.data``.
        model: the loaded input; its external data are guarded too.

    Raises:
        GraphoptError: one of the files to be written is one of the input's.
    """
    if _same(source, output):
        raise GraphoptError(
            "the output is the input itself", str(output), "give -o another name: the input stays", usage=True
        )
    for used in external_files(model) if model is not None else ():
        for written in (output, output.with_name(output.name + ".data")):
            if _same(used, written):
                raise GraphoptError(
                    "the output would replace the input's external data",
                    str(written),
                    "give -o another name: the input stays",
                    usage=True,
                )


def _same(first: Path, second: Path) -> bool:
    try:
        return os.path.samefile(first, second)
    except OSError:  # one of the two does not exist
        return False
