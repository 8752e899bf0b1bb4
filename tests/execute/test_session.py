"""Sessions: truth and speed, what they accept, and what they say when they cannot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import parser

from graphopt.errors import GraphoptError
from graphopt.execute.session import Session


def model(text: str, ir_version: int = 10, opset: int = 21) -> ir.Model:
    source = f'<ir_version: {ir_version}, opset_import: ["": {opset}]> {text}'
    return ir.from_proto(parser.parse_model(source))


ADD = "g (float[N, 2] x, int64 k) => (float[N, 2] y) { c = Cast<to = 1>(k) y = Add(x, c) }"
FEEDS = {"x": np.zeros((3, 2), np.float32), "k": np.asarray(1)}


def test_outputs_come_by_name() -> None:
    found = Session(model(ADD), optimized=False).run(FEEDS)
    assert list(found) == ["y"]
    np.testing.assert_array_equal(found["y"], np.ones((3, 2), np.float32))


def test_the_signature_is_the_models() -> None:
    session = Session(model(ADD), optimized=False)
    assert [str(port) for port in session.inputs] == ["float[N, 2]", "int64[...]"]
    assert session.outputs[0].dtype == ir.DataType.FLOAT
    assert session.evaluator == "onnxruntime"


@pytest.mark.parametrize(
    ("change", "what", "name"),
    [
        ({"X": FEEDS["x"]}, "no input 'X'", ""),
        ({"k": None}, "'k' is not fed", ""),
        ({"x": np.zeros((3, 2))}, "double, the input wants float", "'x'"),
        ({"x": np.zeros((3, 2), np.float16)}, "float16, the input wants float", "'x'"),
        ({"x": np.zeros((3, 3), np.float32)}, r"shape \[3, 3\] does not fit float\[N, 2\]", "'x'"),
        ({"x": np.zeros(2, np.float32)}, "does not fit", "'x'"),
        ({"x": [[0.0, 0.0]]}, "is a list, not a numpy array", "'x'"),
        ({"x": np.asarray([[{}, 1]], object)}, "Python objects", "'x'"),
        ({"k": np.zeros((1, 1), np.int64)}, r"shape \[1, 1\] does not fit int64\[1\]", "'k'"),
    ],
)
def test_feeds_that_do_not_fit_are_refused_by_name(change: dict, what: str, name: str) -> None:
    feeds = {key: value for key, value in {**FEEDS, **change}.items() if value is not None}
    with pytest.raises(GraphoptError, match=what) as caught:
        Session(model(ADD.replace("int64 k", "int64[1] k")), optimized=False).run(feeds)
    assert name in caught.value.where
    assert caught.value.hint


def test_a_close_name_is_suggested() -> None:
    with pytest.raises(GraphoptError) as caught:
        Session(model("g (float[1] pixels) => (float[1] y) { y = Relu(pixels) }"), optimized=False).run(
            {"pixel": np.zeros(1, np.float32)}
        )
    assert caught.value.hint == "did you mean 'pixels'?"


def test_other_byte_orders_and_layouts_are_no_problem() -> None:
    x = np.arange(6, dtype=">f4").reshape(2, 3).T
    found = Session(model(ADD), optimized=False).run({"x": x, "k": np.asarray(0)})
    np.testing.assert_array_equal(found["y"], x.astype(np.float32))


def test_an_input_with_a_default_may_be_left_out() -> None:
    graph = model("g (float[1] x, float[1] w = {2.0}) => (float[1] y) { y = Mul(x, w) }")
    session = Session(graph, optimized=False)
    x = np.ones(1, np.float32)
    assert [port.required for port in session.inputs] == [True, False]
    assert session.run({"x": x})["y"] == 2.0
    assert session.run({"x": x, "w": 3 * x})["y"] == 3.0


@pytest.mark.parametrize(
    ("name", "elements"),
    [
        ("bfloat16", np.asarray([1.5, -2, 0], ml_dtypes.bfloat16)),
        ("float8e4m3fn", np.asarray([1.5, -2, 0], ml_dtypes.float8_e4m3fn)),
        ("float16", np.asarray([1.5, -2, 0], np.float16)),
        ("string", np.asarray(["a", "é", ""], object)),
        ("bool", np.asarray([True, False, True])),
        ("uint64", np.asarray([2**64 - 1, 0, 1], np.uint64)),
    ],
)
def test_element_types_go_in_and_out_unchanged(name: str, elements: np.ndarray) -> None:
    session = Session(model(f"g ({name}[N] x) => ({name}[N] y) {{ y = Identity(x) }}"), optimized=False)
    found = session.run({"x": elements})["y"]
    assert session.evaluator == "onnxruntime"
    assert found.dtype == elements.dtype
    assert found.tolist() == elements.tolist()


@pytest.mark.parametrize(("name", "code", "values"), [("int4", 22, [1, -8, 7]), ("uint4", 21, [1, 15, 7])])
def test_four_bit_types_go_in_and_out(name: str, code: int, values: list[int]) -> None:
    dtype = ir.DataType(code).numpy()
    into = Session(model(f"g ({name}[N] x) => (int8[N] y) {{ y = Cast<to = 3>(x) }}"), optimized=False)
    assert into.run({"x": np.asarray(values).astype(dtype)})["y"].tolist() == values
    out = Session(model(f"g (int8[N] x) => ({name}[N] y) {{ y = Cast<to = {code}>(x) }}"), optimized=False)
    found = out.run({"x": np.asarray(values, np.int8)})["y"]
    assert found.dtype == dtype
    assert found.astype(int).tolist() == values


def test_sequences_and_optionals_go_in_and_out() -> None:
    session = Session(
        model(
            "g (seq(float[M]) s, optional(float[M]) o) => (int64 n, bool has, seq(float[M]) t)"
            " { n = SequenceLength(s) has = OptionalHasElement(o) t = Identity(s) }"
        ),
        optimized=False,
    )
    part = np.ones(2, np.float32)
    found = session.run({"s": [part, part], "o": None})
    assert (int(found["n"]), bool(found["has"]), len(found["t"])) == (2, False, 2)
    assert bool(session.run({"s": [], "o": part})["has"])
    with pytest.raises(GraphoptError, match="is a sequence"):
        session.run({"s": part, "o": None})


def test_without_a_kernel_the_reference_computes_the_truth() -> None:
    graph = model("g (bfloat16[N] x) => (bfloat16[N] y) { y = Relu(x) }")
    session = Session(graph, optimized=False)
    assert session.evaluator == "onnx.reference"
    found = session.run({"x": np.asarray([-1, 2], ml_dtypes.bfloat16)})
    assert found["y"].astype(float).tolist() == [0.0, 2.0]
    with pytest.raises(GraphoptError, match="Relu"):
        Session(graph, optimized=True)
    with pytest.raises(GraphoptError, match="Relu"):
        Session(graph, optimized=False, evaluator="onnxruntime")


def test_both_evaluators_agree() -> None:
    results = [
        Session(model(ADD), optimized=False, evaluator=name).run(FEEDS)["y"]
        for name in ("onnxruntime", "onnx.reference")
    ]
    np.testing.assert_array_equal(*results)


def test_a_custom_operator_is_named() -> None:
    text = '<ir_version: 8, opset_import: ["": 13, "my": 1]> g (float[2] x) => (float[2] y) { y = my.Foo(x) }'
    with pytest.raises(GraphoptError, match="does not know the operator my::Foo"):
        Session(ir.from_proto(parser.parse_model(text)), optimized=False)


def test_a_local_function_is_no_custom_operator() -> None:
    text = (
        '<ir_version: 8, opset_import: ["": 17, "my": 1]> g (float[2] x) => (float[2] y) { y = my.Twice(x) }'
        ' <opset_import: ["": 17], domain: "my"> Twice (a) => (b) { b = Add(a, a) }'
    )
    found = Session(ir.from_proto(parser.parse_model(text)), optimized=False)
    assert found.run({"x": np.ones(2, np.float32)})["y"].tolist() == [2.0, 2.0]


def test_a_provider_is_never_replaced_by_another() -> None:
    with pytest.raises(GraphoptError, match="has no MoonExecutionProvider") as caught:
        Session(model(ADD), optimized=True, provider="MoonExecutionProvider")
    assert caught.value.exit_code == 2
    assert "CPUExecutionProvider" in caught.value.hint


def test_failures_say_what_and_where_without_the_runtimes_codes(tmp_path: Path) -> None:
    text = "g (float[N] x, float[M] z) => (float[K] y) { y = Add(x, z) }"
    with pytest.raises(GraphoptError) as caught:
        Session(model(text), optimized=False).run({"x": np.zeros(2, np.float32), "z": np.zeros(3, np.float32)})
    assert caught.value.where == "running g"
    assert "ONNXRuntimeError" not in caught.value.what
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(GraphoptError, match="Protobuf parsing failed") as caught:
        Session(broken, optimized=False)
    assert str(broken) in caught.value.where
    with pytest.raises(GraphoptError, match="no such file"):
        Session(tmp_path / "absent.onnx", optimized=False)


def test_loading_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    text = "g (float[N] x) => (float[5, 5] y) { y = Relu(x) }"
    with pytest.raises(GraphoptError):
        Session(model(text), optimized=False).run({"x": np.zeros(2, np.float32), "z": np.zeros(2)})
    with pytest.raises(GraphoptError):
        Session(model("g (float[2] x) => (float[3] y) { y = Conv(x, x) }"), optimized=False)
    assert capfd.readouterr() == ("", "")


def external_model(folder: Path) -> Path:
    weights = np.arange(5000, dtype=np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "w"], ["s"]), onnx.helper.make_node("Neg", ["s"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, [5000])],
        [onnx.helper.make_tensor_value_info("y", 1, [5000])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="w.data", size_threshold=0)
    return path


def test_external_data_is_found_from_a_path_and_from_memory(tmp_path: Path) -> None:
    from graphopt.ir import load

    path = external_model(tmp_path / "a")
    feeds = {"x": np.ones(5000, np.float32)}
    for source in (path, load(path), ir.load(path)):
        np.testing.assert_array_equal(Session(source, optimized=False).run(feeds)["y"], -1 - np.arange(5000.0))


def test_a_model_with_external_data_in_two_folders_runs(tmp_path: Path) -> None:
    from graphopt.ir import load, new_initializer

    graph = load(external_model(tmp_path / "a")).graph
    other = load(external_model(tmp_path / "b")).graph.initializers["w"].const_value
    negate = graph[-1]
    add = ir.node("Add", [negate.inputs[0], new_initializer(graph, other, "w2")])
    add.outputs[0].name = "t"
    graph.insert_before(negate, add)
    negate.replace_input_with(0, add.outputs[0])
    found = Session(ir.Model(graph, ir_version=8), optimized=False).run({"x": np.ones(5000, np.float32)})
    np.testing.assert_array_equal(found["y"], -1 - 2 * np.arange(5000.0))


def test_a_data_file_replaced_since_loading_gives_the_old_numbers(tmp_path: Path) -> None:
    from graphopt.ir import load

    loaded = load(external_model(tmp_path / "a"))
    loaded.graph.initializers["w"].const_value.numpy()  # mapped: the old content stays readable
    (tmp_path / "a" / "new").write_bytes(bytes(20000))
    (tmp_path / "a" / "new").replace(tmp_path / "a" / "w.data")
    found = Session(loaded, optimized=False).run({"x": np.ones(5000, np.float32)})
    np.testing.assert_array_equal(found["y"], -1 - np.arange(5000.0))


def test_the_model_in_memory_is_not_changed_by_taps() -> None:
    graph = model(ADD)
    before = ir.to_proto(graph).SerializeToString()
    found = Session(graph, optimized=False, outputs=["c", "y"]).run(FEEDS)
    assert list(found) == ["c", "y"]
    assert ir.to_proto(graph).SerializeToString() == before


@pytest.mark.parametrize("name", ["float", "bfloat16", "string"])
def test_prepared_runs_take_every_element_type(name: str) -> None:
    graph = model(f"g ({name}[N] x) => ({name}[N] y) {{ y = Identity(x) }}")
    x = np.asarray(["1", "2"], object) if name == "string" else np.ones(2).astype(graph.graph.inputs[0].dtype.numpy())
    run = Session(graph, optimized=True).prepared({"x": x})
    run()
    run()


def test_importing_the_package_does_not_load_the_runtime() -> None:
    code = "import sys, graphopt.execute, graphopt.calibrate; sys.exit('onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
