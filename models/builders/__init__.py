"""Deterministic builders of test models, one family a file.

``BUILDERS`` holds every one that needs no argument: each gives a valid model that ONNX Runtime runs, the
same bytes each time. ``chain``, ``wide`` and ``sub`` are there with 70 nodes; ``external`` writes files
and so stands alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import onnx_ir as ir

from .attention import attention, transformer
from .cnn import small_cnn, upsampling_cnn
from .control_flow import (
    if_constant,
    if_model,
    if_same_value_twice,
    loop_model,
    loop_while,
    nested,
    scan_model,
)
from .external import external
from .functions import function_model
from .large import chain, chain_minimum, sub, sub_minimum, wide, wide_minimum
from .legacy import ir3_model, overridable_defaults
from .mlp import mlp
from .quantized import qdq_cnn, weight_only
from .random_ops import huge_generators, random_model
from .sketch import Sketch
from .stale_shapes import stale_output_shape, stale_shapes

BUILDERS: Mapping[str, Callable[[], ir.Model]] = {
    "small_cnn": small_cnn,
    "small_cnn_opset11": partial(small_cnn, opset=11),
    "upsampling_cnn": upsampling_cnn,
    "mlp": mlp,
    "mlp_gelu": partial(mlp, activation="gelu", normalize=True),
    "mlp_gelu_tanh_opset20": partial(mlp, activation="gelu-tanh", normalize=True, opset=20),
    "mlp_silu_gemm": partial(mlp, activation="silu", form="gemm"),
    "attention": attention,
    "attention_causal": partial(attention, mask="both"),
    "attention_dynamo": partial(attention, mask="both", dialect="dynamo", opset=20),
    "attention_unmasked": partial(attention, mask="none"),
    "transformer": transformer,
    "transformer_rms": partial(transformer, norm="rms", dialect="dynamo", opset=20),
    "if_model": if_model,
    "if_constant": if_constant,
    "if_same_value_twice": if_same_value_twice,
    "loop_model": loop_model,
    "loop_once": partial(loop_model, trips=1),
    "loop_while": loop_while,
    "scan_model": scan_model,
    "nested": nested,
    "chain": partial(chain, 70),
    "wide": partial(wide, 70),
    "sub": partial(sub, 140),
    "ir3_model": ir3_model,
    "overridable_defaults": overridable_defaults,
    "function_model": function_model,
    "stale_shapes": stale_shapes,
    "stale_output_shape": stale_output_shape,
    "weight_only": weight_only,
    "qdq_cnn": qdq_cnn,
    "random_model": random_model,
    "huge_generators": huge_generators,
}

UNOPTIMIZED_ONLY = frozenset({"stale_shapes", "stale_output_shape"})
"""Builders whose models ONNX Runtime 1.31 itself breaks when it optimises them: run these without."""

__all__ = [
    "BUILDERS",
    "UNOPTIMIZED_ONLY",
    "Sketch",
    "attention",
    "chain",
    "chain_minimum",
    "external",
    "function_model",
    "huge_generators",
    "if_constant",
    "if_model",
    "if_same_value_twice",
    "ir3_model",
    "loop_model",
    "loop_while",
    "mlp",
    "nested",
    "overridable_defaults",
    "qdq_cnn",
    "random_model",
    "scan_model",
    "small_cnn",
    "stale_output_shape",
    "stale_shapes",
    "sub",
    "sub_minimum",
    "transformer",
    "upsampling_cnn",
    "weight_only",
    "wide",
    "wide_minimum",
]
