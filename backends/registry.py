"""Finding backends by name: graphopt's own, and other packages' by the entry-point group ``graphopt.backends``."""

from __future__ import annotations

import difflib
from importlib.metadata import entry_points

from graphopt.errors import GraphoptError

from .backend import Backend
from .onnxruntime import OnnxRuntime

GROUP = "graphopt.backends"
_OWN: dict[str, type[Backend]] = {"onnxruntime": OnnxRuntime}


def names() -> list[str]:
    """All backends, sorted.

    Raises:
        GraphoptError: two packages bring one of the same name; names both.
    """
    found = {name: f"{kind.__module__}.{kind.__qualname__}" for name, kind in _OWN.items()}
    for entry in entry_points(group=GROUP):
        if entry.name in found:
            package = entry.dist.name if entry.dist is not None else "?"
            raise GraphoptError(
                f"two backends are called '{entry.name}'",
                f"{found[entry.name]} and {entry.value} of the package {package}",
                "uninstall one of the packages, or ask its author for another name",
            )
        found[entry.name] = entry.value
    return sorted(found)


def find_backend(name: str) -> Backend:
    """A backend, ready to use.

    Raises:
        GraphoptError: there is none of that name (with the nearest), or its package does not hold what it promises.
    """
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known backends: {', '.join(known)}"
        raise GraphoptError(f"there is no backend '{name}'", "backends", hint, usage=True)
    if name in _OWN:
        return _OWN[name]()
    (entry,) = entry_points(group=GROUP, name=name)
    backend = entry.load()()
    if getattr(backend, "name", None) != name:
        raise GraphoptError(f"the entry point '{name}' is no backend of that name", entry.value)
    return backend
