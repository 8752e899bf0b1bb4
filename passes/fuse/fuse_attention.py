"""Scaled dot-product attention as one operator.

    MatMul(Softmax(scale * MatMul(q, k^T) + mask), v)  ->  Attention{scale}(q, k, v, mask)
                                                       ->  com.microsoft::MultiHeadAttention{num_heads, scale}(...)

with the transposes, reshapes and scalings of the operands, heads that are repeated for grouped queries, and caches of
earlier keys and values. Source: Vaswani et al., Attention Is All You Need, 2017, section 3.2; Ainslie et al., GQA,
2023, section 2.2; ONNX operator Attention, version 23.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Site, Sites
from graphopt.pipeline import Context, Fidelity, Pass

from ._affine import Refusal
from ._attention_bounds import BoundsReader
from ._attention_causal import BandReader
from ._attention_core import cores
from ._attention_forms import assumption, choose
from ._attention_plan import Plan, plan
from ._attention_write import write
from ._attention_writer import Writer
from ._forms import Form, Place


@dataclass(frozen=True)
class FuseAttention(Pass):
    """Replaces the products and the Softmax of attention, in the ways exporters write them, by the operator.

    The scale may be on the scores, the queries, the keys or several of them; keys may be transposed in one step,
    with the splitting of heads, or between two reshapes; the mask may be added, selected by Where, or several
    of these; it is passed on as it is, expanded to the length of queries and keys where it is smaller, as truths where
    all that it says is which scores are kept, and as ``is_causal`` where these are proven to be those of a triangle.
    Without split heads before and behind, the operator splits them itself. From opset 23 on Attention is written,
    before that, or where it is measured to be faster, MultiHeadAttention on targets that list it, or for causal masks
    with grouped heads or a cache GroupQueryAttention.

    A query whose keys are all masked keeps its result: by -inf it is NaN, or zero where the graph says
    Where(IsNaN(p), 0, p); by the least finite number it is the mean of all values. ONNX says zero for the first, and
    ONNX Runtime for the last too, so a mask with the least number gets the number next to it. NaN among queries and
    keys gives NaN, also where that Where made zeros of it.

    A size that only the run knows is taken to be at least 1, and the report says so: ONNX Runtime's Attention refuses
    an empty batch, no queries, and no new keys, which the operators it replaces take. An empty cache, as in a
    decoder's first step, is none of these. A mask that would not fit the scores may no longer be refused.

    Keeps it when shapes are not proven to be equal, when a mask of -inf may silence a row and nothing makes zeros of
    its NaN, when scores are used elsewhere, and when masked scores become a number others may come near.

    Attributes:
        zero_for_nan: fuse also where a query whose keys are all masked by -inf gets NaN, and let it get zeros.
    """

    name: ClassVar[str] = "fuse-attention"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True

    zero_for_nan: bool = False

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """Anchor at the product with the values."""
        readers = BoundsReader(), BandReader()
        memory: dict[Hashable, ir.Value] = {}
        for body in gir.bodies(model):
            place = Place(model, body, context.target)
            if body.version() < 9:  # Where and Expand
                continue
            for node in body.nodes():
                if gir.is_op(node, "MatMul"):
                    site = self._site(node, place, readers, memory)
                    if site is not None:
                        yield site

    def _site(
        self,
        product: ir.Node,
        place: Place,
        readers: tuple[BoundsReader, BandReader],
        memory: dict[Hashable, ir.Value],
    ) -> Site | None:
        reason = None
        for core in cores(product, place.body.version()):
            name = gir.where(core.softmax)
            try:
                found = plan(core, *readers)
                form = choose(found, place, self.zero_for_nan)
            except Refusal as refusal:
                reason = reason or Site(name, str(refusal))
                continue
            said = f"fused into {form.name}{assumption(found, form)}"
            return Site(name, said, partial(_edit, found, form, place, memory))
        return reason


def _edit(found: Plan, form: Form, place: Place, memory: dict[Hashable, ir.Value]) -> None:
    graph = found.core.product.graph
    assert graph is not None
    write(found, form, Writer(place, graph, memory))
