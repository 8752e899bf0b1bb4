"""Running a model on this machine.

With ``optimized=False`` ONNX Runtime runs the graph as it is written: that is the truth other runs are
compared with. Where ONNX Runtime has no kernel for it, ``onnx.reference`` computes the truth, slowly;
``evaluator`` says so. With ``optimized=True`` the session is what a user would run.

A provider is used or refused, never replaced by another one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError

from . import providers, values
from .loadable import Loadable
from .providers import CPU
from .reference import Reference, essence
from .signature import Feeds, Port, checked, runtime_port

Evaluator = Literal["auto", "onnxruntime", "onnx.reference"]

_NO_KERNEL = (
    "NOT_IMPLEMENTED",
    "No Op registered for",
    "is not a registered function/op",
    "only *guarantees* support",
    "is not currently registered or supported",
    "not supported",
    "Unrecognized attribute",
    "Unsupported model IR version",
)
_UNSUPPORTED_TYPE = re.compile(r"Type Error: Type 'tensor\((float4|float8|bfloat16|complex|u?int[24]\))")
_UNKNOWN_OPERATOR = re.compile(r"([\w.]+):([\w.]+)\(-?\d+\) is not a registered|No Op registered for (\w+)")


class Session:
    """One model, loaded.

    Args:
        model: a path, a model in memory (which is not changed), or a ``Loadable`` that several sessions
            share.
        optimized: with ONNX Runtime's own graph optimisations, or without any (the truth).
        threads: threads within an operator; 0 leaves the number to the runtime.
        provider: execution provider by its full name.
        provider_options: options of that provider.
        config: session configuration entries (``session.*`` keys).
        disabled_optimizers: graph transformers of ONNX Runtime to leave out, by name.
        outputs: tensors of the main graph to give out instead of the model's outputs.
        written: where ONNX Runtime is to write the graph that it really runs; with ``optimized`` only.
        evaluator: who computes. ``auto`` is ONNX Runtime, or, where it has no kernel, ``onnx.reference``;
            that only without optimisations and on the CPU provider. Either name asks for that one.

    Attributes:
        inputs: the inputs in the model's order; those with default values last, and not required.
        outputs: the outputs in the model's order.
        evaluator: ``onnxruntime`` or ``onnx.reference``.

    Raises:
        GraphoptError: the model cannot be loaded, or the provider is not there.
    """

    def __init__(
        self,
        model: ir.Model | str | Path | Loadable,
        *,
        optimized: bool,
        threads: int = 1,
        provider: str = CPU,
        provider_options: Mapping[str, Any] | None = None,
        config: Mapping[str, str] | None = None,
        disabled_optimizers: Collection[str] = (),
        outputs: Sequence[str] | None = None,
        written: Path | None = None,
        evaluator: Evaluator = "auto",
    ) -> None:
        self._source = model if isinstance(model, Loadable) else Loadable(model)
        self._taps = None if outputs is None else tuple(outputs)
        self._may_refer = evaluator == "auto" and not optimized and provider == CPU
        self._reference: Reference | None = None
        self._session: Any = None
        self.inputs: tuple[Port, ...]
        self.outputs: tuple[Port, ...]
        if evaluator == "onnx.reference":
            self._reference = Reference(self._source, self._taps)
            self.inputs, self.outputs = self._reference.inputs, self._reference.outputs
            return
        try:
            self._session = _open(
                self._source,
                self._taps,
                optimized,
                threads,
                provider,
                dict(provider_options or {}),
                dict(config or {}),
                set(disabled_optimizers),
                written,
            )
        except _RuntimeFailure as failure:
            if not (self._may_refer and failure.no_kernel and self._refer()):
                raise failure.as_error("loading", self._source.name) from None
            return
        optional = (runtime_port(item, required=False) for item in self._session.get_overridable_initializers())
        self.inputs = (*map(runtime_port, self._session.get_inputs()), *optional)
        self.outputs = tuple(map(runtime_port, self._session.get_outputs()))

    @property
    def evaluator(self) -> Literal["onnxruntime", "onnx.reference"]:
        """Who computes: ``onnxruntime`` or ``onnx.reference``."""
        return "onnxruntime" if self._reference is None else "onnx.reference"

    def run(self, feeds: Feeds) -> dict[str, Any]:
        """The outputs by name: arrays, lists of arrays for sequences, None for an empty optional.

        Args:
            feeds: an array for each input (a list of arrays for a sequence).

        Raises:
            GraphoptError: a feed does not fit, or the model fails on it.
        """
        given = checked(self.inputs, feeds)
        if self._reference is not None:
            return self._reference.run(given)
        try:
            return _run(self._session, self.outputs, self.inputs, given)
        except _RuntimeFailure as failure:
            if self._may_refer and failure.no_kernel and self._refer():
                return self.run(feeds)
            raise failure.as_error("running", self._source.name) from None

    def prepared(self, feeds: Feeds) -> Callable[[], object]:
        """A function that runs on these feeds, checked and converted once: the inner loop of timing."""
        given = checked(self.inputs, feeds)
        if self._reference is not None:
            return partial(self._reference.run, given)
        ready, names = _ready(self.inputs, given), [item.name for item in self.outputs]
        if _any_exotic(self.outputs):
            return partial(self._session.run_with_ort_values, names, _as_values(ready))
        return partial(self._session.run, names, ready)

    def _refer(self) -> bool:
        """Take the reference evaluator instead, if it knows all operators."""
        try:
            self._reference = Reference(self._source, self._taps)
        except GraphoptError:  # the error to report is ONNX Runtime's
            return False
        self.inputs, self.outputs = self._reference.inputs, self._reference.outputs
        self._session = None
        return True


class _RuntimeFailure(Exception):
    """What ONNX Runtime said."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    @property
    def no_kernel(self) -> bool:
        return any(mark in self.text for mark in _NO_KERNEL) or _UNSUPPORTED_TYPE.search(self.text) is not None

    def as_error(self, stage: str, name: str) -> GraphoptError:
        unknown = _UNKNOWN_OPERATOR.search(self.text)
        if unknown is not None:
            domain, operator, standard = unknown.groups()
            operator = standard or (operator if domain in ("", "ai.onnx") else f"{domain}::{operator}")
            return GraphoptError(
                f"ONNX Runtime does not know the operator {operator}",
                f"{stage} {name}",
                "it needs a custom operator library or another runtime; the model cannot be run here",
            )
        if any(mark in self.text for mark in ("bad_alloc", "Failed to allocate memory")):
            return GraphoptError(
                "not enough memory", f"{stage} {name}", "use smaller feeds or a machine with more memory"
            )
        hint = "check the sizes of the feeds" if stage == "running" else "`graphopt inspect` shows what is in the model"
        return GraphoptError(f"ONNX Runtime fails: {essence(self.text)}", f"{stage} {name}", hint)


