"""Arguments that several commands take, declared once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    from graphopt.calibrate.data import CalibrationData

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="The model file.", show_default=False)]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="FEEDS",
        help="Feeds: an .npz, a folder of them, or of test_data_set_*; without it random ones.",
        show_default=False,
    ),
]
TargetOption = Annotated[
    str, typer.Option("--target", metavar="TARGET", help="Where it is going to run; `graphopt targets` lists them.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Of everything random.")]
JsonOption = Annotated[
    bool, typer.Option("--json", metavar="", help="One JSON object per event and line, for scripts.")
]
RunsOption = Annotated[Path, typer.Option("--runs", metavar="DIR", help="The folder of all runs.")]
ThreadsOption = Annotated[
    int, typer.Option("--threads", min=0, metavar="N", help="Threads within an operator; 0: all cores.")
]


def open_data(path: Path | None) -> CalibrationData | None:
    """The feeds of ``--data``."""
    if path is None:
        return None
    from graphopt.calibrate.data import CalibrationData

    return CalibrationData.open(path)


_BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def byte_size(text: str, where: str) -> int:
    """``1024``, ``100KB``, ``1 MiB`` as bytes.

    Raises:
        GraphoptError: it is no size.
    """
    found = re.fullmatch(r"([0-9]+)\s*([A-Za-z]*)", text.strip())
    unit = found.group(2).upper() if found is not None else ""
    if found is None or unit not in _BYTES:
        raise GraphoptError(f"'{text}' is no size", where, "write 0, 4096, 100KB or 1MiB", usage=True)
    return int(found.group(1)) * _BYTES[unit]


def sizes(text: list[str] | None) -> dict[str, int]:
    """``N=4`` or ``N=4,sequence=128`` as a mapping.

    Raises:
        GraphoptError: an item is no name and number.
    """
    found: dict[str, int] = {}
    for item in ",".join(text or ()).split(","):
        name, equals, number = item.strip().rpartition("=")
        if not item.strip():
            continue
        if not equals or not name or not number.isdecimal():
            raise GraphoptError(f"'{item}' is no name and size", "--dims", "write --dims N=4,x:2=64", usage=True)
        found[name] = int(number)
    return found
