"""Weights outside the model file: lazy in, streamed out, never mistaken for others."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.errors import GraphoptError
from graphopt.ir import atomic, serial
from graphopt.ir.check import check
from graphopt.ir.external_data import MappedTensor
from graphopt.ir.files import load, save
from graphopt.ir.layout import slots
from graphopt.ir.serial import to_proto

RNG = np.random.default_rng(0)


def info(name, shape=(1024,), kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def reference(name, location, offset=None, length=None, shape=(1024,), kind=TensorProto.FLOAT):
    tensor = TensorProto(name=name, data_type=kind, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    return tensor


def array(seed):
    return np.random.default_rng(seed).standard_normal(1024).astype(np.float32)


def make(folder, name="m.onnx", location="w.bin"):
    """A model with external weights in the main graph, in a Constant, in both branches and in a function."""
    folder.mkdir(exist_ok=True, parents=True)
    (folder / location).parent.mkdir(exist_ok=True, parents=True)
    (folder / location).write_bytes(b"".join(array(i).tobytes() for i in range(5)))

    def part(tensor_name, index, **more):
        return reference(tensor_name, location, 4096 * index, 4096, **more)

    inner = helper.make_node("Constant", [], ["e2"], value=part("e2", 3))
    then = helper.make_graph([helper.make_node("Add", ["x", "t1"], ["t"])], "then", [], [info("t")], [part("t1", 2)])
    other = helper.make_graph([inner, helper.make_node("Add", ["x", "e2"], ["e"])], "else", [], [info("e")])
    function = helper.make_function(
        "local",
        "F",
        ["a"],
        ["b"],
        [helper.make_node("Constant", [], ["k"], value=part("k", 4)), helper.make_node("Add", ["a", "k"], ["b"])],
        [helper.make_opsetid("", 17)],
    )
    graph = helper.make_graph(
        [
            helper.make_node("If", ["c"], ["i"], then_branch=then, else_branch=other),
            helper.make_node("Constant", [], ["d"], value=part("d", 1)),
            helper.make_node("Sum", ["i", "d", "w", "small"], ["s"]),
            helper.make_node("F", ["s"], ["y"], domain="local"),
        ],
        "g",
        [info("x"), info("c", (), TensorProto.BOOL)],
        [info("y")],
        [part("w", 0), numpy_helper.from_array(np.array([0.5], np.float32), "small")],
    )
    proto = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("local", 1)],
        functions=[function],
        ir_version=8,
    )
    (folder / name).write_bytes(proto.SerializeToString())
    return folder / name


def run(path):
    import onnxruntime as ort

    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = np.linspace(-1, 1, 1024, dtype=np.float32)
    return [session.run(None, {"x": x, "c": np.array(way)})[0] for way in (True, False)]


def same(left, right):
    return all(np.array_equal(*pair) for pair in zip(left, right, strict=True))


def test_weights_are_read_where_they_lie(tmp_path):
    model = load(make(tmp_path))
    tensor = model.graph.initializers["w"].const_value
    assert isinstance(tensor, MappedTensor)
    np.testing.assert_array_equal(tensor.numpy(), array(0))
    assert not tensor.numpy().flags.writeable
    assert tensor.tobytes() == array(0).tobytes()
    everywhere = [one for one, _ in slots(model) if isinstance(one, MappedTensor)]
    assert len(everywhere) == 5
    assert sorted(float(one.numpy()[0]) for one in everywhere) == sorted(float(array(i)[0]) for i in range(5))
    check(model, full=True)


def test_a_model_with_external_data_is_saved_with_external_data_beside_the_output(tmp_path):
    source = make(tmp_path / "in", location="deep/w.bin")
    model = load(source)
    out = tmp_path / "out"
    out.mkdir()
    save(model, out / "n.onnx")
    assert sorted(os.listdir(out)) == ["n.onnx", "n.onnx.data"]
    proto = onnx.load(out / "n.onnx", load_external_data=False)
    small = next(tensor for tensor in proto.graph.initializer if tensor.name == "small")
    assert small.HasField("raw_data")
    assert {entry.value for entry in proto.graph.initializer[0].external_data if entry.key == "location"} == {
        "n.onnx.data"
    }
    assert same(run(source), run(out / "n.onnx"))
    check(out / "n.onnx", full=True)
    first = (out / "n.onnx").read_bytes(), (out / "n.onnx.data").read_bytes()
    save(load(out / "n.onnx"), out / "n.onnx")
    assert first == ((out / "n.onnx").read_bytes(), (out / "n.onnx.data").read_bytes())


def test_a_clone_of_such_a_model_is_saved_with_external_data_too(tmp_path):
    save(load(make(tmp_path)).clone(), tmp_path / "n.onnx")
    assert (tmp_path / "n.onnx.data").exists()
    assert same(run(tmp_path / "m.onnx"), run(tmp_path / "n.onnx"))


def test_saving_onto_the_source_keeps_the_model_in_memory_and_its_clones_usable(tmp_path):
    path = make(tmp_path, location="m.onnx.data")
    before = run(path)
    model = load(path)
    clone = model.clone()
    del model.graph.initializers["w"]
    model.graph[2].replace_input_with(2, model.graph.inputs[0])
    save(model, path)
    assert not same(before, run(path))
    save(clone, tmp_path / "clone.onnx")
    assert same(before, run(tmp_path / "clone.onnx"))
    np.testing.assert_array_equal(clone.graph.initializers["w"].const_value.numpy(), array(0))
    save(model, path)
    assert sorted(os.listdir(tmp_path)) == ["clone.onnx", "clone.onnx.data", "m.onnx", "m.onnx.data"]


def test_a_plain_onnx_ir_model_cannot_be_saved_onto_the_data_it_still_reads(tmp_path):
    path = make(tmp_path, location="m.onnx.data")
    content = (tmp_path / "m.onnx.data").read_bytes()
    plain = ir.load(path)
    with pytest.raises(GraphoptError, match="overwrite the data that the model in memory still reads"):
        save(plain, path)
    assert (tmp_path / "m.onnx.data").read_bytes() == content
    with pytest.raises(GraphoptError, match="cannot be read"):  # onnx_ir forgets the folder for functions' tensors
        save(plain, tmp_path / "n.onnx")
    assert not (tmp_path / "n.onnx").exists()
    next(iter(plain.functions.values()))[0].attributes["value"].as_tensor().base_dir = tmp_path
    save(plain, tmp_path / "n.onnx")
    assert same(run(path), run(tmp_path / "n.onnx"))


def test_data_that_was_exchanged_after_loading_is_an_error_not_other_numbers(tmp_path):
    model = load(make(tmp_path))
    (tmp_path / "w.bin").unlink()
    (tmp_path / "w.bin").write_bytes(bytes(5 * 4096))
    with pytest.raises(GraphoptError, match="changed after the model was loaded"):
        model.graph.initializers["w"].const_value.numpy()
    with pytest.raises(GraphoptError, match="changed after the model was loaded"):
        save(model, tmp_path / "n.onnx")
    (tmp_path / "w.bin").unlink()
    with pytest.raises(GraphoptError, match="can no longer be read"):
        save(model, tmp_path / "n.onnx")
    assert os.listdir(tmp_path) == ["m.onnx"]


def test_data_that_was_mapped_before_it_was_exchanged_is_still_right(tmp_path):
    model = load(make(tmp_path))
    model.graph.initializers["w"].const_value.numpy()
    (tmp_path / "w.bin").unlink()
    (tmp_path / "w.bin").write_bytes(bytes(5 * 4096))
    save(model, tmp_path / "n.onnx")
    np.testing.assert_array_equal(load(tmp_path / "n.onnx").graph.initializers["w"].const_value.numpy(), array(0))


def test_large_models_go_to_external_data_by_themselves_and_small_tensors_stay_inside(tmp_path, monkeypatch):
    monkeypatch.setattr(serial, "INLINE_LIMIT", 10_000)
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1024]))
    values, nodes, last = [], [], x
    for name, content in (("a", array(0)), ("b", array(1)), ("c", array(2)), ("tiny", np.ones(1, np.float32))):
        values.append(ir.Value(name=name, type=x.type, shape=ir.Shape(content.shape), const_value=ir.tensor(content)))
        nodes.append(ir.node("Add", [last, values[-1]]))
        last = nodes[-1].outputs[0]
    last.name, last.type, last.shape = "y", x.type, x.shape
    model = ir.Model(
        ir.Graph([x], [last], nodes=nodes, initializers=values, opset_imports={"": 17}, name="g"), ir_version=8
    )
    save(model, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").stat().st_size < 2000
    assert (tmp_path / "m.onnx.data").stat().st_size == 3 * 4096
    assert isinstance(values[0].const_value, ir.Tensor)
    again = load(tmp_path / "m.onnx")
    np.testing.assert_array_equal(again.graph.initializers["b"].const_value.numpy(), array(1))
    assert not isinstance(again.graph.initializers["tiny"].const_value, ir.ExternalTensor)
    monkeypatch.setattr(serial, "INLINE_LIMIT", 1 << 30)
    del model.graph.initializers["a"]
    nodes[0].replace_input_with(1, x)
    save(model, tmp_path / "n.onnx")
    assert not (tmp_path / "n.onnx.data").exists()
    monkeypatch.setattr(serial, "INLINE_LIMIT", 100)
    with pytest.raises(GraphoptError, match="too large"):
        to_proto(model)


@pytest.mark.parametrize(
    ("dtype", "elements"),
    [
        (ir.DataType.INT4, np.arange(-8, 7)),
        (ir.DataType.UINT4, np.arange(15)),
        (ir.DataType.FLOAT4E2M1, np.array([0.5, 1, 1.5])),
        (ir.DataType.BFLOAT16, np.linspace(-2, 2, 999)),
        (ir.DataType.FLOAT8E4M3FN, np.linspace(-2, 2, 999)),
        (ir.DataType.BOOL, np.arange(7) % 2),
        (ir.DataType.COMPLEX64, np.arange(5) * 1j),
        (ir.DataType.DOUBLE, np.arange(5)),
    ],
)
def test_every_kind_of_element_survives_the_way_out_and_in(tmp_path, dtype, elements):
    content = np.resize(elements, 5001).astype(dtype.numpy())
    value = ir.Value(name="w", type=ir.TensorType(dtype), shape=ir.Shape([3, 1667]))
    value.const_value = ir.Tensor(content.reshape(3, 1667), dtype)
    node = ir.node("Identity", [value])
    node.outputs[0].name, node.outputs[0].type = "y", value.type
    graph = ir.Graph([], node.outputs, nodes=[node], initializers=[value], opset_imports={"": 25}, name="g")
    model = ir.Model(graph, ir_version=11)
    model.graph.meta[serial.EXTERNAL] = True
    save(model, tmp_path / "m.onnx")
    again = load(tmp_path / "m.onnx")
    tensor = again.graph.initializers["w"].const_value
    assert isinstance(tensor, MappedTensor) and tensor.dtype == dtype
    np.testing.assert_array_equal(tensor.numpy(), content.reshape(3, 1667))
    save(again, tmp_path / "n.onnx")
    assert (tmp_path / "n.onnx.data").read_bytes() == (tmp_path / "m.onnx.data").read_bytes()
    inside = to_proto(again).graph.initializer[0]
    assert inside.raw_data == value.const_value.tobytes()


def test_shared_weights_are_written_once(tmp_path):
    (tmp_path / "w.bin").write_bytes(array(0).tobytes())
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["y"])],
        "g",
        [],
        [info("y")],
        [reference("a", "w.bin", 0, 4096), reference("b", "w.bin", 0, 4096)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    save(load(tmp_path / "m.onnx"), tmp_path / "n.onnx")
    assert (tmp_path / "n.onnx.data").stat().st_size == 4096
    check(tmp_path / "n.onnx", full=True)


def test_a_model_reached_through_symbolic_links_loads(tmp_path):
    path = make(tmp_path / "real")
    (tmp_path / "folder").symlink_to(tmp_path / "real")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link.onnx").symlink_to(path)
    for way in (tmp_path / "folder" / "m.onnx", tmp_path / "elsewhere" / "link.onnx"):
        np.testing.assert_array_equal(load(way).graph.initializers["w"].const_value.numpy(), array(0))


def test_a_data_file_may_be_a_link_within_the_folder_and_have_more_than_one_name(tmp_path):
    path = make(tmp_path)
    (tmp_path / "w.bin").rename(tmp_path / "real.bin")
    (tmp_path / "w.bin").symlink_to("real.bin")
    os.link(tmp_path / "real.bin", tmp_path / "other.bin")
    np.testing.assert_array_equal(load(path).graph.initializers["w"].const_value.numpy(), array(0))


def test_a_model_in_the_working_folder_loads_by_its_bare_name(tmp_path, monkeypatch):
    make(tmp_path)
    monkeypatch.chdir(tmp_path)
    model = load("m.onnx")
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), array(0))
    save(model, "n.onnx")
    assert (tmp_path / "n.onnx.data").exists()


def test_an_empty_tensor_and_a_missing_length_are_fine(tmp_path):
    (tmp_path / "w.bin").write_bytes(array(0).tobytes())
    graph = helper.make_graph(
        [helper.make_node("Concat", ["a", "b"], ["y"], axis=0)],
        "g",
        [],
        [info("y")],
        [reference("a", "w.bin"), reference("b", "w.bin", 0, 0, shape=(0,))],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    model = load(tmp_path / "m.onnx")
    np.testing.assert_array_equal(model.graph.initializers["a"].const_value.numpy(), array(0))
    assert model.graph.initializers["b"].const_value.numpy().shape == (0,)
    save(model, tmp_path / "n.onnx")
    assert load(tmp_path / "n.onnx").graph.initializers["b"].const_value.numpy().shape == (0,)


def test_a_full_disk_while_weights_are_written_leaves_the_old_files(tmp_path, monkeypatch):
    path = make(tmp_path, location="m.onnx.data")
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    model = load(path)

    def no_space(*args, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "copy_file_range", no_space)
    with pytest.raises(GraphoptError, match="full"):
        save(model, path)
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


@pytest.mark.parametrize("fails_at", [0, 1])
def test_ctrl_c_while_files_are_put_into_place_leaves_the_old_pair(tmp_path, monkeypatch, fails_at):
    path = make(tmp_path, location="m.onnx.data")
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    model = load(path)
    model.graph.doc_string = "another"
    real, calls = os.replace, []

    def interrupt(source, target):
        calls.append(target)
        if len(calls) == fails_at + 1:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(atomic.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(model, path)
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


@pytest.mark.parametrize("code", [38, 18])
def test_without_copying_in_the_kernel_the_bytes_are_the_same(tmp_path, monkeypatch, code):
    model = load(make(tmp_path))
    save(model, tmp_path / "kernel.onnx")

    def unsupported(*args, **more):
        raise OSError(code, "not here")

    monkeypatch.setattr(os, "copy_file_range", unsupported)
    save(model, tmp_path / "plain.onnx")
    assert (tmp_path / "plain.onnx.data").read_bytes() == (tmp_path / "kernel.onnx.data").read_bytes()


def test_three_gigabytes_load_at_once_and_are_saved_with_little_memory(tmp_path):
    script = """
import sys
from graphopt.models.builders.external import external
from graphopt.ir.check import check
from graphopt.ir.files import load, save
external(sys.argv[1], 3.0)
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024
before = peak()
model = load(sys.argv[1])
check(model)
save(model, sys.argv[2])
print(peak() - before)
"""
    if os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize < 8e9:
        pytest.skip("needs 8 GB of free disk")
    source, target = tmp_path / "m.onnx", tmp_path / "n.onnx"
    done = subprocess.run(
        [sys.executable, "-c", script, str(source), str(target)], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 100
    ours, theirs = load(target).graph.initializers, load(source).graph.initializers
    for name in ("weight_0", "weight_7"):
        np.testing.assert_array_equal(ours[name].const_value.numpy()[:5], theirs[name].const_value.numpy()[:5])
    for file in tmp_path.iterdir():
        file.unlink()


def test_loading_does_not_touch_the_weights(tmp_path):
    path = make(tmp_path)
    old = time.time() - 10_000
    os.utime(tmp_path / "w.bin", (old, old))
    check(load(path))
    assert (tmp_path / "w.bin").stat().st_atime == pytest.approx(old)
