"""Where a model is going to run, as data only.

A target says which instruction sets and runtime there are, which fused forms the runtime runs faster and which
slower, and which passes prepare a model for it. Passes ask the target; they never ask for its name.
"""

from __future__ import annotations

import difflib
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from .errors import GraphoptError

PHASES = ("clean", "fuse", "compress", "layout", "legalize")


@dataclass(frozen=True)
class Target:
    """A place to run.

    Attributes:
        name: as in ``--target``.
        summary: one line for ``graphopt targets``.
        architecture: ``x86-64``, ``arm64``, ``cuda`` or ``any``.
        isa: instruction-set extensions, as Linux names them (``avx2``, ``avx512_vnni``, ``amx_int8``).
        runtime: the backend that runs it.
        provider: ONNX Runtime's execution provider.
        disabled_optimizers: ONNX Runtime's own load-time optimisers that cost time here.
        forms: operator forms this runtime runs faster than what they stand for.
        pipeline: recipe text by phase; the phases are ``PHASES``, in that order.
    """

    name: str
    summary: str
    architecture: str = "any"
    isa: frozenset[str] = frozenset()
    runtime: str = "onnxruntime"
    provider: str = "CPUExecutionProvider"
    disabled_optimizers: tuple[str, ...] = ()
    forms: frozenset[str] = frozenset()
    pipeline: Mapping[str, str] = field(default_factory=lambda: {"clean": "clean", "fuse": "fuse"})

    def likes(self, form: str) -> bool:
        """True when the runtime is known to gain by this operator form."""
        return form in self.forms

    @property
    def recipe(self) -> str:
        """The whole pipeline as recipe text, in the order of the phases."""
        return ", ".join(self.pipeline[phase] for phase in PHASES if self.pipeline.get(phase))


# SkipLayerNormalization is 2.1 to 4.7 times slower than Add + LayerNormalization on ONNX Runtime's CPU
# provider (measured on BERT-like encoders, one thread), so the session keeps ONNX Runtime from making it.
_CPU_DISABLED = ("SkipLayerNormFusion",)

_PRESETS = (
    Target("onnx", "standard ONNX operators only, for any runtime"),
    Target(
        "x86-64",
        "ONNX Runtime's CPU provider on x86",
        architecture="x86-64",
        disabled_optimizers=_CPU_DISABLED,
        forms=frozenset({"HardSigmoid"}),
    ),
    Target(
        "x86-openvino",
        "OpenVINO's provider in ONNX Runtime on x86",
        architecture="x86-64",
        provider="OpenVINOExecutionProvider",
        forms=frozenset({"HardSwish"}),
    ),
    Target(
        "arm64",
        "ONNX Runtime's CPU provider on 64-bit ARM",
        architecture="arm64",
        disabled_optimizers=_CPU_DISABLED,
        forms=frozenset({"HardSigmoid"}),
    ),
    Target("coreml", "ONNX Runtime's CoreML provider", architecture="arm64", provider="CoreMLExecutionProvider"),
    Target("directml", "ONNX Runtime's DirectML provider", provider="DmlExecutionProvider"),
    Target("xnnpack", "ONNX Runtime's XNNPACK provider", architecture="arm64", provider="XnnpackExecutionProvider"),
    Target("cuda", "ONNX Runtime's CUDA provider", architecture="cuda", provider="CUDAExecutionProvider"),
    Target(
        "tensorrt",
        "ONNX Runtime's TensorRT provider",
        architecture="cuda",
        provider="TensorrtExecutionProvider",
        forms=frozenset({"Gemm"}),
    ),
)


def targets() -> dict[str, Target]:
    """The presets by name."""
    return {target.name: target for target in _PRESETS}


def host() -> Target:
    """The preset of this machine's processor, with its instruction sets filled in."""
    name = "arm64" if platform.machine().lower() in {"arm64", "aarch64"} else "x86-64"
    return replace(targets()[name], isa=detect_isa())


def find_target(name: str) -> Target:
    """The target of that name; the host's own preset has its instruction sets detected.

    Raises:
        GraphoptError: no such target; says which name is near.
    """
    known = targets()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known targets: {', '.join(known)}"
        raise GraphoptError(f"there is no target '{name}'", "--target", hint, usage=True)
    local = host()
    return local if local.name == name else known[name]


def detect_isa() -> frozenset[str]:
    """Instruction-set flags of this processor that kernels depend on; empty where the system does not list them."""
    listing = Path("/proc/cpuinfo")
    if not listing.exists():
        return frozenset()
    wanted = ("avx", "amx", "fma", "f16c", "vnni", "sse4", "asimd", "sve", "i8mm", "bf16", "fphp")
    for line in listing.read_text().splitlines():
        key, _, flags = line.partition(":")
        if key.strip() in {"flags", "Features"}:
            return frozenset(flag for flag in flags.split() if flag.startswith(wanted))
    return frozenset()
