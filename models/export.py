"""A torch module to an ONNX file, by either of torch's exporters, held against torch's own results.

A factory, ``package.module:callable`` or ``file.py:callable``, makes the module and example inputs. The
export is run in ONNX Runtime on these inputs, and takes its place only when it gives what torch gives.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.events import Event, Events, silent

from .example import Example, example_of, load_torch

Exporter = Literal["dynamo", "torchscript"]

DEFAULT_OPSET: Mapping[Exporter, int] = {"dynamo": 20, "torchscript": 17}
_INLINE_LIMIT = 1_800_000_000


@dataclass(frozen=True, slots=True)
class Exported:
    """What was exported, and how far it is from torch.

    Attributes:
        path: the file.
        exporter: which exporter wrote it.
        opset: its version of the default domain.
        nodes: how many nodes its graph has, bodies and functions not counted.
        max_error: the largest absolute difference from torch over all outputs.
    """

    path: Path
    exporter: Exporter
    opset: int
    nodes: int
    max_error: float


def export(
    factory: str | Callable[..., Any],
    output: str | os.PathLike[str],
    *,
    exporter: Exporter = "dynamo",
    opset: int | None = None,
    args: Mapping[str, Any] | None = None,
    rtol: float = 1e-3,
    atol: float = 1e-4,
    events: Events = silent,
) -> Exported:
    """Exports what the factory makes to ``output``.

    The factory returns ``(module, inputs)`` or ``(module, inputs, options)``: inputs are a tensor, a tuple
    of them, or a dict by the names of ``forward``'s arguments; options are ``input_names``,
    ``output_names``, ``dynamic_shapes`` (dynamo) and ``dynamic_axes`` (TorchScript), as torch takes them.
    Without ``input_names`` the inputs are called as ``forward`` calls them. The module is put into eval
    mode. Weights of more than 1.8 GB go to ``<output>.data``.

    Args:
        factory: ``package.module:callable``, ``file.py:callable``, or the callable itself.
        output: where the ONNX file goes; it appears whole or not at all.
        exporter: ``dynamo`` (torch.export) or ``torchscript``.
        opset: by default 20 for dynamo and 17 for TorchScript.
        args: keyword arguments for the factory.
        rtol: allowed difference, relative to the largest value of the output.
        atol: allowed difference beside that.
        events: hears ``progress`` for each stage.

    Raises:
        GraphoptError: torch is missing; the factory cannot be found or fails; the exporter fails; the
            export does not run, or gives something else than torch.
    """
    if exporter not in DEFAULT_OPSET:
        raise GraphoptError(
            f"there is no exporter called {exporter!r}",
            "export",
            "there are dynamo and torchscript",
            usage=True,
        )
    _require_torch()
    name = factory if isinstance(factory, str) else getattr(factory, "__qualname__", repr(factory))
    make = _resolve(factory) if isinstance(factory, str) else factory
    path = Path(output)
    events(Event("progress", {"stage": "build", "factory": name}))
    with _explained("the factory failed", name, "call it on its own to see where"):
        example = example_of(make(**(args or {})), name)
    other = "torchscript" if exporter == "dynamo" else "dynamo"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            made = Path(folder) / path.name
            events(Event("progress", {"stage": "export", "exporter": exporter}))
            with (
                _explained(f"the {exporter} exporter failed", name, f"try the other one: {other}"),
                _hushed(),
            ):
                _write(example, made, exporter, opset or DEFAULT_OPSET[exporter])
            events(Event("progress", {"stage": "compare"}))
            with _explained("the export does not run in ONNX Runtime", name, f"try the other exporter: {other}"):
                found = _run(example, made)
            error = _distance(example, found, name, rtol, atol)
            nodes, version = _facts(made)
            for part in sorted(Path(folder).iterdir(), key=lambda file: file == made):
                os.replace(part, path.parent / part.name)
    except OSError as error:
        raise GraphoptError(f"cannot write: {error.strerror or error}", str(path)) from error
    return Exported(path, exporter, version, nodes, error)


def _require_torch() -> None:
    if importlib.util.find_spec("torch") is None:
        raise GraphoptError(
            "exporting a torch module needs torch", "export", 'run: python -m pip install "graphopt[torch]"'
        )


def _resolve(text: str) -> Callable[..., Any]:
    """The callable that ``module:callable`` or ``file.py:callable`` names; the working folder counts too."""
    place, colon, attribute = text.rpartition(":")
    hint = "write it as package.module:callable or file.py:callable"
    if not colon or not place or not attribute:
        raise GraphoptError(f"{text!r} names no factory", "export", hint, usage=True)
    with _explained(f"cannot import {place}", text, "it must be importable from the working folder"):
        if place.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(place).stem, place)
            if spec is None or spec.loader is None:
                raise GraphoptError(f"cannot import {place}", text, hint, usage=True)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            if os.getcwd() not in sys.path and "" not in sys.path:
                sys.path.append(os.getcwd())
            module = importlib.import_module(place)
    found = module
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise GraphoptError(f"{place} has no callable {attribute!r}", text, hint, usage=True)
    return found


@contextmanager
def _explained(what: str, where: str, hint: str) -> Generator[None]:
    """Turns what foreign code raises into a GraphoptError with the reason's first line."""
    try:
        yield
    except GraphoptError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        raise GraphoptError(f"{what}: {reason}", where, hint) from error


