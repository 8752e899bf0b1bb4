"""What shape inference claims, held against the tensors of real runs."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cache
from types import CodeType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from running import Feed, Tensors

from graphopt.ir import dims, infer, known_ints
from graphopt.ir.serial import from_proto

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FUNCTIONS = {"Max": max, "Min": min, "floor": math.floor, "ceiling": math.ceil, "Mod": lambda a, b: a % b}


def wrong_claims(model: onnx.ModelProto, feeds: Sequence[Feed], found: Mapping[int, Tensors]) -> Iterator[str]:
    """The first wrong shape, type or element of the main graph in each run.

    Args:
        model: what to infer the shapes of.
        feeds: all feeds.
        found: the tensors of the runs, by the number of the feed.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = from_proto(copy)
    infer(known)
    values = [output for node in known.graph for output in node.outputs if output.name]
    claims = [(value, dims(value), known_ints(value)) for value in values]
    for index, tensors in found.items():
        sizes: dict[str, int] = {}
        for value in known.graph.inputs:
            if value.name in feeds[index]:
                for size, real in zip(dims(value) or (), feeds[index][value.name].shape, strict=True):
                    if isinstance(size, str):
                        sizes.setdefault(size, real)
        for value, shape, elements in claims:
            real = tensors.get(value.name or "")
            line = _wrong(value, shape, elements, real, sizes) if isinstance(real, np.ndarray) else ""
            if line:
                yield f"'{value.name}' of {value.producer().op_type}: {line}"  # type: ignore[union-attr]
                return


def _wrong(
    value: ir.Value,
    shape: tuple[int | str | None, ...] | None,
    elements: tuple[int, ...] | None,
    real: np.ndarray,
    sizes: dict[str, int],
) -> str:
    if value.dtype is not None and value.dtype.numpy() != real.dtype:
        return f"the type is {real.dtype}, not {value.dtype}"
    if elements is not None and tuple(real.reshape(-1).tolist()) != elements:
        return f"the elements are {real.tolist()}, not {elements}"
    if shape is None:
        return ""
    if len(shape) != real.ndim:
        return f"the shape is {list(real.shape)}, not {shape}"
    for size, actual in zip(shape, real.shape, strict=True):
        claimed = size if isinstance(size, int) else evaluated(size, sizes, actual)
        if claimed is not None and claimed != actual:
            return f"the shape is {list(real.shape)}, not {shape} with {sizes}"
    return ""


def evaluated(size: str | None, sizes: dict[str, int], actual: int) -> int | None:
    """What a symbol, or an expression of symbols, stands for in this run; a new symbol stands for what it meets."""
    if size is None:
        return None
    if size in sizes or _NAME.fullmatch(size):
        return sizes.setdefault(size, actual)
    names = {name: Fraction(number) for name, number in sizes.items() if _NAME.fullmatch(name)}
    try:
        number = eval(_compiled(size), {"__builtins__": {}, "Fraction": Fraction, **_FUNCTIONS}, names)
    except (NameError, SyntaxError, TypeError, ArithmeticError):
        return sizes.setdefault(size, actual)
    return int(number) if Fraction(number).denominator == 1 else sizes.setdefault(size, actual)


class _Exact(ast.NodeTransformer):
    """1/2 is a half in an expression of SymPy's, and rounded nowhere."""

    def visit_Constant(self, node: ast.Constant) -> Any:
        call = ast.Call(ast.Name("Fraction", ast.Load()), [node], [])
        return ast.copy_location(call, node) if isinstance(node.value, int) else node


@cache
def _compiled(size: str) -> CodeType:
    tree = _Exact().visit(ast.parse(size, mode="eval"))
    return compile(ast.fix_missing_locations(tree), size, "eval")
