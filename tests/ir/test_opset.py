"""Each rule of the opset conversion against ONNX Runtime: the same numbers on both sides."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from graphopt.errors import GraphoptError
from graphopt.ir.check import check
from graphopt.ir.opset import convert_opset
from graphopt.ir.serial import from_proto, to_proto

RNG = np.random.default_rng(0)
IMAGE = RNG.standard_normal((2, 6, 5, 7)).astype(np.float32)
LATEST = 23


def model_of(node, feeds, opset, constants=None, symbolic=False):
    """A model of one node; ``constants`` are initialisers, the first dimension may be symbolic."""
    inputs = []
    for name, array in feeds.items():
        shape = list(array.shape)
        if symbolic and shape:
            shape[0] = "n"
        inputs.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape))
    infos = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
    graph = helper.make_graph(
        [node],
        "g",
        inputs,
        infos,
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    proto = onnx.shape_inference.infer_shapes(proto)
    for info in proto.graph.output:
        if not info.type.WhichOneof("value"):
            info.type.CopyFrom(proto.graph.input[0].type)
    return proto


def run(proto, feeds):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def converted(proto, version, full=True):
    """The converted model, which ONNX's own checker has accepted."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    model = from_proto(copy)
    convert_opset(model, version)
    check(model, full=full)
    result = to_proto(model)
    assert [entry.version for entry in result.opset_import if not entry.domain] == [version]
    return result


def node(op, inputs="x", outputs="y", **attributes):
    return helper.make_node(op, inputs.split(" "), outputs.split(" "), name="it", **attributes)


SCALES = np.array([1, 1, 2, 3], np.float32)
SMALLER = np.array([1, 1, 0.6, 0.5], np.float32)
IDS = np.array([[1, 0, 1]], np.int64)
BOXES = np.array([[0.0, 0.0, 3.0, 3.0], [1.0, 1.0, 4.0, 4.0]], np.float32)

