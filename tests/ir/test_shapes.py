"""Inference must be sound: what it says is relied on."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.ir import dims, forget, infer, known_ints, nodes


def inferred(text: str) -> dict[str, ir.Value]:
    model = ir.from_onnx_text('<ir_version: 8, opset_import: ["": 17]> ' + text)
    assert infer(model) == []
    found = {value.name: value for node in nodes(model) for value in node.outputs}
    return found | {value.name: value for value in model.graph.inputs}


def test_declared_shapes_are_hints_and_dropped():
    found = inferred("g (float[2, 3] x) => (float[7, 7] y) <float[9] a> { a = Relu(x) y = Transpose(a) }")
    assert dims(found["a"]) == (2, 3)
    assert dims(found["y"]) == (3, 2)


def test_symbols_flow():
    found = inferred("g (float[N, 3] x, float[3, M] w) => (y) { y = MatMul(x, w) }")
    assert dims(found["y"]) == ("N", "M")


def test_a_negative_size_and_a_question_mark_are_unknown_sizes_each_of_its_own():
    model = ir.from_onnx_text('<ir_version: 8, opset_import: ["": 17]> g (float[2, 2, 2] x) => (y) { y = Relu(x) }')
    model.graph.inputs[0].shape = ir.Shape([-1, "?", "?"])
    infer(model)
    sizes = dims(model.graph.outputs[0])
    assert len(set(sizes)) == 3 and all(isinstance(size, str) for size in sizes)


def test_an_if_has_a_shape_only_when_both_branches_have():
    found = inferred(
        """g (bool p, float[2] x, int64[K] s) => (y) {
             y = If (p) <then_branch = t () => (u) { u = Relu(x) }, else_branch = e () => (v) { v = Reshape(x, s) }> }"""
    )
    assert found["y"].shape is None


def test_an_if_keeps_what_the_branches_agree_on():
    found = inferred(
        """g (bool p, float[2, N] x, float[3, N] z) => (y) {
             y = If (p) <then_branch = t () => (u) { u = Relu(x) }, else_branch = e () => (v) { v = Relu(z) }> }"""
    )
    assert dims(found["y"])[1] == "N" and isinstance(dims(found["y"])[0], str)


LOOP = """g (int64 n, bool c, float[2] x) => (y) {{
             y = Loop (n, c, x) <body = b (int64 i, bool k, float[2] v) => (bool k2, float[2] w) {{
               k2 = Identity(k)
               w = {step}
             }}>
           }}"""


def test_what_a_loop_carries_has_its_shape_when_it_is_invariant():
    found = inferred(LOOP.format(step="Relu(v)"))
    assert dims(found["y"]) == (2,)


def test_what_a_loop_changes_has_no_shape_inside_or_outside():
    found = inferred(LOOP.format(step="Concat<axis = 0>(v, v)"))
    assert found["y"].shape is None
    assert dims(found["w"]) is None


def test_a_scan_state_follows_the_same_rule():
    found = inferred(
        """g (float[2] s, float[5, 2] x) => (last, all) {
             last, all = Scan <num_scan_inputs = 1, body = b (float[2] i, float[2] e) => (float[2] c, float[2] o) {
               c = Add(i, e)
               o = Neg(c)
             }> (s, x) }"""
    )
    assert found["all"].shape is None  # how many slices there are, inference leaves open
    assert found["last"].dtype == ir.DataType.FLOAT


def of_function(main: str) -> ir.Value:
    """What is known of the output of a function that applies Relu."""
    model = ir.from_onnx_text(
        f"""<ir_version: 8, opset_import: ["": 17, "local": 1]> {main}
           <domain: "local", opset_import: ["": 17]> f (a) => (c) {{ c = Relu(a) }}"""
    )
    infer(model)
    output = next(iter(model.functions.values())).outputs[0]
    found = ir.Value(name="found", type=output.type, shape=output.shape)
    forget(model)
    assert output.type is None and output.shape is None
    return found


def test_a_function_knows_what_its_calls_agree_on():
    once = of_function("g (float[2, N] x) => (y) { y = local.f(x) }")
    assert dims(once) == (2, "N") and once.dtype == ir.DataType.FLOAT
    twice = of_function("g (float[2, N] x) => (y) { z = Neg(x) u = local.f(x) v = local.f(z) y = Add(u, v) }")
    assert dims(twice) == (2, "N")


def test_a_function_called_with_different_shapes_or_types_knows_none():
    shapes = of_function("g (float[2] x, float[3] z) => (y, u) { y = local.f(x) u = local.f(z) }")
    assert shapes.shape is None and shapes.dtype == ir.DataType.FLOAT
    types = of_function("g (float[2] x, double[2] z) => (y, u) { y = local.f(x) u = local.f(z) }")
    assert types.shape is None and types.dtype is None


def test_an_overridable_default_says_nothing_about_elements():
    found = inferred("g (float[4] x, int64[2] s) => (y) <int64[2] s = {2, 2}> { y = Reshape(x, s) }")
    assert not all(isinstance(size, int) for size in dims(found["y"]) or ("?",))


def test_forget_leaves_no_trace_in_the_file():
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[N, 3] x) => (y) { s = Shape(x) y = Cast<to = 1>(s) }'
    model = ir.from_onnx_text(text)
    infer(model)
    forget(model)
    assert b"sym_data" not in ir.to_proto(model).SerializeToString()
    assert all(value.shape is None and value.const_value is None for node in nodes(model) for value in node.outputs)


def test_a_rule_that_fails_leaves_its_outputs_unknown():
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["": 17]> g (float[2, 3] x) => (y) { a = Transpose<perm = [0, 1, 2]>(x) y = Relu(a) }'
    )
    failed = infer(model)
    assert [node.op_type for node in failed] in ([], ["Transpose"])
    assert all(value.shape is None or None not in dims(value) for node in nodes(model) for value in node.outputs)


def test_a_quotient_of_numbers_is_a_number():
    found = inferred("g (float[N, S, 128] x) => (y) <int64[4] s = {0, 0, -1, 32}> { y = Reshape(x, s) }")
    assert dims(found["y"])[2:] == (4, 32)


def test_different_symbols_in_one_place_decide_nothing():
    """Either may be 1."""
    found = inferred("g (float[N, 3] x, float[M, 3] z) => (y) { y = Add(x, z) }")
    assert dims(found["y"])[0] not in ("N", "M")
    found = inferred("g (float[N, 2, 3] x, float[M, 3, 4] z) => (y) { y = MatMul(x, z) }")
    assert dims(found["y"])[0] not in ("N", "M") and dims(found["y"])[1:] == (2, 4)


def test_a_number_decides_against_a_symbol():
    found = inferred("g (float[N, 3] x, float[4, 3] z) => (y) { y = Add(x, z) }")
    assert dims(found["y"]) == (4, 3)


def test_a_table_cut_to_the_length_is_as_long_as_the_sequence():
    """Position embeddings: x + table[:S]; a longer x would not fit the table."""
    found = inferred(
        """g (float[B, S, 8] x) => (y) <float[1, 64, 8] t, int64[1] z = {0}, int64[1] o = {1}, int64[1] u = {2}> {
             s = Shape(x) n = Slice(s, o, u) c = Slice(t, z, n, o) y = Add(c, x) }""".replace(
            "<float[1, 64, 8] t, ", "<"
        ).replace("float[B, S, 8] x", "float[B, S, 8] x, float[1, 64, 8] t")
    )
    assert dims(found["y"]) == ("B", "S", 8)


def test_a_slice_of_an_unknown_size_may_be_shorter_than_asked_for():
    found = inferred("g (float[N] x) => (y) <int64[1] s = {3}, int64[1] e = {5}> { y = Slice(x, s, e) }")
    assert isinstance(dims(found["y"])[0], str)


def test_squeeze_without_axes_leaves_the_rank_open():
    assert inferred("g (float[N, 3] x) => (y) { y = Squeeze(x) }")["y"].shape is None
    assert dims(inferred("g (float[1, 3] x) => (y) { y = Squeeze(x) }")["y"]) == (3,)


def test_expanding_an_unknown_rank_gives_no_rank():
    found = inferred("g (float[2] x, int64[K] k) => (y) <int64[2] s = {1, 3}> { a = Reshape(x, k) y = Expand(a, s) }")
    assert found["y"].shape is None


def test_a_scaled_size_is_not_computed_by_symbols():
    found = inferred("g (float[1, 1, N] x) => (y) <float[3] r = {1, 1, 0.3}> { y = Resize(x, , r) }")
    assert dims(found["y"])[:2] == (1, 1) and "N" not in str(dims(found["y"])[2])


def test_a_decided_where_of_sizes_is_followed():
    found = inferred(
        """g (float[N, 1, S] x) => (y) <bool[3] c = {0, 1, 0}, int64[1] one = {1}, int64[1] z = {0}, int64[1] t = {2},
             int64[1] m = {-1}, int64[1] u = {3}> {
             s = Shape(x) n = Slice(s, z, one) l = Slice(s, t, u) w = Concat<axis = 0>(n, m, l) k = Where(c, one, w)
             y = Expand(x, k) }"""
    )
    assert dims(found["y"]) == ("N", 1, "S")


def test_a_new_size_does_not_get_the_name_of_an_input_s():
    """A second inference meets the names the first gave to nameless sizes of inputs."""
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["": 17]> g (float[?, 3] x) => (y) <int64[1] s = {1}, int64[1] e = {4},
           int64[1] a = {0}> { y = Slice(x, s, e, a) }"""
    )
    for _ in range(2):
        infer(model)
        assert dims(model.graph.inputs[0])[0] != dims(model.graph.outputs[0])[0]


