"""Codes and scales of weights, chosen by what the products give on data instead of by the weights alone.

For each product, in topological order, with x^ its input in the model as it is quantised so far, and y what it gave in
float32:

    q, s  =  argmin  sum |y - s q x^ - b|^2  over the samples,        b = E[y] - s q E[x^] where there is a bias

How it is solved stands in ``_rounding.py`` and ``_solve.py``, where the sums come from in ``_moments.py``.

Sources: Nagel et al., Up or Down? Adaptive Rounding for Post-Training Quantization (2020), sections 3.1 to 3.3 (one
layer after another, inputs as the quantised model has them); Frantar et al., GPTQ (2022), section 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.errors import GraphoptError
from graphopt.events import Event, Site, Sites
from graphopt.execute.stages import Stages
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

from ._floats import drop_floats, float_output, kept_floats
from ._moments import LEAST_PATCHES, PATCHES, View, view_of
from ._rounding import Grid, Moments
from ._solve import Solution, solve
from ._weights import bias_codes, is_packed, pack, stored_codes

MAX_FEATURES = 4096
"""A Gram matrix of more takes more than 128 MB."""

_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")

_UNKNOWN = "what it was in float32 is not known: insert-qdq keeps that, in one recipe"

HELD_OUT = 4
"""Every such sample decides how freely weights follow the others."""


@dataclass(frozen=True)
class _Product:
    """A quantised product with a constant weight, beside what it was.

    Attributes:
        node: in the quantised model.
        source, weight, bias: the DequantizeLinear nodes of its operands; no bias, or a float one: None.
        original: the node in the float model.
        view: of its weight.
    """

    node: ir.Node
    source: ir.Node
    weight: ir.Node
    bias: ir.Node | None
    original: ir.Node
    view: View


@dataclass(frozen=True)
class RoundWeights(Pass):
    """Rounds the weights of quantised products so that what the products give changes least.

    Runs behind ``insert-qdq`` in one recipe: that keeps the float model beside. Needs data. Scales and codes of weights
    change, and int32 biases; no node is added. What is found on most samples must give a smaller error on the others,
    or a product's codes stay as they are; they do too, with the reason, where each output has more than 4,096 inputs.

    Attributes:
        samples: how many samples of the data are looked at, at most.
        refit: weights may move by more than rounding, to make good what the products before them did to their inputs.
        min_sqnr_db: as for ``insert-qdq``.
    """

    name: ClassVar[str] = "round-weights"
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    once: ClassVar[bool] = True
    samples: int = 64
    refit: bool = True
    min_sqnr_db: float = 5.0

    def __post_init__(self) -> None:
        """Options that mean nothing are refused."""
        if self.samples < 1:
            raise GraphoptError(f"samples is {self.samples}", self.name, "at least 1", usage=True)

    def budget_db(self) -> float:
        """As for ``insert-qdq``."""
        return self.min_sqnr_db

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site for each quantised product."""
        products = [node for node in model.graph if gir.is_op(node, *_PRODUCTS) and _source(node) is not None]
        if not products:
            return
        place = f"graph '{model.graph.name}'"
        floats = kept_floats(model)
        if context.data is None or floats is None:
            why = "rounding by random feeds says nothing: give data" if floats is not None else _UNKNOWN
            yield Site(place, why)
            return
        data = context.data.take(self.samples)
        stages, reference = Stages(model, data), Stages(floats, data)
        originals = {str(value.name): node for node in floats.graph for value in node.outputs}
        order = {node: number for number, node in enumerate(model.graph)}
        rng = np.random.default_rng(context.seed)
        reached = -1
        for number, node in enumerate(products, 1):
            product = _product(node, originals)
            if isinstance(product, str):
                yield Site(gir.where(node), product)
                continue
            if order[product.source] <= reached:
                yield Site(gir.where(node), "its operand is computed before the product in front of it")
                continue
            reached = order[product.source]
            try:
                inputs, outputs = stages.run(product.source), reference.run(product.original)
            except GraphoptError as error:
                yield Site(gir.where(node), f"nothing could be measured: {error.what}")
                return
            parts = _parts(product.view, inputs, outputs, rng)
            del inputs, outputs
            yield _site(product, parts, refit=self.refit)
            facts = {"stage": "rounding weights", "done": number, "total": len(products)}
            context.events(Event("progress", facts))
        drop_floats(model)


def _source(node: ir.Node) -> ir.Node | None:
    value = node.inputs[0]
    source = value.producer() if value is not None else None
    return source if gir.is_op(source, "DequantizeLinear") else None


