"""What there is to choose from: passes, targets, recipes, as plain data for the command line."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import GraphoptError
from ..pipeline import Pass
from ..pipeline.pass_ import as_toml
from ..pipeline.recipe import Recipe, recipes
from ..pipeline.registry import find, names
from ..target import PHASES, Target, find_target, host, targets
from .decisions import origin, profiles


@dataclass(frozen=True)
class OptionInfo:
    """One option of a pass: its type and default as its dataclass field declares them, and what it means."""

    name: str
    type: str
    default: str
    meaning: str


@dataclass(frozen=True)
class PassInfo:
    """What a pass says of itself.

    Attributes:
        name, family, fidelity: as in recipes; ``exact``, ``numeric`` or ``lossy``.
        summary: the first sentence.
        text: what it does and when it refuses.
        method: the rewrite as an equation, or the algorithm with its source.
        options: in the order of their declaration.
    """

    name: str
    family: str
    fidelity: str
    summary: str
    text: str
    method: str
    options: tuple[OptionInfo, ...]

    def as_json(self) -> dict[str, Any]:
        """A line of ``graphopt passes --json``."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class TargetInfo:
    """A target, whether this machine is one, and its recipe by phase."""

    target: Target
    is_host: bool
    phases: tuple[tuple[str, str], ...]

    def as_json(self) -> dict[str, Any]:
        """A line of ``graphopt targets --json``; ``forms`` holds all that was measured, by form and size."""
        target, profile = self.target, self.target.profile
        facts = ("summary", "architecture", "runtime", "provider", "disabled_optimizers", "notes")
        forms = {
            form: {
                "unit": profile.unit(form),
                "lack": profile.lack(form),
                "origin": origin(profile, form),
                "points": [dataclasses.asdict(point) for point in profile.points(form)],
            }
            for form in profile.names()
        }
        return {
            "name": target.name,
            "is_host": self.is_host,
            **{name: getattr(target, name) for name in facts},
            "isa": sorted(target.isa),
            "domains": sorted(domain or "ai.onnx" for domain in target.domains),
            "likes": sorted(target.forms),
            "lacks": sorted(target.lacks),
            "recipe": target.recipe,
            "phases": dict(self.phases),
            "profiles": profiles(target),
            "forms": forms,
        }


@dataclass(frozen=True)
class RecipeInfo:
    """A ready-made recipe: its file, what its first comment says, and its passes as text."""

    name: str
    path: Path
    summary: str
    recipe: Recipe

    def as_json(self) -> dict[str, Any]:
        """A line of ``graphopt recipes --json``: the passes as text each, and the whole as text and TOML."""
        passes = [str(item) for item in self.recipe.passes]
        return {
            "name": self.name,
            "path": str(self.path),
            "summary": self.summary,
            "passes": passes,
            "text": str(self.recipe),
            "toml": self.recipe.to_toml(),
        }


def list_passes() -> list[PassInfo]:
    """Every pass that can be found, by family and name."""
    return sorted(map(about_pass, names()), key=lambda item: (item.family, item.name))


def about_pass(name: str) -> PassInfo:
    """One pass.

    Raises:
        GraphoptError: there is none of that name; the hint names the nearest.
    """
    try:
        kind = find(name)
    except GraphoptError as error:
        raise GraphoptError(error.what, "graphopt passes", error.hint, usage=error.usage) from None
    text, meanings = _split_attributes(inspect.cleandoc(kind.__doc__ or ""))
    method = _method(inspect.cleandoc(sys.modules[kind.__module__].__doc__ or ""), text)
    options = tuple(_option(item, meanings.get(item.name, "")) for item in kind.options())
    return PassInfo(name, kind.family(), kind.fidelity.name.lower(), _summary(kind), text, method, options)


def list_targets() -> list[TargetInfo]:
    """Every preset with its profile; the host's with its instruction sets."""
    return [about_target(name) for name in targets()]


def about_target(name: str) -> TargetInfo:
    """One target.

    Raises:
        GraphoptError: there is none of that name; the hint names the nearest.
    """
    try:
        target = find_target(name)
    except GraphoptError as error:
        raise GraphoptError(error.what, "graphopt targets", error.hint, usage=error.usage) from None
    phases = tuple((phase, target.pipeline[phase]) for phase in PHASES if target.pipeline.get(phase))
    return TargetInfo(target, name == host().name, phases)


def list_recipes() -> list[RecipeInfo]:
    """Every ready-made recipe; one that does not load is an error that names its file."""
    return [about_recipe(name) for name in recipes()]


def about_recipe(name: str) -> RecipeInfo:
    """One ready-made recipe, a TOML file's, or one in text.

    Raises:
        GraphoptError: it names what does not exist.
    """
    known = recipes()
    if name in known:
        path = known[name]
        return RecipeInfo(name, path, _first_comment(path), Recipe.load(path))
    return RecipeInfo(name, Path(name), "", Recipe.read(name))


def _summary(kind: type[Pass]) -> str:
    """The first sentence of the first paragraph."""
    paragraph = kind.summary()
    match = re.match(r"(.+?[.:])(?:\s|$)", paragraph)
    return (match[1] if match else paragraph).replace("``", "`").rstrip(".:")


def _option(item: dataclasses.Field[object], meaning: str) -> OptionInfo:
    has_default = item.default is not dataclasses.MISSING
    return OptionInfo(item.name, str(item.type), as_toml(item.default) if has_default else "", meaning)


def _split_attributes(text: str) -> tuple[str, dict[str, str]]:
    """The text before ``Attributes:``, and what it says about each attribute."""
    text, _, rest = text.partition("\nAttributes:\n")
    rest = inspect.cleandoc("\n" + rest)
    entries = re.findall(r"^(\w+): (.*(?:\n[ ]+.*)*)", rest, flags=re.MULTILINE)
    return text.strip().replace("``", "`"), {name: " ".join(meaning.split()) for name, meaning in entries}


def _method(module: str, text: str) -> str:
    """The module's text without its title, and without paragraphs that the pass itself says."""
    said = {" ".join(block.split()) for block in text.split("\n\n")}
    blocks = module.replace("``", "`").split("\n\n")[1:]
    kept = [block for block in blocks if " ".join(block.split()) not in said]
    return re.sub(r"::$", ":", "\n\n".join(kept), flags=re.MULTILINE)


def _first_comment(path: Path) -> str:
    """The comment lines at the top of a recipe file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GraphoptError(f"the recipe cannot be read: {error}", str(path)) from error
    lines: list[str] = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return " ".join(lines)
