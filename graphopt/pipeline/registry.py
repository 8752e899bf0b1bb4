"""Finding passes by name: graphopt's own by their file names, other packages' by entry points.

This is the one place where a lower floor looks up to a higher one, by name only: a pass module is imported
when it is asked for.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from ..errors import GraphoptError
from .pass_ import Pass

_ROOT = "graphopt.passes"
GROUP = "graphopt.passes"


@cache
def _sources() -> dict[str, str | EntryPoint]:
    """Where each pass comes from: a module of ours, or another package's entry point."""
    found: dict[str, str | EntryPoint] = {}
    root = importlib.util.find_spec(_ROOT)
    assert root is not None and root.submodule_search_locations is not None
    pending = [(_ROOT, list(root.submodule_search_locations))]
    while pending:
        package, folders = pending.pop(0)
        for module in pkgutil.iter_modules(folders):
            if module.name.startswith("_"):
                continue
            path = f"{package}.{module.name}"
            if module.ispkg:
                pending.append((path, [f"{folder}/{module.name}" for folder in folders]))
            else:
                found[module.name.replace("_", "-")] = path
    for entry in entry_points(group=GROUP):
        other = found.get(entry.name)
        if other is not None and (isinstance(other, str) or other != entry):
            raise GraphoptError(
                f"two passes are called '{entry.name}'",
                f"{_origin(other)} and {_origin(entry)}",
                "uninstall one of the packages, or ask its author for another name",
            )
        found[entry.name] = entry
    return found


def _origin(source: str | EntryPoint) -> str:
    if isinstance(source, str):
        return source
    package = source.dist.name if source.dist is not None else "?"
    return f"{source.value} of the package {package}"


def names() -> list[str]:
    """All pass names, sorted."""
    return sorted(_sources())


def find(name: str) -> type[Pass]:
    """The class of a pass.

    Raises:
        GraphoptError: no such pass (with the nearest name), or its package does not hold what it promises.
    """
    sources = _sources()
    if name not in sources:
        near = difflib.get_close_matches(name, sources, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "`graphopt passes` lists them"
        raise GraphoptError(f"there is no pass '{name}'", "the recipe", hint, usage=True)
    source = sources[name]
    if isinstance(source, EntryPoint):
        found = source.load()
        if not (isinstance(found, type) and issubclass(found, Pass)) or found.name != name:
            raise GraphoptError(f"the entry point '{name}' is no pass of that name", _origin(source))
        return found
    module = importlib.import_module(source)
    for item in vars(module).values():
        if isinstance(item, type) and issubclass(item, Pass) and item.__module__ == source and item.name == name:
            return item
    raise GraphoptError(f"the module {source} holds no pass '{name}'", source)