UP = {
    "Clip with two bounds": (10, node("Clip", min=-0.5, max=0.25), {"x": IMAGE}, {}),
    "Clip with one bound": (10, node("Clip", max=0.25), {"x": IMAGE}, {}),
    "Clip of float16": (10, node("Clip", min=-0.5, max=0.25), {"x": IMAGE.astype(np.float16)}, {}),
    "Clip without bounds": (7, node("Clip"), {"x": IMAGE}, {}),
    "Dropout": (10, node("Dropout", ratio=0.9), {"x": IMAGE}, {}),
    "Pad with a value": (
        10,
        node("Pad", pads=[0, 0, 1, 2, 0, 0, 0, 1], value=2.5),
        {"x": IMAGE},
        {},
    ),
    "Pad by reflection": (7, node("Pad", pads=[0, 0, 1, 2, 0, 0, 0, 1], mode="reflect"), {"x": IMAGE}, {}),
    "Slice": (9, node("Slice", starts=[1, -3], ends=[9, -1], axes=[1, 3]), {"x": IMAGE}, {}),
    "Slice of the first axes": (9, node("Slice", starts=[1, 2], ends=[2, 4]), {"x": IMAGE}, {}),
    "Split into equal parts": (11, node("Split", outputs="a b c", axis=1), {"x": IMAGE}, {}),
    "Split by sizes": (12, node("Split", outputs="a b", axis=1, split=[1, 5]), {"x": IMAGE}, {}),
    "Split by sizes as input": (13, node("Split", "x s", "a b", axis=1), {"x": IMAGE}, {"s": np.array([2, 4])}),
    "Squeeze": (12, node("Squeeze", axes=[0, 2]), {"x": IMAGE[:1, :, :1]}, {}),
    "Squeeze of all": (11, node("Squeeze"), {"x": IMAGE[:1, :, :1]}, {}),
    "Unsqueeze": (12, node("Unsqueeze", axes=[0, 3]), {"x": IMAGE}, {}),
    "ReduceSum": (12, node("ReduceSum", axes=[1, -1], keepdims=0), {"x": IMAGE}, {}),
    "ReduceSum of all": (12, node("ReduceSum"), {"x": IMAGE}, {}),
    "ReduceMean": (13, node("ReduceMean", axes=[-1]), {"x": IMAGE}, {}),
    "ReduceL2 of all": (17, node("ReduceL2", keepdims=0), {"x": IMAGE}, {}),
    "TopK": (9, node("TopK", outputs="v i", k=3, axis=-1), {"x": IMAGE}, {}),
    "Softmax over the last axes": (12, node("Softmax", axis=2), {"x": IMAGE}, {}),
    "Softmax by default": (9, node("Softmax"), {"x": IMAGE}, {}),
    "Softmax over the last axis": (11, node("Softmax", axis=-1), {"x": IMAGE}, {}),
    "Softmax of a matrix": (11, node("Softmax", axis=1), {"x": IMAGE[0, 0]}, {}),
    "LogSoftmax": (12, node("LogSoftmax", axis=1), {"x": IMAGE}, {}),
    "Hardmax": (12, node("Hardmax", axis=1), {"x": IMAGE}, {}),
    "Upsample by attribute": (8, node("Upsample", scales=SCALES.tolist(), mode="nearest"), {"x": IMAGE}, {}),
    "Upsample nearest": (9, node("Upsample", "x s", mode="nearest"), {"x": IMAGE}, {"s": SCALES}),
    "Upsample linear": (9, node("Upsample", "x s", mode="linear"), {"x": IMAGE}, {"s": SCALES}),
    "Resize nearest": (10, node("Resize", "x s", mode="nearest"), {"x": IMAGE}, {"s": SCALES * 1.0}),
    "Resize linear": (10, node("Resize", "x s", mode="linear"), {"x": IMAGE}, {"s": SCALES}),
    "Resize linear, smaller": (10, node("Resize", "x s", mode="linear"), {"x": IMAGE}, {"s": SMALLER}),
    "Resize of opset 11": (
        11,
        node("Resize", "x r s", mode="linear", coordinate_transformation_mode="align_corners"),
        {"x": IMAGE},
        {"s": SCALES, "r": np.zeros(0, np.float32)},
    ),
    "RoiAlign": (
        10,
        node("RoiAlign", "x b i", output_height=2, output_width=2, spatial_scale=1.0),
        {"x": IMAGE},
        {"b": BOXES, "i": np.array([0, 1])},
    ),
    "GridSample by default": (
        16,
        node("GridSample", "x g"),
        {"x": IMAGE},
        {"g": RNG.uniform(-1, 1, (2, 3, 3, 2)).astype(np.float32)},
    ),
    "GridSample bicubic": (
        16,
        node("GridSample", "x g", mode="bicubic"),
        {"x": IMAGE},
        {"g": RNG.uniform(-1, 1, (2, 3, 3, 2)).astype(np.float32)},
    ),
    "GroupNormalization": (
        18,
        node("GroupNormalization", "x s b", num_groups=3),
        {"x": IMAGE},
        {"s": np.array([1, 2, 3], np.float32), "b": np.array([4, 5, 6], np.float32)},
    ),
    "DFT": (17, node("DFT", axis=1), {"x": IMAGE[..., :1]}, {}),
    "DFT by default": (17, node("DFT"), {"x": IMAGE[..., :1]}, {}),
    "Scatter": (
        10,
        node("Scatter", "x i u", axis=1),
        {"x": IMAGE[0, 0]},
        {"i": IDS, "u": np.ones((1, 3), np.float32)},
    ),
    "BatchNormalization with a vanished default": (
        7,
        node("BatchNormalization", "x s b m v", spatial=1),
        {"x": IMAGE},
        {name: np.linspace(0.5, 2, 6, dtype=np.float32) for name in "sbmv"},
    ),
    "Gemm": (7, node("Gemm", "x w b", transB=1), {"x": IMAGE[0, 0]}, {"w": IMAGE[0, 1], "b": np.ones(5, np.float32)}),
    "MaxPool": (8, node("MaxPool", kernel_shape=[2, 2], strides=[2, 1]), {"x": IMAGE}, {}),
    "QuantizeLinear": (10, node("QuantizeLinear", "x s z"), {"x": IMAGE}, {"s": np.float32(0.1), "z": np.uint8(128)}),
}


def _pairs():
    """A RoiAlign of opset 22 this ONNX Runtime lacks; GroupNormalization before 21 ONNX's checker refuses."""
    limits = {"RoiAlign": (11, 21), "GroupNormalization": (21, LATEST)}
    for name, (opset, *_) in UP.items():
        first, last = limits.get(name, (opset + 1, LATEST))
        yield from ((name, version) for version in (11, 13, 17, 18, 20, 21, LATEST) if first <= version <= last)


