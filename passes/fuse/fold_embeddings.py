"""Embeddings that are added to each other: indices that are known are looked up once, tables are summed beforehand.

    x + Gather(t, i)                   ->  x + t[n]               where every element of i is n, and x has that shape
    Gather(t, Slice(c))                ->  Slice(t[c])            with constants t and c: positions 0, 1, 2, ...
    Gather(s, i) + Gather(t, i)        ->  Gather(s + t, i)
    Gather(t, i) + r, Slice(t) + r     ->  Gather(t + r, i), Slice(t + r)      with a constant row r
    (x + r) + Gather(t, i), ...        ->  x + Gather(t + r, i), ...           the only one that rounds otherwise

Source: Devlin et al., BERT, 2019, figure 2: a word, a position and a segment embedding are summed. ONNX Gather, Slice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.events import Sites
from graphopt.pipeline import Context, Fidelity, Pass
from graphopt.rewrite import Match, Refused, Rewrite, RuleSet, Tape, constant, floating, same_shape
from graphopt.rewrite.uses import use_count

_LARGEST = 1 << 22  # elements of a table that is written anew
_SMALL = 1 << 14  # and of one that may be there twice
_DEEPEST = 12
_BROADCAST = (7, 1 << 30)  # Add broadcasts since
_MOVING = ("Cast", "Expand", "Gather", "GatherElements", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Unsqueeze")
_SLICE = "Slice(t, b, e, a, s?)"
_GATHER = "Gather{axis=0}(t, i)"


def _everywhere(value: ir.Value | None, depth: int = _DEEPEST) -> int | None:
    """The number that all elements of an integer tensor are, however many there are."""
    elements = gir.array(value)
    if elements is not None:
        whole = elements.size and elements.dtype.kind in "iu" and (elements == elements.reshape(-1)[0]).all()
        return int(elements.reshape(-1)[0]) if whole else None
    node = None if value is None else value.producer()
    if node is None or not depth or gir.has_reference(node):
        return None
    if gir.is_op(node, "ConstantOfShape"):
        filling = node.attributes.get("value")
        return 0 if filling is None else int(filling.as_tensor().numpy().reshape(-1)[0])
    if gir.is_op(node, *_MOVING):
        return _everywhere(node.inputs[0], depth - 1)
    if gir.is_op(node, "Concat"):
        found = {_everywhere(item, depth - 1) for item in node.inputs}
        return found.pop() if len(found) == 1 else None
    return None


def _is_one_row(match: Match) -> str | None:
    number = _everywhere(match["i"])
    if number is None:
        raise Refused("its indices are not known to be all the same")
    table = gir.constant(match["t"])
    rows = table.shape.numpy()[0] if table is not None and len(table.shape) else 0
    return None if -rows <= number < rows else f"index {number} is outside of the table"


def _row(match: Match, tape: Tape) -> ir.Value:
    number = _everywhere(match["i"])
    assert number is not None
    return tape.op("Add", match["x"], tape.constant(match.array("t")[number], "row"))


def _axes(match: Match) -> list[int]:
    """The axes of the Slice, counted from the front."""
    rank = len(match.dims("c" if "c" in match.pattern.variables else "t"))
    found = gir.known_ints(match["a"])
    if found is None:
        raise Refused("the axes of the Slice are not known")
    return [axis % rank for axis in found]


def _looked_up(match: Match) -> np.ndarray:
    table, index = match.array("t"), match.array("c")
    if table.ndim < 1 or index.ndim < 1 or (index >= len(table)).any() or (index < -len(table)).any():
        raise Refused("an index is outside of the table")
    if index.size > len(table) or _is_shared(match, "t"):
        raise Refused("the table would be there twice")
    return table[index]


def _is_shared(match: Match, name: str) -> bool:
    """True for a table that is used elsewhere and too large to be there twice."""
    table = gir.constant(match[name])
    return use_count(match[name]) > 1 and (table is None or table.size > _SMALL)


def _can_look_up(match: Match) -> None:
    _looked_up(match)
    _axes(match)


def _cut(match: Match, tape: Tape) -> ir.Value:
    table = tape.constant(_looked_up(match), "table")
    return tape.op("Slice", table, match["b"], match["e"], tape.constant(_axes(match), "axes"), match.get("s"))


def _summed(match: Match) -> np.ndarray:
    """The table with the row."""
    table, other = gir.constant(match["t"]), gir.constant(match["r"])
    if other is None:
        raise Refused("what is added is computed")
    if table is None or table.size > _LARGEST:
        raise Refused("the table is not constant, or too large to be written anew")
    if _is_shared(match, "t"):
        raise Refused("the table is also used elsewhere")
    size = table.shape.numpy()[-1] if len(table.shape) > 1 else 0
    if len(other.shape) > 1 or other.size not in (1, size) or other.dtype != table.dtype:
        raise Refused("what is added is not one number for each element of a row")
    if "a" in match.pattern.variables and len(table.shape) - 1 in _axes(match):
        raise Refused("the Slice cuts the rows")
    return table.numpy() + other.numpy()


def _both(match: Match) -> np.ndarray:
    tables = [gir.constant(match[name]) for name in ("t", "u")]
    first, second = tables
    if first is None or second is None or first.shape != second.shape or first.dtype != second.dtype:
        raise Refused("the tables have different shapes")
    if first.size > _LARGEST:
        raise Refused("the tables are too large to be written anew")
    if _is_shared(match, "t") or _is_shared(match, "u"):
        raise Refused("a table is also used elsewhere")
    return first.numpy() + second.numpy()


def _from(match: Match, tape: Tape, table: np.ndarray) -> ir.Value:
    """The same look-up in another table."""
    made = tape.constant(table, "table")
    if "i" in match.pattern.variables:
        return tape.op("Gather", made, match["i"], axis=0)
    return tape.op("Slice", made, match["b"], match["e"], match["a"], match.get("s"))


def _add_row(match: Match, tape: Tape) -> ir.Value:
    return _from(match, tape, _summed(match))


def _add_row_first(match: Match, tape: Tape) -> ir.Value:
    return tape.op("Add", match["x"], _from(match, tape, _summed(match)))


def _can_sum(match: Match) -> None:
    _summed(match)


def _can_sum_both(match: Match) -> None:
    _both(match)


def _is_no_constant(match: Match) -> bool:
    return gir.constant(match["x"]) is None


def _rows(pattern: str, first: bool) -> Rewrite:
    build = _add_row_first if first else _add_row
    where = [constant("t"), floating("t"), *([_is_no_constant] if first else []), _can_sum]
    return Rewrite(pattern, build=build, where=where, matches=_BROADCAST, name="a row is in the table")


RULES = RuleSet(
    [
        Rewrite(
            f"g = {_GATHER}; Add(x, g)",
            build=_row,
            where=[constant("t"), _is_one_row, same_shape("x", "g")],
            matches=_BROADCAST,
            name="always the same row",
        ),
        Rewrite(
            "Gather{axis=0}(t, Slice(c, b, e, a, s?))",
            build=_cut,
            where=[constant("t", "c"), _can_look_up],
            shared=True,
            name="positions are looked up",
        ),
        Rewrite(
            "Add(Gather{axis=0}(t, i), Gather{axis=0}(u, i))",
            build=lambda match, tape: _from(match, tape, _both(match)),
            where=[constant("t", "u"), floating("t"), _can_sum_both],
            name="two tables are one",
        ),
        *(_rows(f"Add(Add(x, r), {part})", True) for part in (_GATHER, _SLICE)),
        *(_rows(f"Add(Add(x, {part}), r)", True) for part in (_GATHER, _SLICE)),
        *(_rows(f"Add({part}, r)", False) for part in (_GATHER, _SLICE)),
    ]
)


@dataclass(frozen=True)
class FoldEmbeddings(Pass):
    """Sums the tables of embeddings before the run, as far as their indices allow it.

    A segment embedding whose indices are all 0, for nobody gave any, is a row; a position embedding is a slice of its
    table; and a row that is added goes into the smallest table that is added too. Tables of more than 2^22 elements are
    not written anew, nor those of more than 2^14 that are used elsewhere, as a language model's last product may do.

    com.microsoft::EmbedLayerNormalization, which does it all with a LayerNormalization, is never written. It fails for
    negative indices, with which Gather counts from the end, and on ONNX Runtime's CPU provider it saves nothing:
    against Gather, Add and LayerNormalization, as this pass leaves them, it took 1.1 to 1.4 times as long up to 128
    rows of 384 or 768, and from .99 to 1.05 times with 512 and 1,024 rows (one thread of an x86 processor).
    """

    name: ClassVar[str] = "fold-embeddings"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        """The sites of the rules."""
        yield from RULES.sites(model)
