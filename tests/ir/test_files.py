"""What is loaded is what is saved, and a file is written whole or not at all."""

from __future__ import annotations

import errno
import io
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.errors import GraphoptError
from graphopt.ir import atomic, serial
from graphopt.ir.check import check
from graphopt.ir.files import load, save
from graphopt.ir.serial import from_proto, to_proto


def info(name, kind=TensorProto.FLOAT, shape=(2,)):
    return helper.make_tensor_value_info(name, kind, shape)


def weights(name, values=(1.0, 2.0)):
    return numpy_helper.from_array(np.array(values, np.float32), name)


def graph_of(nodes, inputs=None, outputs=None, initializers=()):
    return helper.make_graph(nodes, "g", inputs or [info("x")], outputs or [info("y")], list(initializers))


def model_of(graph, ir_version=8, opsets=(("", 17),), **more):
    imports = [helper.make_opsetid(*one) for one in opsets]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version, **more)


def written(proto, path):
    path.write_bytes(proto.SerializeToString())
    return path


def again(proto, tmp_path):
    """The model after a load and a save."""
    save(load(written(proto, tmp_path / "in.onnx")), tmp_path / "out.onnx")
    return onnx.load(tmp_path / "out.onnx")


def run(path_or_proto, feeds):
    import onnxruntime as ort

    source = path_or_proto.SerializeToString() if isinstance(path_or_proto, onnx.ModelProto) else str(path_or_proto)
    return ort.InferenceSession(source, providers=["CPUExecutionProvider"]).run(None, feeds)


X = {"x": np.array([3.0, -4.0], np.float32)}


def differences(ours, theirs, path=""):
    """Where two messages differ, but for ``value_info``, a set of hints to which onnx_ir adds the initialisers."""
    found = []
    for field in ours.DESCRIPTOR.fields:
        left, right, place = getattr(ours, field.name), getattr(theirs, field.name), f"{path}.{field.name}"
        if field.name == "value_info":
            continue
        if field.is_repeated:
            if field.name == "metadata_props":
                left, right = (sorted(items, key=lambda item: item.key) for items in (left, right))
            if len(left) != len(right):
                found.append(f"{place}: {len(left)} and {len(right)}")
            elif field.message_type:
                for index, pair in enumerate(zip(left, right, strict=True)):
                    found += differences(*pair, f"{place}[{index}]")
            elif repr(list(left)) != repr(list(right)):
                found.append(place)
        elif field.message_type:
            if ours.HasField(field.name):
                found += differences(left, right, place)
        elif repr(left) != repr(right):
            found.append(f"{place}: {left!r:.40} and {right!r:.40}")
    return found


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_nothing_of_the_onnx_node_tests_is_lost():
    from onnx.backend.test.case.node import collect_testcases

    compared = 0
    for case in collect_testcases(None):
        if case.model is None:
            continue
        copy = onnx.ModelProto()
        copy.CopyFrom(case.model)
        model = from_proto(copy)
        check(model)
        result, _ = serial.serialize(model, "")
        described = {one.name for one in result.graph.value_info}
        for one in case.model.graph.value_info:
            assert one.name in described or "/" in one.name
        assert differences(case.model, result) == [], case.name
        compared += 1
    assert compared > 1800


