"""Inputs for catalogue models that look like real ones, made on the spot: drawn text, a voice, sentences.

They are for demonstration and verification, where random noise would leave most of a model asleep.
They are not for measuring accuracy, nor for calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from graphopt.errors import GraphoptError

Feeds = dict[str, np.ndarray]

# A 5 x 7 bitmap font: each letter's rows from the top, five bits each, the leftmost highest.
_FONT: Mapping[str, tuple[int, ...]] = {
    "A": (14, 17, 17, 31, 17, 17, 17),
    "B": (30, 17, 17, 30, 17, 17, 30),
    "C": (14, 17, 16, 16, 16, 17, 14),
    "D": (30, 17, 17, 17, 17, 17, 30),
    "E": (31, 16, 16, 30, 16, 16, 31),
    "F": (31, 16, 16, 30, 16, 16, 16),
    "G": (14, 17, 16, 23, 17, 17, 15),
    "H": (17, 17, 17, 31, 17, 17, 17),
    "I": (14, 4, 4, 4, 4, 4, 14),
    "L": (16, 16, 16, 16, 16, 16, 31),
    "M": (17, 27, 21, 21, 17, 17, 17),
    "N": (17, 17, 25, 21, 19, 17, 17),
    "O": (14, 17, 17, 17, 17, 17, 14),
    "P": (30, 17, 17, 30, 16, 16, 16),
    "R": (30, 17, 17, 30, 20, 18, 17),
    "S": (15, 16, 16, 14, 1, 1, 30),
    "T": (31, 4, 4, 4, 4, 4, 4),
    "U": (17, 17, 17, 17, 17, 17, 14),
    "Y": (17, 17, 17, 10, 4, 4, 4),
    "0": (14, 17, 19, 21, 25, 17, 14),
    "1": (4, 12, 4, 4, 4, 4, 14),
    "2": (14, 17, 1, 2, 4, 8, 31),
    "7": (31, 1, 2, 4, 8, 8, 8),
    " ": (0, 0, 0, 0, 0, 0, 0),
}
_LINES = (
    "GRAPH 2017",
    "TOTAL 12 00",
    "PUBLIC NOTICE",
    "MINI BAR",
    "OPEN TILL 7",
    "SHIP TO PORT",
    "CUSTOMER",
    "DATA SHEET",
)

# WordPiece ids of BERT's uncased vocabulary; 101 begins a sentence, 102 ends it.
_SENTENCES: tuple[tuple[int, ...], ...] = (
    (101, 1996, 4937, 2938, 2006, 1996, 13523, 1012, 102),  # the cat sat on the mat.
    (101, 1037, 2158, 2003, 2652, 1037, 2858, 1012, 102),  # a man is playing a guitar.
    (101, 2129, 2064, 1045, 2689, 2026, 20786, 1029, 102),  # how can i change my password?
    (101, 1996, 3185, 2001, 2307, 1998, 1045, 3866, 2009, 1012, 102),  # the movie was great and i loved it.
    (101, 1996, 4633, 2003, 3376, 2651, 1012, 102),  # the weather is beautiful today.
)


def text_line(text: str, *, height: int = 48, width: int = 192) -> np.ndarray:
    """Dark letters on light paper, uint8 [height, width]; the letters are scaled to fit, blurred a little."""
    letters = [np.asarray([[row >> bit & 1 for bit in (4, 3, 2, 1, 0)] for row in _FONT[c]]) for c in text]
    columns = np.concatenate([np.pad(letter, ((1, 1), (0, 1))) for letter in letters], axis=1)
    scale = max(1, min(height // columns.shape[0], width // columns.shape[1]))
    ink = np.kron(columns, np.ones((scale, scale)))[:height, :width]
    page = np.zeros((height, width))
    top, left = (height - ink.shape[0]) // 2, (width - ink.shape[1]) // 2
    page[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    padded = np.pad(page, 1, mode="edge")
    soft = sum(padded[y : y + height, x : x + width] for y in range(3) for x in range(3)) / 9
    return np.rint(235 - 200 * soft).astype(np.uint8)


def _as_pixels(images: list[np.ndarray]) -> np.ndarray:
    """[N, 3, H, W] in -1..1, as PaddleOCR's recognition and orientation models want it."""
    grey = np.stack(images).astype(np.float32) / 127.5 - 1
    return np.ascontiguousarray(np.repeat(grey[:, None], 3, axis=1), np.float32)


def _orientation() -> Iterator[Feeds]:
    for text in _LINES:
        upright = text_line(text)
        yield {"x": _as_pixels([upright, upright[::-1, ::-1]])}


def _recognition() -> Iterator[Feeds]:
    for text in _LINES:
        yield {"x": _as_pixels([text_line(text, width=320)])}


