"""A lowered model: a folder that holds all it needs to run, here or on another machine.

manifest.json   what is in it, for which target, made by which versions, with the digest of each file
...             the blobs: a model file and its weights, or a shared library, as the backend likes
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from graphopt.errors import GraphoptError

MANIFEST = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """The account of an artifact.

    Attributes:
        backend: who made it and can load it (``onnxruntime``).
        target: the target's name.
        files: SHA-256 by file name, relative to the folder.
        versions: of the packages that made it.
        settings: what the backend needs to load it (provider, session options), JSON-able.
        format: of this file; newer ones are refused.
    """

    backend: str
    target: str
    files: Mapping[str, str]
    versions: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT


def write_manifest(
    folder: Path, backend: str, target: str, versions: Mapping[str, str], settings: Mapping[str, Any]
) -> Manifest:
    """Digest every file in the folder and write the manifest beside them."""
    files = {
        str(path.relative_to(folder)): digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    manifest = Manifest(backend, target, files, dict(versions), dict(settings))
    (folder / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2) + "\n", encoding="utf-8")
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest, with every file's digest checked.

    Raises:
        GraphoptError: no artifact, one of a newer format, or a file that is missing or was changed.
    """
    path = folder / MANIFEST
    try:
        manifest = Manifest(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise GraphoptError(
            "this is no artifact: it has no manifest", str(folder), f"an artifact folder holds {MANIFEST}"
        ) from None
    except (ValueError, TypeError, OSError) as error:
        raise GraphoptError(f"the manifest cannot be read: {error}", str(path)) from error
    if manifest.format > FORMAT:
        raise GraphoptError(
            f"the artifact has format {manifest.format}, this graphopt reads {FORMAT}", str(path), "update graphopt"
        )
    for name, expected in manifest.files.items():
        blob = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise GraphoptError("the manifest names a file outside the artifact", name)
        if not blob.is_file():
            raise GraphoptError("a file of the artifact is missing", str(blob), "copy the whole folder")
        if digest(blob) != expected:
            raise GraphoptError(
                "a file of the artifact was changed", str(blob), "its digest is not the manifest's; build it again"
            )
    return manifest


def digest(path: Path) -> str:
    """SHA-256 of a file, read piecewise."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def place(folder: Path, destination: Path) -> None:
    """Move a finished folder to where it belongs, whole or not at all.

    Raises:
        GraphoptError: something is there that is no artifact, or the place cannot be written.
    """
    if destination.exists() and not (destination / MANIFEST).is_file():
        raise GraphoptError("there is something else at the output", str(destination), "name a new folder", usage=True)
    old = destination.with_name(f".{destination.name}.{os.getpid()}.old")
    try:
        if destination.exists():
            os.replace(destination, old)
        os.replace(folder, destination)
    except OSError as error:
        if old.exists() and not destination.exists():
            os.replace(old, destination)
        raise GraphoptError(f"the artifact cannot be written: {error.strerror}", str(destination)) from error
    shutil.rmtree(old, ignore_errors=True)
