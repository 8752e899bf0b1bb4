"""The passes about linear operators in a local function, where constants are nodes and the caller decides on shapes."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir
import pytest

from graphopt.ir import check, infer, nodes
from graphopt.passes.fuse.fuse_einsum import FuseEinsum
from graphopt.passes.fuse.fuse_focus import FuseFocus
from graphopt.passes.fuse.fuse_pointwise import FusePointwise
from graphopt.passes.fuse.fuse_space_depth import FuseSpaceDepth
from graphopt.passes.fuse.merge_parallel_convs import MergeParallelConvs
from graphopt.passes.fuse.merge_siblings import MergeSiblings
from graphopt.passes.fuse.sink_scale import SinkScale
from graphopt.passes.fuse.sink_splits import SinkSplits
from graphopt.pipeline import Context
from graphopt.pipeline.drive import drive
from graphopt.target import targets

LIKING = Context(target=dataclasses.replace(targets()["onnx"], forms=frozenset({"MergedMatMul"})))


def constants(**values: str) -> str:
    return " ".join(f"{name} = Constant <value = {text}> ()" for name, text in values.items())


MATRIX = constants(w="float[2, 2] {1, 2, 3, 4}", half="float {0.5}")
CASES = {
    "merge siblings": (
        MergeSiblings(),
        "3, 2",
        f"{MATRIX} a = MatMul(x, w) b = MatMul(x, w) c = MatMul(x, w) d = Add(a, b) y = Mul(c, d)",
        ["MatMul", "Split", "Add", "Mul"],
    ),
    "sink a scale": (
        SinkScale(),
        "3, 2",
        f"{MATRIX} a = MatMul(x, w) t = Transpose <perm = [1, 0]> (a) y = Mul(t, half)",
        ["MatMul", "Transpose"],
    ),
    "sink a split": (
        SinkSplits(),
        "3, 2",
        "a, b = Split <axis = 1> (x) c = Relu(a) d = Relu(b) y = Sub(c, d)",
        ["Relu", "Split", "Sub"],
    ),
    "merge branches": (
        MergeParallelConvs(),
        "1, 1, 5",
        f"{constants(k='float[1, 1, 3] {1, 2, 3}')} a = Conv <pads = [1, 1]> (x, k) y = Add(a, x)",
        ["Conv"],
    ),
    "read the image": (
        FuseFocus(),
        "1, 1, 4, 4",
        f"{constants(k='float[1, 4, 1, 1] {1, 2, 3, 4}')} a = SpaceToDepth <blocksize = 2> (x) y = Conv(a, k)",
        ["Conv"],
    ),
    "blocks": (
        FuseSpaceDepth(),
        "1, 4, 2, 3",
        f"""{constants(r="int64[6] {1, 1, 2, 2, 2, 3}", s="int64[4] {1, 1, 4, 6}")}
            a = Reshape(x, r) b = Transpose <perm = [0, 1, 4, 2, 5, 3]> (a) y = Reshape(b, s)""",
        ["DepthToSpace"],
    ),
    "a product over channels": (
        FusePointwise(),
        "1, 2, 3",
        f"""{MATRIX} a = Transpose <perm = [0, 2, 1]> (x) b = MatMul(a, w) c = Relu(b) d = MatMul(c, w)
            y = Transpose <perm = [0, 2, 1]> (d)""",
        ["Conv", "Relu", "Conv"],
    ),
    "an equation": (
        FuseEinsum(),
        "3, 2",
        f'{MATRIX} y = Einsum <equation = "ij,jk->i"> (x, w)',
        ["ReduceSum", "MatMul"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_inside_a_function(case):
    pass_, shape, body, expected = CASES[case]
    model = ir.from_onnx_text(
        f"""<ir_version: 8, opset_import: ["": 17, "f": 1]>
        g (float[{shape}] x) => (y) {{ y = f.F(x) }}
        <domain: "f", opset_import: ["": 17]> F (x) => (y) {{ {body} }}"""
    )
    after = model.clone()
    infer(after)
    assert drive(pass_, after, LIKING).changed
    check(after)
    kinds = [node.op_type for node in nodes(after) if node.op_type not in ("Constant", "F")]
    assert kinds == expected


@pytest.mark.parametrize(
    "case", [case for case in CASES if case != "merge siblings"]
)  # only for a target that likes it
def test_the_same_numbers_come_out_of_a_function(agrees, case):
    pass_, shape, body, _ = CASES[case]
    rank = len(shape.split(","))
    text = f"""<ir_version: 8, opset_import: ["": 17, "f": 1]>
        g (float[{shape}] x) => (float[{", ".join("abcd"[:rank] if case != "an equation" else "a")}] y) {{ y = f.F(x) }}
        <domain: "f", opset_import: ["": 17]> F (x) => (y) {{ {body} }}"""
    assert agrees(pass_, ir.from_onnx_text(text), 0).changed
