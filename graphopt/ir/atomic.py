"""Files that appear whole or not at all.

Every output of graphopt is written under a temporary name in the folder it belongs to, flushed to the disk,
and renamed into place: ``rename(2)`` replaces a file atomically, so a reader sees the old file or the new one,
never half of one. Several files that belong together (a model and its external data) are staged first and
put into place one right after the other; when one of those renames fails, the earlier ones are undone.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from graphopt.errors import GraphoptError

_FULL = frozenset(code for name in ("ENOSPC", "EDQUOT", "EFBIG") if (code := getattr(errno, name, None)))
_FORBIDDEN = frozenset((errno.EACCES, errno.EPERM, errno.EROFS))


def storage_error(error: OSError, path: str | os.PathLike[str]) -> GraphoptError:
    """What the operating system said while a file was written, as an error a user can act on."""
    where = os.fspath(path)
    if error.errno in _FULL:
        return GraphoptError(
            "the disk or the file-size limit is full, nothing was written",
            where,
            "free some space or write elsewhere",
        )
    if error.errno in _FORBIDDEN:
        return GraphoptError("the folder cannot be written to", where, "choose a folder you may write to")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return GraphoptError("the folder of the output does not exist", where, "create it first")
    reason = error.strerror or str(error)
    return GraphoptError(f"the file cannot be written: {reason}", where, "write elsewhere")


class Staging:
    """Writes some files and puts all of them into place, or none.

    Use as a context manager: ``open`` each file, write, then ``commit``. Leaving the block without a commit,
    by an error or by Ctrl-C, removes what was written. Files are put into place in the order they were
    opened.

    Raises:
        GraphoptError: the folder is missing or read-only, the disk is full, the target is not a regular file.
    """

    def __init__(self) -> None:
        self._files: list[tuple[Path, Path, IO[bytes]]] = []

    def open(self, path: str | os.PathLike[str]) -> IO[bytes]:
        """Start a file that will become ``path``; a symbolic link there is replaced, not followed."""
        target = Path(path)
        try:
            _require_replaceable(target)
        except OSError as error:
            raise storage_error(error, target) from error
        temporary = target.with_name(f".{target.name[:100]}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        except OSError as error:
            raise storage_error(error, target) from error
        file = os.fdopen(handle, "wb")
        self._files.append((target, temporary, file))
        return file

    def write(self, path: str | os.PathLike[str], content: bytes) -> None:
        """Stage a file whose content is at hand."""
        self.attempt(path, lambda file: file.write(content))

    def attempt(self, path: str | os.PathLike[str], write: Callable[[IO[bytes]], object]) -> None:
        """Stage a file that ``write`` fills; its ``OSError`` becomes a ``GraphoptError``."""
        file = self.open(path)
        try:
            write(file)
        except OSError as error:
            raise storage_error(error, path) from error

    def commit(self) -> None:
        """Flush everything to the disk, then rename; on failure the old files are back in place."""
        for target, temporary, file in self._files:
            try:
                file.flush()
                with suppress(FileNotFoundError):
                    os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
                os.fsync(file.fileno())
                file.close()
            except OSError as error:
                raise storage_error(error, target) from error
        placed: list[tuple[Path, Path | None]] = []
        try:
            for position, (target, temporary, _) in enumerate(self._files):
                last = position == len(self._files) - 1
                backup = None if last else _keep(target)
                placed.append((target, backup))
                os.replace(temporary, target)
        except BaseException as error:
            if self._files[-1][1].exists():  # otherwise all is in place, and a Ctrl-C came after that
                _undo(placed, [temporary for _, temporary, _ in self._files])
            if isinstance(error, OSError):
                raise storage_error(error, placed[-1][0]) from error
            raise
        finally:
            for _, backup in placed:
                if backup is not None:
                    backup.unlink(missing_ok=True)
        for folder in {target.parent for target, _, _ in self._files}:
            _sync_folder(folder)
        self._files.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, temporary, file in self._files:
            with suppress(OSError):
                file.close()
            temporary.unlink(missing_ok=True)


def write_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Write one file, whole or not at all.

    Raises:
        GraphoptError: as ``Staging``.
    """
    with Staging() as staging:
        staging.write(path, content)
        staging.commit()


def _require_replaceable(target: Path) -> None:
    if target.is_dir():
        raise GraphoptError("the output is a folder, not a file", str(target), "name a file")
    if target.exists() and not target.is_file():
        raise GraphoptError("the output is a device or pipe, which a rename would destroy", str(target), "name a file")
    if not target.name:
        raise GraphoptError("the output has no file name", str(target), "name a file")


def _keep(target: Path) -> Path | None:
    """A second name for the file that is about to be replaced, or None when there is none (or none can be had)."""
    backup = target.with_name(f".{target.name[:100]}.{os.getpid()}.{secrets.token_hex(4)}.old")
    try:
        os.link(target, backup, follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError:  # a file system without hard links
        os.rename(target, backup)
    return backup


def _undo(placed: list[tuple[Path, Path | None]], temporaries: list[Path]) -> None:
    for (target, backup), temporary in zip(placed, temporaries, strict=False):
        if backup is not None and backup.exists():
            os.replace(backup, target)
        elif not temporary.exists():  # it was renamed, and nothing was there before
            target.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the renames themselves survive a power cut; not every system can open a folder."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
