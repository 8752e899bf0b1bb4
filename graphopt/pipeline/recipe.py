"""Recipes: which passes, with which options, in which order; as text, TOML or Python, always the same objects.

Text is a list of names with options in braces, in TOML's own value syntax::

    clean, fuse-batchnorm, fold-constants{max_bytes=65536}, -eliminate-identity

A name is a pass, or a preset (``clean``), which stands for the passes of its TOML file. A dash in front leaves
a pass out of what came before.
"""

from __future__ import annotations

import difflib
import tomllib
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..errors import GraphoptError
from . import registry
from .pass_ import Pass, as_toml

GROUP = "graphopt.recipes"


@dataclass(frozen=True)
class Recipe:
    """An ordered list of passes. ``str(recipe)`` is text that parses to the same recipe."""

    passes: tuple[Pass, ...]

    def __post_init__(self) -> None:
        """Passes may come in any iterable; anything else in it is an error."""
        items = (self.passes,) if isinstance(self.passes, Pass) else tuple(self.passes)
        for item in items:
            if not isinstance(item, Pass):
                kind = type(item).__name__
                hint = "wrap rewrite rules in RewritePass or RulePass, functions in GraphSurgeonPass, a class needs ()"
                raise GraphoptError(f"{item!r} is no pass but a {kind}", "the recipe", hint, usage=True)
        object.__setattr__(self, "passes", items)

    def __str__(self) -> str:
        return ", ".join(str(item) for item in self.passes)

    @classmethod
    def parse(cls, text: str) -> Recipe:
        """Read recipe text.

        Raises:
            GraphoptError: an unknown pass, preset or option (with the nearest name), a value of the wrong type,
                or text that cannot be read (with the position).
        """
        passes: list[Pass] = []
        for item in _split(text):
            name, options = _read_item(item, text)
            if name.startswith("-"):
                dropped = name[1:].strip()
                kinds = {type(entry) for entry in cls._resolve(dropped, {}).passes}
                if not any(type(entry) in kinds for entry in passes):
                    hint = "a dash leaves a pass out of what stands before it: clean, -fold-constants"
                    raise GraphoptError(f"'{item}' leaves out nothing", f"the recipe {text!r}", hint, usage=True)
                passes = [entry for entry in passes if type(entry) not in kinds]
            else:
                passes.extend(cls._resolve(name, options).passes)
        if not passes:
            hint = "for example: clean, fuse"
            raise GraphoptError("the recipe holds no pass", f"the recipe {text!r}", hint, usage=True)
        return cls(tuple(passes))

    @classmethod
    def _resolve(cls, name: str, options: dict[str, Any]) -> Recipe:
        presets = recipes()
        if name in presets and not options:
            return cls.load(presets[name])
        if name in presets:
            raise GraphoptError(f"the preset '{name}' takes no options", "the recipe", usage=True)
        if name not in registry.names():
            near = difflib.get_close_matches(name, [*registry.names(), *presets], n=1)
            hint = f"did you mean '{near[0]}'?" if near else "`graphopt passes` and `graphopt recipes` list the names"
            raise GraphoptError(f"there is no pass or recipe '{name}'", "the recipe", hint, usage=True)
        return cls((make(name, options),))

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Read a TOML file with one ``[[pass]]`` table per pass: ``name`` and its options; or one of a preset.

        Raises:
            GraphoptError: the file is missing, no TOML, or names what does not exist.
        """
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise GraphoptError("there is no such recipe file", str(path), usage=True) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise GraphoptError(f"the recipe cannot be read: {error}", str(path), usage=True) from error
        tables = content.get("pass")
        if not isinstance(tables, list) or not all(isinstance(table, dict) and "name" in table for table in tables):
            raise GraphoptError(
                "a recipe file needs [[pass]] tables with a name",
                str(path),
                'for example: [[pass]]\nname = "clean"',
                usage=True,
            )
        passes: list[Pass] = []
        for table in tables:
            options = {key: value for key, value in table.items() if key != "name"}
            passes.extend(cls._resolve(str(table["name"]), options).passes)
        return cls(tuple(passes))

    @classmethod
    def read(cls, source: str) -> Recipe:
        """What ``--recipe`` takes: the path of a ``.toml`` file, or recipe text."""
        return cls.load(Path(source)) if source.endswith(".toml") else cls.parse(source)

    def to_toml(self) -> str:
        """The recipe as a TOML file, for the run folder."""
        tables: list[str] = []
        for item in self.passes:
            lines = ["[[pass]]", f"name = {as_toml(item.name)}"]
            lines += [
                f"{option.name} = {as_toml(getattr(item, option.name))}"
                for option in item.options()
                if getattr(item, option.name) != option.default
            ]
            tables.append("\n".join(lines))
        return "\n\n".join(tables) + "\n"


def recipe_of(given: Recipe | str | Pass | Iterable[Pass]) -> Recipe:
    """A recipe from whatever stands for one: itself, recipe text, a pass, or passes.

    Raises:
        GraphoptError: as ``Recipe.parse``, or for something in it that is no pass.
    """
    if isinstance(given, Recipe):
        return given
    if isinstance(given, str):
        return Recipe.read(given)
    return Recipe((given,) if isinstance(given, Pass) else tuple(given))


@cache
def recipes() -> dict[str, Path]:
    """The presets: graphopt's own, and other packages' by the entry-point group ``graphopt.recipes``.

    An entry point names a ``pathlib.Path`` (or a string) of a TOML file.
    """
    folder = files("graphopt.pipeline") / "recipes"
    found = {
        item.name.removesuffix(".toml"): Path(str(item)) for item in folder.iterdir() if item.name.endswith(".toml")
    }
    for entry in entry_points(group=GROUP):
        if entry.name in found:
            package = entry.dist.name if entry.dist is not None else "?"
            raise GraphoptError(
                f"two recipes are called '{entry.name}'",
                f"{found[entry.name]} and {entry.value} of the package {package}",
                "uninstall one of the packages, or ask its author for another name",
            )
        found[entry.name] = Path(entry.load())
    return dict(sorted(found.items()))


def make(name: str, options: dict[str, Any]) -> Pass:
    """A pass with options, checked against its dataclass fields.

    Raises:
        GraphoptError: no such pass or option, or a value of another type.
    """
    kind = registry.find(name)
    hints = typing.get_type_hints(kind) if options else {}
    known = {item.name: item for item in kind.options()}
    values: dict[str, Any] = {}
    for key, value in options.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"its options: {', '.join(known) or 'none'}"
            raise GraphoptError(f"the pass '{name}' has no option '{key}'", "the recipe", hint, usage=True)
        values[key] = _checked(value, hints[key], f"{name}{{{key}=...}}")
    return kind(**values)


def _checked(value: Any, wanted: Any, place: str) -> Any:
    origin = typing.get_origin(wanted)
    choices = typing.get_args(wanted)
    if origin is typing.Literal:
        if value in choices:
            return value
        raise GraphoptError(f"{value!r} is not one of {', '.join(map(repr, choices))}", place, usage=True)
    if origin is tuple and isinstance(value, list):
        return tuple(_checked(item, choices[0], place) for item in value)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(wanted, type) and type(value) is wanted:
        return value
    raise GraphoptError(f"{value!r} is no {getattr(wanted, '__name__', wanted)}", place, usage=True)


def _split(text: str) -> list[str]:
    """Cut at the commas outside braces, brackets and quotes."""
    items: list[str] = []
    depth = 0
    quoted = False
    start = 0
    for position, character in enumerate(text):
        if character == '"' and text[position - 1 : position] != "\\":
            quoted = not quoted
        elif quoted:
            continue
        elif character in "{[":
            depth += 1
        elif character in "}]":
            depth -= 1
        elif character == "," and depth == 0:
            items.append(text[start:position])
            start = position + 1
    items.append(text[start:])
    if depth or quoted:
        raise GraphoptError("a brace, bracket or quote is not closed", f"the recipe {text!r}", usage=True)
    if len(items) > 1 and not all(item.strip() for item in items):
        raise GraphoptError("there is nothing between two commas", f"the recipe {text!r}", usage=True)
    return [item.strip() for item in items if item.strip()]


def _read_item(item: str, text: str) -> tuple[str, dict[str, Any]]:
    name, brace, rest = item.partition("{")
    if not brace:
        return name.strip(), {}
    if not rest.rstrip().endswith("}"):
        raise GraphoptError(f"text behind the options of '{name.strip()}'", f"the recipe {text!r}", usage=True)
    options: dict[str, Any] = {}
    for assignment in _split(rest.rstrip()[:-1]):
        key, equals, value = assignment.partition("=")
        if not equals:
            raise GraphoptError(f"'{assignment}' is no option=value", f"the recipe {text!r}", usage=True)
        options[key.strip()] = _toml_value(value.strip(), text)
    return name.strip(), options


def _toml_value(value: str, text: str) -> Any:
    """A TOML value; a bare word counts as a string, so that ``scheme=qdq`` needs no quotes."""
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        if value.replace("-", "").replace("_", "").isalnum():
            return value
        raise GraphoptError(f"{value!r} is no TOML value", f"the recipe {text!r}", usage=True) from None