def test_a_slice_with_steps_or_axes_of_the_run_has_sizes_of_its_own():
    found = inferred(
        """g (float[4, 5] x, int64[1] t) => (a, b) <int64[1] s = {0}, int64[1] e = {3}, int64[1] z = {0}> {
             a = Slice(x, s, e, z, t) b = Slice(x, s, e, t) }"""
    )
    assert not any(isinstance(size, int) for size in (dims(found["a"])[0], *dims(found["b"])))


def test_a_backward_slice_takes_the_first_element_too():
    found = inferred(
        """g (float[4, 6] x) => (a, b) <int64[1] s = {-1}, int64[1] far = {-9223372036854775807}, int64[1] z = {0},
             int64[1] back = {-1}, int64[1] below = {-9}> {
             n = Shape(x) a = Slice(n, s, far, z, back) b = Slice(n, below, far, z, back) }"""
    )
    assert known_ints(found["a"]) == (6, 4)
    assert known_ints(found["b"]) == (4,), "ONNX moves a start in front of the first element to that one"


def test_a_slice_up_to_a_bound_below_zero_is_empty():
    found = inferred(
        """g (float[N, 6] x) => (a) <int64[1] s = {0}, int64[1] far = {-9223372036854775807}, int64[1] u = {1}> {
             a = Slice(x, s, far, u) }"""
    )
    assert dims(found["a"])[1] == 0


