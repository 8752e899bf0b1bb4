"""The transformations: one family per folder, one pass per file, the file named after the pass."""

from __future__ import annotations

if __name__ != "graphopt.passes":
    raise ImportError(f"import this package as graphopt.passes, not as {__name__}")
