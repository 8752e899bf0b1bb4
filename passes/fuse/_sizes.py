"""Products of sizes, numbers and symbols alike, in a form in which equal ones are equal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache

Product = tuple[int, tuple[str, ...]]
"""A number and its symbolic factors, sorted: ``4*s*b`` is ``(4, ("b", "s"))``."""

_PRODUCT_SIGN = re.compile(r"(?<!\*)\*(?!\*)")
_FACTOR = re.compile(r"(\d+)|([A-Za-z_]\w*)(?:\*\*(\d+))?")


@cache
def _of_text(text: str) -> Product:
    number, symbols = 1, list[str]()
    for part in _PRODUCT_SIGN.split(text.replace(" ", "")):
        found = _FACTOR.fullmatch(part)
        if found is None:
            return 1, (text,)  # an expression of another kind stands for itself
        if found[1] is not None:
            number *= int(found[1])
        else:
            symbols += [found[2]] * int(found[3] or 1)
    return number, tuple(sorted(symbols))


def product(sizes: Iterable[int | str | None]) -> Product | None:
    """The product of sizes; None when one of them is unknown."""
    number, symbols = 1, list[str]()
    for size in sizes:
        if size is None:
            return None
        factor, names = (size, ()) if isinstance(size, int) else _of_text(size)
        number *= factor
        symbols += names
    return number, tuple(sorted(symbols))


def prefixes(sizes: Sequence[int | str | None]) -> list[Product] | None:
    """The product of the first 0, 1, 2, ... sizes; None when one is unknown or 0."""
    products = [product(sizes[:count]) for count in range(len(sizes) + 1)]
    known = [item for item in products if item is not None and item[0] != 0]
    return known if len(known) == len(products) else None
