"""What the quantisers do: each is ``(job, **options) -> remark``, reads a model and samples, and writes a model.

Each imports its own tool. Peers get what their documentation asks for: preprocessing, samples in full, the model type.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from quantizers import Job

CHANNEL_SCALES = 13
"""The first opset whose DequantizeLinear has a scale for each channel."""
USUAL_OPSET = 17


def graphopt(job: Job, *, scheme: str = "w8a8", recipe: str | None = None, held: bool = False) -> str:
    """``graphopt quantize``; ``held`` to the quality that is aimed at, on the data it was calibrated on."""
    from graphopt.calibrate import CalibrationData
    from graphopt.flows.quantize import Request, quantize

    aim = job.aim_db if held else None
    request = Request(scheme=scheme, recipe=recipe, data=CalibrationData.open(job.data), min_sqnr_db=aim)
    done = quantize(job.source, job.result, request)
    return f"{len(done.kept)} products left in float32 to hold {aim:g} dB" if done.kept and aim is not None else ""


def ort_static(job: Job, *, operators: tuple[str, ...] = (), per_channel: bool = True) -> str:
    """``quantize_static``: QDQ, uint8 activations, int8 weights, min/max, behind its own preprocessing."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    prepared, remark = _preprocessed(job)
    quantize_static(
        prepared,
        job.result,
        _reader(job.samples()),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(operators) or None,
        per_channel=per_channel,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )
    return remark


def ort_dynamic(job: Job) -> str:
    """``quantize_dynamic``: int8 weights by channel, activations quantised while running."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    prepared, remark = _preprocessed(job)
    quantize_dynamic(prepared, job.result, weight_type=QuantType.QInt8, per_channel=True)
    return remark


def ort_weights(job: Job, *, bits: int = 8, block: int = 32) -> str:
    """``MatMulNBitsQuantizer``: weights only, round to nearest, asymmetric blocks."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    config = DefaultWeightOnlyQuantConfig(block_size=block, is_symmetric=False, accuracy_level=4, bits=bits)
    quantizer = MatMulNBitsQuantizer(onnx.load(job.source), algo_config=config)
    quantizer.process()
    quantizer.model.save_model_to_file(str(job.result))
    return ""


def nncf_static(job: Job, *, accurate: bool = False) -> str:
    """``nncf.quantize``: weights by channel, mixed preset; ``accurate`` turns the slow bias correction on."""
    import nncf
    import onnx

    model, remark = _raised(onnx.load(job.source))
    samples = list(job.samples())
    made = nncf.quantize(
        model,
        nncf.Dataset(samples),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(samples),
        fast_bias_correction=not accurate,
        model_type=nncf.ModelType.TRANSFORMER if job.transformer else None,
    )
    onnx.save(made, str(job.result))
    return remark


def nncf_weights(job: Job, *, mode: str = "INT8_ASYM") -> str:
    """``nncf.compress_weights``."""
    import nncf
    import onnx

    model, remark = _raised(onnx.load(job.source), 21)
    options = {"group_size": 32, "ratio": 1.0} if "4" in mode else {}
    onnx.save(nncf.compress_weights(model, mode=nncf.CompressWeightsMode[mode], **options), str(job.result))
    return remark


def onnxsim_static(job: Job) -> str:
    """``onnxsim.simplify``, ``quantize_static`` and ``correct_bias``, with the defaults of each."""
    import onnx
    import onnxsim

    model, remark = _raised(onnx.load(job.source))
    model, _ = onnxsim.simplify(model, check_n=0)
    samples = list(job.samples())
    made = onnxsim.quantize_static(model, samples)
    made = onnxsim.correct_bias(model, made, samples)
    onnx.save(made, str(job.result))
    return remark


def quark_static(job: Job, *, per_channel: bool = True, corrected: bool = False) -> str:
    """Quark's default for CNNs (min/max, uint8 and int8, cross-layer equalisation) or for transformers."""
    import onnx
    from quark.onnx import ModelQuantizer
    from quark.onnx.quantization.config.config import Config
    from quark.onnx.quantization.config.custom_config import get_default_config

    settings = get_default_config("INT8_TRANSFORMER_DEFAULT" if job.transformer else "INT8_CNN_DEFAULT")
    settings.per_channel = per_channel and not job.transformer  # its quantiser of transformers has none
    if corrected:
        settings.extra_options = {**settings.extra_options, "BiasCorrection": True}
    copy = job.result.with_suffix(".copy.onnx")  # it rewrites its input in place
    model, remark = _raised(onnx.load(job.source))
    onnx.save(model, str(copy))
    quantizer = ModelQuantizer(Config(global_quant_config=settings))
    quantizer.quantize_model(str(copy), str(job.result), _reader(job.samples()))
    return remark


def aimet_static(job: Job, *, per_channel: bool = True, equalized: bool = False) -> str:
    """AIMET's ``QuantizationSimModel`` with min/max, exported as QDQ with stored int8 weights."""
    import onnx
    from aimet_onnx import QuantizationSimModel, int8
    from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight
    from aimet_onnx.common.quantsim_config.config_utils import get_path_for_target_config
    from aimet_onnx.cross_layer_equalization import equalize_model

    model, remark = _raised(onnx.load(job.source))
    (equalize_model if equalized else fold_all_batch_norms_to_weight)(model)
    path = get_path_for_target_config("default_config_per_channel" if per_channel else "default_config")
    simulated = QuantizationSimModel(model, param_type=int8, activation_type=int8, config_file=path)
    simulated.compute_encodings(job.samples())
    made = simulated.to_onnx_qdq(export_int32_bias=True, prequantize_constants=True)
    onnx.save(made, str(job.result))
    return remark


def _preprocessed(job: Job) -> tuple[Path, str]:
    """The model behind ORT's ``quant_pre_process``, which its documentation asks for."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model, remark = _raised(onnx.load(job.source))
    raised, prepared = job.result.with_suffix(".raised.onnx"), job.result.with_suffix(".prepared.onnx")
    onnx.save(model, str(raised))
    try:
        quant_pre_process(str(raised), str(prepared), auto_merge=True)
    except Exception as error:  # noqa: BLE001  # it raises bare ones
        quant_pre_process(str(raised), str(prepared), skip_symbolic_shape=True)
        said = " ".join(str(error).split())[:80]
        remark = "; ".join(filter(None, (remark, f"its symbolic shape inference failed and was skipped: {said}")))
    return prepared, remark


def _raised(model: Any, wanted: int = CHANNEL_SCALES) -> tuple[Any, str]:
    """The model in an opset that has the operators it is to be quantised with."""
    import onnx.version_converter

    version = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if version >= wanted:
        return model, ""
    target = max(wanted, USUAL_OPSET)
    return onnx.version_converter.convert_version(model, target), f"from opset {version} to {target} by onnx first"


def _reader(samples: Iterable[dict[str, np.ndarray]]) -> Any:
    """What ONNX Runtime's calibration reads samples from."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._rest = iter(samples)

        def get_next(self) -> Any:
            return next(self._rest, None)

    return Reader()