def _open(
    source: Loadable,
    outputs: Sequence[str] | None,
    optimized: bool,
    threads: int,
    provider: str,
    provider_options: dict[str, Any],
    config: dict[str, str],
    disabled: set[str],
    written: Path | None = None,
) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if written is not None:
        options.optimized_model_filepath = str(written)
    options.log_severity_level = 4  # failures come back as exceptions; the log would only repeat them on stderr
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimized else level.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    payload, entries = source.payload(outputs)
    if not optimized:  # a packed weight takes another kernel: bits would depend on which operand is a constant
        entries = {"session.disable_prepacking": "1", **entries}
    for key, entry in {**entries, **config}.items():
        options.add_session_config_entry(key, str(entry))
    try:
        return providers.create(payload, options, provider, provider_options, disabled)
    except GraphoptError:
        raise
    except Exception as error:
        raise _RuntimeFailure(str(error)) from error


def _run(session: Any, outputs: Sequence[Port], inputs: Sequence[Port], feeds: dict[str, Any]) -> dict[str, Any]:
    ready = _ready(inputs, feeds)
    names = [item.name for item in outputs]
    try:
        if not _any_exotic(outputs):
            return dict(zip(names, session.run(names, ready), strict=True))
        found = session.run_with_ort_values(names, _as_values(ready))
    except GraphoptError:
        raise
    except Exception as error:
        raise _RuntimeFailure(str(error)) from error
    return {item.name: values.from_runtime(value, item) for item, value in zip(outputs, found, strict=True)}


def _ready(inputs: Sequence[Port], feeds: dict[str, Any]) -> dict[str, Any]:
    """The feeds with ``OrtValue``s for arrays of element types numpy lacks."""
    return {
        item.name: values.to_runtime(feeds[item.name], item.dtype)
        if item.dtype is not None and values.is_exotic(item.dtype) and isinstance(feeds[item.name], np.ndarray)
        else feeds[item.name]
        for item in inputs
        if item.name in feeds
    }


def _any_exotic(outputs: Sequence[Port]) -> bool:
    return any(item.kind == "tensor" and values.is_exotic(item.dtype) for item in outputs)


def _as_values(ready: dict[str, Any]) -> dict[str, Any]:
    return {name: _as_value(name, given) for name, given in ready.items()}


def _as_value(name: str, given: Any) -> Any:
    import onnxruntime

    if not isinstance(given, np.ndarray):
        if isinstance(given, onnxruntime.OrtValue):
            return given
    elif given.dtype != object:
        return onnxruntime.OrtValue.ortvalue_from_numpy(given)
    raise GraphoptError(
        "strings and sequences cannot be fed to a model with outputs of bfloat16, float8 or 4-bit type",
        f"feeds, input '{name}'",
        "this is a limit of ONNX Runtime's Python interface",
    )