def everything():
    """A model with one of each thing that is easily lost."""
    sub = helper.make_graph(
        [helper.make_node("Add", ["x", "inner"], ["t"])], "then", [], [info("t")], [weights("inner")]
    )
    other = helper.make_graph([helper.make_node("Frob", ["x"], ["e"], domain="mine", level=3)], "else", [], [info("e")])
    function = helper.make_function(
        "local",
        "F",
        ["a"],
        ["b"],
        [helper.make_node("Elu", ["a"], ["b"])],
        [helper.make_opsetid("", 17)],
        attributes=["alpha"],
        attribute_protos=[helper.make_attribute("beta", 2.0)],
    )
    function.doc_string = "a function"
    function.metadata_props.add(key="fk", value="fv")
    reference = function.node[0].attribute.add(name="alpha", ref_attr_name="alpha", type=onnx.AttributeProto.FLOAT)
    assert reference.ref_attr_name
    graph = graph_of(
        [
            helper.make_node("If", ["c"], ["i"], name="if", then_branch=sub, else_branch=other),
            helper.make_node("F", ["i"], ["f"], domain="local", alpha=0.5, doc_string="a node"),
            helper.make_node("Add", ["f", "w"], ["y"]),
            helper.make_node(
                "Odd", ["", "y"], ["", "z"], domain="mine", raw=b"\xff\xfe", strings=["a", "b"], none=[1, 2]
            ),
        ],
        inputs=[info("x"), info("c", TensorProto.BOOL, ())],
        outputs=[info("y"), info("z", shape=("batch", None, 3))],
        initializers=[weights("w")],
    )
    graph.doc_string = "a graph"
    graph.metadata_props.add(key="gk", value="gv")
    graph.node[2].metadata_props.add(key="nk", value="nv")
    graph.initializer[0].doc_string = "a weight"
    graph.initializer[0].metadata_props.add(key="a", value="1")
    graph.initializer[0].metadata_props.add(key="b", value="2")
    graph.input[0].doc_string = "an input"
    graph.input[0].type.denotation = "IMAGE"
    graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    graph.value_info.append(info("f"))
    for name in ("x", "f", "y", "w"):
        note = graph.quantization_annotation.add(tensor_name=name)
        note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value=f"{name}_scale")
    graph.quantization_annotation.add(tensor_name="nobody").quant_parameter_tensor_names.add(key="K", value="V")
    proto = model_of(
        graph,
        opsets=[("", 17), ("local", 1), ("mine", 7), ("unused", 3)],
        ir_version=10,
        functions=[function],
        producer_name="p",
        producer_version="1.2",
        domain="org.example",
        model_version=42,
        doc_string="a model",
    )
    helper.set_model_props(proto, {"k": "v", "a": "b"})
    training = proto.training_info.add()
    training.algorithm.name = "step"
    training.algorithm.node.append(helper.make_node("Neg", ["w"], ["w_new"]))
    training.update_binding.add(key="w", value="w_new")
    return proto


def test_metadata_functions_subgraphs_annotations_training_and_unknown_domains_survive(tmp_path):
    proto = everything()
    result = again(proto, tmp_path)
    assert proto.graph.value_info[0] in result.graph.value_info
    for one in (proto, result):  # the order of annotations means nothing
        one.graph.quantization_annotation.sort(key=lambda note: note.tensor_name)
    assert differences(proto, result) == []
    proto.graph.node[1].doc_string = "another"
    assert len(differences(proto, result)) == 1


def test_a_second_save_changes_nothing(tmp_path):
    first = again(everything(), tmp_path)
    assert again(first, tmp_path).SerializeToString() == first.SerializeToString()


def test_the_bytes_do_not_depend_on_the_process_or_the_time(tmp_path):
    path = written(everything(), tmp_path / "in.onnx")
    script = "import sys; from graphopt.ir.files import load, save; save(load(sys.argv[1]), sys.argv[2])"
    contents = set()
    for seed in ("0", "1"):
        out = tmp_path / f"{seed}.onnx"
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", script, str(path), str(out)], check=True, env=environment)
        contents.add(out.read_bytes())
    assert len(contents) == 1


def sparse(name, dims=(2,)):
    values = numpy_helper.from_array(np.array([7.0], np.float32), name)
    return helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([1]), f"{name}_i"), list(dims))


def test_a_sparse_initializer_reads_dense_and_is_saved_sparse(tmp_path):
    proto = model_of(graph_of([helper.make_node("Add", ["x", "s"], ["y"])]))
    proto.graph.sparse_initializer.append(sparse("s"))
    model = load(written(proto, tmp_path / "in.onnx"))
    assert model.graph.initializers["s"].const_value.numpy().tolist() == [0.0, 7.0]
    check(model)
    save(model.clone(), tmp_path / "out.onnx")
    result = onnx.load(tmp_path / "out.onnx")
    assert not result.graph.initializer
    assert result.graph.sparse_initializer[0] == proto.graph.sparse_initializer[0]
    np.testing.assert_array_equal(run(tmp_path / "in.onnx", X)[0], run(tmp_path / "out.onnx", X)[0])


def test_a_sparse_constant_becomes_a_sparse_initializer(tmp_path):
    constant = helper.make_node("Constant", [], ["s"])
    constant.attribute.add(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR).sparse_tensor.CopyFrom(
        sparse("q")
    )
    proto = model_of(graph_of([constant, helper.make_node("Add", ["x", "s"], ["y"])]))
    result = again(proto, tmp_path)
    assert result.graph.sparse_initializer[0].values.name == "s"
    np.testing.assert_array_equal(run(tmp_path / "in.onnx", X)[0], run(tmp_path / "out.onnx", X)[0])


