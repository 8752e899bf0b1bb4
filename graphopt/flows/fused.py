"""What a runtime really makes of a quantised model: counted in the graph that it runs, not in the file.

A product that stands between DequantizeLinear and QuantizeLinear nodes becomes an integer kernel only where the runtime
finds the form it looks for. Whatever it leaves is slower than in float32, since its operands are converted at each run;
so each product is looked up in the runtime's own optimised graph, by the weight that it reads.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from ..backends.onnxruntime import session_settings
from ..errors import GraphoptError
from ..execute.isolate import isolated
from ..execute.session import Session
from ..ir import constant, is_op, load, save, where
from ..target import Target
from .limits import limits

PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
TIMEOUT = 300.0

_INTEGER = frozenset(
    (
        "QLinearConv",
        "QLinearMatMul",
        "QGemm",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "MatMulInteger16",
        "ConvInteger",
        "MatMulNBits",
        "DynamicQuantizeLSTM",
        "QAttention",
    )
)
_CONVERSIONS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")


@dataclass(frozen=True)
class Product:
    """A product of the model, and what became of it.

    Attributes:
        where: the product.
        kernel: the operator that computes it in the runtime's graph; "" when it was not found there.
        integer: it is computed on integers.
        reason: why not, as far as the graph shows.
    """

    where: str
    kernel: str
    integer: bool
    reason: str = ""


@dataclass(frozen=True)
class Fused:
    """The runtime's graph.

    Attributes:
        operators: how many nodes of each operator it has.
        products: of the model, in its order.
    """

    operators: dict[str, int]
    products: tuple[Product, ...]

    @property
    def conversions(self) -> int:
        """QuantizeLinear and DequantizeLinear nodes that are left."""
        return sum(self.operators.get(name, 0) for name in _CONVERSIONS)

    @property
    def integers(self) -> int:
        """Operators on integers: products, and what was fused around them."""
        return sum(
            count
            for name, count in self.operators.items()
            if name in _INTEGER or name.startswith(("QLinear", "DynamicQuantizeM"))
        )

    @property
    def floats(self) -> int:
        """Products that are left in floats."""
        return sum(not product.integer for product in self.products)

    def as_json(self) -> dict[str, Any]:
        """For ``--json`` and the run folder."""
        return {
            "operators": self.operators,
            "conversions": self.conversions,
            "integers": self.integers,
            "floats": self.floats,
            "products": [asdict(product) for product in self.products],
        }


def fused(model: ir.Model | Path | str, target: Target) -> Fused:
    """Load a model as its target would, in a child process, and look at what is run.

    Args:
        model: a path, or a model in memory.
        target: whose provider and session options are used; other providers than the CPU's compile subgraphs of their
            own, which do not show.

    Raises:
        GraphoptError: the model does not load.
    """
    settings = session_settings(target)
    with tempfile.TemporaryDirectory(prefix="graphopt-fused-") as folder:
        path = Path(model) if isinstance(model, (str, Path)) else Path(folder, "model.onnx")
        if isinstance(model, ir.Model):
            save(model, path)
        stage = f"letting {target.runtime} optimise the model"
        made = isolated(_optimised, str(path), folder, settings, stage=stage, **limits(TIMEOUT))
        source = load(path)
        operators = Counter(kind for kind, _ in made)
        kernels = {name: kind for kind, inputs in made for name in inputs}
        products = tuple(
            _product(node, kernels) for node in source.graph if is_op(node, *PRODUCTS) and _has_weight(node)
        )
    return Fused(dict(operators.most_common()), products)


def _optimised(path: str, folder: str, settings: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """In the child: operator and inputs of each node of the graph that is run."""
    written = Path(folder, "optimised.onnx")
    Session(path, optimized=True, written=written, **settings)
    if not written.is_file():
        raise GraphoptError("the runtime wrote no graph", path, "its provider may not support that")
    graph = onnx.load(written, load_external_data=False).graph
    return [(node.op_type, list(node.input)) for node in graph.node]


def _has_weight(node: ir.Node) -> bool:
    weight = node.inputs[1]
    return weight is not None and (constant(weight) is not None or is_op(weight.producer(), "DequantizeLinear"))


def _product(node: ir.Node, kernels: Mapping[str, str]) -> Product:
    kernel = kernels.get(_weight_name(node), "")
    integer = kernel in _INTEGER
    return Product(where(node), kernel, integer, "" if integer else _reason(node, kernel))


def _weight_name(node: ir.Node) -> str:
    """The name under which the weight is stored: runtimes rename values, and leave stored ones alone."""
    value = node.inputs[1]
    producer = value.producer() if value is not None else None
    while value is not None and producer is not None and is_op(producer, "DequantizeLinear", "Cast"):
        value = producer.inputs[0]
        producer = value.producer() if value is not None else None
    return value.name or "" if value is not None else ""


def _reason(node: ir.Node, kernel: str) -> str:
    source, weight = node.inputs[0], node.inputs[1]
    if source is None or not is_op(source.producer(), "DequantizeLinear"):
        return "its operand is no code"
    if weight is None or not is_op(weight.producer(), "DequantizeLinear"):
        return "its weight is stored in floats"
    scale = source.producer().inputs[1]  # type: ignore[union-attr]  # it has one: see above
    tensor = constant(scale)
    if tensor is not None and tensor.size > 1:
        return "its operand has a scale for each channel"
    users = [use.node for use in node.outputs[0].uses()]
    if is_op(node, "Conv", "ConvTranspose") and not all(is_op(user, "QuantizeLinear") for user in users):
        return "its result is not quantised"
    return "the runtime found no form of it that it has an integer kernel for"
