"""convert-precision: which nodes become narrow, where casts stand, what stays and why."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.calibrate.data import CalibrationData
from graphopt.errors import GraphoptError
from graphopt.execute.session import Session
from graphopt.ir import infer, nodes
from graphopt.passes.precision.convert_precision import ConvertPrecision
from graphopt.pipeline import Context, PassManager, Recipe
from graphopt.target import targets

W = "float[4,4] w = {1, 2, 3, 4, 5, 6, 7, 8, 1, 1, 1, 1, 2, 2, 2, 2}"


def model(body: str, *, constants: str = W, inputs: str = "float[2,4] x", outputs: str = "float[2,4] y") -> str:
    return f'<ir_version: 8, opset_import: ["": 17]> g ({inputs}) => ({outputs}) <{constants}> {{ {body} }}'


def halved(text: str) -> ir.Model:
    """The model with its constants in float16, which ONNX text can only write as bits."""
    found = ir.from_onnx_text(text)
    for value in found.graph.initializers.values():
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy().astype(np.float16), name=value.name)
        value.type = ir.TensorType(ir.DataType.FLOAT16)
    return found


def fed(**arrays: np.ndarray) -> Context:
    return Context(data=CalibrationData.open([arrays]))


def optimised(text: str | ir.Model, pass_: ConvertPrecision, context: Context | None = None):
    source = ir.from_onnx_text(text) if isinstance(text, str) else text
    return PassManager(Recipe((pass_,)), verify="each", strict=True).run(source, context)


def types(result: ir.Model) -> dict[str, str]:
    """The type that each operator of a model gives out."""
    infer(result)
    return {node.op_type: node.outputs[0].dtype.name for node in nodes(result) if node.outputs[0].dtype is not None}


def test_casts_stand_at_the_borders_only_and_constants_are_rounded_once(rewrites):
    rewrites(
        ConvertPrecision(),
        model("a = MatMul(x, w) b = Relu(a) c = MatMul(b, w) y = Softmax(c)"),
        halved(
            model(
                "xh = Cast<to = 10>(x) a = MatMul(xh, w) b = Relu(a) c = MatMul(b, w) s = Softmax(c) y = Cast<to = 1>(s)"
            )
        ),
        runs=False,
    )


def test_the_result_is_proven_against_the_budget():
    _, outcomes = optimised(model("a = MatMul(x, w) y = Softmax(a)"), ConvertPrecision())
    assert outcomes.verdict is not None and outcomes.verdict.ok
    assert all(item.tolerance.sqnr_db == 40.0 for item in outcomes.verdict.outputs)
    assert min(item.sqnr_db for item in outcomes.verdict.outputs) >= 40.0


def test_a_constant_that_both_types_use_is_stored_in_both():
    text = model("a = MatMul(x, w) b = MatMul(a, w) y = Relu(b)")
    result, _ = optimised(text, ConvertPrecision(keep=("b",)))
    stored = sorted(value.const_value.dtype.name for value in result.graph.initializers.values())
    assert stored == ["FLOAT", "FLOAT16"]


def test_a_value_that_is_an_output_and_used_inside_stays_float32_outside():
    text = model("a = MatMul(x, w) y = MatMul(a, w)", outputs="float[2,4] a, float[2,4] y")
    result, _ = optimised(text, ConvertPrecision())
    assert [value.dtype.name for value in result.graph.outputs] == ["FLOAT", "FLOAT"]
    assert [value.name for value in result.graph.outputs] == ["a", "y"]
    assert sum(node.op_type == "Cast" for node in result.graph) == 3


@pytest.mark.parametrize(
    ("body", "constants", "reason"),
    [
        (
            "a = MatMul(x, w) y = Add(a, c)",
            f"{W}, float c = {{-3.4e38}}",
            "the constant 'c' reaches 3.4e+38, float16 ends",
        ),
        ("a = MatMul(x, w) y = Add(a, c)", f"{W}, float c = {{1e-12}}", "the constant 'c' of 1e-12 would become 0"),
        ("a = MatMul(x, w) y = Mul(a, c)", f"{W}, float c = {{30000}}", "'y' reaches"),
        ("a = MatMul(x, w) b = Mul(a, a) s = ReduceMean(b) y = Add(a, s)", f"{W}", ""),
    ],
)
def test_what_the_type_cannot_hold_stays_float32(body, constants, reason):
    context = fed(x=np.full((2, 4), 3.0, np.float32))
    result, outcomes = optimised(model(body, constants=constants), ConvertPrecision(), context)
    assert any(reason in text for _, text in (*outcomes[0].kept, *outcomes[0].changed)), outcomes[0].kept
    assert types(result)["MatMul"] == "FLOAT16"


def test_a_constant_with_nan_is_refused_by_name():
    text = ir.from_onnx_text(model("a = MatMul(x, w) y = Add(a, c)", constants=f"{W}, float[4] c = {{1, 2, 3, 4}}"))
    text.graph.initializers["c"].const_value = ir.tensor(np.array([1, np.nan, 3, 4], np.float32), name="c")
    _, outcomes = optimised(text, ConvertPrecision())
    assert any("the constant 'c' holds NaN" in reason for _, reason in outcomes[0].kept)


def test_infinities_in_constants_are_no_overflow():
    source = ir.from_onnx_text(
        model("a = MatMul(x, w) b = Add(a, c) y = Softmax(b)", constants=f"{W}, float[4] c = {{0, 0, 0, 0}}")
    )
    source.graph.initializers["c"].const_value = ir.tensor(np.array([0, -np.inf, 0, 0], np.float32), name="c")
    result, _ = optimised(source, ConvertPrecision())
    assert types(result)["Add"] == "FLOAT16"


def test_a_sum_that_overflows_on_the_way_stays_though_its_mean_fits():
    text = model(
        "a = MatMul(x, w) m = ReduceMean<axes = [1], keepdims = 1>(a) y = Sub(a, m)",
        constants="float[4,4096] w",
        outputs="float[2,4096] y",
    )
    source = ir.from_onnx_text(text.replace("<float[4,4096] w>", "<>").replace("<>", ""))
    weights = np.full((4, 4096), 10.0, np.float32)
    source.graph.initializers.add(ir.Value(name="w", const_value=ir.tensor(weights, name="w")))
    old = next(node for node in source.graph if node.op_type == "MatMul")
    old.replace_input_with(1, source.graph.initializers["w"])
    _, outcomes = optimised(source, ConvertPrecision(), fed(x=np.ones((2, 4), np.float32)))
    assert any("its sum reaches 1.64e+05" in reason for _, reason in outcomes[0].kept), outcomes[0].kept


def test_as_few_nodes_as_possible_stay_so_that_the_budget_is_kept():
    """(a + 3000) - 3000 leaves nothing of a in float16; by its names, nothing sets it apart from other additions."""
    text = model(
        "a = MatMul(x, w) b = Add(a, c) d = Sub(b, c) e = MatMul(d, w) y = Add(e, a)",
        constants=f"{W}, float c = {{3000}}",
    )
    x = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32) / 8
    _, outcomes = optimised(text, ConvertPrecision(), fed(x=x))
    assert {where for where, reason in outcomes[0].kept if "stay so that" in reason} == {"Add 'b'", "Sub 'd'"}
    assert {where for where, _ in outcomes[0].changed} == {"MatMul 'a'", "MatMul 'e'", "Add 'y'"}
    assert outcomes.verdict is not None and min(item.sqnr_db for item in outcomes.verdict.outputs) >= 40


def test_the_budget_is_an_option():
    text = model("a = MatMul(x, w) b = Exp(a) y = MatMul(b, w)")
    context = fed(x=np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32) / 9)
    _, loose = optimised(text, ConvertPrecision(min_sqnr_db=30.0), context)
    _, strict = optimised(text, ConvertPrecision(min_sqnr_db=150.0), context)
    assert len(loose[0].changed) == 3 and not strict[0].changed


def test_data_decide_over_the_range():
    text = model("a = MatMul(x, w) y = Exp(a)")
    small, _ = optimised(text, ConvertPrecision(), fed(x=np.full((2, 4), 0.1, np.float32)))
    large, outcomes = optimised(text, ConvertPrecision(), fed(x=np.full((2, 4), 1.5, np.float32)))
    assert types(small)["Exp"] == "FLOAT16" and types(large)["Exp"] == "FLOAT"
    assert any("'y' reaches" in reason for _, reason in outcomes[0].kept)


@pytest.mark.parametrize("entry", ["MatMul", "product", "a"])
def test_the_keep_list_takes_operators_nodes_and_tensors(entry):
    source = ir.from_onnx_text(model("a = MatMul(x, w) b = Relu(a) c = Gemm(b, w) y = Softmax(c)"))
    next(iter(source.graph)).name = "product"
    result, outcomes = optimised(source, ConvertPrecision(keep=(entry,)))
    assert any("on the keep list" in reason for _, reason in outcomes[0].kept)
    assert types(result)["MatMul"] == "FLOAT" and types(result)["Gemm"] == "FLOAT16"


def test_sizes_stay_exact():
    text = model(
        "s = Shape(x) f = Cast<to = 1>(s) g = Mul(f, two) i = Cast<to = 7>(g) a = MatMul(x, w) y = Expand(a, one)",
        constants=f"{W}, float[2] two = {{2, 2}}, int64[2] one = {{1, 1}}",
        outputs="float[2,4] y, int64[2] i",
    )
    _, outcomes = optimised(text, ConvertPrecision())
    assert ("Mul 'g'", "kept float32: it computes with sizes, which must be exact") in outcomes[0].kept


def test_a_table_that_sizes_index_is_no_size():
    text = model(
        "s = Shape(x) i = Gather(s, axis) p = Gather(w, i) a = MatMul(x, w) y = Add(a, p)",
        constants=f"{W}, int64 axis = {{0}}",
    )
    _, outcomes = optimised(text, ConvertPrecision())
    assert ("Gather 'p'", "float16, as its neighbours") in outcomes[0].changed


def test_operators_without_a_narrow_form_stay():
    text = model(
        "r = Range(z, n, d) a = MatMul(x, w) y = Add(a, r)",
        constants=f"{W}, float z = {{0}}, float n = {{4}}, float d = {{1}}",
    )
    _, outcomes = optimised(text, ConvertPrecision())
    assert any("Range does not compute in float16 in opset 17" in reason for _, reason in outcomes[0].kept)


def test_fixed_types_of_operands_stay():
    text = model(
        "a = Conv(x, w) y = Resize(a, , scales)",
        constants="float[2,1,1,1] w = {1, 2}, float[4] scales = {1, 1, 2, 2}",
        inputs="float[1,1,4,4] x",
        outputs="float[1,2,8,8] y",
    )
    result, _ = optimised(text, ConvertPrecision())
    resize = next(node for node in result.graph if node.op_type == "Resize")
    assert resize.inputs[2].const_value.dtype is ir.DataType.FLOAT
    assert types(result)["Resize"] == "FLOAT16"


def test_a_comparison_of_narrow_numbers_is_free_and_one_of_others_stays():
    text = model(
        "a = MatMul(x, w) p = Greater(a, half) q = Greater(x, half) o = And(p, q) b = Cast<to = 1>(o) y = Mul(a, b)",
        constants=f"{W}, float half = {{0.5}}",
    )
    _, outcomes = optimised(text, ConvertPrecision())
    assert ("Greater 'p'", "float16, as its neighbours") in outcomes[0].changed
    assert ("Greater 'q'", "kept float32: what it reads is float32") in outcomes[0].kept


def test_subgraphs_and_local_functions_stay():
    text = """<ir_version: 8, opset_import: ["": 17, "f": 1]> g (bool c, float[2,4] x) => (float[2,4] y) <WEIGHT> {
        a = MatMul(x, w)
        b = If (c) <then_branch = t () => (float[2,4] p) { p = Add(a, a) }, else_branch = e () => (float[2,4] q) { q = Relu(a) }>
        d = f.twice(b)
        y = MatMul(d, w) }
        <domain: "f", opset_import: ["": 17]> twice (u) => (v) { v = Add(u, u) }""".replace("WEIGHT", W)
    _, outcomes = optimised(text, ConvertPrecision())
    reasons = dict(outcomes[0].kept)
    assert "If, Loop and Scan" in reasons["If 'b'"]
    assert "inline them first" in reasons["f::twice 'd'"]


def test_sequences_stay():
    text = model(
        "s = SequenceConstruct(x, x) a = ConcatFromSequence<axis = 0>(s) y = MatMul(a, w)", outputs="float[4,4] y"
    )
    _, outcomes = optimised(text, ConvertPrecision())
    assert dict(outcomes[0].kept)["SequenceConstruct 's'"].endswith("sequences and optional values stay float32")


def test_quantised_parts_stay():
    text = model(
        "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = MatMul(d, w)",
        constants=f"{W}, float s = {{0.1}}, int8 z = {{0}}",
    )
    _, outcomes = optimised(text, ConvertPrecision())
    assert sum("keep their float32 scales" in reason for _, reason in outcomes[0].kept) == 2


def test_a_custom_operator_makes_the_model_unmeasurable():
    text = '<ir_version: 8, opset_import: ["": 17, "own": 1]> g (float[2] x) => (float[2] y) { y = own.Thing(x) }'
    _, outcomes = PassManager(Recipe((ConvertPrecision(),))).run(ir.from_onnx_text(text))
    assert any("nothing could be measured" in reason for _, reason in outcomes[0].kept)


def test_a_group_too_small_for_its_casts_stays(keeps):
    keeps(ConvertPrecision(), model("y = Tanh(x)", constants=""), reason="more casts around it")


@pytest.mark.parametrize("version", [7, 12])
def test_bfloat16_needs_opset_13(keeps, version):
    text = model("y = MatMul(x, w)").replace(": 17", f": {version}")
    keeps(ConvertPrecision(to="bfloat16"), text, reason=f"opset {version} has no Cast to bfloat16")


def test_a_model_that_is_narrow_already_is_left(keeps):
    text = model("h = Cast<to = 10>(x) a = Relu(h) b = Cast<to = 1>(a) y = MatMul(b, w)")
    keeps(ConvertPrecision(), text, reason="holds 16-bit numbers already", runs=False)


def test_weights_stored_in_float16_are_used_as_they_are():
    source = halved(model("u = Cast<to = 1>(w) y = MatMul(x, u)"))
    result, _ = optimised(source, ConvertPrecision())
    product = next(node for node in result.graph if node.op_type == "MatMul")
    assert product.inputs[1] is result.graph.initializers["w"]


@pytest.mark.parametrize("to", ["float16", "bfloat16"])
def test_inputs_and_outputs_become_narrow_on_request(to):
    text = model("a = MatMul(x, w) y = Add(a, x)").replace(": 17", ": 21")
    result, outcomes = optimised(text, ConvertPrecision(to=to, keep_io=False))
    assert [value.dtype.name.lower() for value in (*result.graph.inputs, *result.graph.outputs)] == [to, to]
    assert not any(node.op_type == "Cast" for node in result.graph)
    assert outcomes.verdict is not None and outcomes.verdict.ok


def test_an_input_that_float32_nodes_read_stays():
    text = model("a = MatMul(x, w) b = Tanh(x) y = Add(a, b)")
    result, outcomes = optimised(text, ConvertPrecision(keep_io=False, keep=("Tanh",)))
    assert result.graph.inputs[0].dtype is ir.DataType.FLOAT
    assert result.graph.outputs[0].dtype is ir.DataType.FLOAT16
    assert ("tensor 'x'", "kept float32: nodes in float32 read it") in outcomes[0].kept
    assert outcomes.verdict is not None and outcomes.verdict.ok


def test_an_input_whose_size_is_asked_for_becomes_narrow():
    text = model("s = Shape(x) a = MatMul(x, w) y = Reshape(a, s)")
    result, _ = optimised(text, ConvertPrecision(keep_io=False))
    assert result.graph.inputs[0].dtype is ir.DataType.FLOAT16
    assert not any(node.op_type == "Cast" for node in result.graph)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("a = MatMul(x, w) y = MeanVarianceNormalization<axes = [0]>(a)", "holds float32 constants"),
        ('a = MatMul(x, w) y = ScatterND<reduction = "add">(a, i, a)', "cannot reduce 16-bit numbers"),
    ],
)
def test_what_the_runtime_cannot_run_narrow_stays(body, reason):
    constants = f"{W}, int64[2,1] i = {{0, 1}}"
    _, outcomes = optimised(model(body, constants=constants).replace(": 17", ": 18"), ConvertPrecision())
    assert any(reason in text for _, text in outcomes[0].kept), outcomes[0].kept


def test_the_mean_of_a_layer_normalisation_stays_float32():
    text = model(
        "a = MatMul(x, w) n, m = LayerNormalization(a, s) y = Add(n, m)", constants=f"{W}, float[4] s = {{1, 1, 1, 1}}"
    )
    result, _ = optimised(text, ConvertPrecision())
    infer(result)
    normalise = next(node for node in result.graph if node.op_type == "LayerNormalization")
    assert [value.dtype.name for value in normalise.outputs] == ["FLOAT16", "FLOAT"]


def test_bfloat16_is_proven_by_simulation():
    text = model("a = MatMul(x, w) b = Relu(a) y = MatMul(b, w)")
    result, outcomes = optimised(text, ConvertPrecision(to="bfloat16"))
    assert types(result)["MatMul"] == "BFLOAT16"
    assert outcomes.verdict is not None
    assert all(25.0 <= item.sqnr_db < 80.0 for item in outcomes.verdict.outputs)


def test_a_cast_from_integers_gives_the_type_its_users_want():
    text = model("f = Cast<to = 1>(i) a = MatMul(f, w) y = Relu(a)", inputs="int64[2,4] i")
    result, _ = optimised(text, ConvertPrecision(), fed(i=np.arange(8).reshape(2, 4)))
    assert [node.op_type for node in result.graph] == ["Cast", "MatMul", "Relu", "Cast"]


def test_an_empty_batch_and_a_scalar_are_taken():
    text = model("a = MatMul(x, w) y = Mul(a, s)", inputs="float[N,4] x, float s", outputs="float[N,4] y")
    context = Context(data=CalibrationData.open([{"x": np.zeros((0, 4), np.float32), "s": np.float32(2).reshape(())}]))
    _, outcomes = optimised(text, ConvertPrecision(), context)
    assert outcomes.verdict is not None and outcomes.verdict.ok


def test_what_contrib_operators_take_is_asked_of_the_runtime():
    text = """<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]> g (float[2,4] x) => (float[2,4] y) <WEIGHT> {
        a = MatMul(x, w) y = com.microsoft.QuickGelu(a) }""".replace("WEIGHT", W)
    result, _ = optimised(text, ConvertPrecision())
    assert types(result)["QuickGelu"] == "FLOAT16"


def test_an_overridable_weight_is_cast_in_the_run():
    source = ir.from_onnx_text(model("y = MatMul(x, w)"))
    source.graph.inputs.append(source.graph.initializers["w"])
    result, _ = optimised(source, ConvertPrecision())
    assert [node.op_type for node in result.graph].count("Cast") == 3


MASKED = "a = MatMul(x, w) m = Where(seen, zero, far) b = Add(a, m) y = Softmax(b)"
FAR = f"{W}, float zero = {{0}}, float far = {{-3.4e38}}"


@pytest.mark.parametrize("to", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("body", "constants"),
    [
        (MASKED, FAR.replace("-3.4e38", "-3.4028235e38")),
        (
            "a = MatMul(x, w) b = Where(seen, a, far) c = Unsqueeze(b, i) y0 = Softmax(c) y = Squeeze(y0, i)",
            FAR.replace("-3.4e38", "-3.4028235e38") + ", int64[1] i = {0}",
        ),
        (
            "a = MatMul(x, w) n = Cast<to = 1>(seen) o = Sub(one, n) m = Mul(o, far) b = Add(a, m) y = Softmax(b)",
            FAR.replace("-3.4e38", "-3.4028235e38") + ", float one = {1}",
        ),
        (
            "a = MatMul(x, w) s = Shape(a) c = ConstantOfShape<value = float[1] {-3.4028235e38}>(s)"
            " m = Where(seen, a, c) y = Softmax(m)",
            FAR,
        ),
    ],
)
def test_a_mask_that_only_a_softmax_sees_is_brought_into_the_range(body, constants, to):
    text = model(body, constants=constants, inputs="float[2,4] x, bool[2,4] seen")
    seen = np.array([[True, False, True, True], [False, False, True, False]])
    x = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    text = text.replace('"": 17', '"": 22')
    result, outcomes = optimised(text, ConvertPrecision(to=to), fed(x=x, seen=seen))
    assert any("only masks what a Softmax sees" in reason for _, reason in outcomes[0].changed)
    assert not any("reaches" in reason for _, reason in outcomes[0].kept), outcomes[0].kept
    assert types(result)["Softmax"] == to.upper()
    assert outcomes.verdict is not None and outcomes.verdict.ok


@pytest.mark.parametrize(("scale", "narrow"), [(0.0, True), (1.0, False)])
def test_a_row_that_is_masked_altogether_is_no_nan_and_equal_shares_stay_equal(scale, narrow):
    """-3.4e38 takes up what it is added to, -16384 does not; where the data show that, the mask stays."""
    text = model(MASKED, constants=FAR, inputs="float[2,4] x, bool[2,4] seen")
    x, seen = np.full((2, 4), scale, np.float32), np.array([[True] * 4, [False] * 4])
    result, outcomes = optimised(text, ConvertPrecision(), fed(x=x, seen=seen))
    assert (types(result)["Add"] == "FLOAT16") is narrow
    assert outcomes.verdict is not None and outcomes.verdict.ok


@pytest.mark.parametrize(
    "body",
    [
        "a = MatMul(x, w) m = Where(seen, zero, far) b = Add(a, m) y = Max(b, zero)",  # no Softmax
        "a = MatMul(x, w) m = Where(seen, zero, far) y = Add(a, m)",  # an output
        "a = MatMul(x, w) m = Mul(a, far) y = Softmax(m)",  # the factor is no mask
    ],
)
def test_what_others_see_of_a_far_number_stays_as_it_is(body):
    text = model(body, constants=FAR, inputs="float[2,4] x, bool[2,4] seen")
    _, outcomes = optimised(text, ConvertPrecision(), fed(x=np.ones((2, 4), np.float32), seen=np.ones((2, 4), bool)))
    assert not any("masks" in reason for _, reason in outcomes[0].changed)
    assert any("'far' reaches 3.4e+38" in reason for _, reason in outcomes[0].kept)


def test_the_keep_list_takes_masks_and_nothing_narrow_leaves_them():
    text = model(MASKED, constants=FAR, inputs="float[2,4] x, bool[2,4] seen")
    _, outcomes = optimised(text, ConvertPrecision(keep=("far",)))
    assert not any("masks" in reason for _, reason in outcomes[0].changed)
    _, outcomes = optimised(text, ConvertPrecision(keep=("MatMul", "Add", "Softmax")))
    assert outcomes[0].changed == []


@pytest.mark.parametrize(
    ("target", "kinds"), [("x86-64", ["note", "warning"]), ("onnx", ["note", "note"]), ("cuda", ["note"])]
)
def test_a_target_without_16_bit_kernels_is_warned_of(target, kinds):
    heard = []

    def hear(event):
        if event.kind in ("note", "warning"):
            heard.append(event)

    context = Context(target=targets()[target], events=hear)
    optimised(model("a = MatMul(x, w) y = Softmax(a)"), ConvertPrecision(), context)
    assert [event.kind for event in heard] == kinds
    assert all("few float16 kernels" in event.data["text"] for event in heard[1:])


def test_an_overflow_between_two_nodes_is_seen_though_the_runtime_hides_it():
    """300 * 300 overflows, and the division brings it back: ONNX Runtime's CPU provider computes both in float32."""
    text = model("a = MatMul(x, w) b = Mul(a, a) c = Div(b, k) y = MatMul(c, w)", constants=f"{W}, float k = {{10000}}")
    result, outcomes = optimised(text, ConvertPrecision(), fed(x=np.full((2, 4), 40.0, np.float32)))
    assert any("'b' reaches" in reason for _, reason in outcomes[0].kept)
    assert types(result)["Mul"] == "FLOAT"


