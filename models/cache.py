"""Files in the cache folder that are there whole or not at all."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

from graphopt.errors import GraphoptError
from graphopt.local import cache_folder

__all__ = ["cache_folder", "is_intact", "place"]


def is_intact(path: Path, size: int, sha256: str) -> bool:
    """Whether the file has this size and digest; false too when it cannot be read."""
    try:
        if path.stat().st_size != size:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError:
        return False


def place(path: Path, content: bytes) -> None:
    """Writes ``path`` in one step: a temporary file beside it, synced, then renamed.

    Raises:
        GraphoptError: the folder cannot be written, or the disk is full; nothing is left behind.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise GraphoptError(
            f"cannot write to the cache: {error.strerror or error}",
            str(path),
            "set GRAPHOPT_CACHE to a folder with room that you may write to",
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
