"""The generic test of rewrite rules: random instances of a rule's pattern must compute the same afterwards.

::

    from graphopt.rewrite.fuzz import fuzz

    def test_gelu_is_the_same_function():
        fuzz(FuseGelu, dtypes=(ir.DataType.FLOAT, ir.DataType.FLOAT16))

    def test_pad_goes_into_conv():
        fuzz(PadIntoConv, shapes={"x": "n c h w", "w": "m c 3 3"}, attributes={"a": {"pads": [0, 0, 0, 0]}})
"""

from .check import FuzzResult, Variant, fuzz
from .instance import Sketch

__all__ = ["FuzzResult", "Sketch", "Variant", "fuzz"]
