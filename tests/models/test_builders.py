"""The builders' models are valid, run in ONNX Runtime, come out the same each time, and are what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from graphopt.models import builders
from graphopt.models.builders import BUILDERS, UNOPTIMIZED_ONLY

SIZES = {"N": 2, "B": 2, "S": 5, "H": 6, "W": 7, "T": 3}


def session(raw: bytes | str, *, optimize: bool = True) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(raw, options, providers=["CPUExecutionProvider"])


def feeds(runnable: ort.InferenceSession, **given: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    result: dict[str, np.ndarray] = {}
    for wanted in runnable.get_inputs():
        shape = [size if isinstance(size, int) else SIZES[size] for size in wanted.shape]
        if wanted.type == "tensor(float)":
            made = rng.standard_normal(shape).astype(np.float32)
        elif wanted.type == "tensor(bool)":
            made = np.ones(shape, np.bool_)
        elif wanted.name == "mask":
            made = np.tile(np.arange(shape[1]) < 4, (shape[0], 1)).astype(np.int64)
        else:
            made = np.asarray(rng.integers(2, 5, shape), np.int64)
        result[wanted.name] = given.get(wanted.name, made)
    return result


def nodes_of(graph: onnx.GraphProto) -> int:
    """Nodes without Constants, bodies included."""
    inner = sum(nodes_of(a.g) for node in graph.node for a in node.attribute if a.HasField("g"))
    return inner + sum(node.op_type != "Constant" for node in graph.node)


def depth_of(graph: onnx.GraphProto) -> int:
    return max((1 + depth_of(a.g) for node in graph.node for a in node.attribute if a.HasField("g")), default=0)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_built_model_is_valid_and_runs(name: str) -> None:
    proto = ir.to_proto(BUILDERS[name]())
    onnx.checker.check_model(proto, full_check=name not in UNOPTIMIZED_ONLY)
    runnable = session(proto.SerializeToString(), optimize=name not in UNOPTIMIZED_ONLY)
    outputs = runnable.run(None, feeds(runnable))
    assert all(np.isfinite(output).all() for output in outputs)
    assert any(np.abs(output).max() > 1e-4 for output in outputs)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_builder_gives_the_same_bytes_each_time(name: str) -> None:
    first, second = (ir.to_proto(BUILDERS[name]()).SerializeToString() for _ in range(2))
    assert first == second


@pytest.mark.parametrize("name", sorted(UNOPTIMIZED_ONLY))
def test_stale_shapes_do_not_keep_the_true_batch_from_coming_out(name: str) -> None:
    runnable = session(ir.to_proto(BUILDERS[name]()).SerializeToString(), optimize=False)
    (output,) = runnable.run(None, {"x": np.ones((3, 8), np.float32)})
    assert output.shape == (3, 2, 4)


def test_the_seed_changes_the_weights() -> None:
    first, second = (ir.to_proto(builders.small_cnn(seed=seed)).SerializeToString() for seed in (0, 1))
    assert first != second


@pytest.mark.parametrize(
    ("build", "minimum", "reference"),
    [
        (builders.chain, builders.chain_minimum, 4_287),
        (builders.wide, builders.wide_minimum, 784),
        (builders.sub, builders.sub_minimum, 5_331),
    ],
)
def test_the_large_graphs_have_their_size_and_a_minimum_within_reference(build, minimum, reference) -> None:
    assert nodes_of(ir.to_proto(build(10_000)).graph) == pytest.approx(10_000, abs=2)
    assert minimum(10_000) <= reference
    if build is not builders.sub:
        assert minimum(10_000) == reference


def test_sub_is_twelve_deep_and_holds_a_loop_and_a_scan() -> None:
    proto = ir.to_proto(builders.sub(200))
    assert depth_of(proto.graph) == 12
    assert {"If", "Loop", "Scan"} <= {node.op_type for node in proto.graph.node}


@pytest.mark.parametrize("flags", range(0, 8, 3))
def test_nested_gives_the_value_of_the_level_where_it_stops(flags: int) -> None:
    runnable = session(ir.to_proto(builders.nested(3)).SerializeToString())
    given = np.asarray([bool(flags >> i & 1) for i in range(3)])
    x = np.ones((1, 4), np.float32)
    (y,) = runnable.run(None, {"x": x, "flags": given})
    assert (y == x).all() != given[0]


def test_scan_gives_the_running_sums_and_the_last_one() -> None:
    runnable = session(ir.to_proto(builders.scan_model()).SerializeToString())
    final, sums = runnable.run(None, {"x": np.ones((3, 4), np.float32)})
    assert np.allclose(final, sums[-1])
    assert np.allclose(sums[1], 2 * sums[0])


def test_an_overridable_default_changes_the_result_when_fed() -> None:
    proto = ir.to_proto(builders.overridable_defaults())
    runnable = session(proto.SerializeToString())
    x = np.ones((1, 4), np.float32)
    plain, _ = runnable.run(None, {"x": x})
    fed, doubled = runnable.run(None, {"x": x, "scale": np.full(4, 3, np.float32)})
    assert np.allclose(fed, 3 * plain)
    assert np.allclose(doubled, 6)


def test_the_ir3_model_lists_every_weight_as_an_input() -> None:
    proto = ir.to_proto(builders.ir3_model())
    assert proto.ir_version == 3
    assert {tensor.name for tensor in proto.graph.initializer} < {value.name for value in proto.graph.input}


def test_the_functions_call_each_other_and_hand_attributes_on() -> None:
    proto = ir.to_proto(builders.function_model())
    assert {function.name for function in proto.functions} == {"LeakySum", "Twice", "Unused"}
    leaky = next(function for function in proto.functions if function.name == "LeakySum")
    assert leaky.attribute_proto[0].name == "alpha"
    assert leaky.node[-1].attribute[0].ref_attr_name == "alpha"


def test_two_equal_random_nodes_differ() -> None:
    runnable = session(ir.to_proto(builders.random_model()).SerializeToString())
    difference, _ = runnable.run(None, feeds(runnable))
    assert np.abs(difference).max() > 0


def test_an_external_model_has_the_size_asked_for_and_runs(tmp_path: Path) -> None:
    path = builders.external(tmp_path / "model.onnx", gigabytes=0.02, width=256)
    assert (tmp_path / "model.onnx.data").stat().st_size == pytest.approx(2e7, rel=0.2)
    onnx.checker.check_model(str(path))
    runnable = session(str(path))
    x = np.ones((2, 256), np.float32)
    (y,) = runnable.run(None, {"x": x})
    assert y.shape == (2, 256)
    assert not np.array_equal(y, x)


def test_three_gigabytes_of_external_weights_take_next_to_no_disk(tmp_path: Path) -> None:
    builders.external(tmp_path / "model.onnx", gigabytes=3)
    data = (tmp_path / "model.onnx.data").stat()
    assert data.st_size >= 3e9
    if data.st_blocks * 512 > 1e9:
        pytest.skip("this file system has no sparse files")
