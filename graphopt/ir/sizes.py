"""Symbolic sizes whose arithmetic is done once.

SymPy takes a millisecond to add 1 to an expression and write the sum down, and a graph asks for the same few sums
again and again: every convolution of a stage has the same height. A ``Size`` looks them up. The answers are those of
``onnx_ir.SymbolicDim``, which it is; the operands decide on the result, so one table serves all models.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import lru_cache

import onnx_ir as ir
import sympy

_REMEMBERED = 1 << 13


class Size(ir.SymbolicDim):
    """A symbolic dimension that remembers sums, products and quotients."""

    __slots__ = ()

    def __add__(self, other: int | ir.SymbolicDim) -> ir.SymbolicDim:
        return _compute("__add__", self, other) if _is_size(other) else NotImplemented

    def __radd__(self, other: int) -> ir.SymbolicDim:
        return self.__add__(other)

    def __sub__(self, other: int | ir.SymbolicDim) -> ir.SymbolicDim:
        return _compute("__sub__", self, other) if _is_size(other) else NotImplemented

    def __rsub__(self, other: int) -> ir.SymbolicDim:
        return _compute("__rsub__", self, other) if _is_size(other) else NotImplemented

    def __mul__(self, other: int | ir.SymbolicDim) -> ir.SymbolicDim:
        return _compute("__mul__", self, other) if _is_size(other) else NotImplemented

    def __rmul__(self, other: int) -> ir.SymbolicDim:
        return self.__mul__(other)

    def __floordiv__(self, other: int | ir.SymbolicDim) -> ir.SymbolicDim:
        return _compute("__floordiv__", self, other) if _is_size(other) else NotImplemented

    def __truediv__(self, other: int | ir.SymbolicDim) -> ir.SymbolicDim:
        return _compute("__truediv__", self, other) if _is_size(other) else NotImplemented

    def __mod__(self, other: int | ir.SymbolicDim) -> ir.SymbolicDim:
        return _compute("__mod__", self, other) if _is_size(other) else NotImplemented

    def __ceil__(self) -> ir.SymbolicDim:
        return _compute("__ceil__", self)

    def __neg__(self) -> ir.SymbolicDim:
        return _compute("__neg__", self)


def _is_size(other: object) -> bool:
    return isinstance(other, (int, ir.SymbolicDim))


@lru_cache(_REMEMBERED)
def _compute(operation: str, *operands: int | ir.SymbolicDim) -> ir.SymbolicDim:
    found: sympy.Expr | None = None
    if operation in _ARITHMETIC and None not in operands:
        first, second = map(_expression, operands)
        found = _ARITHMETIC[operation](first, second)
    if found is None:
        return sized(getattr(ir.SymbolicDim, operation)(*operands))
    size = named(_text(found))
    _let_be(size, found)
    return size


def _let_be(size: Size, expression: sympy.Expr | None) -> None:
    """Spare the package from parsing what is at hand."""
    if size._expr_cache is None:  # pyright: ignore[reportPrivateUsage]
        size._expr_cache = expression  # pyright: ignore[reportPrivateUsage]


@lru_cache(_REMEMBERED)
def _text(number: sympy.Expr) -> str:
    """What ``str`` says, which takes a tenth of the time for the sizes of convolutions."""
    if isinstance(number, sympy.Symbol):
        return number.name
    if isinstance(number, sympy.floor):
        return f"floor({_text(number.args[0])})"
    constant, rest = number.as_coeff_Add()
    factor, size = rest.as_coeff_Mul()
    if not (isinstance(constant, sympy.Rational) and isinstance(factor, sympy.Rational) and factor.is_positive):
        return str(number)
    if not size.is_Symbol and not isinstance(size, sympy.floor):
        return str(number)
    text = _text(size) if factor.p == 1 else f"{factor.p}*{_text(size)}"
    if factor.q != 1:
        text += f"/{factor.q}"
    if constant.is_zero:
        return text
    return f"{text} - {-constant}" if constant.is_negative else f"{text} + {constant}"


def _expression(size: int | ir.SymbolicDim) -> sympy.Expr:
    if isinstance(size, int):
        return sympy.Integer(size)
    found = size._expr  # pyright: ignore[reportPrivateUsage]
    return sympy.nan if found is None else found


def _floor(number: sympy.Expr) -> sympy.Expr | None:
    """What ``sympy.floor`` says, where that can be told from the form; None elsewhere.

    SymPy first tries to prove that the number lies between two integers, which takes milliseconds. It cannot for a sum
    of multiples of sizes, all positive or all negative, nor for a product of powers of them: these have no bound, or
    none that is known. What is left is to take the integers out of the sum.
    """
    terms = sympy.Add.make_args(number)
    whole: list[sympy.Expr] = []
    rest: list[sympy.Expr] = []
    signs: set[bool] = set()
    for term in terms:
        factor, size = term.as_coeff_Mul()
        if not factor.is_Rational:
            return None
        is_whole = factor.is_Integer
        if size is not sympy.S.One:
            signs.add(bool(factor.is_positive))
            exponents = _exponents(size) if len(terms) == 1 else [1] if _is_atom(size) else []
            if max(exponents, default=0) < 1:
                return None
            is_whole = is_whole and min(exponents) > 0
        (whole if is_whole else rest).append(term)
    if len(signs) != 1:
        return None
    if not rest:
        return number
    broken = sympy.Add(*rest)
    return sympy.Add(*whole, sympy.floor(broken) if broken.is_number else sympy.floor(broken, evaluate=False))


_ARITHMETIC: Mapping[str, Callable[[sympy.Expr, sympy.Expr], sympy.Expr | None]] = {
    "__add__": operator.add,
    "__sub__": operator.sub,
    "__mul__": operator.mul,
    "__floordiv__": lambda number, divisor: _floor(number / divisor),
}


def _is_atom(number: sympy.Expr) -> bool:
    """A size of an input, or something rounded down."""
    return bool(number.is_Symbol) or (isinstance(number, sympy.floor) and _is_real(number.args[0]))


@lru_cache(_REMEMBERED)
def _is_real(number: sympy.Basic) -> bool:
    """Whether it is made of sizes by addition, multiplication, division by a size, and rounding down."""
    if number.is_Symbol or number.is_Rational:
        return True
    if isinstance(number, sympy.Pow):
        base, exponent = number.args
        return bool(exponent.is_Integer and (base.is_Symbol or (exponent.is_positive and _is_real(base))))
    return isinstance(number, (sympy.Add, sympy.Mul, sympy.floor)) and all(map(_is_real, number.args))


def _exponents(product: sympy.Expr) -> list[int]:
    """The exponents of a product of powers of sizes; empty when it is something else."""
    found: list[int] = []
    for factor in sympy.Mul.make_args(product):
        base, exponent = factor.as_base_exp()
        if not exponent.is_Integer or not (_is_atom(base) if exponent.is_positive else base.is_Symbol):
            return []
        found.append(int(exponent))
    return found


@lru_cache(_REMEMBERED)
def named(text: str) -> Size:
    """The size of this name or expression: one object for all who ask, so it is parsed once."""
    return Size(text)


def sized(dim: ir.SymbolicDim) -> ir.SymbolicDim:
    """The same dimension as a ``Size``; one that nothing is known of stays what it is."""
    if type(dim) is Size or dim.value is None:
        return dim
    return _adopted(dim)


@lru_cache(_REMEMBERED)
def _adopted(dim: ir.SymbolicDim) -> Size:
    size = named(dim.value or "")
    _let_be(size, dim._expr_cache)  # pyright: ignore[reportPrivateUsage]
    return size
