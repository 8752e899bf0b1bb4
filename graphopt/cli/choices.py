"""``graphopt passes``, ``targets`` and ``recipes``: what there is to choose from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.events import Event

from .arguments import JsonOption
from .screen import Screen
from .words import profile_words

if TYPE_CHECKING:
    from graphopt.flows.listing import PassInfo, RecipeInfo, TargetInfo

Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="One of them, in full.", show_default=False)]


def passes(name: Name = None, as_json: JsonOption = False) -> None:
    """List the passes by family, or explain one: what it does, when it refuses, and its options."""
    with Screen(as_json) as screen:
        from graphopt.flows.listing import about_pass, list_passes

        if as_json:
            _tell(screen, "pass", [about_pass(name)] if name is not None else list_passes())
        elif name is not None:
            _show_pass(screen, about_pass(name))
        else:
            _show_passes(screen, list_passes())


def _tell(screen: Screen, kind: str, items: Iterable[Any]) -> None:
    """A JSON line for each."""
    for item in items:
        screen.event(Event(kind, item.as_json()))


def _show_passes(screen: Screen, items: Iterable[PassInfo]) -> None:
    family = ""
    for item in items:
        if item.family != family:
            if family:
                screen.line()
            screen.line(item.family, style="bold")
            family = item.family
        screen.line(f"  {item.name} ({item.fidelity})", style="cyan")
        screen.indented(item.summary, 6)
    screen.line()
    screen.line("`graphopt passes NAME` explains one.", style="dim")


def _show_pass(screen: Screen, item: PassInfo) -> None:
    promise = {
        "exact": "the same results, bit for bit",
        "numeric": "the same up to rounding",
        "lossy": "different, within a budget that the recipe states",
    }
    screen.fact("pass", item.name, "bold")
    screen.fact("family", item.family)
    screen.fact("promise", f"{item.fidelity}: {promise[item.fidelity]}")
    screen.line()
    screen.paragraphs(item.text)
    if item.method:
        screen.line()
        screen.paragraphs(item.method, spaced=True)
    screen.line()
    if not item.options:
        screen.line("It has no options.", style="dim")
        return
    rows = [(option.name, option.type, option.default, option.meaning) for option in item.options]
    screen.table(("option", "type", "default", "meaning"), rows)


def targets(name: Name = None, as_json: JsonOption = False) -> None:
    """List where a model can be meant to run, or show one with what was measured of its fused operators."""
    with Screen(as_json) as screen:
        from graphopt.flows.listing import about_target, list_targets

        if as_json:
            _tell(screen, "target", [about_target(name)] if name is not None else list_targets())
        elif name is not None:
            _show_measured(screen, about_target(name))
        else:
            for item in list_targets():
                _show_target(screen, item)
                screen.line()
            screen.line("`graphopt targets NAME` shows what was measured of one.", style="dim")


def _show_measured(screen: Screen, item: TargetInfo) -> None:
    from .profile_target import profile_table

    _show_target(screen, item)
    if item.target.profile:
        screen.line()
        profile_table(screen, item.target.profile)
        screen.line()
        screen.line("ratio: time of the form divided by that of what it stands for", style="dim")


def _show_target(screen: Screen, item: TargetInfo) -> None:
    from graphopt.flows.decisions import profiles

    target = item.target
    screen.line(f"{target.name}{'  (this machine)' if item.is_host else ''}", style="bold")
    screen.indented(target.summary, 2)
    screen.fact("  runs in", f"{target.runtime}, {target.provider}")
    screen.fact("  recipe", "; ".join(f"{phase}: {text}" for phase, text in item.phases))
    if target.domains != frozenset({""}):
        screen.fact("  takes", ", ".join(domain or "ONNX" for domain in sorted(target.domains)))
    if target.forms:
        screen.fact("  likes", ", ".join(sorted(target.forms)))
    for words in [profile_words(facts) for facts in profiles(target)] or ["unmeasured"]:
        screen.fact("  profile", words)
    for note in target.notes:
        screen.fact("  note", note, "yellow")
    if target.disabled_optimizers:
        screen.fact("  without", ", ".join(target.disabled_optimizers))
    if target.isa:
        screen.fact("  has", " ".join(sorted(target.isa)))


def recipes(name: Name = None, as_json: JsonOption = False) -> None:
    """List the ready-made recipes, or show one as the TOML it can be kept in."""
    with Screen(as_json) as screen:
        from graphopt.flows.listing import about_recipe, list_recipes

        if as_json:
            _tell(screen, "recipe", [about_recipe(name)] if name is not None else list_recipes())
        elif name is not None:
            screen.verbatim(about_recipe(name).recipe.to_toml())
        else:
            _show_recipes(screen, list_recipes())


def _show_recipes(screen: Screen, items: Iterable[RecipeInfo]) -> None:
    for item in items:
        screen.line(item.name, style="bold")
        if item.summary:
            screen.indented(item.summary, 2)
        screen.indented(str(item.recipe), 4, style="dim")
        screen.line()
    screen.line("`graphopt recipes NAME` shows one as TOML.", style="dim")