def assert_same(before, after):
    if isinstance(before, list):
        assert len(before) == len(after)
        for one, other in zip(before, after, strict=True):
            assert_same(one, other)
    elif before is None or before.dtype.kind not in "fc":
        np.testing.assert_array_equal(before, after)
    else:
        assert before.dtype == after.dtype
        np.testing.assert_allclose(before, after, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "version"), list(_pairs()))
def test_a_node_converted_upwards_gives_the_same_numbers(name, version):
    opset, one, feeds, constants = UP[name]
    proto = model_of(one, feeds, opset, constants, symbolic="Squeeze" not in name and "Reduce" not in name)
    if name == "GroupNormalization" and version < 21:
        pytest.skip("the same schema, which the checker calls deprecated")
    if name == "RoiAlign" and version > 21:
        pytest.skip("this ONNX Runtime has no RoiAlign of opset 22")
    for before, after in zip(run(proto, feeds), run(converted(proto, version), feeds), strict=True):
        assert_same(before, after)


def _cases():
    from onnx.backend.test.case.node import collect_testcases

    return [case for case in collect_testcases(None) if case.model is not None]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_sample_of_the_onnx_node_tests_gives_the_same_numbers_at_every_opset_it_can_be_converted_to():
    compared = 0
    for case in _cases()[::23]:
        opset = {entry.domain: entry.version for entry in case.model.opset_import}.get("")
        feeds = dict(zip([info.name for info in case.model.graph.input], case.data_sets[0][0], strict=False))
        try:
            expected = run(case.model, feeds) if opset else None
        except Exception:  # noqa: BLE001  (ONNX Runtime has no kernel: nothing to compare with)
            continue
        for version in (13, 17, 20, 22, 24):
            if expected is None or version == opset:
                continue
            try:
                result = converted(case.model, version)
            except GraphoptError as refusal:
                if "cannot be converted" not in refusal.what:
                    raise
                continue
            for before, after in zip(expected, run(result, feeds), strict=True):
                assert_same(before, after)
            compared += 1
    assert compared > 100


def test_softmax_of_unknown_rank_goes_through_a_matrix_and_keeps_its_output_name():
    proto = model_of(node("Softmax", "x", "y", axis=2), {"x": IMAGE}, 12)
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    result = converted(proto, 13, full=False)
    assert [one.op_type for one in result.graph.node] == ["Shape", "Flatten", "Softmax", "Reshape"]
    assert result.graph.output[0].name == "y"
    np.testing.assert_allclose(run(proto, {"x": IMAGE})[0], run(result, {"x": IMAGE})[0], rtol=1e-6)


DOWN = {
    "ReduceMean": (18, 13, node("ReduceMean", "x a", keepdims=0), {"x": IMAGE}, {"a": np.array([1, -1])}),
    "ReduceMean of all": (18, 13, node("ReduceMean"), {"x": IMAGE}, {}),
    "Split": (18, 13, node("Split", outputs="a b c", axis=1, num_outputs=3), {"x": IMAGE}, {}),
    "RoiAlign": (
        16,
        15,
        node(
            "RoiAlign",
            "x b i",
            output_height=2,
            output_width=2,
            coordinate_transformation_mode="output_half_pixel",
        ),
        {"x": IMAGE},
        {"b": BOXES, "i": np.array([0, 1])},
    ),
    "GridSample": (
        20,
        16,
        node("GridSample", "x g", mode="cubic"),
        {"x": IMAGE},
        {"g": RNG.uniform(-1, 1, (2, 3, 3, 2)).astype(np.float32)},
    ),
    "Reshape with a default": (21, 13, node("Reshape", "x s", allowzero=0), {"x": IMAGE}, {"s": np.array([-1])}),
    "Add": (17, 13, node("Add", "x x"), {"x": IMAGE}, {}),
    "Pad": (21, 13, node("Pad", "x p"), {"x": IMAGE}, {"p": np.array([0, 0, 1, 0, 0, 0, 0, 1])}),
}


@pytest.mark.parametrize("name", DOWN)
def test_a_node_converted_downwards_gives_the_same_numbers(name):
    opset, version, one, feeds, constants = DOWN[name]
    proto = model_of(one, feeds, opset, constants)
    for before, after in zip(run(proto, feeds), run(converted(proto, version), feeds), strict=True):
        np.testing.assert_allclose(before, after, rtol=1e-6)


