"""Which code each number of a weight gets, so that what the product gives changes least.

With x the inputs of a product as the quantised model has them and y what the float product gives, the error of codes q
with scales s is a quadratic form in each row of V = s q, known by the moments H = sum x x^T and C = sum y x^T:

    sum |y - V x|^2 + r |V - W|^2  =  (V - T) (H + r I) (V - T)^T + constant,     T = (C + r W) (H + r I)^-1

T is the best weight that is not rounded: it also makes good what the products before did to x. Three ways to round it:

    nearest     q = round(T / s)
    descent     one column c after another:  q_c = round((V_c - ((V - T) H)_c / H_cc) / s), until no code changes
    feedback    columns by falling H_cc; the error of each goes into those not rounded yet, by the Cholesky factor of
                H^-1

Sources: descent minimises the form of Nagel et al., Up or Down? Adaptive Rounding (AdaRound, 2020), section 3.2, over
all codes instead of two; feedback is Frantar et al., GPTQ (2022), section 3; scales for given codes are least squares.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

COLUMNS = 64
"""Columns between two products of whole matrices."""

SWEEPS = 8


@dataclass(frozen=True)
class Moments:
    """What is known of the rows (x, y) that a product saw, summed; G groups with R outputs of F features each.

    Attributes:
        gram: float64 [G, F, F], sum x x^T.
        cross: float64 [G, R, F], sum y x^T.
        power: float64 [G, R], sum y^2.
        inputs: float64 [G, F], sum x.
        outputs: float64 [G, R], sum y.
        rows: how many.
    """

    gram: np.ndarray
    cross: np.ndarray
    power: np.ndarray
    inputs: np.ndarray
    outputs: np.ndarray
    rows: int

    def __add__(self, other: Moments) -> Moments:
        """Those of both."""
        return Moments(
            self.gram + other.gram,
            self.cross + other.cross,
            self.power + other.power,
            self.inputs + other.inputs,
            self.outputs + other.outputs,
            self.rows + other.rows,
        )

    def centred(self) -> Moments:
        """About the means: for a product whose bias takes up every constant difference."""
        x, y = self.inputs / self.rows, self.outputs / self.rows
        return replace(
            self,
            gram=self.gram - self.rows * x[:, :, None] * x[:, None, :],
            cross=self.cross - self.rows * y[:, :, None] * x[:, None, :],
            power=self.power - self.rows * y**2,
        )

    def error(self, weight: np.ndarray) -> np.ndarray:
        """sum (y - V x)^2 over the rows, float64 [G, R], for V [G, R, F]."""
        return self.power + np.sum((weight @ self.gram - 2 * self.cross) * weight, axis=-1)


@dataclass(frozen=True)
class Form:
    """The quadratic form (V - T) H (V - T)^T of each row: H float64 [G, F, F], T float64 [G, R, F]."""

    gram: np.ndarray
    target: np.ndarray

    def value(self, weight: np.ndarray) -> np.ndarray:
        """float64 [G, R]."""
        difference = weight - self.target
        return np.sum((difference @ self.gram) * difference, axis=-1)


@dataclass(frozen=True)
class Grid:
    """The numbers a weight may take: scale * code, ``low <= code <= high``.

    Attributes:
        scale: float64, broadcasts over [G, R].
        low, high: codes.
    """

    scale: np.ndarray
    low: int
    high: int

    def codes(self, weight: np.ndarray) -> np.ndarray:
        """The nearest ones, float64 [G, R, F]."""
        return np.clip(np.rint(weight / self.scale[..., None]), self.low, self.high)

    def weight(self, codes: np.ndarray) -> np.ndarray:
        """What codes stand for."""
        return codes * self.scale[..., None]


def form_of(moments: Moments, weight: np.ndarray, *, ridge: float, refit: bool = True) -> Form:
    """The quadratic form whose least value is wanted.

    Args:
        moments: of the data.
        weight: float64 [G, R, F], W.
        ridge: r, as a share of the mean of H's diagonal; dead inputs keep their weight by it.
        refit: T as above; without it T is W.
    """
    features = weight.shape[-1]
    mean = np.trace(moments.gram, axis1=1, axis2=2) / features
    share = np.where(mean > 0, mean * ridge, 1.0)[:, None, None]
    gram = moments.gram + share * np.eye(features)
    if not refit:
        return Form(gram, weight)
    target = np.linalg.solve(gram, np.swapaxes(moments.cross + share * weight, 1, 2))
    return Form(gram, np.swapaxes(target, 1, 2))


def descend(form: Form, grid: Grid, codes: np.ndarray, sweeps: int = SWEEPS) -> np.ndarray:
    """Codes of which none can be exchanged alone to make the form smaller; never worse than those given."""
    codes = codes.copy()
    gram, scale = form.gram, np.broadcast_to(grid.scale, codes.shape[:2])
    diagonal = np.diagonal(gram, axis1=1, axis2=2)
    slope = (grid.weight(codes) - form.target) @ gram
    features = codes.shape[-1]
    for _ in range(sweeps):
        changed = False
        for start in range(0, features, COLUMNS):
            block = slice(start, min(start + COLUMNS, features))
            near = np.ascontiguousarray(gram[:, block, block])
            inner = slope[:, :, block].copy()
            steps = np.zeros_like(inner)
            for index in range(inner.shape[-1]):
                column = start + index
                old = codes[:, :, column]
                best = old - inner[:, :, index] / (diagonal[:, column, None] * scale)
                new = np.clip(np.rint(best), grid.low, grid.high)
                step = (new - old) * scale
                if step.any():
                    codes[:, :, column] = new
                    steps[:, :, index] = step
                    inner += step[:, :, None] * near[:, index, None, :]
            if steps.any():
                changed = True
                slope += steps @ gram[:, block, :]
        if not changed:
            break
    return codes


def feed_back(form: Form, grid: Grid) -> np.ndarray:
    """Codes with the error of each column made good by the later ones."""
    gram, features = form.gram, form.gram.shape[-1]
    order = np.argsort(-np.diagonal(gram, axis1=1, axis2=2), axis=-1, kind="stable")
    rows = np.arange(len(gram))[:, None, None]
    gram = gram[rows, order[:, :, None], order[:, None, :]]
    rest = np.take_along_axis(form.target, order[:, None, :], axis=2)
    inverse = np.linalg.inv(gram)
    upper = np.swapaxes(np.linalg.cholesky((inverse + np.swapaxes(inverse, 1, 2)) / 2), 1, 2)
    scale = np.broadcast_to(grid.scale, rest.shape[:2])
    codes = np.empty_like(rest)
    for start in range(0, features, COLUMNS):
        block = slice(start, min(start + COLUMNS, features))
        inner, errors = rest[:, :, block].copy(), np.zeros_like(rest[:, :, block])
        for index in range(inner.shape[-1]):
            column = start + index
            code = np.clip(np.rint(inner[:, :, index] / scale), grid.low, grid.high)
            error = (inner[:, :, index] - code * scale) / upper[:, column, column, None]
            codes[:, :, column], errors[:, :, index] = code, error
            inner[:, :, index:] -= error[:, :, None] * upper[:, column, None, column : block.stop]
        rest[:, :, block.stop :] -= errors @ upper[:, block, block.stop :]
    found = np.empty_like(codes)
    np.put_along_axis(found, np.broadcast_to(order[:, None, :], codes.shape), codes, axis=2)
    return found


def search_scale(form: Form, grid: Grid, steps: int = 24, least: float = 0.4) -> Grid:
    """The share of a scale, down to ``least``, with which rounding to nearest makes the form smallest, for each row."""
    shape = form.target.shape[:2]
    best = np.broadcast_to(grid.scale, shape).copy()
    lowest = np.full(shape, np.inf)
    for share in np.linspace(1.0, least, steps):
        tried = replace(grid, scale=np.broadcast_to(grid.scale * share, shape))
        value = form.value(tried.weight(tried.codes(form.target)))
        if grid.scale.ndim == 0:
            value = np.broadcast_to(value.sum(), shape)
        better = value < lowest
        best[better], lowest[better] = tried.scale[better], value[better]
    return replace(grid, scale=best if grid.scale.ndim else best.reshape(-1)[0])


def fitted_scale(form: Form, grid: Grid, codes: np.ndarray) -> Grid:
    """The scale with which the codes that there are make the form smallest."""
    along = codes @ form.gram
    products, squares = np.sum(along * form.target, axis=-1), np.sum(along * codes, axis=-1)
    if grid.scale.ndim == 0:
        products, squares = products.sum(), squares.sum()
    usable = (squares > 0) & (products > 0)
    return replace(grid, scale=np.where(usable, products / np.where(usable, squares, 1.0), grid.scale))
