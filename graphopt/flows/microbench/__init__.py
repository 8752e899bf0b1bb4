"""The micro-benchmarks of ``graphopt profile-target``: one small file for each kind of operator.

A form that a pass may ask a target about belongs here: two lines of text and its sizes.
"""

from __future__ import annotations

from collections.abc import Mapping

from .activations import ACTIVATIONS
from .attention import ATTENTION
from .cells import CELLS
from .channels import CHANNELS
from .images import IMAGES
from .micro import Micro, Sizes
from .models import build
from .norms import NORMS
from .products import PRODUCTS
from .resizes import RESIZES
from .selections import SELECTIONS

__all__ = ["MICROS", "Micro", "Sizes", "build"]

_ALL = (*ACTIVATIONS, *NORMS, *ATTENTION, *PRODUCTS, *IMAGES, *CHANNELS, *RESIZES, *SELECTIONS, *CELLS)

MICROS: Mapping[str, Micro] = {micro.form: micro for micro in _ALL}
"""Every micro-benchmark, by form."""
