"""Tables of embeddings in int8, a scale for each row.

    y = Gather(T, i)    ->    y = Cast(Gather(T8, i)) * Gather(s, i)        s_r = max |T_r| / 127, T8 = round(T / s)

Only the rows that are looked up become floats, so this costs as much time as before: the table is a quarter as large.
ONNX 13 Gather, Cast, Mul; ONNX 1 at least.

Source: per-row quantisation of embeddings, Guan et al., Post-Training 4-bit Quantization on Embedding Tables (2019),
section 2, here with 8 bits and symmetric.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Site, Sites
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

from ._affine import weight_affine

_FLOATS = frozenset((ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16))
LEAST_WIDTH = 8
"""Of shorter rows the scales take up as much as was saved. The scales themselves are a table with rows of one."""

OPSET = 6
"""Cast has its number of an element type, and Mul broadcasts as NumPy does, since 6 and 7."""


@dataclass(frozen=True)
class QuantizeEmbeddings(Pass):
    """Stores tables that Gather looks rows up in as int8 codes, with a scale for each row.

    The error of each number is at most max |row| / 254. Works in subgraphs and local functions. Kept, with the reason:
    tables with NaN or infinities, and those that something else than such a Gather reads, which would then be there
    twice (quantise that first). Small tables,
    rows of fewer than 8 numbers and other axes are no sites.

    Attributes:
        at_least: the least number of elements of a table for which it pays.
        keep: what stays float: names of nodes, of their outputs, or of tables.
        min_sqnr_db: a result whose error is nearer to the output than that is refused.
    """

    name: ClassVar[str] = "quantize-embeddings"
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    needs_shapes: ClassVar[bool] = True
    at_least: int = 65536
    keep: tuple[str, ...] = ()
    min_sqnr_db: float = 5.0

    def budget_db(self) -> float:
        """Below it a result is no approximation any more."""
        return self.min_sqnr_db

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site for each Gather from a large table."""
        stored: dict[tuple[ir.Value, ir.Graph], tuple[ir.Value, ir.Value]] = {}
        for body in gir.bodies(model):
            for node in body.nodes():
                if not gir.is_op(node, "Gather") or not self._is_look_up(node):
                    continue
                reason = self._refusal(node, body.version(), context)
                if reason:
                    yield Site(gir.where(node), f"kept float: {reason}")
                else:
                    table = gir.constant(node.inputs[0])
                    assert table is not None
                    rows, width = (int(dim) for dim in table.shape.numpy())
                    text = f"table of {rows:,} rows of {width:,} in int8, a scale for each row"
                    yield Site(gir.where(node), text, partial(_edit, node, stored))

    def _is_look_up(self, node: ir.Node) -> bool:
        table = gir.constant(node.inputs[0])
        if table is None or table.dtype not in _FLOATS or len(table.shape) != 2 or table.size < self.at_least:
            return False
        if int(table.shape.numpy()[1]) < LEAST_WIDTH:
            return False
        constant_index = gir.constant(node.inputs[1]) is not None
        return not constant_index and not gir.has_reference(node) and gir.attribute(node, "axis", 0) in (0, -2)

    def _refusal(self, node: ir.Node, version: int, context: Context) -> str:
        table = node.inputs[0]
        assert table is not None
        if {node.name, table.name, *(output.name for output in node.outputs)} & set(filter(None, self.keep)):
            return "asked for"
        if version < OPSET + 1:
            return f"Mul broadcasts from opset {OPSET + 1} on, this has {version}: convert-opset raises it"
        other = next((use.node for use in table.uses() if not (gir.is_op(use.node, "Gather") and use.idx == 0)), None)
        if other is not None or table.is_graph_output():
            user = gir.where(other) if other is not None else "the model's outputs"
            return f"{user} reads the table '{table.name}' too, which would be there twice"
        elements = gir.array(table)
        assert elements is not None
        if not np.isfinite(elements).all():
            return f"the table '{table.name}' holds NaN or infinities"
        return next(filter(None, (context.target.objection(form) for form in ("Gather", "Cast", "Mul"))), "")


def _edit(node: ir.Node, stored: dict[tuple[ir.Value, ir.Graph], tuple[ir.Value, ir.Value]]) -> None:
    graph, table, result = node.graph, node.inputs[0], node.outputs[0]
    assert graph is not None and table is not None
    elements = gir.array(table)
    assert elements is not None
    owner = table.graph if table.is_initializer() and table.graph is not None else graph
    assert isinstance(owner, ir.Graph)
    if (table, owner) not in stored:
        affine = weight_affine(elements.astype(np.float32, copy=False), ir.DataType.INT8, 0)
        scale = affine.scale.astype(elements.dtype).reshape(-1, 1)
        if not scale.all():  # smaller than float16 reaches
            scale = np.maximum(scale, np.finfo(elements.dtype).tiny)
        codes = np.clip(np.rint(elements.astype(np.float64) / scale.astype(np.float64)), -127, 127).astype(np.int8)
        stored[table, owner] = (
            gir.new_initializer(owner, codes, f"{table.name}_quantized"),
            gir.new_initializer(owner, scale, f"{table.name}_scale"),
        )
    codes_of, scales_of = stored[table, owner]
    index = node.inputs[1]
    kind = ir.DataType.from_numpy(elements.dtype)
    rows = ir.node("Gather", [codes_of, index])
    floats = ir.node("Cast", [rows.outputs[0]], {"to": kind})
    steps = ir.node("Gather", [scales_of, index])
    product = ir.node("Mul", [floats.outputs[0], steps.outputs[0]])
    for made in (floats, product):
        made.outputs[0].type, made.outputs[0].shape = ir.TensorType(kind), result.shape
    rows.outputs[0].type, rows.outputs[0].shape = ir.TensorType(ir.DataType.INT8), result.shape
    steps.outputs[0].type = ir.TensorType(kind)
    gir.replace_node(node, [rows, floats, steps, product], [product.outputs[0]])