def _product(node: ir.Node, originals: Mapping[str, ir.Node]) -> _Product | str:
    """A product; a reason when it is left as it is."""
    source, value = _source(node), node.inputs[1]
    weight = value.producer() if value is not None else None
    original = originals.get(float_output(node) or "")
    elements = gir.array(original.inputs[1]) if original is not None else None
    if source is None or original is None or elements is None:
        return _UNKNOWN
    if weight is None or not gir.is_op(weight, "DequantizeLinear") or stored_codes(weight) is None:
        return "its weight is no constant of codes"
    view = view_of(original, elements)
    if isinstance(view, str):
        return view
    if view.features > MAX_FEATURES:
        return f"rounded to nearest: each output has {view.features:,} inputs, more than {MAX_FEATURES:,}"
    bias = node.inputs[2].producer() if len(node.inputs) > 2 and node.inputs[2] is not None else None
    if len(node.inputs) > 2 and (bias is None or not gir.is_op(bias, "DequantizeLinear")):
        return "its bias is no constant of codes"
    return _Product(node, source, weight, bias, original, view)


def _parts(
    view: View, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], rng: np.random.Generator
) -> list[Moments]:
    """The moments of most samples, and those of the others."""
    patches = max(LEAST_PATCHES, PATCHES * view.features) // len(inputs) + 1
    parts: list[Moments | None] = [None, None]
    for number, (x, y) in enumerate(zip(inputs, outputs, strict=True)):
        found = view.moments(x, y, patches, rng)
        part = number % HELD_OUT == HELD_OUT - 1
        earlier = parts[part]
        parts[part] = found if earlier is None else earlier + found
    return [part for part in parts if part is not None]


def _site(product: _Product, parts: Sequence[Moments], *, refit: bool) -> Site:
    place, view = gir.where(product.node), product.view
    weight, scale = gir.array(product.original.inputs[1]), gir.array(product.weight.inputs[1])
    codes = stored_codes(product.weight)
    assert weight is not None
    assert scale is not None
    assert codes is not None
    if any(not np.isfinite(part.power).all() or not np.isfinite(part.gram).all() for part in parts):
        return Site(place, "what it gives on the data holds NaN or infinities")
    packed = is_packed(product.weight)
    rows = view.rows(codes)
    most = int(np.abs(rows).max(initial=1.0))
    low, high = (-8, 7) if packed else (-most, most)
    known = scale.astype(np.float64)
    grid = Grid(known.reshape(view.groups, -1) if known.ndim else known, low, high)
    found = solve(view.rows(weight), grid, rows, parts, centred=product.bias is not None, refit=refit)
    if not found.method:
        return Site(place, "the codes it has are the best found")
    stored = _Stored.of(product, found, parts, scale.shape)
    if stored.overflows:
        return Site(place, "with the scales that were found its bias has no code of 32 bits")
    text = f"error of its outputs {found.after:.2%} instead of {found.before:.2%}, by {found.method}"
    return Site(place, text, partial(stored.write, product, packed=packed))


@dataclass(frozen=True)
class _Stored:
    """What takes the place of a product's constants.

    Attributes:
        codes: int8, as the weight is stored.
        scale: float32, [] or [channels].
        bias: float64, [channels]; None without.
        bias_scale: float32, [] or [channels].
    """

    codes: np.ndarray
    scale: np.ndarray
    bias: np.ndarray | None = None
    bias_scale: np.ndarray | None = None

    @classmethod
    def of(cls, product: _Product, found: Solution, parts: Sequence[Moments], shape: tuple[int, ...]) -> _Stored:
        codes = product.view.stored(found.codes).astype(np.int8)
        scale = found.grid.scale.astype(np.float32).reshape(shape)
        if product.bias is None:
            return cls(codes, scale)
        source = gir.array(product.source.inputs[1])
        assert source is not None
        total = sum(parts[1:], start=parts[0])
        given = np.einsum("grf,gf->gr", found.grid.weight(found.codes), total.inputs)
        bias = ((total.outputs - given) / total.rows).reshape(-1)
        return cls(codes, scale, bias, np.asarray(source * scale, np.float32))

    @property
    def overflows(self) -> bool:
        if self.bias is None or self.bias_scale is None:
            return False
        return bool(np.any(np.abs(self.bias) >= self.bias_scale.astype(np.float64) * (2**31 - 1)))

    def write(self, product: _Product, *, packed: bool) -> None:
        """Put them into the graph."""
        graph, value = product.node.graph, product.original.inputs[1]
        assert graph is not None
        assert value is not None
        name = f"{value.name}_rounded"
        product.weight.replace_input_with(0, gir.new_initializer(graph, self.codes, name))
        product.weight.replace_input_with(1, gir.new_initializer(graph, self.scale, f"{name}_scale"))
        if packed:
            pack(product.node, 1)
        if product.bias is not None and self.bias is not None and self.bias_scale is not None:
            codes = bias_codes(self.bias, self.bias_scale)
            product.bias.replace_input_with(0, gir.new_initializer(graph, codes, f"{name}_bias"))
            product.bias.replace_input_with(1, gir.new_initializer(graph, self.bias_scale, f"{name}_bias_scale"))