REFUSED = {
    "an operator that did not exist": (20, 17, node("Gelu"), {"x": IMAGE}, {}, "not part of opset 17"),
    "a Resize that rounds in an undefined way": (
        10,
        13,
        node("Resize", "x s", mode="nearest"),
        {"x": IMAGE},
        {"s": SMALLER},
        "makes an image smaller",
    ),
    "axes that are not constant": (
        18,
        17,
        node("ReduceMean", "x a"),
        {"x": IMAGE, "a": np.array([1])},
        {},
        "'axes' is not a constant",
    ),
    "no axes meaning nothing": (
        18,
        17,
        node("ReduceMean", noop_with_empty_axes=1),
        {"x": IMAGE},
        {},
        "does nothing",
    ),
    "an attribute with a value of its own": (
        15,
        13,
        node("Shape", start=1),
        {"x": IMAGE},
        {},
        "attribute 'start' is not part",
    ),
    "a setting that came later": (
        19,
        18,
        node("Pad", "x p", mode="wrap"),
        {"x": IMAGE},
        {"p": np.array([0, 0, 1, 0, 0, 0, 0, 1])},
        "mode=wrap",
    ),
    "more inputs than there were": (
        18,
        13,
        node("Pad", "x p  a"),
        {"x": IMAGE},
        {"p": np.array([1, 1]), "a": np.array([2])},
        "only 3 are allowed",
    ),
    "an element type that came later": (
        14,
        13,
        node("Relu"),
        {"x": np.ones(3, np.int32)},
        {},
        r"cannot be tensor\(int32\)",
    ),
    "unequal parts": (18, 17, node("Split", outputs="a b", axis=3, num_outputs=2), {"x": IMAGE}, {}, "differ"),
    "coordinates shifted": (
        16,
        15,
        node("RoiAlign", "x b i"),
        {"x": IMAGE},
        {"b": BOXES, "i": np.array([0, 1])},
        "half a pixel",
    ),
    "a batched Scan": (
        8,
        9,
        node(
            "Scan",
            " x",
            num_scan_inputs=1,
            body=helper.make_graph(
                [helper.make_node("Neg", ["a"], ["b"])],
                "b",
                [helper.make_tensor_value_info("a", 1, [5, 7])],
                [helper.make_tensor_value_info("b", 1, [5, 7])],
            ),
        ),
        {"x": IMAGE},
        {},
        "batch axis",
    ),
    "an operator nobody knows": (17, 18, node("Frobnicate"), {"x": IMAGE}, {}, "not part of opset 17"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_converted_is_refused_and_the_model_is_unchanged(name):
    opset, version, one, feeds, constants, reason = REFUSED[name]
    model = from_proto(model_of(one, feeds, opset, constants))
    before = to_proto(model).SerializeToString(deterministic=True)
    with pytest.raises(GraphoptError, match=reason) as caught:
        convert_opset(model, version)
    assert "'it'" in caught.value.where
    assert to_proto(model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(("opset", "version"), [(6, 13), (17, 12), (17, 0), (17, 999)])
def test_an_opset_out_of_range_is_refused(opset, version):
    with pytest.raises(GraphoptError, match=r"cannot be converted|is unknown"):
        convert_opset(from_proto(model_of(node("Neg"), {"x": IMAGE}, opset)), version)


def test_nodes_before_a_refused_one_are_not_converted_either():
    first = helper.make_node("Squeeze", ["x"], ["m"], axes=[0])
    second = helper.make_node("Upsample", ["m"], ["y"], scales=[1.0, 2.0, 2.0], mode="nearest", name="up")
    graph = helper.make_graph(
        [first, second, helper.make_node("Frob", ["y"], ["z"], name="it")],
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 3, 4, 4])],
        [helper.make_empty_tensor_value_info("z")],
    )
    model = from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 8)], ir_version=8))
    with pytest.raises(GraphoptError):
        convert_opset(model, 13)
    assert [one.op_type for one in model.graph] == ["Squeeze", "Upsample", "Frob"]
    assert model.opset_imports[""] == 8


