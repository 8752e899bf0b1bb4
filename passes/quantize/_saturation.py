"""Processors on which products of 8-bit codes saturate before they are summed in 32 bits."""

from __future__ import annotations

from graphopt.target import Target


def saturates(target: Target) -> bool:
    """Whether sums of two products of 8-bit codes saturate in 16 bits: x86 without VNNI (vpmaddubsw).

    False where the processor is not known.
    """
    if target.architecture != "x86-64" or target.runtime != "onnxruntime" or not target.isa:
        return False
    return not any("vnni" in feature or feature == "amx_int8" for feature in target.isa)
