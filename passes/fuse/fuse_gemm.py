"""MatMul and the Add of its bias as one Gemm, for targets that like it.

Add(MatMul(x, W), b)                ->  Gemm(x, W, b)                 x: M x K, b broadcasts to M x N
Add(MatMul(x, Transpose(W)), b)     ->  Gemm{transB=1}(x, W, b)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Site, Sites
from graphopt.pipeline import Context, Fidelity, Pass

from ._affine import FLOATS, Refusal


@dataclass(frozen=True)
class FuseGemm(Pass):
    """Fuses MatMul and Add into Gemm where both operands are proven to be matrices and the target likes Gemm.

    The bias must broadcast to the product and not the other way round. A Transpose of the second matrix
    becomes transB. Where the target does not like Gemm, nothing is done.

    Keeps it when a rank or the bias' shape is not known, and when the product is used elsewhere.
    """

    name: ClassVar[str] = "fuse-gemm"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """Anchor at each Add that follows a MatMul."""
        if not context.target.likes("Gemm"):
            return
        for body in gir.bodies(model):
            if body.version() < 7:  # Gemm and Add broadcast by attribute
                continue
            for node in body.nodes():
                if not gir.is_op(node, "Add"):
                    continue
                for product, bias in (node.inputs, reversed(tuple(node.inputs))):
                    before = product.producer() if product is not None else None
                    if before is None or bias is None or not gir.is_op(before, "MatMul"):
                        continue
                    yield _site(node, before, bias)
                    break


def _site(add: ir.Node, matmul: ir.Node, bias: ir.Value) -> Site:
    left, right = matmul.inputs
    assert left is not None and right is not None
    try:
        _check(add, matmul, left, right, bias)
    except Refusal as refusal:
        return Site(gir.where(add), str(refusal))
    swap = right.producer()
    turned = swap is not None and gir.is_op(swap, "Transpose") and not gir.has_reference(swap)

    def edit() -> None:
        weights, attributes = right, {}
        if turned and swap is not None and swap.inputs[0] is not None and _swaps(swap):
            weights, attributes = swap.inputs[0], {"transB": 1}
        new = ir.node("Gemm", [left, weights, bias], attributes, name=matmul.name)
        gir.replace_node(add, [new], [new.outputs[0]])

    return Site(gir.where(add), f"fused with {gir.where(matmul)} into Gemm", edit)


def _swaps(transpose: ir.Node) -> bool:
    return tuple(gir.attribute(transpose, "perm", (1, 0))) == (1, 0)


def _check(add: ir.Node, matmul: ir.Node, left: ir.Value, right: ir.Value, bias: ir.Value) -> None:
    name = gir.where(matmul)
    product = matmul.outputs[0]
    if len(product.uses()) != 1 or product.is_graph_output() or matmul.graph is not add.graph:
        raise Refusal(f"the result of {name} is also used elsewhere")
    rows, columns, added = gir.dims(left), gir.dims(right), gir.dims(bias)
    if rows is None or columns is None:
        raise Refusal(f"{name} is not proven to multiply matrices: a rank is not known")
    if len(rows) != 2 or len(columns) != 2:
        raise Refusal(f"{name} multiplies tensors of rank {len(rows)} and {len(columns)}, not matrices")
    dtype = left.dtype or right.dtype
    if dtype is not None and dtype not in FLOATS:
        raise Refusal(f"its element type is {dtype.name}")
    if added is None:
        raise Refusal("the shape of the bias is not known")
    if len(added) > 2:
        raise Refusal("the bias would add a dimension")
    result = (rows[0], columns[1])
    for size, whole in zip(reversed(added), reversed(result), strict=False):
        if size != 1 and (size is None or size != whole):
            raise Refusal("the bias is not proven to broadcast to the product")