def test_subgraphs_and_functions_are_converted_and_other_things_kept():
    squeeze = helper.make_node("Squeeze", ["x"], ["s"], axes=[0])
    branch = helper.make_graph([squeeze], "then", [], [helper.make_tensor_value_info("s", 1, [3, 4])])
    other = helper.make_graph(
        [helper.make_node("ReduceSum", ["x"], ["t"], axes=[0], keepdims=0)],
        "else",
        [],
        [helper.make_tensor_value_info("t", 1, [3, 4])],
    )
    function = helper.make_function(
        "local",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Squeeze", ["a"], ["q"], axes=[0]), helper.make_node("Add", ["q", "q"], ["b"])],
        [helper.make_opsetid("", 11)],
    )
    graph = helper.make_graph(
        [
            helper.make_node("If", ["c"], ["i"], then_branch=branch, else_branch=other),
            helper.make_node("Twice", ["x"], ["j"], domain="local"),
            helper.make_node("Add", ["i", "j"], ["k"]),
            helper.make_node("Add", ["k", "big"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 3, 4]), helper.make_tensor_value_info("c", 9, [])],
        [helper.make_tensor_value_info("y", 1, [3, 4])],
        [numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(3, 4), "big")],
    )
    proto = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 11), helper.make_opsetid("local", 1)],
        functions=[function],
        ir_version=8,
    )
    helper.set_model_props(proto, {"kept": "yes"})
    result = converted(proto, 17)
    assert result.functions[0].opset_import[0].version == 17
    assert result.metadata_props[0].value == "yes"
    assert [info.name for info in result.graph.input] == ["x", "c"]
    x = RNG.standard_normal((1, 3, 4)).astype(np.float32)
    for condition in (True, False):
        feeds = {"x": x, "c": np.array(condition)}
        np.testing.assert_allclose(run(proto, feeds)[0], run(result, feeds)[0], rtol=1e-6)


def test_attributes_that_are_parameters_of_a_function_are_refused_where_they_would_become_inputs():
    squeeze = helper.make_node("Squeeze", ["a"], ["b"], name="it")
    squeeze.attribute.add(name="axes", ref_attr_name="which", type=onnx.AttributeProto.INTS)
    function = helper.make_function(
        "local", "F", ["a"], ["b"], [squeeze], [helper.make_opsetid("", 11)], attributes=["which"]
    )
    graph = helper.make_graph(
        [helper.make_node("F", ["x"], ["y"], domain="local", which=[0])],
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 3])],
        [helper.make_tensor_value_info("y", 1, [3])],
    )
    model = from_proto(
        helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", 11), helper.make_opsetid("local", 1)],
            functions=[function],
            ir_version=8,
        )
    )
    with pytest.raises(GraphoptError, match="parameters of the local function"):
        convert_opset(model, 13)
    convert_opset(model, 12)
    assert next(iter(model.functions.values())).opset_imports[""] == 12


def test_weights_are_neither_read_nor_copied():
    class Untouchable(ir.Tensor):
        def numpy(self):
            raise AssertionError("a weight was read")

        tobytes = __array__ = numpy

    weight = ir.Value(name="w", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1024, 1024]))
    weight.const_value = Untouchable(np.zeros((1024, 1024), np.float32), name="w")
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n", 1024]))
    product = ir.node("MatMul", [x, weight])
    softmax = ir.node("Softmax", [product.outputs[0]], {"axis": 1})
    graph = ir.Graph(
        [x], softmax.outputs, nodes=[product, softmax], initializers=[weight], opset_imports={"": 12}, name="g"
    )
    model = ir.Model(graph, ir_version=8)
    convert_opset(model, 20)
    assert model.opset_imports[""] == 20
    assert softmax.attributes["axis"].value == -1


def test_ai_onnx_as_a_name_of_the_default_domain_is_understood():
    proto = model_of(node("Squeeze", axes=[0]), {"x": IMAGE[:1]}, 12)
    proto.opset_import[0].domain = "ai.onnx"
    assert [(entry.domain, entry.version) for entry in converted(proto, 13).opset_import] == [("", 13)]


def test_constants_made_in_a_subgraph_do_not_take_names_of_the_outer_graph():
    squeeze = helper.make_node("Squeeze", ["val_0"], ["s"], axes=[0])
    branch = helper.make_graph([squeeze], "then", [], [helper.make_tensor_value_info("s", 1, [3])])
    other = helper.make_graph(
        [helper.make_node("Squeeze", ["val_1"], ["t"], axes=[0])],
        "else",
        [],
        [helper.make_tensor_value_info("t", 1, [3])],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Abs", ["x"], ["val_0"]),
            helper.make_node("Neg", ["x"], ["val_1"]),
            helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=other),
        ],
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 3]), helper.make_tensor_value_info("c", 9, [])],
        [helper.make_tensor_value_info("y", 1, [3])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    result = converted(proto, 13)
    feeds = {"x": np.array([[1, -2, 3]], np.float32), "c": np.array(True)}
    np.testing.assert_array_equal(run(proto, feeds)[0], run(result, feeds)[0])