def test_the_range_is_that_of_all_samples_not_of_the_first():
    text = model("a = MatMul(x, w) b = Mul(a, a) y = MatMul(b, w)")
    samples = [{"x": np.ones((2, 4), np.float32)}] * 10 + [{"x": np.full((2, 4), 40.0, np.float32)}]
    _, outcomes = optimised(text, ConvertPrecision(), Context(data=CalibrationData.open(samples)))
    assert any("'b' reaches" in reason for _, reason in outcomes[0].kept)


def test_the_plan_can_be_asked_for_alone():
    source = ir.from_onnx_text(model("a = MatMul(x, w) y = Softmax(a)"))
    infer(source)
    plan = ConvertPrecision().plan(source, Context())
    assert [choice.node.op_type for choice in plan.choices] == ["MatMul", "Softmax"]
    assert all(choice.sqnr_db is not None and choice.sqnr_db > 40 for choice in plan.choices)
    assert plan.sqnr_db > 40 and plan.all_sqnr_db == plan.sqnr_db and plan.tries == 1


def test_the_optimised_runtime_agrees():
    source = ir.from_onnx_text(model("a = MatMul(x, w) b = Relu(a) y = MatMul(b, w)"))
    result, _ = optimised(source, ConvertPrecision())
    feeds = {"x": np.random.default_rng(1).standard_normal((2, 4)).astype(np.float32)}
    exact = Session(source, optimized=False).run(feeds)["y"]
    narrow = Session(result, optimized=True).run(feeds)["y"]
    assert 10 * math.log10(float((exact**2).sum() / ((exact - narrow) ** 2).sum() + 1e-30)) > 40


@pytest.mark.parametrize(
    ("options", "said"), [({"to": "int8"}, "to is 'int8'"), ({"min_sqnr_db": -1.0}, "min_sqnr_db")]
)
def test_options_that_mean_nothing_are_refused(options, said):
    with pytest.raises(GraphoptError, match=said):
        ConvertPrecision(**options)


def test_the_recipe_text_round_trips():
    text = 'convert-precision{to="bfloat16", keep_io=false, keep=["Softmax", "head"], min_sqnr_db=20.0}'
    assert str(Recipe.parse(text)) == text
