"""The intermediate representation: plain functions over ``onnx_ir.Model``, which is never wrapped."""

from .check import check
from .declared import forget
from .edits import (
    can_hand_over,
    captured_values,
    erase_if_dead,
    insert_after,
    insert_before,
    is_dead,
    new_initializer,
    release,
    remove,
    replace,
    replace_node,
    succeed,
)
from .facts import (
    STANDARD_DOMAINS,
    array,
    attribute,
    constant,
    dims,
    has_reference,
    is_op,
    known_ints,
    rank,
    same_shape,
    scalar,
    static_dims,
    where,
)
from .files import load, save
from .opset import convert_opset
from .shapes import infer
from .sweep import dead_initializers, dead_nodes, remove_dead, sweep
from .tensors import copy_model, detached
from .tidy import tidy
from .walk import Body, bodies, count_nodes, graphs, nodes, subgraphs

__all__ = [
    "STANDARD_DOMAINS",
    "Body",
    "array",
    "attribute",
    "bodies",
    "can_hand_over",
    "captured_values",
    "check",
    "constant",
    "convert_opset",
    "copy_model",
    "count_nodes",
    "dead_initializers",
    "dead_nodes",
    "detached",
    "dims",
    "erase_if_dead",
    "forget",
    "graphs",
    "has_reference",
    "infer",
    "insert_after",
    "insert_before",
    "is_dead",
    "is_op",
    "known_ints",
    "load",
    "new_initializer",
    "nodes",
    "rank",
    "release",
    "remove",
    "remove_dead",
    "replace",
    "replace_node",
    "same_shape",
    "save",
    "scalar",
    "static_dims",
    "subgraphs",
    "succeed",
    "sweep",
    "tidy",
    "where",
]
