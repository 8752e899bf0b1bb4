"""What there is to say of every recurrent cell in a model: of chains of them, and of loops around one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Site, Sites
from graphopt.pipeline import Context

from . import _cell_loops as loops
from . import _loop_writer
from ._affine import Refusal
from ._cells import Cell
from ._forms import Place
from ._layers import Layer, chains, check_sizes, check_uses, layer
from ._recurrent import Positions
from ._unrolled import plan, write

Find = Callable[[ir.Node], Iterator[Cell]]
_OLDEST = 11  # Slice with inputs, and Gather and Squeeze with negative axes


def sites(model: ir.Model, context: Context, op_type: str, find: Find) -> Sites:
    """One site for each layer.

    Args:
        model: the model.
        context: its target decides.
        op_type: LSTM or GRU.
        find: what a node may be the end of.
    """
    for body in gir.bodies(model):
        place = Place(model, body, context.target)
        owners = {inner: node for node in body.nodes() for inner in gir.subgraphs(node)}
        for graph in list(body.graphs()):
            pending = chains(graph, find)[::-1]
            if pending and body.version() < _OLDEST:
                yield Site(_name(pending[-1][0]), f"{op_type} is written from opset {_OLDEST} on")
                continue
            positions = Positions(graph) if pending else None
            while pending and positions is not None:
                cells = pending.pop()
                if any(_gone(cell) for cell in cells) or (cells[0].operator and not _in_loop(cells, owners.get(graph))):
                    continue
                count = 1
                try:
                    found = layer(cells, loops.earlier(cells[0].h, owners.get(graph)))
                    count = len(found.cells)
                    check_sizes(found)
                except Refusal as refusal:
                    yield Site(_name(cells[0]), str(refusal))
                    continue
                finally:
                    if count < len(cells):
                        pending.append(cells[count:])
                site = _site(found, place, owners.get(graph), positions, op_type)
                yield site
                if site.edit is None and len(found.cells) > 1:
                    pending += [[cell] for cell in reversed(found.cells)]


def _gone(cell: Cell) -> bool:
    node = cell.h.producer()
    return node is None or node.graph is None


def _in_loop(cells: list[Cell], owner: ir.Node | None) -> bool:
    return len(cells) == 1 and loops.earlier(cells[0].h, owner) is not None


def _name(cell: Cell) -> str:
    node = cell.h.producer()
    assert node is not None, "a node computes it"
    return gir.where(node)


def _site(found: Layer, place: Place, owner: ir.Node | None, positions: Positions, op_type: str) -> Site:
    name = _name(found.cells[0])
    try:
        check_uses(found)
        if owner is not None and loops.is_carried(found, owner):
            loop = loops.plan(found, owner)
            _ask(found, place, op_type, loop.length)
            return Site(gir.where(owner), f"{op_type} of all steps", partial(_loop_writer.write, loop, place))
        steps = len(found.cells)
        _ask(found, place, op_type if steps > 1 else f"{op_type}:cell", steps)
        unrolled = plan(found, positions)
    except Refusal as refusal:
        return Site(name, str(refusal))
    text = f"{op_type} of {steps} steps" if steps > 1 else f"{op_type} of one step"
    return Site(name, text, partial(write, unrolled, place, positions))


def _ask(found: Layer, place: Place, form: str, steps: int | str | None) -> None:
    objection = place.target.objection(form, found.work(steps))
    if objection is not None:
        raise Refusal(objection)
