"""A toy plug-in of graphopt: what a third party ships."""

from __future__ import annotations

from pathlib import Path

RECIPE = Path(__file__).with_name("toy.toml")