def test_a_cast_that_wraps_is_not_followed():
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["": 17]> g (float[4] x, float[N] w) => (b, d) <int64[1] far = {5000000000}> {
             n = Shape(w) k = Concat<axis = 0>(n, far)
             a = Cast<to = 6>(far) b = Cast<to = 7>(a) c = Cast<to = 6>(k) d = Cast<to = 7>(c) }"""
    )
    infer(model)
    found = {value.name: value for node in nodes(model) for value in node.outputs}
    assert all(known_ints(found[name]) is None for name in "abcd")
    assert not any("5000000000" in str(found[name].metadata_props) for name in "abcd")


def test_elements_that_followed_from_a_refuted_guess_are_forgotten():
    """A carried value that grows: on the guess that it does not, its size in the body would be 2."""
    found = inferred(
        """g (float[2] x, int64 n) => (y) {
             y = Loop (n, , x) <body = b (int64 i, bool go, float[K] c) => (bool more, float[M] d) {
               more = Identity(go) s = Shape(c) one = Constant<value_ints = [1]> ()
               t = Mul(s, one) r = Expand(x, t) d = Concat<axis = 0>(c, x) }> }"""
    )
    assert known_ints(found["s"]) is None and known_ints(found["t"]) is None
    assert dims(found["r"]) != (2,)


def test_the_outputs_of_a_scan_body_keep_their_declared_ranks():
    """ONNX Runtime refuses a Scan whose body does not give them."""
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["": 17]> g (float[N] x, float z) => (y, w) {
             y, w = Scan<num_scan_inputs = 1, body = b (float c, float r) => (float d, float e) {
               d = Add(c, r) e = Identity(c) }> (z, x) }"""
    )
    infer(model)
    infer(model)
    forget(model)
    body = next(iter(model.graph)).attributes["body"].as_graph()
    assert [value.shape is not None and value.shape.rank() for value in body.outputs] == [0, 0]


