"""Runtimes and compilers: what a model can be lowered to, one per file."""

from __future__ import annotations

if __name__ != "graphopt.backends":
    raise ImportError(f"import this package as graphopt.backends, not as {__name__}")
