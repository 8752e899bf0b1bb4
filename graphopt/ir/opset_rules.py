"""The operators that changed form or meaning between opset 7 and today, and how each is converted.

| operator | between | change |
|---|---|---|
| Clip, Dropout, Pad, Slice, Split, Squeeze, TopK, Unsqueeze, Reduce* | 9/17 and 10/18 | attributes became inputs |
| DFT | 19/20 | ``axis`` became an input |
| Upsample, Resize | 10/11 | coordinates: asymmetric and rounded down before, half-pixel since |
| Softmax, LogSoftmax, Hardmax | 12/13 | over all axes from ``axis`` on before, over one axis since |
| RoiAlign | 15/16 | coordinates: not shifted by half a pixel before |
| Split | 17/18 | needs ``num_outputs`` where the sizes are not given |
| GridSample | 19/20 | ``bilinear`` became ``linear``, ``bicubic`` became ``cubic`` |
| GroupNormalization | 20/21 | scale and bias per group before, per channel since |
| Scatter | 10/11 | became ScatterElements |

A rule returns the edit, or None when the change does not concern the node; it edits nothing while it decides.
Source: ONNX ``docs/Changelog.md``; each rule is tested against ONNX Runtime on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from .edits import insert_before, replace_node
from .facts import array, attribute, has_reference
from .opset_facts import Facts, Unconvertible

Edit = Callable[[], None]
Rule = Callable[[ir.Node, int, int, Facts], Edit | None]


def _crosses(current: int, version: int, since: int) -> bool:
    return current < since <= version


def _require_no_reference(node: ir.Node) -> None:
    if has_reference(node):
        raise Unconvertible("its attributes are parameters of the local function")


def _constant(node: ir.Node, elements: np.ndarray) -> ir.Value:
    made = ir.node("Constant", [], {"value": ir.tensor(elements)})
    made.outputs[0].type, made.outputs[0].shape = (
        ir.TensorType(ir.DataType.from_numpy(elements.dtype)),
        ir.Shape(elements.shape),
    )
    insert_before(node, made)
    return made.outputs[0]


def _set_input(node: ir.Node, index: int, value: ir.Value) -> None:
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)


def _to_inputs(since: int, *moved: tuple[str, int, str]) -> Rule:
    """Attributes become inputs: name, position and element type (``like`` = that of the first input).

    Downwards, inputs that are constants become attributes again.
    """

    def rule(node: ir.Node, current: int, version: int, facts: Facts) -> Edit | None:
        if version < since <= current:
            return _to_attributes(node, moved)
        if not _crosses(current, version, since):
            return None
        _require_no_reference(node)
        arrays: list[tuple[int, np.ndarray]] = []
        for name, index, kind in moved:
            found = attribute(node, name)
            if found is None or (isinstance(found, Sequence) and not len(found)):
                continue
            if kind == "like":
                dtype = facts.dtype(node.inputs[0]) if node.inputs[0] is not None else None
                if dtype is None:
                    raise Unconvertible("the element type of its input is not known")
                arrays.append((index, np.asarray(found, dtype.numpy())))
            else:
                arrays.append((index, np.asarray([found] if kind == "int64[1]" else found, kind.removesuffix("[1]"))))

        def edit() -> None:
            for name, _, _ in moved:
                node.attributes.pop(name, None)
            for index, elements in arrays:
                _set_input(node, index, _constant(node, elements))

        return edit

    return rule


def _to_attributes(node: ir.Node, moved: tuple[tuple[str, int, str], ...]) -> Edit:
    _require_no_reference(node)
    if attribute(node, "noop_with_empty_axes", 0) and (len(node.inputs) < 2 or node.inputs[1] is None):
        raise Unconvertible("it does nothing when it has no axes")
    found: list[ir.Attr] = []
    for name, index, _ in moved:
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            continue
        elements = array(value, max_elements=4096)
        if elements is None:
            raise Unconvertible(f"its '{name}' is not a constant")
        if elements.size:
            found.append(ir.AttrInt64s(name, [int(item) for item in elements.reshape(-1)]))
        elif attribute(node, "noop_with_empty_axes", 0):
            raise Unconvertible("it does nothing when it has no axes")

    def edit() -> None:
        node.attributes.pop("noop_with_empty_axes", None)
        node.resize_inputs(min(index for _, index, _ in moved))
        for item in found:
            node.attributes[item.name] = item

    return edit


def _softmax(node: ir.Node, current: int, version: int, facts: Facts) -> Edit | None:
    if not _crosses(current, version, 13):
        return None
    _require_no_reference(node)
    source = node.inputs[0]
    assert source is not None
    axis, shape = int(attribute(node, "axis", 1)), facts.dims(source)
    if axis == -1 or (shape is not None and axis % max(len(shape), 1) == len(shape) - 1):
        return lambda: node.attributes.add(ir.AttrInt64("axis", -1))

    def edit() -> None:
        shape_of = ir.node("Shape", [source])
        flat = ir.node("Flatten", [source], {"axis": axis})
        inner = ir.node(node.op_type, [flat.outputs[0]], {"axis": -1}, name=node.name)
        back = ir.node("Reshape", [inner.outputs[0], shape_of.outputs[0]])
        output = node.outputs[0]
        name, kind, dimensions = output.name, output.type, output.shape
        replace_node(node, [shape_of, flat, inner, back], [back.outputs[0]])
        back.outputs[0].name, back.outputs[0].type, back.outputs[0].shape = name, kind, dimensions

    return edit


def _resize(node: ir.Node, current: int, version: int, facts: Facts) -> Edit | None:
    """Resize of opset 10 and Upsample of 7 and 9, both asymmetric and rounding down."""
    upsample = node.op_type == "Upsample"
    if current >= 11 or version < 10 or (version == 10 and not upsample):
        return None
    _require_no_reference(node)
    mode = attribute(node, "mode", "nearest")
    scales = attribute(node, "scales")
    if not upsample and mode == "nearest":
        known = array(node.inputs[1], max_elements=64)
        if known is None or (known < 1).any():
            raise Unconvertible("how opset 10 rounds when it makes an image smaller is not defined")

    def edit() -> None:
        value = _constant(node, np.asarray(scales, np.float32)) if scales is not None else node.inputs[1]
        assert value is not None
        node.op_type = "Resize"
        node.attributes.pop("scales", None)
        if version == 10:
            _set_input(node, 1, value)
            return
        _set_input(node, 2, value)
        if version < 13:
            node.replace_input_with(1, _constant(node, np.zeros(0, np.float32)))
        else:
            node.replace_input_with(1, None)
        node.attributes.add(ir.AttrString("coordinate_transformation_mode", "asymmetric"))
        if mode == "nearest":
            node.attributes.add(ir.AttrString("nearest_mode", "floor"))

    return edit


def _roi_align(node: ir.Node, current: int, version: int, facts: Facts) -> Edit | None:
    name = "coordinate_transformation_mode"
    if _crosses(current, version, 16):
        return lambda: node.attributes.add(ir.AttrString(name, "output_half_pixel"))
    if version < 16 <= current:
        if attribute(node, name, "half_pixel") != "output_half_pixel":
            raise Unconvertible("its coordinates are shifted by half a pixel")
        return lambda: node.attributes.__delitem__(name)
    return None


_split_sizes = _to_inputs(13, ("split", 1, "int64"))


def _split(node: ir.Node, current: int, version: int, facts: Facts) -> Edit | None:
    sizes_given = bool(attribute(node, "split")) or (len(node.inputs) > 1 and node.inputs[1] is not None)
    moved = _split_sizes(node, current, version, facts)
    if _crosses(current, version, 18) and not sizes_given:
        count = len(node.outputs)

        def edit() -> None:
            if moved is not None:
                moved()
            node.attributes.add(ir.AttrInt64("num_outputs", count))

        return edit
    if version < 18 <= current and "num_outputs" in node.attributes:
        source, axis = node.inputs[0], int(attribute(node, "axis", 0))
        shape = facts.dims(source) if source is not None else None
        size = shape[axis] if shape is not None else None
        if not isinstance(size, int) or size % len(node.outputs):
            raise Unconvertible("its parts may differ in size")
        return lambda: node.attributes.__delitem__("num_outputs")
    return moved


_GRID_MODES = {"bilinear": "linear", "bicubic": "cubic"}


def _grid_sample(node: ir.Node, current: int, version: int, facts: Facts) -> Edit | None:
    if _crosses(current, version, 20):
        old = str(attribute(node, "mode", "bilinear"))
        return lambda: node.attributes.add(ir.AttrString("mode", _GRID_MODES.get(old, old)))
    if 16 <= version < 20 <= current:
        back = {new: old for old, new in _GRID_MODES.items()}
        new = str(attribute(node, "mode", "linear"))
        source = node.inputs[0]
        shape = facts.dims(source) if source is not None else None
        if shape is None or len(shape) != 4:
            raise Unconvertible("only images (rank 4) can be sampled there")
        return lambda: node.attributes.add(ir.AttrString("mode", back.get(new, new)))
    return None


def _group_normalization(node: ir.Node, current: int, version: int, facts: Facts) -> Edit | None:
    if version < 21 <= current:
        raise Unconvertible("scale and bias are per group there")
    if not _crosses(current, version, 21):
        return None
    groups, source = attribute(node, "num_groups"), node.inputs[0]
    shape = facts.dims(source) if source is not None else None
    channels = shape[1] if shape is not None and len(shape) > 1 else None
    if not isinstance(groups, int) or not isinstance(channels, int):
        raise Unconvertible("the number of channels or groups is not known")

    def edit() -> None:
        for index in (1, 2):
            column = ir.node("Reshape", [node.inputs[index], _constant(node, np.array([-1, 1], np.int64))])
            wide = ir.node(
                "Expand",
                [column.outputs[0], _constant(node, np.array([groups, channels // groups], np.int64))],
            )
            flat = ir.node("Reshape", [wide.outputs[0], _constant(node, np.array([-1], np.int64))])
            insert_before(node, [column, wide, flat])
            node.replace_input_with(index, flat.outputs[0])

    return None if groups == channels else edit


def _scatter(node: ir.Node, current: int, version: int, facts: Facts) -> Edit | None:
    if not _crosses(current, version, 11):
        return None

    def edit() -> None:
        node.op_type = "ScatterElements"

    return edit


def _scan(node: ir.Node, current: int, version: int, facts: Facts) -> Edit | None:
    if _crosses(current, version, 9):
        raise Unconvertible("a Scan of opset 8 has a batch axis")
    return None


def _dft(node: ir.Node, current: int, version: int, facts: Facts) -> Edit | None:
    if version < 20 <= current:
        raise Unconvertible("its axis is an input")
    if not _crosses(current, version, 20):
        return None
    _require_no_reference(node)
    axis = int(attribute(node, "axis", 1))

    def edit() -> None:
        node.attributes.pop("axis", None)
        _set_input(node, 2, _constant(node, np.asarray(axis, np.int64)))

    return edit


_axes_18 = _to_inputs(18, ("axes", 1, "int64"))

RULES: dict[str, Rule] = {
    "Clip": _to_inputs(11, ("min", 1, "like"), ("max", 2, "like")),
    "DFT": _dft,
    "Dropout": _to_inputs(12, ("ratio", 1, "float32")),
    "GridSample": _grid_sample,
    "GroupNormalization": _group_normalization,
    "Hardmax": _softmax,
    "LogSoftmax": _softmax,
    "Pad": _to_inputs(11, ("pads", 1, "int64"), ("value", 2, "like")),
    "ReduceSum": _to_inputs(13, ("axes", 1, "int64")),
    "Resize": _resize,
    "RoiAlign": _roi_align,
    "Scan": _scan,
    "Scatter": _scatter,
    "Slice": _to_inputs(10, ("starts", 1, "int64"), ("ends", 2, "int64"), ("axes", 3, "int64")),
    "Softmax": _softmax,
    "Split": _split,
    "Squeeze": _to_inputs(13, ("axes", 1, "int64")),
    "TopK": _to_inputs(10, ("k", 1, "int64[1]")),
    "Unsqueeze": _to_inputs(13, ("axes", 1, "int64")),
    "Upsample": _resize,
    **dict.fromkeys(
        ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"),
        _axes_18,
    ),
    **dict.fromkeys(("ReduceProd", "ReduceSumSquare"), _axes_18),
}
