"""If, Loop, Scan and local functions."""

from __future__ import annotations

import numpy as np
import onnx
from maker import LIBRARY, Maker, Scope
from onnx import TensorProto, helper
from sizes import size_of, with_axes
from values import Value


def branch(maker: Maker) -> None:
    """If: both branches give the shape of the same outer value, computed differently."""
    rng = maker.rng
    if maker.scope.depth > 1:
        return
    condition = maker.pick("b", lambda item: item.rank == 0) if rng.random() < 0.7 else None
    if condition is None:
        if rng.random() < 0.5:
            value = maker.pick("f", lambda item: item.rank >= 1)
            if value is None:
                return
            size = size_of(maker, value, rng.randrange(value.rank))
            scalar = with_axes(maker, "Squeeze", size, [0], [()] * maker.assignments, None)
            condition = maker.apply("Greater", [scalar, maker.constant(np.array(2))], "b", [()] * maker.assignments)
        else:
            condition = maker.constant(np.array(rng.random() < 0.5))
    model = [value for value in (maker.pick() for _ in range(rng.choice((1, 1, 2)))) if value is not None]
    if not model:
        return
    branches: list[onnx.GraphProto] = []
    for name in ("then", "else"):
        outer = maker.inside(3)
        maker.some_steps(4)
        results: list[Value] = []
        for value in model:
            found = maker.pick("f", lambda item, v=value: item.shapes == v.shapes) or value
            if rng.random() < 0.5:
                found = maker.apply(rng.choice(("Relu", "Neg", "Abs")), [found], "f", found.shapes)
            results.append(found)
        branches.append(maker.finished(outer, name, [], results))
    names = maker.node("If", [condition], len(model), then_branch=branches[0], else_branch=branches[1])
    for name, value in zip(names, model, strict=True):
        maker.add(name, "f", value.shapes)


def loop(maker: Maker) -> None:
    """Loop with a constant or computed number of trips, two carried values (swapped sometimes) and a scan output."""
    rng = maker.rng
    if maker.scope.depth > 1:
        return
    first = maker.pick()
    second = maker.pick("f", lambda item: first is not None and item.shapes == first.shapes)
    if first is None or second is None or first.rank > 3:
        return
    trips = rng.choice((0, 1, 1, 2, 3))
    count: Value = maker.constant(np.array(trips, np.int64))
    trip_counts = (trips,) * maker.assignments
    if rng.random() < 0.3 and first.rank:
        size = size_of(maker, first, rng.randrange(first.rank))
        count = with_axes(maker, "Squeeze", size, [0], [()] * maker.assignments, None)
        assert size.elements is not None
        trip_counts = tuple(int(item[0]) for item in size.elements)
    go = maker.constant(np.array(True)) if rng.random() < 0.6 else None
    number, running = maker.fresh("i"), maker.fresh("go")
    carried = [Value(maker.fresh("s"), "f", item.shapes) for item in (first, second)]
    grows = rng.random() < 0.2 and first.rank >= 1
    if grows:
        carried = [Value(item.name, "f", tuple((97,) * item.rank for _ in item.shapes)) for item in carried]
    outer = maker.inside(3, carried)
    if not grows:
        maker.some_steps(4)
    keep_on = maker.node("Identity", [running])[0]
    if grows:
        part: Value | str = first
        if rng.random() < 0.5:  # a size that would be known if the value did not grow
            shape = maker.node("Shape", [carried[0]])[0]
            part = maker.node("Expand", [maker.node("Relu", [carried[0]])[0], shape])[0]
            end = maker.node("Gather", [maker.node("Shape", [first])[0], maker.ints(0)])[0]
            part = maker.node("Slice", [part, maker.ints(0), end, maker.ints(0)])[0]
        name = maker.node("Concat", [carried[0], part], axis=0)[0]
        results = [Value(name, "f", carried[0].shapes), carried[1]]
    else:
        results = [maker.pick("f", lambda item: item.shapes == first.shapes) or carried[0], carried[0]]
        if rng.random() < 0.5:
            results.reverse()
    scanned = [] if grows or rng.random() < 0.5 else [maker.pick("f", lambda item: item.rank <= 3) or carried[0]]
    inputs = [
        helper.make_tensor_value_info(number, TensorProto.INT64, []),
        helper.make_tensor_value_info(running, TensorProto.BOOL, []),
        *(helper.make_tensor_value_info(item.name, TensorProto.FLOAT, None) for item in carried),
    ]
    go_on = Value(keep_on, "b", ((),) * maker.assignments)
    body = maker.finished(outer, "body", inputs, [go_on, *results, *scanned])
    names = maker.node("Loop", [count, go if go is not None else "", first, second], 2 + len(scanned), body=body)
    if grows:
        shapes = [(shape[0] * (1 + times), *shape[1:]) for shape, times in zip(first.shapes, trip_counts, strict=True)]
        if maker.small(shapes):
            maker.add(names[0], "f", shapes)
        maker.add(names[1], "f", second.shapes)
        return
    for name, value in zip(names, (first, second), strict=False):
        maker.add(name, "f", value.shapes)
    if scanned:
        shapes = [(times, *shape) for times, shape in zip(trip_counts, scanned[0].shapes, strict=True)]
        if maker.small(shapes) and 0 not in trip_counts:
            maker.add(names[2], "f", shapes)


