"""Models to work on: a catalogue of real ones, builders of small ones, and the export of torch modules.

This folder is importable as ``graphopt.models`` only (``setup.py`` maps it), so no class in it ever has
two identities.
"""

from __future__ import annotations

if __name__ == "models":
    raise ImportError("this folder is the package graphopt.models: import it by that name")

from .catalogue import Entry, Input, entry, fetch, models, path_of

__all__ = ["Entry", "Input", "entry", "fetch", "models", "path_of"]
