"""What makes a model invalid, found in a file and in memory."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.errors import GraphoptError
from graphopt.ir.check import check
from graphopt.ir.files import load
from graphopt.ir.serial import from_proto, to_proto


def info(name, kind=TensorProto.FLOAT, shape=(2,)):
    return helper.make_tensor_value_info(name, kind, shape)


def proto_of(nodes, outputs=("y",), inputs=("x",), initializers=(), functions=(), opsets=(("", 17),), inner=()):
    graph = helper.make_graph(
        list(nodes),
        "g",
        [info(name) for name in inputs] + list(inner),
        [info(name) for name in outputs],
        [numpy_helper.from_array(np.ones(2, np.float32), name) for name in initializers],
    )
    imports = [helper.make_opsetid(*one) for one in opsets]
    return helper.make_model(graph, opset_imports=imports, ir_version=8, functions=list(functions))


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def branch(nodes, output, inputs=(), initializers=()):
    return helper.make_graph(
        list(nodes),
        "inner",
        [info(name) for name in inputs],
        [info(output)],
        [numpy_helper.from_array(np.ones(2, np.float32), name) for name in initializers],
    )


def choice(then, other=None):
    other = other or branch([node("Abs", "x", "other")], "other")
    return node("If", "c", "i", name="if", then_branch=then, else_branch=other)


CONDITION = info("c", TensorProto.BOOL, ())
LOCAL = [("", 17), ("local", 1)]


def function(name, nodes, opsets=LOCAL):
    return helper.make_function("local", name, ["a"], ["b"], nodes, [helper.make_opsetid(*one) for one in opsets])


INVALID = {
    "a name given twice": (
        proto_of([node("Abs", "x", "y"), node("Neg", "x", "y", name="second")]),
        "'y' is given to two tensors",
        "Neg 'second'",
    ),
    "an output with the name of an input": (proto_of([node("Abs", "x", "x")], ["x"]), "'x' is given to two", "Abs"),
    "an output with the name of an initializer": (
        proto_of([node("Abs", "x", "w")], ["w"], initializers=["w"]),
        "'w' is given to two",
        "Abs 'w'",
    ),
    "two initializers of one name": (
        proto_of([node("Add", "x w", "y")], initializers=["w", "w"]),
        "'w' is given to two",
        "initializers of the main graph",
    ),
    "two inputs of one name": (proto_of([node("Abs", "x", "y")], inputs=["x", "x"]), "'x' is given to", "input"),
    "a cycle": (
        proto_of([node("Add", "x b", "a", name="A"), node("Neg", "a", "b", name="N"), node("Abs", "a", "y")]),
        "has a cycle",
        "Add 'A' <- Neg 'N' <- Add 'A'",
    ),
    "a cycle through a subgraph": (
        proto_of([choice(branch([node("Neg", "z", "t")], "t")), node("Abs", "i", "z"), node("Abs", "z", "y")],
                 inner=[CONDITION]),
        "has a cycle",
        "If 'if' <- Abs 'z' <- If 'if'",
    ),
    "a node that needs itself": (proto_of([node("Add", "x y", "y", name="A")]), "has a cycle", "Add 'A' <- Add 'A'"),
    "a tensor that nothing produces": (proto_of([node("Add", "x ghost", "y")]), "'ghost' is used, but", "Add 'y'"),
    "a tensor of a sibling branch": (
        proto_of(
            [choice(branch([node("Neg", "x", "t")], "t"), branch([node("Abs", "t", "e", name="user")], "e")),
             node("Abs", "i", "y")],
            inner=[CONDITION],
        ),
        "'t' is used, but nothing in its scope",
        "Abs 'user'",
    ),
    "a tensor of an inner graph used outside": (
        proto_of([choice(branch([node("Neg", "x", "t")], "t")), node("Add", "i t", "y", name="user")],
                 inner=[CONDITION]),
        "'t' is used, but nothing in its scope",
        "Add 'user'",
    ),
    "a tensor of the main graph in a function": (
        proto_of([node("F", "x", "y", domain="local")], functions=[function("F", [node("Add", "a x", "b")])],
                 opsets=LOCAL),
        "'x' is used, but nothing",
        "Add 'b'",
    ),
    "an output that is not produced": (
        proto_of([node("Abs", "x", "y")], ["y", "z"]),
        "output 'z' is not produced",
        "outputs of the main graph",
    ),
    "a branch that returns an outer tensor": (
        proto_of([choice(branch([], "x")), node("Abs", "i", "y")], inner=[CONDITION]),
        "output 'x' is a tensor of an outer graph",
        "outputs of graph 'inner' of If 'if'",
    ),
    "an inner output with an outer name": (
        proto_of([node("Abs", "x", "s"), choice(branch([node("Neg", "x", "s")], "s")), node("Add", "i s", "y")],
                 inner=[CONDITION]),
        "'s' is produced again inside a subgraph",
        "Neg 's'",
    ),
    "a domain that is not imported": (
        proto_of([node("Frob", "x", "y", domain="mine", name="f")]),
        "operator set of the domain 'mine'",
        "mine::Frob 'f'",
    ),
    "a domain that a function does not import": (
        proto_of([node("F", "x", "y", domain="local")],
                 functions=[function("F", [node("Frob", "a", "b", domain="mine")])], opsets=[*LOCAL, ("mine", 1)]),
        "domain 'mine'",
        "mine::Frob 'b'",
    ),
    "a function that calls itself": (
        proto_of([node("F", "x", "y", domain="local")],
                 functions=[function("F", [node("G", "a", "b", domain="local")]),
                            function("G", [node("F", "a", "b", domain="local")])], opsets=LOCAL),
        "calls itself",
        "function local::",
    ),
    "a function defined twice": (
        proto_of([node("F", "x", "y", domain="local")],
                 functions=[function("F", [node("Abs", "a", "b")]), function("F", [node("Neg", "a", "b")])],
                 opsets=LOCAL),
        "local::F is defined twice",
        "function local::F",
    ),
    "a nameless initializer": (proto_of([node("Abs", "x", "y")], initializers=[""]), "has no name", "initializer of"),
}  # fmt: skip


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_file_is_refused_by_check_and_by_load_with_the_place(name, tmp_path):
    proto, what, where = INVALID[name]
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    for refuse in (check, load):
        with pytest.raises(GraphoptError) as caught:
            refuse(path)
        assert what in caught.value.what
        assert where in caught.value.where
        assert str(path) in caught.value.where


REPAIRED = {
    "nodes out of order": (
        proto_of([node("Neg", "a", "y", name="early"), node("Abs", "x", "a")]),
        "'a' is used before it is produced",
    ),
    "a subgraph that needs a later node": (
        proto_of([choice(branch([node("Neg", "z", "t")], "t")), node("Abs", "x", "z"), node("Add", "i z", "y")],
                 inner=[CONDITION]),
        "'z' is used before it is produced",
    ),
    "an inner initializer with an outer name": (
        proto_of([node("Abs", "x", "s"), choice(branch([node("Neg", "s", "t")], "t", initializers=["s"])),
                  node("Add", "i s", "y")], inner=[CONDITION]),
        "'s' has the name of a tensor of an outer graph",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REPAIRED)
def test_what_can_be_put_right_is_refused_by_check_and_repaired_by_load(name, tmp_path):
    proto, what = REPAIRED[name]
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(GraphoptError, match=what):
        check(path)
    model = load(path)
    check(model, full=True)
    ours, theirs = evaluate(to_proto(model)), evaluate(proto)
    assert ours == theirs


def evaluate(proto):
    import onnxruntime as ort

    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {"x": np.array([3.0, -4.0], np.float32), "c": np.array(True)}
    return session.run(None, {one.name: feeds[one.name] for one in session.get_inputs()})[0].tolist()


def test_an_output_listed_twice_loads_but_is_refused():
    model = from_proto(proto_of([node("Abs", "x", "y")], ["y", "y"]))
    with pytest.raises(GraphoptError, match="'y' is listed twice"):
        check(model)


def test_sibling_branches_may_use_the_same_names():
    model = from_proto(
        proto_of(
            [choice(branch([node("Neg", "x", "t")], "t"), branch([node("Abs", "x", "t")], "t")), node("Abs", "i", "y")],
            inner=[CONDITION],
        )
    )
    check(model, full=True)


def valid_model():
    proto = proto_of(
        [node("Abs", "x", "a"), choice(branch([node("Neg", "a", "t")], "t")), node("Add", "i w", "y")],
        initializers=["w"],
        inner=[CONDITION],
    )
    return from_proto(proto)


def test_a_valid_model_passes():
    check(valid_model(), full=True)


def inner_node(model):
    return next(iter(model.graph[1].attributes["then_branch"].as_graph()))


def damage_order(model):
    first = model.graph[0]
    model.graph.remove(first)
    model.graph.append(first)


def damage_name(model):
    model.graph[2].outputs[0].name = "a"


def damage_scope(model):
    model.graph[2].replace_input_with(0, inner_node(model).outputs[0])


def damage_twin(model):
    twin = ir.Value(name="a", type=ir.TensorType(ir.DataType.FLOAT))
    inner_node(model).replace_input_with(0, twin)


def damage_weight(model):
    model.graph.initializers["w"].const_value = None


def damage_opset(model):
    del model.graph.opset_imports[""]


def damage_outputs(model):
    model.graph.outputs.append(model.graph.outputs[0])


def damage_cycle(model):
    model.graph[0].replace_input_with(0, model.graph[2].outputs[0])


def damage_removed_input(model):
    model.graph.inputs.pop(0)


def damage_inner_name(model):
    inner_node(model).outputs[0].name = "x"


DAMAGE = [
    (damage_order, "'a' is used before it is produced", "Neg 't'"),
    (damage_name, "'a' is given to two tensors", "Add 'a'"),
    (damage_scope, "'t' is used, but nothing in its scope", "Add 'y'"),
    (damage_twin, "'a' is used, but nothing in its scope", "Neg 't'"),
    (damage_weight, "has no data", "initializer 'w'"),
    (damage_opset, "domain 'ai.onnx'", "Abs 'a'"),
    (damage_outputs, "'y' is listed twice", "outputs of the main graph"),
    (damage_cycle, "has a cycle", "If 'if'"),
    (damage_removed_input, "'x' is used, but nothing", "Abs 'a'"),
    (damage_inner_name, "'x' is produced again inside a subgraph", "Neg 'x'"),
]


@pytest.mark.parametrize(("damage", "what", "where"), DAMAGE)
def test_a_model_broken_in_memory_is_refused_with_the_place(damage, what, where):
    model = valid_model()
    damage(model)
    with pytest.raises(GraphoptError) as caught:
        check(model)
    assert what in caught.value.what
    assert where in caught.value.where


def test_the_full_check_finds_what_only_the_operators_schema_knows(tmp_path):
    proto = proto_of([node("Concat", "x x", "y", name="no-axis")])
    model = from_proto(proto)
    check(model)
    with pytest.raises(GraphoptError, match=r"onnx\.checker: .*axis"):
        check(model, full=True)
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    check(path)
    with pytest.raises(GraphoptError, match="axis"):
        check(path, full=True)


def test_the_full_check_of_a_model_with_large_weights_writes_none_of_them():
    def read() -> ir.TensorProtocol:
        raise AssertionError("the weights were read")

    unread = ir.LazyTensor(read, dtype=ir.DataType.FLOAT, shape=ir.Shape([40_000, 1000]), name="w")
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, 40_000]))
    w = ir.Value(name="w", type=x.type, shape=unread.shape, const_value=unread)
    product = ir.node("MatMul", [x, w])
    product.outputs[0].name, product.outputs[0].type = "y", x.type
    product.outputs[0].shape = ir.Shape([1, 1000])
    whole = ir.Model(
        ir.Graph([x], product.outputs, nodes=[product], initializers=[w], opset_imports={"": 17}, name="g"),
        ir_version=8,
    )
    check(whole, full=True)
    assert w.const_value is unread


def calls(function) -> int:
    """How many Python functions are called: what grows with the work, on a busy machine as on an idle one."""
    count = 0

    def note(_frame, event, _argument):
        nonlocal count
        count += event == "call"

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def test_the_work_of_a_check_grows_with_the_number_of_nodes():
    def chain(length):
        nodes = [node("Relu", f"t{i}" if i else "x", f"t{i + 1}") for i in range(length)]
        nodes.append(node("Abs", f"t{length}", "y"))
        return from_proto(proto_of(nodes))

    small, large = chain(1_000), chain(10_000)
    assert calls(lambda: check(large)) < 12 * calls(lambda: check(small))


def test_a_long_cycle_is_found_without_recursion():
    nodes = [node("Add", f"t{i} x", f"t{i + 1}") for i in range(5_000)]
    nodes[0].input[0] = "t5000"
    nodes.append(node("Abs", "t5000", "y"))
    with pytest.raises(GraphoptError, match="has a cycle"):
        from_proto(proto_of(nodes))


def test_attributes_that_onnx_ir_would_lose_are_refused():
    proto = proto_of([node("Constant", "", "k", value_float=1.0, name="c"), node("Add", "x k", "y")])
    twice = onnx.ModelProto()
    twice.CopyFrom(proto)
    twice.graph.node[0].attribute.append(proto.graph.node[0].attribute[0])
    with pytest.raises(GraphoptError, match="one of its attributes twice") as caught:
        from_proto(twice)
    assert caught.value.where == "Constant 'c'"
    proto.graph.node[0].attribute[0].ClearField("type")
    with pytest.raises(GraphoptError, match="attribute 'value_float' has no type"):
        from_proto(proto)
