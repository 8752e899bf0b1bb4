"""Files that are damaged, foreign or hostile: each a clear error, never a crash, nothing read that should not be."""

from __future__ import annotations

import io
import os
import pickle
import zipfile

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from graphopt.errors import GraphoptError
from graphopt.ir.check import check
from graphopt.ir.files import load
from graphopt.ir.serial import from_proto


def info(name, shape=(4,)):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def valid(**changes):
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [info("x")],
        [info("y")],
        [numpy_helper.from_array(np.ones(4, np.float32), "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for name, value in changes.items():
        setattr(proto, name, value)
    return proto


def refused(path, what):
    """Both ways in refuse the file, name it, and say what to do."""
    for way in (load, check):
        with pytest.raises(GraphoptError) as caught:
            way(path)
        assert what in caught.value.what
        assert os.fspath(path) in caught.value.where
        assert caught.value.exit_code == 1


def archive():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("archive/data.pkl", b"")
    return content.getvalue()


FOREIGN = {
    "a zip archive": (archive(), "a zip archive"),
    "a pickle": (pickle.dumps({"weights": [1, 2]}, protocol=2), "a Python pickle"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
    "GGUF": (b"GGUF" + bytes(100), "a GGUF file"),
    "TensorFlow Lite": (b"\x1c\0\0\0TFL3" + bytes(100), "a TensorFlow Lite model"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a Git LFS pointer"),
    "a web page": (b"<!DOCTYPE html><html>404</html>", "a web page"),
    "JSON": (b'{"ir_version": 8}', "JSON text"),
    "gzip": (b"\x1f\x8b\x08" + bytes(50), "a gzip archive"),
    "random bytes": (np.random.default_rng(1).bytes(5000), "not an ONNX model"),
    "zeros": (bytes(64), "not an ONNX model"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(64), "not an ONNX model"),
    "text": (b"hello world, this is no model", "not an ONNX model"),
    "a tensor": (numpy_helper.from_array(np.ones(9, np.float32)).SerializeToString(), "has no graph"),
    "nothing": (b"", "is empty"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_onnx_model_is_called_by_its_name(name, tmp_path):
    content, what = FOREIGN[name]
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    refused(path, what)


def test_a_missing_file_a_folder_and_a_pipe_are_refused_without_waiting(tmp_path):
    refused(tmp_path / "missing.onnx", "does not exist")
    refused(tmp_path, "a folder")
    (tmp_path / "file").write_bytes(b"x")
    refused(tmp_path / "file" / "m.onnx", "does not exist")
    os.mkfifo(tmp_path / "pipe.onnx")
    refused(tmp_path / "pipe.onnx", "not a regular file")
    with pytest.raises(GraphoptError, match="cannot be read"):
        load("a\0b.onnx")


def test_a_model_cut_anywhere_is_refused(tmp_path):
    content = valid(producer_name="p" * 50).SerializeToString()
    path = tmp_path / "m.onnx"
    truncated = 0
    for length in range(1, len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(GraphoptError) as caught:
            load(path)
        truncated += "truncated" in caught.value.what + caught.value.hint
    assert truncated > 0.9 * len(content)


VERSIONS = {
    "no IR version": (valid(ir_version=0), "IR version 0 is not valid"),
    "a negative IR version": (valid(ir_version=-1), "IR version -1 is not valid"),
    "an IR version of the future": (valid(ir_version=99), "IR version 99 is newer"),
    "no graph": (onnx.ModelProto(ir_version=8), "has no graph"),
    "no opset import": (valid(), "has no opset import"),
    "an opset of the future": (valid(), "opset 999 of 'ai.onnx' is unknown"),
    "opset 0": (valid(), "opset 0 of 'ai.onnx' is unknown"),
    "an ML opset of the future": (valid(), "opset 99 of 'ai.onnx.ml' is unknown"),
    "two versions": (valid(), "two versions of the operator set 'ai.onnx'"),
}
VERSIONS["no opset import"][0].ClearField("opset_import")
VERSIONS["an opset of the future"][0].opset_import[0].version = 999
VERSIONS["opset 0"][0].opset_import[0].version = 0
VERSIONS["an ML opset of the future"][0].opset_import.add(domain="ai.onnx.ml", version=99)
VERSIONS["two versions"][0].opset_import.add(domain="ai.onnx", version=16)


@pytest.mark.parametrize("name", VERSIONS)
def test_versions_that_are_wrong_or_unknown_are_refused(name, tmp_path):
    proto, what = VERSIONS[name]
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    refused(path, what)


def test_unknown_domains_may_have_any_version(tmp_path):
    proto = valid()
    proto.opset_import.add(domain="com.example", version=12345)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    assert load(tmp_path / "m.onnx").opset_imports["com.example"] == 12345


# Tensors inside the file


def weight(**fields):
    proto = valid()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    for name, value in fields.items():
        if isinstance(value, list):
            tensor.ClearField(name)
            getattr(tensor, name).extend(value)
        else:
            setattr(tensor, name, value)
    return proto


TENSORS = {
    "no data": (weight(), "has no data"),
    "no data and a shape that would fill the memory": (weight(dims=[1 << 40, 1 << 20]), "has no data"),
    "too few bytes": (weight(raw_data=b"\0" * 12), "needs 16 bytes and has 12"),
    "too many bytes": (weight(raw_data=b"\0" * 20), "needs 16 bytes and has 20"),
    "too few elements": (weight(float_data=[1.0, 2.0]), "needs 4 elements and has 2"),
    "elements in the wrong field": (weight(int32_data=[1, 2, 3, 4]), "has no data"),
    "a negative dimension": (weight(dims=[-4], raw_data=b"\0" * 16), "negative dimension"),
    "an unknown type": (weight(data_type=99, raw_data=b"\0" * 16), "element type 99 is unknown"),
    "no type": (weight(data_type=0, raw_data=b"\0" * 16), "element type 0 is unknown"),
    "too few strings": (weight(data_type=8, string_data=[b"a"]), "needs 4 elements and has 1"),
    "too few packed elements": (weight(data_type=22, dims=[5], raw_data=b"\0" * 2), "needs 3 bytes and has 2"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_weight_that_does_not_fit_its_type_and_shape_is_refused(name, tmp_path):
    proto, what = TENSORS[name]
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    refused(path, what)


# References to external data


def reference(location="w.bin", offset="0", length="16", dims=(4,), kind=TensorProto.FLOAT, name="w"):
    tensor = TensorProto(name=name, data_type=kind, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    return tensor


def in_graph(tensor):
    proto = valid()
    proto.graph.initializer[0].CopyFrom(tensor)
    return proto


def in_constant(tensor):
    proto = valid()
    proto.graph.ClearField("initializer")
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
    return proto


def in_branch(tensor):
    then = helper.make_graph([helper.make_node("Add", ["x", "w"], ["t"])], "then", [], [info("t")], [tensor])
    other = helper.make_graph([helper.make_node("Neg", ["x"], ["e"])], "else", [], [info("e")])
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)],
        "g",
        [info("x"), helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [info("y")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def in_function(tensor):
    nodes = [helper.make_node("Constant", [], ["w"], value=tensor), helper.make_node("Add", ["a", "w"], ["b"])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    function = helper.make_function("local", "F", ["a"], ["b"], nodes, opsets[:1])
    graph = helper.make_graph([helper.make_node("F", ["x"], ["y"], domain="local")], "g", [info("x")], [info("y")])
    return helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=8)


REFERENCES = {
    "an absolute path": (reference("/etc/passwd"), "absolute path"),
    "a Windows drive": (reference("C:\\secret"), "absolute path"),
    "a Windows share": (reference("\\\\host\\share"), "absolute path"),
    "the parent folder": (reference("../secret"), "outside the model's folder"),
    "the parent folder on the way": (reference("a/../../secret"), "outside the model's folder"),
    "the parent folder written for Windows": (reference("..\\secret"), "outside the model's folder"),
    "a link out of the folder": (reference("escape"), "link that leads out"),
    "a file behind a linked folder": (reference("outdir/secret"), "link that leads out"),
    "a broken link": (reference("broken"), "is missing"),
    "a folder": (reference("deep"), "not a regular file"),
    "the folder of the model": (reference("."), "not a regular file"),
    "a pipe": (reference("pipe"), "not a regular file"),
    "a missing file": (reference("ghost.bin"), "'ghost.bin' is missing"),
    "no location": (reference(None), "no usable location"),
    "an empty location": (reference(""), "no usable location"),
    "a location with a zero byte": (reference("w.bin\0.txt"), "no usable location"),
    "a negative offset": (reference(offset="-4"), "offset '-4'"),
    "a negative length": (reference(length="-16"), "length '-16'"),
    "an offset that is no number": (reference(offset="0x10"), "offset '0x10'"),
    "an offset of a thousand digits": (reference(offset="9" * 1000), "is not a positive number"),
    "an offset in other digits": (reference(offset="\u0661"), "is not a positive number"),
    "a length that does not fit the shape": (reference(length="12"), "12 bytes, but type and shape"),
    "a range beyond the end": (reference(offset="56"), "has 64 bytes, but bytes 56 to 72"),
    "an offset beyond the end": (reference(offset="99999999999"), "has 64 bytes"),
    "a missing length beyond the end": (reference(length=None, dims=(1 << 40,)), "has 64 bytes"),
    "a shape that overflows": (reference(length=None, dims=(1 << 62, 1 << 62)), "has 64 bytes"),
    "a negative dimension": (reference(dims=(-4,)), "negative dimension"),
    "an unknown type": (reference(kind=99), "element type 99"),
    "strings": (reference(kind=TensorProto.STRING), "external data of strings"),
}


@pytest.fixture
def folder(tmp_path):
    """A model's folder with all kinds of bait around it."""
    inside = tmp_path / "model"
    (inside / "deep").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "secret").write_bytes(bytes(64))
    (tmp_path / "outside" / "secret").write_bytes(bytes(64))
    (inside / "w.bin").write_bytes(bytes(64))
    (inside / "escape").symlink_to(tmp_path / "secret")
    (inside / "outdir").symlink_to(tmp_path / "outside")
    (inside / "broken").symlink_to(inside / "nowhere")
    os.mkfifo(inside / "pipe")
    return inside


@pytest.mark.parametrize("place", [in_graph, in_constant, in_branch, in_function])
@pytest.mark.parametrize("name", REFERENCES)
def test_a_reference_to_data_that_is_not_there_or_not_allowed_is_refused(name, place, folder):
    tensor, what = REFERENCES[name]
    path = folder / "m.onnx"
    path.write_bytes(place(tensor).SerializeToString())
    refused(path, what)


@pytest.mark.parametrize("place", [in_graph, in_constant, in_branch, in_function])
def test_the_same_models_with_a_good_reference_load(place, folder):
    path = folder / "m.onnx"
    path.write_bytes(place(reference()).SerializeToString())
    check(load(path))
    check(path)


def pair(first, second):
    proto = in_graph(reference(offset=str(first[0]), length=str(first[1]), dims=(first[1] // 4,)))
    proto.graph.initializer.append(
        reference(offset=str(second[0]), length=str(second[1]), dims=(second[1] // 4,), name="v")
    )
    return proto


@pytest.mark.parametrize("ranges", [((0, 16), (8, 16)), ((8, 16), (0, 16)), ((0, 32), (8, 8)), ((0, 16), (0, 8))])
def test_ranges_that_overlap_partly_are_refused(ranges, folder):
    path = folder / "m.onnx"
    path.write_bytes(pair(*ranges).SerializeToString())
    refused(path, "overlap")


@pytest.mark.parametrize("ranges", [((0, 16), (0, 16)), ((0, 16), (16, 16)), ((32, 16), (0, 16))])
def test_ranges_that_are_the_same_or_apart_are_fine(ranges, folder):
    (folder / "m.onnx").write_bytes(pair(*ranges).SerializeToString())
    load(folder / "m.onnx")


def test_overlaps_are_found_under_two_names_of_one_file(folder):
    (folder / "also.bin").symlink_to("w.bin")
    proto = pair((0, 16), (8, 16))
    proto.graph.initializer[1].external_data[0].value = "also.bin"
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    refused(folder / "m.onnx", "overlap")


def test_external_data_of_sparse_tensors_and_without_a_file_is_refused(folder):
    proto = valid()
    part = helper.make_sparse_tensor(reference(name="s"), numpy_helper.from_array(np.arange(4), "i"), [9])
    proto.graph.sparse_initializer.append(part)
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    refused(folder / "m.onnx", "external data of sparse tensors")
    with pytest.raises(GraphoptError, match="without the model's file"):
        from_proto(in_graph(reference()))


SPARSE = {
    "an index beyond the shape": ([9], [1.0], [4], "indices outside"),
    "a negative index": ([-1], [1.0], [4], "indices outside"),
    "fewer indices than values": ([0], [1.0, 2.0], [4], "2 values and indices of shape"),
    "coordinates of another rank": ([[0, 0, 0]], [1.0], [2, 2], "1 values and indices of shape"),
    "a coordinate beyond the shape": ([[0, 2]], [1.0], [2, 2], "indices outside"),
}


@pytest.mark.parametrize("name", SPARSE)
def test_sparse_tensors_that_do_not_fit_their_shape_are_refused(name, tmp_path):
    indices, values, dims, what = SPARSE[name]
    proto = valid()
    proto.graph.sparse_initializer.append(
        helper.make_sparse_tensor(
            numpy_helper.from_array(np.array(values, np.float32), "s"),
            numpy_helper.from_array(np.array(indices, np.int64), "i"),
            dims,
        )
    )
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(GraphoptError, match=what) as caught:
        load(tmp_path / "m.onnx")
    assert "sparse initializer 's'" in caught.value.where


# Hostile structure


def nested(depth):
    """Wire bytes of graphs within graphs, which no writer of Python could build."""

    def field(number, content):
        length, header = len(content), bytes([number << 3 | 2])
        while length > 127:
            header, length = header + bytes([length & 127 | 128]), length >> 7
        return header + bytes([length]) + content

    content = b""
    for _ in range(depth):
        content = field(1, field(5, field(6, content)))
    return b"\x08\x08" + field(7, content) + field(8, b"\x10\x11")


@pytest.mark.parametrize(("depth", "what"), [(1000, "nested too deeply"), (10_000, "nested too deeply")])
def test_graphs_nested_very_deeply_are_refused(depth, what, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(nested(depth))
    refused(path, what)


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        ("textproto", "graph { " * 5000),
        ("textproto", "graph { node { attribute { g { " * 5000),
        ("textproto", "no such field: 1"),
        ("textproto", "\xff\xfe"),
        ("onnxtxt", "<ir_version: 8>" + "{" * 100_000),
        ("onnxtxt", "g (float x) => (float y) { y = If(x) <a = " * 5000),
        ("onnxtxt", "<"),
        ("onnxtxt", ""),
    ],
)
def test_text_that_is_no_model_is_refused(suffix, text, tmp_path):
    path = tmp_path / f"m.{suffix}"
    path.write_text(text, encoding="latin-1")
    refused(path, "nested too deeply" if "{" in text and suffix == "onnxtxt" else "e")


def test_types_and_attributes_that_onnx_ir_does_not_know_are_refused(tmp_path):
    proto = valid()
    proto.graph.input[0].type.tensor_type.elem_type = 99
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(GraphoptError, match="cannot be represented: 99 is not a valid DataType"):
        load(tmp_path / "m.onnx")
    proto = valid()
    proto.graph.node[0].attribute.add(name="s", type=onnx.AttributeProto.STRINGS, strings=[b"\xff\xfe"])
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(GraphoptError, match=r"cannot be represented: .*utf-8"):
        load(tmp_path / "m.onnx")


SEED = in_branch(numpy_helper.from_array(np.ones(4, np.float32), "w")).SerializeToString()


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(SEED) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_model_with_bytes_changed_loads_or_is_refused_but_never_crashes(tmp_path_factory, changes):
    content = bytearray(SEED)
    for position, byte in changes:
        content[position] = byte
    path = tmp_path_factory.mktemp("fuzz") / "m.onnx"
    path.write_bytes(content)
    try:
        model = load(path)
    except GraphoptError as error:
        if str(path) not in error.where:
            raise
    else:
        for value in model.graph.initializers.values():
            assert value.const_value is not None


def test_a_hostile_reference_is_refused_before_anything_is_opened(folder, monkeypatch):
    (folder / "m.onnx").write_bytes(in_graph(reference("../secret")).SerializeToString())
    opened = []
    real = open

    def watched(path, *args, **more):
        opened.append(os.fspath(path))
        return real(path, *args, **more)

    monkeypatch.setattr("builtins.open", watched)
    with pytest.raises(GraphoptError):
        load(folder / "m.onnx")
    assert opened == [str(folder / "m.onnx")]
