"""ONNX Runtime's execution providers by name: built in, or plugged in by a package.

A provider that is asked for is used or refused. ONNX Runtime itself would fall back to the CPU without a word: when
the provider is missing, when its driver does not load, and when it takes not one node of the graph. Each of
these is an error here.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from graphopt.errors import GraphoptError

CPU = "CPUExecutionProvider"

# provider -> the package whose ONNX Runtime has it built in
_BUILT_INTO = {
    "CUDAExecutionProvider": "onnxruntime-gpu",
    "TensorrtExecutionProvider": "onnxruntime-gpu, and TensorRT",
    "DmlExecutionProvider": "onnxruntime-directml (Windows)",
    "CoreMLExecutionProvider": "onnxruntime (macOS)",
    "QNNExecutionProvider": "onnxruntime-qnn",
    "XnnpackExecutionProvider": "an ONNX Runtime built with --use_xnnpack",
    "ROCMExecutionProvider": "onnxruntime-rocm",
    "MIGraphXExecutionProvider": "onnxruntime-migraphx",
}
# provider -> module and package of its plug-in; the module tells library path and provider name
_PLUGGED_IN_BY = {"OpenVINOExecutionProvider": ("onnxruntime_ep_openvino", "onnxruntime-ep-openvino")}

_RECORD = "session.record_ep_graph_assignment_info"


def available() -> list[str]:
    """Providers that can be asked for here: built in, and plugged in by installed packages."""
    import onnxruntime

    plugged = [name for name, (module, _) in _PLUGGED_IN_BY.items() if importlib.util.find_spec(module) is not None]
    return [*onnxruntime.get_available_providers(), *plugged]


def create(
    payload: str | bytes, options: Any, provider: str, provider_options: Mapping[str, Any], disabled: Collection[str]
) -> Any:
    """An ``InferenceSession`` that really uses the provider.

    Args:
        payload: path or serialised model.
        options: ``SessionOptions``; they belong to this session from here on.
        provider: the provider's full name.
        provider_options: its options.
        disabled: graph transformers of ONNX Runtime to leave out.

    Raises:
        GraphoptError: the provider is not installed, does not start, or takes no node of the model.
        Exception: what ONNX Runtime raises when it refuses the model.
    """
    import onnxruntime

    other: dict[str, Any] = {"disabled_optimizers": set(disabled), "enable_fallback": 0}
    if provider != CPU:
        options.add_session_config_entry(_RECORD, "1")
    if provider in onnxruntime.get_available_providers():
        session = onnxruntime.InferenceSession(
            payload, options, providers=[(provider, dict(provider_options))], **other
        )
    else:
        options.add_provider_for_devices(
            _devices(provider), {key: str(value) for key, value in provider_options.items()}
        )
        session = onnxruntime.InferenceSession(payload, options, **other)
    if provider not in session.get_providers():
        raise GraphoptError(
            f"{provider} is installed but does not start on this machine", f"onnxruntime {onnxruntime.__version__}",
            "its driver or libraries are missing; see ONNX Runtime's requirements for this provider",
        )  # fmt: skip
    if provider != CPU and not assignment(session).get(provider):
        raise GraphoptError(
            f"{provider} takes no node of this model: all would run on the CPU",
            f"onnxruntime {onnxruntime.__version__}",
            "use the CPU provider, or another one",
        )  # fmt: skip
    return session


def assignment(session: Any) -> dict[str, int]:
    """Nodes by the provider that runs them; empty for a session on the CPU provider, which does not record it."""
    counts: Counter[str] = Counter()
    try:
        subgraphs = session.get_provider_graph_assignment_info()
    except Exception:  # noqa: BLE001  not recorded for this session
        return {}
    for subgraph in subgraphs:
        counts[subgraph.ep_name] += len(subgraph.get_nodes())
    return dict(counts)


def _devices(provider: str) -> list[Any]:
    """The plug-in's device to run on, its library registered once per process."""
    import onnxruntime

    module_name, package = _PLUGGED_IN_BY.get(provider, ("", ""))
    if not module_name or importlib.util.find_spec(module_name) is None:
        hint = (
            f"pip install {package}"
            if package
            else f"it comes with {_BUILT_INTO.get(provider, 'another build of ONNX Runtime')}"
        )
        raise GraphoptError(
            f"this ONNX Runtime has no {provider}", f"onnxruntime {onnxruntime.__version__}",
            f"{hint}; here there are: {', '.join(available())}", usage=True,
        )  # fmt: skip
    devices = _found(provider)
    if not devices:
        onnxruntime.register_execution_provider_library(
            module_name, importlib.import_module(module_name).get_library_path()
        )
        devices = _found(provider)
    if not devices:
        raise GraphoptError(f"{provider} finds no device on this machine", package, "use another provider")
    return devices[:1]


def _found(provider: str) -> list[Any]:
    import onnxruntime

    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == provider]