def test_a_sparse_tensor_by_coordinates_reads_dense():
    values = numpy_helper.from_array(np.array([7.0, 8.0], np.float32), "s")
    proto = model_of(graph_of([helper.make_node("Add", ["x", "s"], ["y"])]))
    where = numpy_helper.from_array(np.array([[0, 1], [1, 0]]), "i")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, where, [2, 2]))
    tensor = from_proto(proto).graph.initializers["s"].const_value
    assert tensor.numpy().tolist() == [[0, 7], [8, 0]]


def test_a_sparse_attribute_that_cannot_be_carried_is_refused():
    other = helper.make_node("Frob", ["x"], ["y"], domain="mine", name="f")
    other.attribute.add(name="s", type=onnx.AttributeProto.SPARSE_TENSOR).sparse_tensor.CopyFrom(sparse("q"))
    with pytest.raises(GraphoptError, match="sparse attribute 's' is not supported") as caught:
        from_proto(model_of(graph_of([other]), opsets=[("", 17), ("mine", 1)]))
    assert caught.value.where == "mine::Frob 'f'"


def test_map_types_of_classifiers_survive(tmp_path):
    value = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    kind = helper.make_sequence_type_proto(value)
    output = onnx.ValueInfoProto(name="y", type=kind)
    inner = onnx.ValueInfoProto(name="m", type=kind)
    zipmap = helper.make_node("ZipMap", ["x"], ["m"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    graph = graph_of([zipmap, helper.make_node("Identity", ["m"], ["y"])], [info("x", shape=(1, 2))], [output])
    graph.value_info.append(inner)
    proto = model_of(graph, opsets=[("", 17), ("ai.onnx.ml", 3)])
    assert differences(proto, again(proto, tmp_path)) == []
    assert load(tmp_path / "out.onnx").clone().graph.meta  # and through a clone


def test_training_information_about_a_weight_that_is_gone_is_not_saved(tmp_path):
    model = from_proto(everything())
    model.graph[2].replace_input_with(1, model.graph.inputs[0])
    del model.graph.initializers["w"]
    with pytest.raises(GraphoptError, match="training information updates 'w'"):
        save(model, tmp_path / "out.onnx")
    assert os.listdir(tmp_path) == []


def test_device_configurations_that_the_ir_version_cannot_hold_are_refused():
    proto = model_of(graph_of([helper.make_node("Abs", ["x"], ["y"])]))
    proto.graph.node[0].device_configurations.add(configuration_id="c")
    with pytest.raises(GraphoptError, match="device configurations need IR version 11"):
        from_proto(proto)


def old_model():
    graph = graph_of(
        [helper.make_node("Mul", ["x", "a"], ["t"]), helper.make_node("Add", ["t", "b"], ["y"])],
        [info("a"), info("x"), info("b")],
        initializers=[weights("a"), weights("b")],
    )
    return model_of(graph, ir_version=3, opsets=[("", 8)])


def test_up_to_ir_version_3_initializers_are_constants_and_come_back_as_inputs_at_their_place(tmp_path):
    path = written(old_model(), tmp_path / "in.onnx")
    model = load(path)
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert not model.graph.initializers["a"].is_graph_input()
    save(model, tmp_path / "out.onnx")
    assert [one.name for one in onnx.load(tmp_path / "out.onnx").graph.input] == ["a", "x", "b"]
    onnx.checker.check_model(str(tmp_path / "out.onnx"))
    assert differences(old_model(), onnx.load(tmp_path / "out.onnx")) == []


def test_at_ir_version_3_new_initializers_become_inputs_and_entries_of_old_ones_go(tmp_path):
    model = load(written(old_model(), tmp_path / "in.onnx")).clone()
    new = ir.Value(
        name="new",
        type=ir.TensorType(ir.DataType.FLOAT),
        shape=ir.Shape([2]),
        const_value=ir.tensor(np.array([5, 6], np.float32)),
    )
    model.graph.initializers.add(new)
    model.graph[0].replace_input_with(1, new)
    del model.graph.initializers["a"]
    save(model, tmp_path / "out.onnx")
    assert [one.name for one in onnx.load(tmp_path / "out.onnx").graph.input] == ["x", "b", "new"]
    onnx.checker.check_model(str(tmp_path / "out.onnx"))
    np.testing.assert_array_equal(run(tmp_path / "out.onnx", X)[0], np.array([16, -22], np.float32))


def test_at_ir_version_3_initializers_of_subgraphs_become_constants(tmp_path):
    sub = helper.make_graph([helper.make_node("Add", ["x", "k"], ["t"])], "then", [], [info("t")], [weights("k")])
    other = helper.make_graph([helper.make_node("Neg", ["x"], ["e"])], "else", [], [info("e")])
    node = helper.make_node("If", ["c"], ["y"], then_branch=sub, else_branch=other)
    graph = graph_of([node], [info("x"), info("c", TensorProto.BOOL, ())])
    again(model_of(graph, ir_version=3, opsets=[("", 8)]), tmp_path)
    onnx.checker.check_model(str(tmp_path / "out.onnx"))
    assert run(tmp_path / "out.onnx", {**X, "c": np.array(True)})[0].tolist() == [4.0, -2.0]


def test_from_ir_version_4_on_an_initializer_that_is_an_input_stays_a_default(tmp_path):
    proto = old_model()
    proto.ir_version = 4
    model = load(written(proto, tmp_path / "in.onnx"))
    assert [value.name for value in model.graph.inputs] == ["a", "x", "b"]
    assert differences(proto, again(proto, tmp_path)) == []


def test_ai_onnx_is_another_name_of_the_default_domain(tmp_path):
    proto = model_of(graph_of([helper.make_node("Abs", ["x"], ["y"], domain="ai.onnx")]), opsets=[("ai.onnx", 17)])
    model = load(written(proto, tmp_path / "in.onnx"))
    assert dict(model.opset_imports) == {"": 17}
    check(model, full=True)


@pytest.mark.parametrize("suffix", [".textproto", ".pbtxt"])
def test_protobuf_text_is_read_and_written(tmp_path, suffix):
    model = from_proto(everything())
    save(model, tmp_path / f"m.onnx{suffix}")
    assert (tmp_path / f"m.onnx{suffix}").read_text().startswith("ir_version: 10")
    back = to_proto(load(tmp_path / f"m.onnx{suffix}"))
    assert back.SerializeToString(deterministic=True) == to_proto(model).SerializeToString(deterministic=True)


def test_the_syntax_of_onnx_is_read_but_not_written(tmp_path):
    path = tmp_path / "m.onnxtxt"
    path.write_text('<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { y = Abs(x) }')
    model = load(path)
    assert [node.op_type for node in model.graph] == ["Abs"]
    with pytest.raises(GraphoptError, match="cannot hold every model"):
        save(model, path)
    assert "Abs(x)" in path.read_text()


def test_a_model_can_be_passed_on_as_one_message(tmp_path):
    model = from_proto(everything())
    assert to_proto(model).SerializeToString(deterministic=True) == to_proto(
        from_proto(to_proto(model))
    ).SerializeToString(deterministic=True)


# Whole or not at all


def small():
    return from_proto(model_of(graph_of([helper.make_node("Add", ["x", "w"], ["y"])], initializers=[weights("w")])))


def test_a_save_onto_the_source_works(tmp_path):
    path = written(old_model(), tmp_path / "m.onnx")
    model = load(path)
    save(model, path)
    assert [node.op_type for node in load(path).graph] == ["Mul", "Add"]
    assert os.listdir(tmp_path) == ["m.onnx"]


def test_the_rights_of_a_replaced_file_stay_and_new_files_follow_the_umask(tmp_path):
    path = tmp_path / "m.onnx"
    save(small(), path)
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    path.chmod(0o640)
    save(small(), path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_symbolic_link_at_the_output_is_replaced_and_its_target_untouched(tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    (tmp_path / "m.onnx").symlink_to(target)
    save(small(), tmp_path / "m.onnx")
    assert target.read_bytes() == b"precious"
    assert not (tmp_path / "m.onnx").is_symlink()


@pytest.mark.parametrize("output", [".", "missing/m.onnx", "/dev/null", "file/m.onnx"])
def test_an_output_that_cannot_be_a_file_is_refused(tmp_path, output):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(GraphoptError, match=r"is a folder|does not exist|device or pipe"):
        save(small(), tmp_path / output)
    assert Path("/dev/null").is_char_device()
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_without_write_permission_gives_a_clear_error(tmp_path):
    model = small()
    tmp_path.chmod(0o555)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)
        with pytest.raises(GraphoptError, match="cannot be written to"):
            save(model, tmp_path / "m.onnx")
    finally:
        os.seteuid(user)
        tmp_path.chmod(0o755)
    assert os.listdir(tmp_path) == []


class Full(io.FileIO):
    """A file on a disk that is full after some bytes."""

    def write(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")
    monkeypatch.setattr(atomic.os, "fdopen", lambda handle, mode: Full(handle, "w"))
    with pytest.raises(GraphoptError, match="full") as caught:
        save(small(), path)
    assert str(path) in caught.value.where
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["m.onnx"]


def test_a_disk_that_turns_out_to_be_full_when_flushed_leaves_the_old_file(tmp_path, monkeypatch):
    def no_space(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", no_space)
    with pytest.raises(GraphoptError, match="full"):
        save(small(), tmp_path / "m.onnx")
    assert os.listdir(tmp_path) == []


def test_a_file_size_limit_of_the_system_gives_a_clear_error_and_leaves_nothing(tmp_path):
    script = """
import sys, resource, numpy as np, onnx_ir as ir
from graphopt.errors import GraphoptError
from graphopt.ir.files import save
x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([250000]))
w = ir.Value(name="w", type=x.type, shape=x.shape, const_value=ir.tensor(np.ones(250000, np.float32)))
node = ir.node("Add", [x, w])
node.outputs[0].name = "y"
model = ir.Model(ir.Graph([x], node.outputs, nodes=[node], initializers=[w], opset_imports={"": 17}), ir_version=8)
if sys.argv[2] == "external":
    model.graph.meta["graphopt.external"] = True
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save(model, sys.argv[1])
except GraphoptError as error:
    print(error.what)
"""
    assert resource.RLIMIT_FSIZE is not None
    for kind in ("inside", "external"):
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "m.onnx"), kind], capture_output=True, text=True, check=False
        )
        assert done.stdout.strip() == "the disk or the file-size limit is full, nothing was written", done.stderr
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_ctrl_c_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch, moment):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic.os, moment, interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(small(), path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["m.onnx"]


def write_pair(folder):
    with atomic.Staging() as staging:
        staging.write(folder / "a", b"new a")
        staging.write(folder / "b", b"new b")
        staging.commit()


def test_of_two_files_the_first_is_put_back_when_the_second_cannot_be_placed(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"old a")
    real = os.replace

    def fail(source, target):
        if Path(target).name == "b":
            raise OSError(errno.EIO, "input/output error")
        real(source, target)

    monkeypatch.setattr(atomic.os, "replace", fail)
    for existing in (True, False):
        if not existing:
            (tmp_path / "a").unlink()
        with pytest.raises(GraphoptError, match="input/output error"):
            write_pair(tmp_path)
        assert os.listdir(tmp_path) == (["a"] if existing else [])
        assert not existing or (tmp_path / "a").read_bytes() == b"old a"


def test_of_two_files_both_are_there_after_a_commit(tmp_path):
    (tmp_path / "a").write_bytes(b"old a")
    write_pair(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == {"a": b"new a", "b": b"new b"}


def test_a_block_left_without_a_commit_writes_nothing(tmp_path):
    with atomic.Staging() as staging:
        staging.write(tmp_path / "a", b"new")
    assert os.listdir(tmp_path) == []


def test_a_model_that_cannot_be_written_says_why_and_is_the_same_afterwards(tmp_path):
    model = small()
    model.graph[0].attributes.add(ir.Attr("odd", ir.AttributeType.UNDEFINED, None))
    before = model.graph.initializers["w"].const_value
    with pytest.raises(GraphoptError, match="cannot be written as ONNX: Unsupported attribute type"):
        save(model, tmp_path / "m.onnx")
    assert model.graph.initializers["w"].const_value is before
    assert os.listdir(tmp_path) == []


def test_loading_and_saving_cost_work_in_proportion_to_the_nodes():
    def chain(length):
        nodes = [helper.make_node("Relu", [f"t{i}" if i else "x"], [f"t{i + 1}"]) for i in range(length)]
        return model_of(graph_of([*nodes, helper.make_node("Abs", [f"t{length}"], ["y"])]))

    def calls(proto):
        count = 0

        def note(_frame, event, _argument):
            nonlocal count
            count += event == "call"

        sys.setprofile(note)
        try:
            serial.serialize(from_proto(proto), "")
        finally:
            sys.setprofile(None)
        return count

    assert calls(chain(10_000)) < 12 * calls(chain(1_000))
