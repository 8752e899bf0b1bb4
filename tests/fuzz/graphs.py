"""Random valid ONNX graphs, made of what exporters write and what passes look for.

``draw(rng)`` gives a model and feeds for it. Shapes are not symbolic here: each value carries its shape, and where it
is cheap its elements, under several *assignments* of sizes to the symbols at once, and an operator is only put where
it is valid under all of them. So the model runs on sizes that differ, 1 and 0 among them, and nothing of the generator
is shared with the shape inference it is to test.
"""

from __future__ import annotations

import random

from maker import Maker
from steps import SIMPLE_STEPS, STEPS
from values import Fuzzed


def draw(rng: random.Random) -> Fuzzed:
    """The graph that a source of choices leads to."""
    return Maker(rng, STEPS, SIMPLE_STEPS).model()
