"""The equation of an Einsum, and the way to compute it by a product of matrices."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product as pairs

from ._affine import Refusal

Letters = tuple[str, ...]
_TERM = re.compile(r"[A-Za-z]*(\.\.\.)?[A-Za-z]*")


@dataclass(frozen=True)
class Equation:
    """What each axis of the operands and of the result is called; the axes of an ellipsis are numbered from the end."""

    operands: tuple[Letters, ...]
    result: Letters


def parse(text: str, ranks: Sequence[int]) -> Equation:
    """Read an equation.

    Args:
        text: ``bij,bjk->bik``, ``...ij->...ji``, or without an arrow.
        ranks: of the operands.

    Raises:
        Refusal: it is none, does not fit the ranks, or takes a diagonal.
    """
    left, arrow, right = text.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks) or not all(_TERM.fullmatch(term) for term in (*terms, right)):
        raise Refusal(f"its equation '{text}' does not fit its operands")
    operands = tuple(_letters(term, rank) for term, rank in zip(terms, ranks, strict=True))
    if any(len(set(letters)) < len(letters) for letters in operands):
        raise Refusal("it takes a diagonal")
    spread = max((letters for letters in map(_spread, operands)), key=len)
    if arrow:
        before, dots, after = right.partition("...")
        if spread and not dots:
            raise Refusal("its ellipsis is summed over")
        result = (*before, *(spread if dots else ()), *after)
    else:
        seen = Counter(letter for letters in operands for letter in letters if letter.isalpha())
        result = (*spread, *sorted(letter for letter, count in seen.items() if count == 1))
    known = {letter for letters in operands for letter in letters}
    if len(set(result)) < len(result) or not known.issuperset(result):
        raise Refusal(f"its equation '{text}' has a result that does not follow from its operands")
    return Equation(operands, result)


def _letters(term: str, rank: int) -> Letters:
    before, dots, after = term.partition("...")
    missing = rank - len(before) - len(after)
    if missing < 0 or (missing and not dots):
        raise Refusal("its equation does not fit the ranks of its operands")
    return (*before, *(f"{place}." for place in reversed(range(missing))), *after)


def _spread(letters: Letters) -> Letters:
    return tuple(letter for letter in letters if not letter.isalpha())


@dataclass(frozen=True)
class Product:
    """A way to write a contraction as MatMul(first, second).

    The operands become batch + left + summed and batch + summed + right, the product is batch + left + right.

    Attributes:
        swapped: the second operand of the equation comes first.
        batch: letters of both operands and the result.
        left: letters of the first operand and the result.
        summed: letters of both operands only.
        right: letters of the second operand and the result.
    """

    swapped: bool
    batch: Letters
    left: Letters
    summed: Letters
    right: Letters

    @property
    def first(self) -> Letters:
        """The order that the first operand must have."""
        return self.batch + self.left + self.summed

    @property
    def second(self) -> Letters:
        """The order that the second operand must have."""
        return self.batch + self.summed + self.right

    @property
    def made(self) -> Letters:
        """The order that the product has."""
        return self.batch + self.left + self.right

    @property
    def joins_left(self) -> bool:
        """The left letters, or their lack, need one axis of their own: not where the product has no batch."""
        return len(self.left) != 1 and bool(self.batch)

    @property
    def joins_right(self) -> bool:
        """Likewise; several right letters always need it."""
        return len(self.right) > 1 or (not self.right and bool(self.batch))

    def steps(self, first: Letters, second: Letters, result: Letters) -> int:
        """How many operators it takes besides MatMul."""
        moves = (first != self.first) + (second != self.second) + (result != self.made)
        joined = len(self.summed) > 1
        return (
            moves + (self.joins_left or joined) + (self.joins_right or joined) + (self.joins_left or self.joins_right)
        )


def best_product(first: Letters, second: Letters, result: Letters) -> Product:
    """The way with the fewest operators; the operands have no letter that only they have."""
    options = list(_products(first, second, result))
    return min(options, key=lambda way: way.steps(*((second, first) if way.swapped else (first, second)), result))


def _products(first: Letters, second: Letters, result: Letters) -> Iterator[Product]:
    for swapped, by_second in pairs((False, True), (False, True)):
        a, b = (second, first) if swapped else (first, second)
        order = b if by_second else a
        yield Product(
            swapped,
            tuple(letter for letter in result if letter in a and letter in b),
            tuple(letter for letter in result if letter in a and letter not in b),
            tuple(letter for letter in order if letter in a and letter in b and letter not in result),
            tuple(letter for letter in result if letter in b and letter not in a),
        )
