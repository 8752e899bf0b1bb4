"""What a model is worth at its task: figures by name, of its outputs beside the original's.

Each task compares with the original (agreement), and with the truth where the samples have labels. The figures of the
original itself are those of the original beside the original.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Seen:
    """What two models said of the same samples.

    Attributes:
        truth: the original's outputs, one mapping for each sample.
        found: those of the model that is judged.
        samples: what they were fed.
        labels: arrays that came with the samples: ``labels``, ``0#notes``.
        metadata: of the original model.
    """

    truth: Sequence[Outputs]
    found: Sequence[Outputs]
    samples: Sequence[Mapping[str, np.ndarray]]
    labels: Mapping[str, np.ndarray]
    metadata: Mapping[str, str]

    def both(self, output: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """One output of each sample, of the original and of the other."""
        name = list(self.truth[0])[output]
        return [item[name] for item in self.truth], [item[name] for item in self.found]


Task = Callable[[Seen], dict[str, float]]


def classes(seen: Seen) -> dict[str, float]:
    """Classification: the shares of samples with the original's class and with the right one."""
    truth, found = (np.concatenate([row.reshape(-1, row.shape[-1]) for row in rows]) for rows in seen.both())
    figures = {"agreement": float(np.mean(truth.argmax(-1) == found.argmax(-1)))}
    if "labels" in seen.labels and len(seen.labels["labels"]) == len(found):
        figures["top-1"] = float(np.mean(found.argmax(-1) == seen.labels["labels"]))
    return figures


def file_types(seen: Seen) -> dict[str, float]:
    """Classification with labels in words: a word stands for the class that the original gives most of its samples."""
    truth, found = (np.concatenate(rows).argmax(-1) for rows in seen.both())
    figures = {"agreement": float(np.mean(truth == found))}
    if "labels" in seen.labels:
        words = [str(word) for word in seen.labels["labels"]]
        usual = {
            word: Counter(int(kind) for kind, other in zip(truth, words, strict=True) if other == word).most_common(1)
            for word in set(words)
        }
        figures["accuracy"] = float(
            np.mean([kind == usual[word][0][0] for kind, word in zip(found, words, strict=True)])
        )
    return figures


def text(seen: Seen) -> dict[str, float]:
    """Text lines by CTC: strings that stay, as a share, with their spaces and without; errors per character without."""
    characters = ["", *seen.metadata.get("character", "").splitlines(), " "]
    truth, found = ([_ctc(row, characters) for array in rows for row in array] for rows in seen.both())
    figures = {"strings kept": float(np.mean([one == other for one, other in zip(truth, found, strict=True)]))}
    truth, found = ([line.replace(" ", "") for line in lines] for lines in (truth, found))
    figures["but for spaces"] = float(np.mean([one == other for one, other in zip(truth, found, strict=True)]))
    if "labels" in seen.labels:
        wanted = [str(label).replace(" ", "") for label in seen.labels["labels"]]
        wrong = sum(_edits(one, other) for one, other in zip(wanted, found, strict=True))
        figures["CER"] = wrong / max(sum(map(len, wanted)), 1)
    return figures


def _ctc(scores: np.ndarray, characters: Sequence[str]) -> str:
    """The likeliest class of each step, repetitions dropped; class 0 is the blank, the last one the space."""
    best = scores.argmax(-1)
    kept = best[(best != 0) & np.append(True, best[1:] != best[:-1])]
    return "".join(characters[index] if index < len(characters) else f"<{index}>" for index in kept)


def _edits(one: str, other: str) -> int:
    """Insertions, deletions and substitutions that make one string of another (Levenshtein, 1965)."""
    row = list(range(len(other) + 1))
    for place, letter in enumerate(one, 1):
        last, row[0] = row[0], place
        for column, second in enumerate(other, 1):
            last, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, last + (letter != second))
    return row[-1]


def sentences(seen: Seen) -> dict[str, float]:
    """Sentence embeddings, the mean of the hidden states: similarities of pairs, beside the original's and people's."""
    hidden = next(number for number, array in enumerate(seen.truth[0].values()) if array.ndim == 3)
    truth, found = seen.both(hidden)
    masks = [sample.get("attention_mask") for sample in seen.samples]
    before, after = (_similarities(_pooled(rows, masks)) for rows in (truth, found))
    figures = {"mean cosine": _mean_cosine(_pooled(truth, masks), _pooled(found, masks))}
    if len(before) > 2:
        figures["r of similarities"] = _correlation(before, after)
    if "similarities" in seen.labels and len(seen.labels["similarities"]) == len(found):
        people = seen.labels["similarities"][np.triu_indices(len(found), 1)]
        figures["r with people"] = _correlation(people, after)
    return figures


