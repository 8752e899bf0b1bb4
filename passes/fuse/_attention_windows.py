"""Masks of shifted windows: [1, windows, heads or 1, length, length], the same for each image of the batch.

    Reshape(Expand(mask, [batch / windows, 1, 1, 1, 1]), [batch, heads or 1, length, length])

Source: Liu et al., Swin Transformer, 2021, section 3.2.
"""

from __future__ import annotations

import re

import onnx_ir as ir

from graphopt import ir as gir

from ._attention_core import Mask
from ._attention_writer import Length, Writer

_MULTIPLE = re.compile(r"(\d+)(?:\*[A-Za-z_]\w*)+")
_SIZES = re.compile(r"\b\d+\b")


def windowed(mask: Mask, batch: Length, writer: Writer) -> ir.Value:
    """The mask for a batch of images times windows."""
    dims, dtype = gir.dims(mask.value), mask.value.dtype
    assert dims is not None
    sizes = [size for size in dims[2:] if isinstance(size, int)]
    if isinstance(batch.size, int):
        images = writer.ints([batch.size // mask.windows, 1, 1, 1, 1])
    else:
        length, ones = writer.length(batch), writer.ints([1, 1, 1, 1])
        count = writer.op("Div", [length, writer.ints([mask.windows])], dtype=ir.DataType.INT64, dims=(1,))
        images = writer.op("Concat", [count, ones], {"axis": 0}, dtype=ir.DataType.INT64, dims=(5,))
    wide = writer.op("Expand", [mask.value, images], dtype=dtype)
    return writer.op("Reshape", [wide, writer.ints([-1, *sizes])], dtype=dtype, dims=(batch.size, *sizes))


def is_not_one(dim: int | str, whole: int | str | None) -> bool:
    """The dimension is proven not to be 1, unless the other one is too: then both are equal, or the model fails.

    Among these are 16 * windows, and Min(64, length) of a buffer that is cut to the length.
    """
    if not isinstance(dim, str):
        return False
    times = _MULTIPLE.fullmatch(dim), _MULTIPLE.fullmatch(str(whole))
    if all(found is not None and int(found[1]) > 1 for found in times):
        return True
    return any(
        dim in (f"Min({size}, {whole})", f"Min({whole}, {size})") for size in _SIZES.findall(dim) if int(size) > 1
    )
