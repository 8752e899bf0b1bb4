"""Where a model is going to run, as data only.

A target says which instruction sets and runtime there are, which fused forms the runtime runs faster and which
slower, and which passes prepare a model for it. Passes ask the target; they never ask for its name.

An operator form is called by its type (``Gelu``), in other domains ``com.microsoft::MultiHeadAttention``, and a
variant of one that costs something else ``Gelu:tanh``. What a form costs was measured (``profile``): by
``graphopt profile-target`` on this machine, or elsewhere in a profile that comes with graphopt.
"""

from __future__ import annotations

import difflib
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .errors import GraphoptError
from .integers import ANY, OPENVINO, ORT_CPU, TENSORRT, Integers
from .local import processor, profile_folder
from .profile import UNMEASURED, Point, Profile, operator_of

SLOWER = 1.02
"""From this measured ratio on a form counts as slower; what is nearer to 1 is noise, and fewer nodes are welcome."""

PROFILES = Path(__file__).parent / "profiles"
"""The profiles that come with graphopt."""

PHASES = ("clean", "fuse", "compress", "layout", "legalize")


_PIPELINE = {
    "clean": "clean",
    "fuse": "fuse",
    "layout": "absorb-reshapes, place-transposes{rounding=true}",
}


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
        domains: the operator sets it takes, besides those the model has already; ``""`` is the standard one.
        lacks: operators of these sets that it does not run.
        forms: operator forms this runtime is known to run faster than what they stand for.
        profile: what was measured of it.
        integers: what it computes on integers.
        pipeline: recipe text by phase; the phases are ``PHASES``, in that order.
        notes: what is to be said of the profile, for whoever chose the target.
    """

    name: str
    summary: str
    architecture: str = "any"
    isa: frozenset[str] = frozenset()
    runtime: str = "onnxruntime"
    provider: str = "CPUExecutionProvider"
    disabled_optimizers: tuple[str, ...] = ()
    domains: frozenset[str] = frozenset({""})
    lacks: frozenset[str] = frozenset()
    forms: frozenset[str] = frozenset()
    profile: Profile = UNMEASURED
    integers: Integers = ANY
    pipeline: Mapping[str, str] = field(default_factory=lambda: dict(_PIPELINE))
    notes: tuple[str, ...] = ()

    def likes(self, form: str, work: float | None = None) -> bool:
        """True when the runtime is known to gain by this operator form at this size, or at all sizes."""
        if self.profile.lack(form):
            return False
        points = self.profile.points(form, work)
        if not points:
            return not self.forms.isdisjoint((form, operator_of(form)))
        return all(is_faster(point) for point in points)

    def objection(self, form: str, work: float | None = None) -> str | None:
        """Why a graph for this target should not get an operator form, or None.

        Measured forms are judged by their ratio, and slower is only what is slower beyond the noise of its
        measurement. Of the others, standard operators are welcome, and those of other domains only when they are
        among ``forms``.

        Args:
            form: the operator form.
            work: the size, in the unit of the profile; None when it is not known before the run: then a form
                that is slower at any measured size is objected to.
        """
        domain = form.rpartition("::")[0]
        if domain not in self.domains:
            return f"the target {self.name} takes no operators of {domain}"
        if not self.lacks.isdisjoint((form, operator_of(form))):
            return f"the target {self.name} has no {form}"
        lack = self.profile.lack(form)
        if lack:
            return f"{form} does not work on {self.name}: {lack}"
        points = self.profile.points(form, work)
        slower = [point for point in points if is_slower(point)]
        if slower:
            worst = max(slower, key=lambda point: point.ratio)
            at = f"{worst.work:,} {self.profile.unit(form)}"
            return f"{form} takes {worst.ratio:.2f} times as long on {self.name}, at {at}"
        if not points and domain and self.forms.isdisjoint((form, operator_of(form))):
            return f"{form} has not been measured on {self.name}"
        return None

    @property
    def recipe(self) -> str:
        """The whole pipeline as recipe text, in the order of the phases."""
        return ", ".join(self.pipeline[phase] for phase in PHASES if self.pipeline.get(phase))


def is_slower(point: Point) -> bool:
    """True when the form takes longer by more than ``SLOWER``, and the interval of the measurement says so too."""
    return point.ratio > SLOWER and point.low > 1


def is_faster(point: Point) -> bool:
    """True when the form saves as much, and the interval of the measurement says so too."""
    return point.ratio < 1 / SLOWER and point.high < 1


# SkipLayerNormalization is 2.1 to 4.7 times slower than Add + LayerNormalization on ONNX Runtime's CPU
# provider (measured on BERT-like encoders, one thread), so the session keeps ONNX Runtime from making it.
_CPU_DISABLED = ("SkipLayerNormFusion",)

_MICROSOFT = frozenset({"", "com.microsoft"})

# Opset 23 brings Attention, RMSNormalization and RotaryEmbedding. ONNX Runtime's CPU provider has kernels for all three
# and runs everything else of that opset as fast as before (30 models, ratios within 1 % of those at their own opset).
_CPU_PIPELINE = {
    "clean": "clean",
    "fuse": "convert-opset{at_least=23}, fuse",
    "layout": _PIPELINE["layout"],
    "legalize": "shield-norms",
}

_PRESETS = (
    Target("onnx", "standard ONNX operators only, for any runtime"),
    Target(
        "x86-64",
        "ONNX Runtime's CPU provider on x86",
        architecture="x86-64",
        disabled_optimizers=_CPU_DISABLED,
        domains=_MICROSOFT,
        forms=frozenset({"HardSigmoid"}),
        integers=ORT_CPU,
        pipeline=_CPU_PIPELINE,
    ),
    Target(
        "x86-openvino",
        "OpenVINO's provider in ONNX Runtime on x86",
        architecture="x86-64",
        provider="OpenVINOExecutionProvider",
        integers=OPENVINO,
        forms=frozenset({"HardSwish"}),
    ),
    Target(
        "arm64",
        "ONNX Runtime's CPU provider on 64-bit ARM",
        architecture="arm64",
        disabled_optimizers=_CPU_DISABLED,
        domains=_MICROSOFT,
        forms=frozenset({"HardSigmoid"}),
        integers=ORT_CPU,
        pipeline=_CPU_PIPELINE,
    ),
    Target("coreml", "ONNX Runtime's CoreML provider", architecture="arm64", provider="CoreMLExecutionProvider"),
    Target("directml", "ONNX Runtime's DirectML provider", provider="DmlExecutionProvider"),
    Target("xnnpack", "ONNX Runtime's XNNPACK provider", architecture="arm64", provider="XnnpackExecutionProvider"),
    Target(
        "cuda",
        "ONNX Runtime's CUDA provider",
        architecture="cuda",
        provider="CUDAExecutionProvider",
        domains=_MICROSOFT,
        forms=frozenset({"Float8"}),
    ),
    Target(
        "tensorrt",
        "ONNX Runtime's TensorRT provider",
        architecture="cuda",
        provider="TensorrtExecutionProvider",
        integers=TENSORRT,
        forms=frozenset({"Gemm", "Float8"}),
    ),
)


def targets() -> dict[str, Target]:
    """The presets by name, as declared: without profiles, which ``find_target`` brings."""
    return {target.name: target for target in _PRESETS}


def host() -> Target:
    """The preset of this machine's processor, with its instruction sets filled in."""
    name = "arm64" if platform.machine().lower() in {"arm64", "aarch64"} else "x86-64"
    return replace(targets()[name], isa=detect_isa())


