"""The report: one self-contained HTML page made of a run folder's files, and of nothing else."""

from __future__ import annotations

from .render import render

__all__ = ["render"]
