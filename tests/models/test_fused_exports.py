"""Each fusion is found in what both of torch's exporters write for a module, and the result computes the same."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

import graphopt as go
from graphopt.ir import nodes
from graphopt.models.export import export
from graphopt.pipeline import Context, PassManager, Recipe
from graphopt.target import targets

MODULES = Path(__file__).with_name("fused_modules.py")
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed (pip install 'graphopt[torch]')"
)

# What has to be there afterwards, and what must not be left. The target takes every form that anybody could want.
FORMS = frozenset({"HardSwish", "GroupNormalization", "com.microsoft::QuickGelu"})
EXPECTED = {
    "gelu": ("Gelu", "Erf"),
    "gelu_tanh": ("Gelu", "Tanh"),
    "gelu_by_hand": ("Gelu", "Erf"),
    "quick_gelu": ("QuickGelu", "Sigmoid"),
    "silu": ("QuickGelu", "Sigmoid"),
    "mish": ("Mish", "Softplus"),
    "hardswish": ("HardSwish", "Clip"),
    "layer_norm": ("LayerNormalization", "ReduceMean"),
    "layer_norm_by_hand": ("LayerNormalization", "ReduceMean"),
    "rms_norm": ("RMSNormalization", "ReduceMean"),
    "group_norm": ("GroupNormalization", "InstanceNormalization"),
    "instance_norm": ("InstanceNormalization", "Mul"),
    "attention": ("Attention", "Softmax"),
    "attention_causal": ("Attention", "Softmax"),
    "attention_by_hand": ("Attention", "Softmax"),
    "attention_causal_by_hand": ("Attention", "Softmax"),
    "attention_grouped": ("Attention", "Softmax"),
    **dict.fromkeys(
        (
            "attention_causal_grouped",
            "attention_one_head_of_keys",
            "attention_cross",
            "attention_cross_masked",
            "attention_cross_grouped",
            "attention_windows",
            "multihead",
            "multihead_causal",
            "multihead_cross",
            "multihead_weights",
            "multihead_batch_second",
            "encoder_layer",
            "decoder_layer",
        ),
        ("Attention", "Softmax"),
    ),
    "rotary": ("RotaryEmbedding", "Neg"),
    "repvgg": ("Conv", "Add"),
    "pixel_shuffle": ("DepthToSpace", "Transpose"),
    "pixel_unshuffle": ("Conv", "Transpose"),
    "einsum": ("MatMul", "Einsum"),
}


@needs_torch
@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
@pytest.mark.parametrize("name", EXPECTED)
def test_the_operator_of_the_module_is_found_again(name: str, exporter, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export(f"{MODULES}:make", path, exporter=exporter, args={"name": name})
    target = replace(targets()["x86-64"], forms=targets()["x86-64"].forms | FORMS)
    result, outcomes = PassManager(Recipe.parse(target.recipe)).run(go.load(path), Context(target=target))
    assert outcomes.verdict is not None
    assert outcomes.verdict.ok
    assert not any(step.failed or step.left_out for step in outcomes)
    found = {node.op_type for node in nodes(result)}
    expected, left = EXPECTED[name]
    assert expected in found
    assert left not in found
