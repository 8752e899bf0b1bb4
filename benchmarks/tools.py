"""The optimisers that are compared: graphopt for two targets, and its peers.

A tool is a function ``(source, result) -> note`` that reads one file and writes another. It is named by file
and function, so that a child process can find it and a test can bring its own.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

_HERE = str(Path(__file__).resolve())

Run = Callable[[Path, Path], str]


@dataclass(frozen=True)
class Tool:
    """One optimiser.

    Attributes:
        name: for the table.
        package: the distribution it comes from, for its version; empty where there is none.
        function: its name in ``file``.
        file: where the function is.
    """

    name: str
    package: str
    function: str
    file: str = _HERE

    @property
    def version(self) -> str:
        """The installed version; empty when it is not installed."""
        try:
            return importlib.metadata.version(self.package) if self.package else "0"
        except importlib.metadata.PackageNotFoundError:
            return ""

    def load(self) -> Run:
        """The function itself."""
        if Path(self.file) == Path(_HERE):
            return globals()[self.function]
        name = f"tools_of_{Path(self.file).stem}"
        spec = importlib.util.spec_from_file_location(name, self.file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return getattr(module, self.function)


def graphopt_onnx(source: Path, result: Path) -> str:
    """The pipeline of target ``onnx``; what it makes is judged here, so it does not prove it itself."""
    return _graphopt(source, result, "onnx")


def graphopt_x86(source: Path, result: Path) -> str:
    """The pipeline of target ``x86-64``."""
    return _graphopt(source, result, "x86-64")


def graphopt_proven(source: Path, result: Path) -> str:
    """The command as a user gives it: with the proof, on random feeds, and everything in this one process."""
    return _graphopt(source, result, "onnx", proven=True)


def _graphopt(source: Path, result: Path, target: str, *, proven: bool = False) -> str:
    from graphopt.flows.optimize import Request, optimize

    request = Request(target=target, verify="end" if proven else "off", isolate=False)
    done = optimize(source, result, request)
    without = [step.name for step in done.outcomes if step.failed]
    without += [f"{step.name} at {', '.join(map(str, step.left_out))}" for step in done.outcomes if step.left_out]
    return f"left out: {'; '.join(without)}" if without else ""


def onnxslim(source: Path, result: Path) -> str:
    """As ``onnxslim SOURCE RESULT`` does."""
    import onnxslim as peer

    peer.slim(str(source), str(result))
    return ""


def onnxsim(source: Path, result: Path) -> str:
    """As ``onnxsim SOURCE RESULT`` does, without its check of the result."""
    import onnx
    import onnxsim as peer

    model, _ = peer.simplify(onnx.load(str(source)), check_n=0)
    onnx.save(model, str(result))
    return ""


def onnxscript(source: Path, result: Path) -> str:
    """``onnxscript.optimizer.optimize``, then the default rules of its rewriter; both on onnx's own classes.

    On an ``onnx_ir.Model`` 0.7.2 loses a folded shape of t5 and the model is invalid.
    """
    import onnx
    import onnxscript.optimizer
    import onnxscript.rewriter

    model = onnxscript.optimizer.optimize(onnx.load(str(source)))
    onnx.save(onnxscript.rewriter.rewrite(model), str(result))
    return ""


def onnxsim_ort(source: Path, result: Path) -> str:
    """onnxsim, then ``onnxscript.rewriter.ort_fusions.optimize_for_ort``: the fewest nodes of all peers."""
    import onnx
    import onnx_ir
    import onnxsim as peer
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    simple, _ = peer.simplify(onnx.load(str(source)), check_n=0)
    model, _ = optimize_for_ort(onnx_ir.from_proto(simple))
    onnx_ir.save(model, str(result))
    return ""


def ort_extended(source: Path, result: Path) -> str:
    """What ONNX Runtime makes of it at load, level "extended", saved."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(result)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    return ""


def ort_transformers(source: Path, result: Path) -> str:
    """``onnxruntime.transformers.optimizer`` with the model type that the file's name says, else bert."""
    import logging

    from onnxruntime.transformers import optimizer

    logging.getLogger("onnxruntime.transformers").setLevel(logging.ERROR)
    family = source.stem.split(".")[0]
    kind = family if family in ("gpt2", "t5", "clip", "vit") and family in optimizer.MODEL_TYPES else "bert"
    optimizer.optimize_model(str(source), model_type=kind).save_model_to_file(str(result))
    return ""


TOOLS: Mapping[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool("graphopt", "graphopt", "graphopt_onnx"),
        Tool("graphopt-x86", "graphopt", "graphopt_x86"),
        Tool("graphopt-proven", "graphopt", "graphopt_proven"),
        Tool("onnxslim", "onnxslim", "onnxslim"),
        Tool("onnxsim", "onnxsim", "onnxsim"),
        Tool("onnxscript", "onnxscript", "onnxscript"),
        Tool("onnxsim+ort", "onnxsim", "onnxsim_ort"),
        Tool("ort-extended", "onnxruntime", "ort_extended"),
        Tool("ort-transformers", "onnxruntime", "ort_transformers"),
    )
}
"""Every tool by name."""

USUAL = (
    "graphopt",
    "graphopt-x86",
    "onnxslim",
    "onnxsim",
    "onnxscript",
    "onnxsim+ort",
    "ort-extended",
    "ort-transformers",
)
"""What runs when nothing is asked for."""
