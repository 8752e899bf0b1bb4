"""Writes a section of docs/benchmarks.md, and keeps what others wrote into it.

A section stands between two comments, ``<!-- simplify -->`` and ``<!-- /simplify -->``.
"""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Any

from graphopt.execute import machine

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
"""Results as text: small, and not part of the repository."""
WORK = HERE.parent / "build" / "bench"
"""Models, made and optimised: large, and gone with ``make clean``."""
PAGE = HERE.parent / "docs" / "benchmarks.md"


def publish(section: str, text: str, page: Path = PAGE) -> None:
    """Put ``text`` in place of what the section holds.

    Raises:
        ValueError: the page has no such section.
    """
    whole = page.read_text(encoding="utf-8")
    place = re.compile(rf"(<!-- {section} -->\n).*?(<!-- /{section} -->)", re.DOTALL)
    if not place.search(whole):
        raise ValueError(f"{page} has no section {section}: <!-- {section} --> ... <!-- /{section} -->")
    page.write_text(place.sub(lambda found: f"{found[1]}\n{text.strip()}\n\n{found[2]}", whole), encoding="utf-8")


def circumstances(versions: dict[str, str] | None = None) -> str:
    """When, where and with which versions: one paragraph."""
    facts: dict[str, Any] = machine()
    packages = {**facts["versions"], **(versions or {})}
    listed = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    today = datetime.datetime.now(datetime.UTC).date()
    return (
        f"{today}; {facts['cpu']}, {facts['cores']} cores, {facts['memory'] / 2**30:.0f} GiB, {facts['os']}; {listed}."
    )