def _page(height: int, width: int) -> np.ndarray:
    """Text lines below one another, float32 [1, 3, height, width], by ImageNet's mean and deviation."""
    page = np.full((height, width), 235, np.uint8)
    for place, top in enumerate(range(32, height - 64, 80)):
        page[top : top + 48, 32 : width - 32] = text_line(_LINES[place % len(_LINES)], width=width - 64)
    mean, deviation = np.asarray([0.485, 0.456, 0.406]), np.asarray([0.229, 0.224, 0.225])
    coloured = (page[..., None] / 255 - mean) / deviation
    return np.ascontiguousarray(coloured.transpose(2, 0, 1)[None], np.float32)


def _detection() -> Iterator[Feeds]:
    yield {"x": _page(320, 480)}
    yield {"x": _page(480, 352)}


def _layout() -> Iterator[Feeds]:
    yield {"image": _page(800, 608)}


def _sentences() -> Iterator[Feeds]:
    longest = max(map(len, _SENTENCES))
    ids = np.asarray([s + (0,) * (longest - len(s)) for s in _SENTENCES], np.int64)
    for chosen in (slice(0, 1), slice(1, 3), slice(0, None)):
        used = ids[chosen]
        yield {"input_ids": used, "attention_mask": (used != 0).astype(np.int64)}


def speech(seconds: float, rate: int, *, seed: int = 0) -> np.ndarray:
    """A voice-like signal in -1..1: syllables of a gliding buzz through three formants, pauses and noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    pitch = 120 + 25 * np.sin(2 * np.pi * 0.7 * time) + 6 * np.sin(2 * np.pi * 5 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    formants = np.stack([600 + 250 * np.sin(2 * np.pi * 1.3 * time), 1400 + 500 * np.cos(2 * np.pi * 0.9 * time)])
    voice = np.zeros_like(time)
    for harmonic in range(1, 30):
        tone = harmonic * pitch
        near = np.exp(-(((tone - formants) / 180) ** 2)).sum(axis=0)
        near += 0.3 * np.exp(-(((tone - 2600) / 300) ** 2))
        voice += near * np.sin(harmonic * phase)
    syllables = np.clip(np.sin(2 * np.pi * 3.5 * time), 0, 1) ** 0.5 * (np.sin(2 * np.pi * 0.4 * time) > -0.5)
    voice = 0.25 * voice / max(float(np.abs(voice).max()), 1e-9) * syllables
    return (voice + 0.002 * rng.standard_normal(len(time))).astype(np.float32)


def _voice() -> Iterator[Feeds]:
    """Half a second of it, each sample on its own (state zero), each with the 64 samples before it."""
    signal = speech(1.0, 16_000)
    for start in range(4096, 4096 + 16 * 512, 512):
        yield {
            "input": signal[None, start - 64 : start + 512],
            "state": np.zeros((2, 1, 128), np.float32),
            "sr": np.asarray(16_000, np.int64),
        }


def _music() -> Iterator[Feeds]:
    rate, length = 22_050, 43_844
    time = np.arange(length) / rate
    chord = np.zeros(length)
    for note, start in ((60, 0.0), (64, 0.4), (67, 0.8), (72, 1.2)):
        since = time - start
        tone = 440 * 2 ** ((note - 69) / 12)
        decay = np.where(since >= 0, np.exp(-3 * np.maximum(since, 0)), 0)
        chord += decay * sum(np.sin(2 * np.pi * tone * k * since) / k**2 for k in range(1, 6))
    yield {"serving_default_input_2:0": (chord / np.abs(chord).max() * 0.7).astype(np.float32)[None, :, None]}


def _files() -> Iterator[Feeds]:
    texts = (
        "import sys\n\n\ndef main() -> int:\n    return len(sys.argv)\n\n\nsys.exit(main())\n",
        '{"name": "graphopt", "version": 1, "tags": ["onnx", "compiler"], "nested": {"deep": [1, 2, 3]}}',
        "<!doctype html>\n<html><head><title>a page</title></head><body><p>hello</p></body></html>",
        "# a heading\n\nSome *text* with a [link](https://example.org).\n\n- one\n- two",
    )
    for text in texts:
        content = np.frombuffer(text.encode()[:1024], np.uint8).astype(np.int32)
        wanted = np.full((1, 2048), 256, np.int32)
        wanted[0, : len(content)] = content
        wanted[0, 2048 - len(content) :] = content
        yield {"bytes": wanted}


_MAKERS: Mapping[str, Callable[[], Iterator[Feeds]]] = {
    "ppocr_cls_v2": _orientation,
    "ppocrv4_det": _detection,
    "ppocrv4_rec": _recognition,
    "layout_cdla": _layout,
    "paraphrase_minilm_l3": _sentences,
    "silero_vad_16k_op15": _voice,
    "basic_pitch": _music,
    "magika_v3_3": _files,
}


def samples(name: str) -> list[Feeds]:
    """Feeds for the catalogue model ``name``, the same each time.

    Raises:
        GraphoptError: there are none for ``name``.
    """
    if name not in _MAKERS:
        raise GraphoptError(
            f"there are no sample inputs for {name!r}",
            "models",
            f"there are for {', '.join(_MAKERS)}",
            usage=True,
        )
    return list(_MAKERS[name]())