def _pooled(rows: Sequence[np.ndarray], masks: Sequence[np.ndarray | None]) -> np.ndarray:
    """The mean over tokens that are there."""
    means: list[np.ndarray] = []
    for row, mask in zip(rows, masks, strict=True):
        used = np.ones(row.shape[:2]) if mask is None else mask
        means += list((row * used[..., None]).sum(1) / np.maximum(used.sum(1), 1)[:, None])
    return np.asarray(means, np.float64)


def vectors(seen: Seen) -> dict[str, float]:
    """Hidden states: the mean cosine of a vector with the original's."""
    truth, found = (np.concatenate([row.reshape(-1, row.shape[-1]) for row in rows]) for rows in seen.both())
    return {"mean cosine": _mean_cosine(truth, found)}


def speakers(seen: Seen) -> dict[str, float]:
    """Voice embeddings: cosine with the original's, and how well similarity tells pairs of one speaker (AUC)."""
    truth, found = (np.concatenate(rows) for rows in seen.both())
    figures = {"mean cosine": _mean_cosine(truth, found)}
    if "labels" in seen.labels:
        same = np.asarray([one == other for one, other in combinations(seen.labels["labels"], 2)])
        figures["AUC"] = _auc(_similarities(found), same)
    return figures


def speech(seen: Seen) -> dict[str, float]:
    """Voice activity, frame by frame: decisions that stay, and the AUC of the score for the original's decisions."""
    truth, found = (np.concatenate([row.ravel() for row in rows]) for rows in seen.both())
    voiced = truth > 0.5
    return {"decisions kept": float(np.mean(voiced == (found > 0.5))), "AUC": _auc(found, voiced)}


def mask(seen: Seen) -> dict[str, float]:
    """Segmentation: overlap of the areas above 0.3, intersection by union, with the original's."""
    truth, found = seen.both()
    shared = sum(int(np.sum((one > 0.3) & (other > 0.3))) for one, other in zip(truth, found, strict=True))
    either = sum(int(np.sum((one > 0.3) | (other > 0.3))) for one, other in zip(truth, found, strict=True))
    return {"IoU of text": shared / either if either else 1.0}


def boxes(seen: Seen) -> dict[str, float]:
    """Detection before suppression: places the original is sure of (> 0.4) where the class stays, as F1."""
    kept = before = after = 0
    for one, other in zip(seen.truth, seen.found, strict=True):
        left, right = (np.concatenate([a[0] for a in item.values() if a.shape[-1] < 32]) for item in (one, other))
        sure, still = left.max(-1) > 0.4, right.max(-1) > 0.4
        before, after = before + int(sure.sum()), after + int(still.sum())
        kept += int(np.sum(sure & still & (left.argmax(-1) == right.argmax(-1))))
    return {"F1 of places": 2 * kept / (before + after) if before + after else 1.0}


def notes(seen: Seen) -> dict[str, float]:
    """Transcription: F1 of note frames (> 0.3) beside the original's, and beside the notes that were played."""
    truth, found = seen.both(1)
    figures = {"F1 beside original": _f1([row > 0.3 for row in truth], [row > 0.3 for row in found])}
    played = [seen.labels[key] > 0 for key in sorted(seen.labels) if key.endswith("#notes")]
    if len(played) == len(found):
        figures["frame F1"] = _f1(played, [row[0] > 0.3 for row in found])
    return figures


def _f1(truth: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
    hits = sum(int(np.sum(one & other)) for one, other in zip(truth, found, strict=True))
    every = sum(int(one.sum()) + int(other.sum()) for one, other in zip(truth, found, strict=True))
    return 2 * hits / every if every else 1.0


def _mean_cosine(truth: np.ndarray, found: np.ndarray) -> float:
    left, right = np.asarray(truth, np.float64), np.asarray(found, np.float64)
    sizes = np.linalg.norm(left, axis=-1) * np.linalg.norm(right, axis=-1)
    return float(np.mean((left * right).sum(-1) / np.maximum(sizes, 1e-30)))


def _similarities(rows: np.ndarray) -> np.ndarray:
    """The cosines of all pairs."""
    unit = rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-30)
    return (unit @ unit.T)[np.triu_indices(len(rows), 1)]


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one, other)[0, 1])


def _auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """The chance that a positive scores above a negative, ties half; NaN without both kinds."""
    if positive.all() or not positive.any():
        return float("nan")
    levels, places = np.unique(scores, return_inverse=True)
    counts = np.bincount(places, minlength=len(levels))
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    ups = int(positive.sum())
    return float((ranks[positive].sum() - ups * (ups + 1) / 2) / (ups * (len(scores) - ups)))


TASKS: Mapping[str, Task] = {
    task.__name__: task
    for task in (classes, file_types, text, sentences, vectors, speakers, speech, mask, boxes, notes)
}
"""Every task by name."""
