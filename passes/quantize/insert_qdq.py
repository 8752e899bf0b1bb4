"""float32 -> int8, as QuantizeLinear and DequantizeLinear around what the target computes on integers.

    y = act(Conv(x, W, b))
    ->  y = DQ(Q(Conv(DQ(Q(x)), DQ(W8), DQ(b32))))      W8 = round(W / s_w), b32 = round(b / (s_x s_w))

where Q's range [0, s (2^8 - 1)] does what the activation did. The runtime makes one integer convolution of it:
sum (x8 - z_x) W8 in 32 bits, then one rounding to y8. Where codes are put is in ``_placement.py``, ranges come from
``graphopt.calibrate``, the arithmetic is in ``_affine.py``.

Source: Jacob et al. (2018), sections 2 and 3; Krishnamoorthi (2018); Nagel et al., A White Paper on Neural Network
Quantization (2021). QuantizeLinear and DequantizeLinear: ONNX 10, with a scale per channel 13, 16 and 4 bits 21.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, get_args

import onnx_ir as ir

from graphopt import ir as gir
from graphopt.calibrate import CalibrationData, SampleMeans, Statistics, collect, find_range, observer_for
from graphopt.calibrate.ranges import Calibrator
from graphopt.errors import GraphoptError
from graphopt.events import Event, Site, Sites
from graphopt.pipeline.context import Context
from graphopt.pipeline.pass_ import Fidelity, Pass

from ._affine import TYPES, Affine, affine_of
from ._floats import keep_floats
from ._inner import inner_products
from ._means import SAMPLES, output_axis, remember
from ._placement import Placement, place
from ._roles import Roles
from ._saturation import saturates
from ._weights import WeightScheme, pack
from ._writer import Writer

RANDOM_SAMPLES = 4
COLLAPSE_DB = 5.0


@dataclass(frozen=True)
class InsertQdq(Pass):
    """Computes convolutions and products of matrices on integers, with ranges measured on data.

    What joins them (sums, pools, concatenations between them) follows the target's table of integer operators. Kept
    in float32, with the reason: products whose weight is no constant, whose sum may overflow 32 bits, whose numbers are
    not finite; what lies in subgraphs and local functions; what ``keep`` names.

    Without data the ranges are those of random feeds, which is for trying out only.

    Attributes:
        activations: element type of activations' codes: uint8, int8, uint16 or int16 (opset 21); empty takes the
            target's.
        weights: int8, or int4 (stored in 4 bits, opset 21; computed in 8).
        per_channel: a scale for each output channel of a weight, or one for all.
        symmetric: activations get the zero point 0 (the middle of an unsigned type), as TensorRT wants it.
        calibrator: min-max, moving-average, percentile, mse or entropy.
        percentile: what ``percentile`` keeps, in per cent.
        reduce_range: weights use 7 bits of 8, for processors whose 8-bit products saturate; on a target that is known
            to be one (x86 without VNNI) they do anyway.
        keep: what stays float32: names of nodes, of their outputs, or operator types.
        min_sqnr_db: a result whose error is nearer to the output than that is refused.
    """

    name: ClassVar[str] = "insert-qdq"
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    needs_shapes: ClassVar[bool] = True
    once: ClassVar[bool] = True
    activations: str = ""
    weights: str = "int8"
    per_channel: bool = True
    symmetric: bool = False
    calibrator: str = "min-max"
    percentile: float = 99.99
    reduce_range: bool = False
    keep: tuple[str, ...] = ()
    min_sqnr_db: float = COLLAPSE_DB

    def __post_init__(self) -> None:
        """Options that mean nothing are refused."""
        for option, given, known in (
            ("activations", self.activations, ("", "uint8", "int8", "uint16", "int16")),
            ("weights", self.weights, ("int8", "int4")),
            ("calibrator", self.calibrator, get_args(Calibrator)),
        ):
            if given not in known:
                hint = f"one of {', '.join(filter(None, known))}"
                raise GraphoptError(f"{option} is '{given}'", self.name, hint, usage=True)
        if not 0 < self.percentile <= 100:
            raise GraphoptError(f"percentile is {self.percentile:g}", self.name, "above 0, at most 100", usage=True)

    def budget_db(self) -> float:
        """Below it a result is no approximation any more."""
        return self.min_sqnr_db

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """One site for each product, and for each node that joins them."""
        place_ = f"graph '{model.graph.name}'"
        needed = 21 if self._needs_opset_21(context) else 13
        version = model.opset_imports.get("", 0)
        if version < needed:
            yield Site(place_, f"these codes need opset {needed}, the model has {version}: convert-opset raises it")
            return
        found = place(model, context.target.integers, self._refuses)
        try:
            statistics = self._observe(model, found, context)
        except GraphoptError as error:
            yield Site(place_, f"nothing could be measured: {error.what}")
            return
        affines, bad = self._affines(found, statistics, context)
        for node, role in found.joined.items():
            if role.kind == "product":
                means = statistics.get(str(node.outputs[0].name), SampleMeans).rows
                if means is not None:
                    remember(node, means)
        keep_floats(model, (node for node, role in found.joined.items() if role.kind == "product"))
        writer = Writer(model.graph, affines)
        bits = 7 if self.weights == "int8" and (self.reduce_range or saturates(context.target)) else None
        for node in model.graph:
            if node in found.kept:
                yield Site(gir.where(node), f"kept float32: {found.kept[node]}")
            elif node in found.joined:
                role = found.joined[node]
                reason = next((bad[name] for name in _names(role, found) if name in bad), "")
                if reason:
                    yield Site(gir.where(node), f"kept float32: {reason}")
                else:
                    edit = partial(self._edit, writer, role, found, affines, bits)
                    yield Site(gir.where(node), self._text(role, found, affines), edit)
        yield from inner_products(model, context.target.integers)

    def _needs_opset_21(self, context: Context) -> bool:
        return self.weights == "int4" or "16" in (self.activations or context.target.integers.activations[0])

    def _refuses(self, node: ir.Node) -> str:
        named = {node.op_type, node.name, *(output.name for output in node.outputs)}
        return "asked for" if named & set(self.keep) else ""

    def observe(self, model: ir.Model, context: Context, cache: Path | None = None) -> Statistics:
        """What this pass needs to know of a model: for ``Context.statistics``, when it runs many times on one model.

        Args:
            model: with shapes inferred (``graphopt.ir.infer``).
            context: with the data.
            cache: a folder where statistics are kept and found again, as ``collect`` does.
        """
        return self._observe(model, place(model, context.target.integers, self._refuses), context, cache)

    def products(self, model: ir.Model, context: Context) -> list[ir.Node]:
        """The products that would be computed on integers; ``keep`` may name their first outputs."""
        found = place(model, context.target.integers, self._refuses)
        return [node for node, role in found.joined.items() if role.kind == "product"]

    def _observe(self, model: ir.Model, found: Placement, context: Context, cache: Path | None = None) -> Statistics:
        requests = {str(found.origin(value).name): [observer_for(self.calibrator)] for value in found.values}
        products = [node for node, role in found.joined.items() if role.kind == "product"]
        means = {str(node.outputs[0].name): [SampleMeans(output_axis(node))] for node in products}
        known = context.statistics
        if known is not None and known.covers(requests) and known.covers(means):
            return known
        data = context.data
        if data is None:
            data = CalibrationData.random(model, context.seed, RANDOM_SAMPLES, vary=True).for_model(model)
            text = "the ranges of activations are those of random feeds, not for accuracy: give data"
            context.events(Event("warning", {"text": text}))
        statistics = collect(model, data, requests, cache=cache, events=context.events)
        statistics.add(collect(model, data.spread(SAMPLES), means, cache=cache))
        return statistics

    def _affines(
        self, found: Placement, statistics: Statistics, context: Context
    ) -> tuple[dict[str, Affine], dict[str, str]]:
        """The maps of values by name, and why a value has none."""
        kind = TYPES[self.activations or context.target.integers.activations[0]]
        levels = 2 ** int(kind.itemsize * 8)
        symmetric = self.symmetric or not context.target.integers.asymmetric
        affines: dict[str, Affine] = {}
        bad: dict[str, str] = {}
        for value in found.values:
            name, origin = str(value.name), str(found.origin(value).name)
            seen = statistics.get(origin, type(observer_for(self.calibrator)))
            if seen.broken:
                bad[name] = f"'{origin}' holds NaN or infinities on the data"
                continue
            ends = find_range(
                seen,
                self.calibrator,  # type: ignore[arg-type]
                levels=levels,
                symmetric=symmetric,
                percentile=self.percentile,
            )
            affines[name] = affine_of(*ends, kind, symmetric=symmetric)
        return affines, bad

    def _edit(
        self, writer: Writer, role: Roles, found: Placement, affines: Mapping[str, Affine], bits: int | None
    ) -> None:
        node = role.node
        names = {index: found.names[node, index] for index in role.activations}
        for index in role.activations:
            writer.operand(node, index, names[index])
        if role.weight is not None:
            self._weights(writer, role, affines[names[0]], bits)
        for index in role.constants:
            array = gir.array(node.inputs[index])
            assert array is not None
            kind = next(iter(affines.values())).kind
            affine = affine_of(
                float(array.min(initial=0.0)), float(array.max(initial=0.0)), kind, symmetric=self.symmetric
            )
            writer.weight(node, index, affine, affine.encode(array))
        if node in found.results:
            if role.kind == "moving":
                for output in node.outputs:
                    writer.result(output, str(output.name))
            else:
                result = found.results[node]
                writer.result(result, str(result.name))

    def _weights(self, writer: Writer, role: Roles, source: Affine, bits: int | None) -> None:
        assert role.weight is not None
        stored = WeightScheme(self.weights, self.per_channel, bits).encode(role, source)
        writer.weight(role.node, role.weight, stored.affine, stored.codes)
        if self.weights == "int4":
            pack(role.node, role.weight)
        if role.bias is not None and stored.bias is not None and stored.bias_scale is not None:
            writer.bias(role.node, role.bias, stored.bias_scale, stored.bias)

    def _text(self, role: Roles, found: Placement, affines: Mapping[str, Affine]) -> str:
        ends = [affines[name].ends() for name in _names(role, found)[: len(role.activations)]]
        said = ", ".join(f"[{float(low):.3g}, {float(high):.3g}]" for low, high in ends)
        kind = next(iter(affines.values())).kind.name.lower()
        if role.kind == "product":
            each = "per channel" if self.per_channel else "one scale"
            return f"on integers: operand {kind} {said}, weight {self.weights}, {each}"
        return f"on integers, as its neighbours: {kind} {said}"


def _names(role: Roles, found: Placement) -> list[str]:
    """The values that a node needs codes of: its operands, then its results."""
    names = [found.names[role.node, index] for index in role.activations]
    if role.node in found.results:
        names += [str(found.results[role.node].name)]
        if role.kind == "moving":
            names += [str(output.name) for output in role.node.outputs]
    return names
