"""ONNX Runtime, by execution provider.

A provider is built into the installed ONNX Runtime or comes as a plug-in package; a missing one is an error with the
package to install, never a silent fall-back to the CPU. The artifact is the model as it is: ONNX Runtime does its own
optimisation at load, where the instruction sets are known, so the folder runs on another machine too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.events import Site
from graphopt.execute.machine import machine
from graphopt.execute.session import Session
from graphopt.ir import STANDARD_DOMAINS, check, nodes, save, where
from graphopt.target import Target, targets

from .artifact import place, read_manifest, write_manifest

MODEL = "model.onnx"
_OWN_DOMAINS = STANDARD_DOMAINS | {"ai.onnx.ml", "ai.onnx.preview.training", "com.microsoft", "com.microsoft.nchwc"}


class OnnxRuntimeArtifact:
    """A model in ONNX Runtime with the session settings of its target.

    Args:
        folder: an artifact made by ``OnnxRuntime.compile``.
        threads: threads within an operator; 0 leaves the number to the runtime.

    Raises:
        GraphoptError: a file is missing or was changed, or the provider is not there.
    """

    def __init__(self, folder: Path, threads: int = 0) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self._session = Session(folder / MODEL, optimized=True, threads=threads, **self.manifest.settings)

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs by name."""
        return self._session.run(feeds)


class OnnxRuntime:
    """The ONNX Runtime backend."""

    name = "onnxruntime"

    def targets(self) -> Iterable[str]:
        """Every preset that names this runtime."""
        return [target.name for target in targets().values() if target.runtime == self.name]

    def legal(self, model: ir.Model, target: Target) -> Iterator[Site]:
        """Nodes of domains that neither ONNX, ONNX Runtime nor the model itself defines."""
        local = {identifier[:2] for identifier in model.functions}
        for node in nodes(model):
            if node.domain not in _OWN_DOMAINS and (node.domain, node.op_type) not in local:
                yield Site(where(node), f"ONNX Runtime has no operators of the domain {node.domain}")

    def compile(self, model: ir.Model, target: Target, output: Path) -> OnnxRuntimeArtifact:
        """Write the artifact folder and load it.

        Raises:
            GraphoptError: the model is invalid or not legal, does not load with the target's provider, or the
                output cannot be written. Nothing is left behind then.
        """
        check(model)
        illegal = next(self.legal(model, target), None)
        if illegal is not None:
            raise GraphoptError(illegal.text, illegal.where, "it needs a custom operator library or another backend")
        settings = session_settings(target)
        output = Path(output)
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as scratch:
            folder = Path(scratch, "artifact")
            folder.mkdir()
            save(model, folder / MODEL)
            write_manifest(folder, self.name, target.name, machine()["versions"], settings)
            OnnxRuntimeArtifact(folder)
            place(folder, output)
        return self.load(output)

    def load(self, folder: Path) -> OnnxRuntimeArtifact:
        """Load an artifact that ``compile`` made, here or elsewhere."""
        return OnnxRuntimeArtifact(Path(folder))


def session_settings(target: Target) -> dict[str, Any]:
    """The session options a target wants, as keyword arguments of ``Session`` and ``Candidate``."""
    return {"provider": target.provider, "disabled_optimizers": list(target.disabled_optimizers)}