@contextmanager
def _hushed() -> Generator[None]:
    """Exporters write to both streams and warn a lot; the comparison says what matters."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _write(example: Example, path: Path, exporter: Exporter, opset: int) -> None:
    torch = load_torch()
    parameters = list(example.module.parameters()) + list(example.module.buffers())
    large = sum(p.numel() * p.element_size() for p in parameters) > _INLINE_LIMIT
    names = {"input_names": list(example.input_names), "output_names": example.options.get("output_names")}
    with torch.no_grad():
        if exporter == "dynamo":
            torch.onnx.export(
                example.module,
                example.positional,
                str(path),
                kwargs=dict(example.named) or None,
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=example.options.get("dynamic_shapes"),
                external_data=large,
                verbose=False,
                **names,
            )
        else:
            torch.onnx.export(
                example.module,
                example.positional,
                str(path),
                kwargs=dict(example.named) or None,
                dynamo=False,
                opset_version=opset,
                dynamic_axes=example.options.get("dynamic_axes"),
                **names,
            )


def _run(example: Example, path: Path) -> list[np.ndarray]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    wanted = {value.name for value in session.get_inputs()}
    feeds = {name: array for name, array in example.feeds().items() if name in wanted}
    return [np.asarray(result) for result in session.run(None, feeds)]


def _distance(example: Example, found: list[np.ndarray], name: str, rtol: float, atol: float) -> float:
    """The largest difference from torch's outputs.

    Raises:
        GraphoptError: a difference is larger than allowed, or shapes or numbers of outputs differ.
    """
    expected = example.outputs()
    if len(expected) != len(found):
        raise GraphoptError(f"the export has {len(found)} outputs, the module {len(expected)}", name)
    worst = 0.0
    for place, (true, given) in enumerate(zip(expected, found, strict=True)):
        if true.shape != given.shape:
            raise GraphoptError(f"the export gives shape {given.shape}, torch {true.shape}", f"{name}, output {place}")
        if true.size == 0:
            continue
        wide = np.complex128 if true.dtype.kind == "c" else np.float64
        error = float(np.nan_to_num(np.abs(true.astype(wide) - given.astype(wide)), nan=0.0).max())
        strange = not np.array_equal(np.isnan(true.astype(wide)), np.isnan(given.astype(wide)))
        allowed = atol + rtol * float(np.nan_to_num(np.abs(true.astype(wide)), posinf=0.0).max())
        if strange or error > allowed:
            raise GraphoptError(
                f"the export differs from torch by {error:.3g}, and {allowed:.3g} is allowed",
                f"{name}, output {place}",
                "is the module deterministic in eval mode?",
            )
        worst = max(worst, error)
    return worst


def _facts(path: Path) -> tuple[int, int]:
    """Nodes of the graph, and the opset of the default domain."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    return len(model.graph.node), version
