"""Models that the quantisation benchmark makes itself, with their samples: the same bytes each time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from graphopt.execute import Session
from graphopt.models.builders import transformer
from graphopt.models.builders.sketch import Sketch

Samples = list[dict[str, np.ndarray]]
Labels = Mapping[str, np.ndarray]

CLASSES = 10
_SIZE = 32


@dataclass(frozen=True)
class Built:
    """A model that is made here, with its samples."""

    model: ir.Model
    calibration: Samples
    evaluation: Samples
    labels: Labels = field(default_factory=dict)


def bert6() -> Built:
    """A BERT-like encoder of 6 layers, 384 wide, with random weights, on sequences of 16 to 128 of random words."""
    rng = np.random.default_rng(6)
    model = transformer(layers=6, heads=12, size=32, vocabulary=30_522)

    def words() -> dict[str, np.ndarray]:
        length = int(rng.integers(16, 129))
        ids = np.minimum(rng.zipf(1.2, (1, length)) + 1000, 30_521).astype(np.int64)
        return {"ids": ids, "mask": np.ones((1, length), np.int64)}

    return Built(model, [words() for _ in range(32)], [words() for _ in range(32)])


def uneven_cnn(spread: float = 4.0) -> Built:
    """A depthwise CNN that tells gratings apart, its channels' scales moved by ``2^U(-spread, spread)``.

    Gabor filters, then pairs of a blur by channel and a mixture of channels in which one prevails; the last layer is
    fitted by least squares. A channel's scale moves through the Relu into the next layer, so the model computes what it
    did, and a scale for a whole tensor suits none of its channels.
    """
    rng = np.random.default_rng(4)
    layers: list[tuple[int, int, int, int]] = [(3, 24, 2, 1)]  # into, out, stride, groups
    for into, out, stride in ((24, 48, 1), (48, 48, 2), (48, 96, 1), (96, 96, 2), (96, 96, 1)):
        layers += [(into, into, stride, into), (into, out, 1, 1)]
    weights = [_gabor(24, 7)]
    for into, out, _, groups in layers[1:]:
        if groups > 1:
            blur = np.abs(1 + 0.5 * rng.standard_normal((out, 1, 3, 3)))
            weights.append((blur / blur.sum((2, 3), keepdims=True)).astype(np.float32))
        else:
            mixture = 0.2 * rng.standard_normal((out, into)) / into**0.5
            mixture[np.arange(out), np.arange(out) % into] += 1
            weights.append(mixture[:, :, None, None].astype(np.float32))
    biases = [(0.02 * rng.standard_normal(out)).astype(np.float32) for _, out, _, _ in layers]
    biases[0] -= np.float32(0.4)
    width = layers[-1][1]
    images, kinds = gratings(1200, rng)
    features = _cnn(layers, weights, biases, np.eye(width, dtype=np.float32), np.zeros(width, np.float32))
    known = Session(features, optimized=True).run({"image": np.concatenate(images)})["logits"]
    centre = known.mean(0)
    spreads = known - centre
    ridge = 3.0 * float(np.sum(spreads**2)) / width  # large: a head that lives on small differences is lost in int8
    wanted = np.eye(CLASSES)[kinds] - 1 / CLASSES
    head = np.linalg.solve(spreads.T @ spreads + ridge * np.eye(width), spreads.T @ wanted)
    offset = -centre @ head
    for number, (_, out, _, _) in enumerate(layers):
        moved = (2 ** rng.uniform(-spread, spread, out)).astype(np.float32)
        weights[number] *= moved[:, None, None, None]
        biases[number] *= moved
        if number + 1 == len(layers):
            head /= moved[:, None]
        elif layers[number + 1][3] > 1:
            weights[number + 1] /= moved[:, None, None, None]
        else:
            weights[number + 1] /= moved[None, :, None, None]
    model = _cnn(layers, weights, biases, head.astype(np.float32), offset.astype(np.float32))
    calibration, _ = gratings(48, rng)
    evaluation, labels = gratings(200, rng)
    feeds = [[{"image": image} for image in part] for part in (calibration, evaluation)]
    return Built(model, feeds[0], feeds[1], {"labels": labels})


def _gabor(count: int, size: int) -> np.ndarray:
    """Waves of as many directions under a bell, even and odd by turns: [count, 3, size, size]."""
    rows, columns = np.mgrid[:size, :size] - size // 2
    bell = np.exp(-(rows**2 + columns**2) / (2 * (size / 4) ** 2))
    filters: list[np.ndarray] = []
    for number in range(count):
        angle = np.pi * (number // 2) / (count // 2)
        wave = np.cos(1.05 * (rows * np.sin(angle) + columns * np.cos(angle)) - np.pi / 2 * (number % 2)) * bell
        filters.append((wave - wave.mean()) / np.abs(wave).sum())
    return np.repeat(np.asarray(filters, np.float32)[:, None], 3, axis=1)


def gratings(count: int, rng: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray]:
    """Stripes of ten directions in noise, of any pitch, phase and colour: images [1, 3, 32, 32] and classes."""
    kinds = rng.integers(0, CLASSES, count)
    rows, columns = np.mgrid[:_SIZE, :_SIZE]
    images: list[np.ndarray] = []
    for kind in kinds:
        angle = np.pi * (kind + rng.uniform(-0.2, 0.2)) / CLASSES
        along = rows * np.sin(angle) + columns * np.cos(angle)
        wave = np.sin(rng.uniform(0.8, 1.3) * along + rng.uniform(0, 2 * np.pi))
        colour = rng.uniform(0.6, 1.2, (3, 1, 1))
        images.append((colour * wave + 0.3 * rng.standard_normal((3, _SIZE, _SIZE))).astype(np.float32)[None])
    return images, kinds


def _cnn(
    layers: list[tuple[int, int, int, int]],
    weights: list[np.ndarray],
    biases: list[np.ndarray],
    head: np.ndarray,
    offset: np.ndarray,
) -> ir.Model:
    g = Sketch("uneven_cnn")
    x = g.input("image", ["N", 3, _SIZE, _SIZE])
    for (_, _, stride, groups), weight, bias in zip(layers, weights, biases, strict=True):
        pad = weight.shape[-1] // 2
        x = g.op("Conv", x, g.weight(weight), g.weight(bias), pads=[pad] * 4, strides=[stride] * 2, group=groups)
        x = g.op("Relu", x)
    flat = g.op("Flatten", g.op("GlobalAveragePool", x))
    g.output(g.op("Gemm", flat, g.weight(head), g.weight(offset)), ["N", head.shape[1]], name="logits")
    return g.model()
