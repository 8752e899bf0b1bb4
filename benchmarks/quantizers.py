"""The quantisers that are compared, and how one is run: graphopt by its schemes, and its peers.

Peers that cannot live beside graphopt run in an environment of their own: there this file is a program, and it imports
nothing of graphopt.

    PYTHON quantizers.py JOB ANSWER        both JSON files
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tools import Tool

_HERE = Path(__file__).resolve()
_FUNCTIONS = str(_HERE.with_name("peers.py"))


@dataclass(frozen=True)
class Job:
    """What to quantise.

    Attributes:
        source: the model.
        data: the samples to calibrate on, an ``.npz`` with keys ``<i>|<input>``, as the model takes them.
        result: the file to write.
        transformer: the model is one; some tools want to be told.
        aim_db: the quality to hold, for a tool that can.
    """

    source: Path
    data: Path
    result: Path
    transformer: bool = False
    aim_db: float | None = None

    def samples(self) -> Iterator[dict[str, np.ndarray]]:
        """The samples, one at a time."""
        with np.load(self.data) as archive:
            keys = sorted(key for key in archive.files if "|" in key)
            for number in dict.fromkeys(key.split("|", 1)[0] for key in keys):
                yield {key.split("|", 1)[1]: archive[key] for key in keys if key.split("|", 1)[0] == number}


@dataclass(frozen=True)
class Quantizer(Tool):
    """One way to quantise.

    Attributes:
        file: where the function is.
        options: of the function.
        imports: modules that are loaded before the clock starts.
        environment: name of the environment it needs; empty is the one of the benchmark.
        transformers_only: it has nothing to do on other models.
    """

    file: str = _FUNCTIONS
    options: Mapping[str, Any] = field(default_factory=dict)
    imports: tuple[str, ...] = ()
    environment: str = ""
    transformers_only: bool = False

    @property
    def file_name(self) -> str:
        """The name without spaces."""
        return self.name.replace(" ", "-")

    def run(self, job: Job) -> dict[str, Any]:
        """Quantise; seconds of processor and clock without the imports, and a remark."""
        for module in self.imports:
            importlib.import_module(module)
        wall, cpu = time.perf_counter(), time.process_time()
        remark = self.load()(job, **self.options)  # type: ignore[call-arg, arg-type]  # a quantiser, no optimiser
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return {"wall": wall, "cpu": cpu, "remark": remark or ""}


def run_here(tool: Quantizer, job: Job) -> dict[str, Any]:
    """Run it in this process, which is a child of its own; with the most memory the process held."""
    from graphopt.execute.machine import peak_memory

    return {**tool.run(job), "memory": peak_memory()}


def run_elsewhere(python: Path, tool: Quantizer, job: Job, answer: Path) -> dict[str, Any]:
    """The same by another interpreter, for this process to wait for.

    Raises:
        GraphoptError: it failed; the message is the tool's.
    """
    import resource

    from graphopt.errors import GraphoptError

    request = answer.with_suffix(".job.json")
    facts = {"name": tool.name, **{key: value for key, value in asdict(job).items() if value is not None}}
    request.write_text(json.dumps(facts, default=str), encoding="utf-8")
    answer.unlink(missing_ok=True)
    done = subprocess.run(
        [str(python), str(_HERE), str(request), str(answer)], capture_output=True, text=True, check=False
    )
    if not answer.exists():
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        raise GraphoptError(f"the process crashed ({how}): {last}", tool.name)
    found = json.loads(answer.read_text(encoding="utf-8"))
    if "error" in found:
        raise GraphoptError(found["error"], tool.name)
    return {**found, "memory": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024}


def version_in(python: Path, package: str) -> str:
    """The version of a distribution in another environment; empty where there is none."""
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


_ORT = ("onnxruntime.quantization", "onnxruntime.quantization.shape_inference", "sympy")
_QUARK = ("quark.onnx", "onnxruntime")
_AIMET = ("aimet_onnx", "aimet_onnx.cross_layer_equalization", "onnxruntime")
_PRODUCTS = ("Conv", "MatMul", "Gemm")

PEERS: Mapping[str, Quantizer] = {
    tool.name: tool
    for tool in (
        Quantizer("ort all", "onnxruntime", "ort_static", imports=_ORT),
        Quantizer("ort products", "onnxruntime", "ort_static", options={"operators": _PRODUCTS}, imports=_ORT),
        Quantizer("ort per-tensor", "onnxruntime", "ort_static", options={"per_channel": False}, imports=_ORT),
        Quantizer("ort dynamic", "onnxruntime", "ort_dynamic", imports=_ORT),
        Quantizer("ort w8", "onnxruntime", "ort_weights", imports=_ORT, transformers_only=True),
        Quantizer("ort w4", "onnxruntime", "ort_weights", options={"bits": 4}, imports=_ORT, transformers_only=True),
        Quantizer("nncf", "nncf", "nncf_static", imports=("nncf", "onnxruntime")),
        Quantizer("nncf accurate", "nncf", "nncf_static", options={"accurate": True}, imports=("nncf", "onnxruntime")),
        Quantizer("nncf w8", "nncf", "nncf_weights", imports=("nncf",), transformers_only=True),
        Quantizer(
            "nncf w4", "nncf", "nncf_weights", options={"mode": "INT4_ASYM"}, imports=("nncf",), transformers_only=True
        ),
        Quantizer("onnxsim", "onnxsim", "onnxsim_static", imports=("onnxsim", "onnxruntime")),
        Quantizer("quark", "amd-quark", "quark_static", imports=_QUARK, environment="quark"),
        Quantizer(
            "quark per-tensor",
            "amd-quark",
            "quark_static",
            options={"per_channel": False, "corrected": True},
            imports=_QUARK,
            environment="quark",
        ),
        Quantizer("aimet", "aimet-onnx", "aimet_static", imports=_AIMET, environment="aimet"),
        Quantizer(
            "aimet per-tensor",
            "aimet-onnx",
            "aimet_static",
            options={"per_channel": False, "equalized": True},
            imports=_AIMET,
            environment="aimet",
        ),
    )
}
"""Every peer by name."""

_PER_TENSOR = "equalize-weights, insert-qdq{per_channel=false}, correct-bias"
_FLOW = ("graphopt.flows.quantize", "onnxruntime", "onnx_shape_inference")


def own(schemes: Iterable[str]) -> dict[str, Quantizer]:
    """A row for each scheme of graphopt, one held to the aim, and the default scheme with a scale for each tensor."""
    rows = [Quantizer(f"graphopt {name}", "graphopt", "graphopt", options={"scheme": name}) for name in schemes]
    rows.append(Quantizer("graphopt held", "graphopt", "graphopt", options={"held": True}))
    rows.append(Quantizer("graphopt per-tensor", "graphopt", "graphopt", options={"recipe": _PER_TENSOR}))
    return {row.name: Quantizer(**{**vars(row), "imports": _FLOW}) for row in rows}


def main(arguments: list[str]) -> int:
    """A peer's run in an environment of its own."""
    facts = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    tool = PEERS[facts.pop("name")]
    job = Job(**{key: Path(value) if key in ("source", "data", "result") else value for key, value in facts.items()})
    try:
        answer = tool.run(job)
    except Exception as error:  # noqa: BLE001  # what a tool refuses is its result
        answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
    Path(arguments[1]).write_text(json.dumps(answer), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