def test_growing_expressions_are_let_go_of():
    """Thirty doublings of a sum: as an expression it would have a thousand million terms."""
    steps = "".join(f"a{i + 1} = Mul(a{i}, a{i}) b{i + 1} = Add(a{i + 1}, b{i}) " for i in range(30))
    found = inferred(
        f"""g (float[N, M] x) => (y) <int64[1] z = {{0}}, int64[1] o = {{1}}> {{
             s = Shape(x) a0 = Slice(s, z, o) b0 = Slice(s, z, o) {steps} y = ConstantOfShape(b30) }}"""
    )
    assert found["y"] is not None


def test_a_scan_body_knows_its_slices():
    found = inferred(
        """g (float[2] s, float[5, T, 2] x) => (last, all) {
             last, all = Scan <num_scan_inputs = 1, scan_input_axes = [1],
               body = b (float[2] i, float[5, 2] e) => (float[2] c, float[5, 2] o) {
               c = Relu(i)
               o = Neg(e)
             }> (s, x) }"""
    )
    assert dims(found["o"]) == (5, 2)
    assert dims(found["c"]) == (2,)


def test_elements_cast_to_truth_values_are_no_numbers_any_more():
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["": 17]> g (float[2, 3] x) => (y) { s = Shape(x) y = Cast<to = 9>(s) }'
    )
    assert infer(model) == []
    assert known_ints(model.graph.outputs[0]) is None


def test_a_call_gives_what_its_function_makes_of_its_own_inputs():
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["": 17, "local": 1]>
           g (float[2, 3] x, double[4] z) => (y, u) { y = local.f(x) u = local.f(z) }
           <domain: "local", opset_import: ["": 17]> f (a) => (c) { b = Neg(a) c = Concat<axis = 0>(b, b) }"""
    )
    infer(model)
    first, second = model.graph.outputs
    assert (dims(first), first.dtype) == ((4, 3), ir.DataType.FLOAT)
    assert (dims(second), second.dtype) == ((8,), ir.DataType.DOUBLE)
    inner = next(iter(model.functions.values())).outputs[0]
    assert (dims(inner), inner.dtype) == (None, None)


def test_calls_that_nest_exponentially_end_soon():
    depth = 40
    functions = "".join(
        f'<domain: "local", opset_import: ["": 17, "local": 1]> f{i} (a) => (c) {{ '
        f"b = local.f{i + 1}(a) c = local.f{i + 1}(b) }}"
        for i in range(depth)
    )
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["": 17, "local": 1]> g (float[2] x) => (y) { y = local.f0(x) }'
        + functions
        + f'<domain: "local", opset_import: ["": 17]> f{depth} (a) => (c) {{ c = Neg(a) }}'
    )
    assert infer(model) == []
    assert dims(model.graph.outputs[0]) is None
