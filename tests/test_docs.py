"""The documentation is true: its examples run, its links lead somewhere, and nothing is missing from it."""

from __future__ import annotations

import importlib.util
import inspect
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^<!-- tested -->\n```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
SECONDS = 120


@pytest.fixture(scope="module")
def pass_pages() -> ModuleType:
    """The script that writes the pages of the passes."""
    spec = importlib.util.spec_from_file_location("pass_pages", ROOT / "docs" / "pass_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Example:
    """A tested block of a page."""

    language: str
    text: str
    line: int

    def commands(self) -> list[list[str]]:
        """What to run: the block itself, or each of its lines with a prompt."""
        if self.language == "python":
            return [["-c", self.text]]
        prompts = [line.removeprefix("$ ") for line in self.text.splitlines() if line.startswith("$ ")]
        return [["-m", *shlex.split(prompt)] for prompt in prompts]


def examples(page: Path) -> list[Example]:
    text = page.read_text()
    found = BLOCK.finditer(text)
    return [Example(match[1], match[2], text.count("\n", 0, match.start()) + 1) for match in found]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [page for page in PAGES if examples(page)], ids=name)
def test_the_tested_examples_of_a_page_run_one_after_the_other(page: Path, tmp_path: Path) -> None:
    import onnx_ir

    from graphopt.models.builders import small_cnn

    onnx_ir.save(small_cnn(), tmp_path / "model.onnx")
    for example in examples(page):
        assert example.language in {"python", "console"}
        assert example.commands(), f"line {example.line} runs nothing"
        for command in example.commands():
            done = subprocess.run(
                [sys.executable, *command],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
            told = f"{name(page)}:{example.line}: {shlex.join(command)}\n{done.stdout}\n{done.stderr}"
            assert done.returncode == 0, told


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_of_a_page_leads_to_a_file_and_heading_that_exist(page: Path) -> None:
    broken: list[str] = []
    for link in LINK.findall(page.read_text()):
        if "://" in link:
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_that_is_marked_as_tested_is_one(page: Path) -> None:
    assert page.read_text().count("<!-- tested -->") == len(examples(page))


def test_every_page_is_linked_from_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link).resolve() for link in LINK.findall(index.read_text())}
    pages = {page for page in PAGES if page.parent != ROOT and page != index}
    listed = {page for page in pages if page in linked or page.parent in linked}
    assert pages == listed


def test_every_command_has_a_page_that_names_its_arguments_and_options() -> None:
    import typer

    from graphopt.cli import app

    missing: list[str] = []

    def look(command: object, title: str, text: str) -> None:
        for parameter in getattr(command, "params", []):
            if parameter.name == "help" or getattr(parameter, "hidden", False):
                continue
            flags = [flag for flag in parameter.opts if flag.startswith("--")]
            missing.extend(f"{title}: {flag}" for flag in flags if flag not in text)
        for key, inner in getattr(command, "commands", {}).items():
            if f"graphopt {title.removeprefix('graphopt ')} {key}" not in text:
                missing.append(f"{title} {key}")
            look(inner, f"{title} {key}", text)

    commands = getattr(typer.main.get_command(app), "commands")  # noqa: B009 - typed as a plain command
    for key, command in commands.items():
        if getattr(command, "hidden", False):
            continue
        page = ROOT / "docs" / "commands" / f"{key}.md"
        assert page.exists(), f"docs/commands/{key}.md is missing"
        look(command, key, page.read_text())
        assert f"docs/commands/{key}.md" in (ROOT / "README.md").read_text(), f"README.md does not list {key}"
    assert missing == []
    assert {page.stem for page in (ROOT / "docs" / "commands").glob("*.md")} == set(commands)


def test_the_pages_of_the_passes_are_what_the_passes_say_of_themselves(pass_pages) -> None:
    folder = ROOT / "docs" / "passes"
    families = pass_pages.families()
    assert {page.stem for page in folder.glob("*.md")} == set(families)
    for family, kinds in families.items():
        text = (folder / f"{family}.md").read_text()
        above = text.partition(pass_pages.MARKER)[0]
        assert above != text, f"docs/passes/{family}.md has lost its marker"
        assert text == pass_pages.page(above, kinds), f"{family}.md is out of date: run `make docs`"


def test_every_option_of_every_pass_is_explained(pass_pages) -> None:
    silent = [
        f"{kind.name}: {option.name}"
        for kinds in pass_pages.families().values()
        for kind in kinds
        for option in kind.options()
        if option.name not in pass_pages.split_attributes(inspect.cleandoc(kind.__doc__ or ""))[1]
    ]
    assert silent == []
