"""Writes the pass pages: ``python docs/pass_pages.py`` (``make docs``).

What a pass does is said once, in its file: the module's docstring, the class's docstring and the fields. A
page is what stands above its marker, written by hand, and below it a section for each pass of the family.
tests/test_docs.py fails when a page is not what this makes.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from pathlib import Path

from graphopt.pipeline import Pass
from graphopt.pipeline.pass_ import as_toml
from graphopt.pipeline.registry import find, names

FOLDER = Path(__file__).resolve().parent / "passes"
MARKER = "<!-- From here on written by docs/pass_pages.py out of the passes' own documentation. -->\n"


def families() -> dict[str, list[type[Pass]]]:
    """graphopt's own passes by family, each sorted by name."""
    found: dict[str, list[type[Pass]]] = {}
    for kind in map(find, names()):
        if kind.__module__.startswith("graphopt.passes."):
            found.setdefault(kind.family(), []).append(kind)
    return found


def page(above: str, kinds: list[type[Pass]]) -> str:
    """A whole page: what was written by hand, and the sections."""
    return "\n".join([above + MARKER, *map(section, kinds)])


def section(kind: type[Pass]) -> str:
    """What there is to know about a pass."""
    method = inspect.cleandoc(sys.modules[kind.__module__].__doc__ or "")
    text, described = split_attributes(inspect.cleandoc(kind.__doc__ or ""))
    lines = [f"## {kind.name}", "", text.replace("``", "`"), ""]
    lines += [f"Promise: {kind.fidelity.name.lower()}.", "", "```text", method, "```", ""]
    if kind.options():
        lines += ["| option | type | default | meaning |", "|---|---|---|---|"]
        lines += [row(option, described.get(option.name, "")) for option in kind.options()]
        lines.append("")
    return "\n".join(lines)


def row(option: dataclasses.Field[object], meaning: str) -> str:
    """One line of the table of options."""
    missing = option.default is dataclasses.MISSING
    default = "" if missing else f"`{as_toml(option.default)}`"
    kind = str(option.type).replace("|", "\\|")
    return f"| `{option.name}` | `{kind}` | {default} | {meaning.replace('``', '`')} |"


def split_attributes(text: str) -> tuple[str, dict[str, str]]:
    """The text before ``Attributes:``, and the attributes' descriptions."""
    text, _, attributes = text.partition("\nAttributes:\n")
    attributes = inspect.cleandoc("\n" + attributes)
    entries = re.findall(r"^(\w+): (.*(?:\n[ ]+.*)*)", attributes, flags=re.MULTILINE)
    return text.strip(), {name: " ".join(meaning.split()) for name, meaning in entries}


def main() -> None:
    """Write every page again."""
    for family, kinds in families().items():
        file = FOLDER / f"{family}.md"
        above = file.read_text().partition(MARKER)[0] if file.exists() else f"# Passes: {family}\n\n"
        file.write_text(page(above, kinds))


if __name__ == "__main__":
    main()