def scan(maker: Maker) -> None:
    if maker.scope.depth > 1:
        return
    value = maker.pick("f", lambda item: 1 <= item.rank <= 4 and all(min(shape) > 0 for shape in item.shapes))
    if value is None:
        return
    rows = Value(maker.fresh("r"), "f", tuple(shape[1:] for shape in value.shapes))
    start = maker.constant(np.array(0.5, np.float32))
    state = Value(maker.fresh("s"), "f", ((),) * maker.assignments)
    outer = maker.inside(3, [rows, state])
    maker.some_steps(3)
    after = maker.pick("f", lambda item: item.rank == 0) or state
    given = maker.pick("f", lambda item: item.shapes == rows.shapes) or rows
    inputs = [helper.make_tensor_value_info(item.name, TensorProto.FLOAT, None) for item in (state, rows)]
    body = maker.finished(outer, "scan", inputs, [after, given])
    names = maker.node("Scan", [start, value], 2, body=body, num_scan_inputs=1)
    maker.add(names[0], "f", state.shapes)
    maker.add(names[1], "f", value.shapes)


def call(maker: Maker) -> None:
    """A call of a local function, new or old, sometimes twice."""
    rng = maker.rng
    if maker.scope.depth or maker.opset < 13:
        return
    if not maker.functions or rng.random() < 0.6:
        new_function(maker)
    if not maker.functions:
        return
    function, parameters, results = rng.choice(maker.functions)
    arguments = [maker.pick("f", lambda item, p=parameter: item.shapes == p.shapes) for parameter in parameters]
    if any(argument is None for argument in arguments):
        return
    attributes = {"slope": rng.choice((0.1, 0.5))} if function.attribute else {}
    names = maker.node(
        function.name, [item for item in arguments if item is not None], len(results), domain=LIBRARY, **attributes
    )
    for name, value in zip(names, results, strict=True):
        maker.add(name, "f", value.shapes)


def new_function(maker: Maker) -> None:
    rng = maker.rng
    given = [value for value in (maker.pick() for _ in range(rng.choice((1, 2)))) if value is not None]
    if not given:
        return
    outer = maker.scope
    parameters = [Value(maker.fresh("a"), "f", value.shapes) for value in given]
    maker.scope = Scope(values=list(parameters), depth=1, is_function=True)
    attributes: list[str] = []
    if rng.random() < 0.4:
        name = maker.fresh()
        node = helper.make_node("LeakyRelu", [parameters[0].name], [name])
        attribute = onnx.AttributeProto(name="alpha", type=onnx.AttributeProto.FLOAT, ref_attr_name="slope")
        node.attribute.append(attribute)
        maker.scope.nodes.append(node)
        maker.add(name, "f", parameters[0].shapes)
        attributes.append("slope")
    maker.some_steps(5)
    made = {item for node in maker.scope.nodes for item in node.output}
    results = [value for value in maker.scope.values if value.kind == "f" and value.name in made][-2:]
    if results:
        function = helper.make_function(
            LIBRARY,
            maker.fresh("f"),
            [value.name for value in parameters],
            [value.name for value in results],
            maker.scope.nodes,
            [helper.make_opsetid("", maker.opset)],
            attributes,
        )
        maker.functions.append((function, parameters, results))
    maker.scope = outer
