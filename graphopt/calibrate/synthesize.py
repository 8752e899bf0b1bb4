"""Inputs made from a model alone: its BatchNormalizations meet the means and variances they were trained with.

    min_x  sum_l mean_c [ (mean(z_lc) - mu_lc)^2 + (std(z_lc) - sigma_lc)^2 ] / s_lc      z_l the input of the l-th one

by Adam from noise with the spectrum of images. The gradient is one ONNX model: the model's own nodes, and the adjoint
of each behind them (``adjoints``), so the runtime does the work.

Source: Cai et al., ZeroQ: A Novel Zero Shot Quantization Framework (2020), section 3.1. There: one image at a time
is a batch; s = 1; white noise. Here s = sigma^2, with a floor for channels that hardly vary: layers count the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import ir as gir
from graphopt.errors import GraphoptError
from graphopt.events import Event, Events, silent
from graphopt.execute.feeds import random_feeds
from graphopt.execute.session import Session

from .slopes import NO_SLOPE, with_gradients

STEPS = 24
BATCH = 8
_RATE = 0.1
_FLOAT = ir.DataType.FLOAT


@dataclass(frozen=True)
class Synthesized:
    """Made-up inputs.

    Attributes:
        samples: feeds.
        layers: how many BatchNormalizations they were fitted to.
        loss_before, loss_after: the mean over the layers, at the start and in the end.
    """

    samples: list[dict[str, Any]]
    layers: int
    loss_before: float
    loss_after: float


def synthesize(
    model: ir.Model,
    count: int = BATCH,
    seed: int = 0,
    *,
    steps: int = STEPS,
    dims: Mapping[str, int] | None = None,
    threads: int = 0,
    events: Events = silent,
) -> Synthesized:
    """Make inputs.

    Args:
        model: as it was trained: its BatchNormalizations not yet folded into what is before them.
        count: how many samples.
        seed: of the noise.
        steps: of the descent.
        dims: sizes, as for ``random_feeds``.
        threads: of the runtime; 0 leaves it the choice.
        events: hears of progress.

    Raises:
        GraphoptError: the model has no BatchNormalization that depends on a float input, or no sizes are found that
            it runs on.
    """
    layers = normalizations(model)
    if not layers:
        raise GraphoptError(
            "there are no BatchNormalizations whose statistics inputs could be made from",
            f"graph '{model.graph.name}'",
            "they are folded already, or it has none: give real data",
        )
    version = model.opset_imports.get("", 1)
    if version < 11:
        raise GraphoptError(
            f"inputs are made at opset 11 and later, the model has {version}",
            f"graph '{model.graph.name}'",
            "raise it: convert-opset{version=17}",
        )
    plain = random_feeds(model, seed, count, dims=dims)
    rng = np.random.default_rng(seed)
    made: list[dict[str, Any]] = []
    losses: list[tuple[float, float]] = []
    size = _batch_size(model, plain[0])
    names = [str(node.outputs[0].name) for node in layers]
    total, done = -(-count // size) * steps, 0
    works: dict[Any, _Descent] = {}

    def tell() -> None:
        nonlocal done
        done += 1
        events(Event("progress", {"stage": "making inputs from the model", "done": done, "total": total}))

    for start in range(0, count, size):
        part = plain[start : start + size]
        feeds = _joined(part) if size > 1 else dict(part[0])
        shapes = tuple((name, np.shape(value)) for name, value in feeds.items())
        work = works[shapes] if shapes in works else _Descent(model, names, feeds, threads)
        works = {shapes: work}
        whole, before, after = work.run(feeds, rng, steps, tell)
        losses.append((before, after))
        made += _split(whole, work.fitted, part) if size > 1 else [whole]
    first, last = np.mean(np.asarray(losses), axis=0)
    return Synthesized(made, len(layers), float(first), float(last))


def normalizations(model: ir.Model) -> list[ir.Node]:
    """The BatchNormalizations of the main graph that hold statistics of training and depend on a float input."""
    alive: set[ir.Value] = {value for value in model.graph.inputs if value.dtype == _FLOAT}
    found: list[ir.Node] = []
    for node in model.graph:
        if node.op_type in NO_SLOPE or not any(value in alive for value in node.inputs):
            continue
        alive.update(node.outputs)
        if not gir.is_op(node, "BatchNormalization") or gir.attribute(node, "training_mode", 0):
            continue
        mean, variance = (gir.array(node.inputs[index]) for index in (3, 4))
        if mean is None or variance is None or mean.dtype != np.float32 or not node.outputs[0].name:
            continue
        if np.isfinite(mean).all() and np.isfinite(variance).all() and variance.min(initial=1.0) >= 0:
            found.append(node)
    return found


def _batch_size(model: ir.Model, sample: Mapping[str, Any]) -> int:
    """How many samples fit into one run: several where the first axis of every input is free and of size 1."""
    for value in model.graph.inputs:
        if value.is_initializer() or str(value.name) not in sample:
            continue
        free = value.shape is not None and len(value.shape) > 0 and not isinstance(value.shape[0], int)
        if not free or np.asarray(sample[str(value.name)]).shape[:1] != (1,):
            return 1
    twice = _joined([sample, sample])
    try:
        found = Session(model, optimized=False).run(twice)
    except GraphoptError:
        return 1
    whole = all(isinstance(array, np.ndarray) and array.shape[:1] == (2,) for array in found.values())
    return BATCH if whole else 1


def _joined(samples: list[Any]) -> dict[str, Any]:
    return {name: np.concatenate([sample[name] for sample in samples]) for name in samples[0]}


def _split(whole: dict[str, Any], fitted: tuple[str, ...], part: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {name: whole[name][at : at + 1] if name in fitted else value for name, value in sample.items()}
        for at, sample in enumerate(part)
    ]


class _Descent:
    """Inputs of certain shapes, and the slope of what they are to meet."""

    def __init__(self, model: ir.Model, layers: list[str], feeds: dict[str, Any], threads: int) -> None:
        names = [name for name, value in feeds.items() if np.asarray(value).dtype == np.float32]
        graph_model, self._loss, self._gradients = with_gradients(model, layers, names, feeds)
        self.fitted = tuple(self._gradients)
        self._session = Session(graph_model, optimized=True, threads=threads)

    def run(
        self, given: dict[str, Any], rng: np.random.Generator, steps: int, tell: Callable[[], None]
    ) -> tuple[dict[str, Any], float, float]:
        """Feeds after the descent, the loss before and after; what is not fitted stays as given."""
        feeds = {**given, **{name: _noise(rng, given[name].shape) for name in self.fitted}}
        gain, first = self._gain(feeds)
        feeds |= {name: (feeds[name] * gain).astype(np.float32) for name in self.fitted}
        mean = {name: np.zeros(feeds[name].shape, np.float32) for name in self.fitted}
        square = {name: np.zeros(feeds[name].shape, np.float32) for name in self.fitted}
        best, best_feeds = np.inf, dict(feeds)
        for step in range(1, steps + 1):
            found = self._session.run(feeds)
            loss = float(found[self._loss])
            if loss < best:
                best, best_feeds = loss, dict(feeds)
            rate = _RATE * gain * (0.5 + 0.5 * np.cos(np.pi * (step - 1) / steps))
            for name in self.fitted:
                slope = np.nan_to_num(found[self._gradients[name]])
                mean[name] = 0.9 * mean[name] + 0.1 * slope
                square[name] = 0.999 * square[name] + 0.001 * slope * slope
                ahead = mean[name] / (1 - 0.9**step)
                wide = np.sqrt(square[name] / (1 - 0.999**step)) + 1e-20
                feeds[name] = (feeds[name] - rate * ahead / wide).astype(np.float32)
            tell()
        loss = float(self._session.run(feeds)[self._loss])
        return (dict(feeds), first, loss) if loss < best else (best_feeds, first, best)

    def _gain(self, feeds: dict[str, Any]) -> tuple[float, float]:
        """How large the noise is to be: inputs may be numbers about 1, or bytes."""
        scores = []
        for gain in (0.25, 0.5, 1.0, 2.0, 8.0, 32.0, 128.0):
            given = {**feeds, **{name: (feeds[name] * gain).astype(np.float32) for name in self.fitted}}
            scores.append((float(np.nan_to_num(self._session.run(given)[self._loss], nan=np.inf)), gain))
        best = min(scores)
        return best[1], best[0]


def _noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers; along the two last of four axes with the spectrum 1/f that images have."""
    white = rng.standard_normal(shape)
    if len(shape) != 4 or min(shape[2:]) < 8:
        return white.astype(np.float32)
    far = np.hypot(np.fft.fftfreq(shape[2])[:, None], np.fft.rfftfreq(shape[3])[None])
    far[0, 0] = 1 / max(shape[2:])
    shaped = np.fft.irfft2(np.fft.rfft2(white) / far, s=shape[2:])
    return (shaped / shaped.std(axis=(2, 3), keepdims=True)).astype(np.float32)