def find_target(name: str) -> Target:
    """The target of that name with its profile; the host's own preset has its instruction sets detected.

    The profile is what was measured on this machine, and for forms that were not, what comes with graphopt.

    Raises:
        GraphoptError: no such target; says which name is near.
    """
    known = targets()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known targets: {', '.join(known)}"
        raise GraphoptError(f"there is no target '{name}'", "--target", hint, usage=True)
    local = host()
    return with_profile(local if local.name == name else known[name])


def with_profile(target: Target) -> Target:
    """A target with what was measured of it; ``notes`` say which file was not used, and why."""
    packaged, own = PROFILES / f"{target.name}.json", profile_path(target.name)
    profile = Profile.from_text(packaged.read_text("utf-8"), str(packaged)) if packaged.is_file() else UNMEASURED
    try:
        found = Profile.from_text(own.read_text("utf-8"), str(own))
    except FileNotFoundError:
        return replace(target, profile=profile)
    except (OSError, UnicodeDecodeError) as error:
        note = f"the profile {own} is not used: it cannot be read: {error}"
    except GraphoptError as error:
        note = f"the profile {own} is not used: {error.what}"
    else:
        cpu = found.machine.get("cpu")
        if cpu == processor():
            return replace(target, profile=replace(found, base=profile), notes=_outdated(found, own))
        note = f"the profile {own} is not used: it was measured on {cpu}, and this is {processor()}"
    return replace(target, profile=profile, notes=(note,))


def _outdated(profile: Profile, path: Path) -> tuple[str, ...]:
    """What to say of a profile that was measured with another version of the runtime; it is used all the same."""
    then = profile.machine.get("versions", {}).get("onnxruntime", "")
    with suppress(PackageNotFoundError):
        if then and then != (now := version("onnxruntime")):
            again = "`graphopt profile-target` measures anew"
            return (f"the profile {path} was measured with onnxruntime {then}, and this is {now}; {again}",)
    return ()


def profile_path(name: str) -> Path:
    """Where a target's profile is kept that was measured on this machine."""
    return profile_folder() / f"{name}.json"


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
