"""The two tasks of the page *Noisy labels*: data, a trusted set, wrong labels, and what is shown of a sample.

Both tasks keep ten trusted samples per class aside (true labels), whether an arm uses them or not, so that all arms
learn from the same noisy data. A seed draws the split, the trusted samples and the wrong labels. The test labels are
never touched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from normviz.data import load_digit_source, pydoc_topics, seeded_generator, stratified_split
from normviz.experiments.noisy_labels.knobs import Knobs
from normviz.weighting import inject_instance_noise, inject_label_noise

__all__ = ["CHARACTERS", "NoisyTask", "build_task"]

TRUSTED = 10
"""Trusted samples per class."""
CHAPTERS, CHARACTERS = 8, 160
"""The text task: classes, characters of a passage."""
BUCKETS, COMPONENTS = 1024, 32
"""Character trigrams are hashed into so many counts, of which so many principal components are the inputs."""


@dataclass(frozen=True, eq=False)
class NoisyTask:
    """One task with one draw of wrong labels.

    Attributes:
        x: training inputs (n, d); what ``y`` and ``true`` are labels of.
        y: the labels that are trained on (n,), some wrong.
        true: the right labels (n,).
        flipped: where the two differ (n,).
        x_test, y_test: test data with right labels.
        x_trusted, y_trusted: a small set with right labels.
        looks: what the reader sees of each training sample: pixels or values in their own units (n, d), or character
            codes (n, 160).
        class_names: one per class.
    """

    x: Tensor
    y: Tensor
    true: Tensor
    flipped: Tensor
    x_test: Tensor
    y_test: Tensor
    x_trusted: Tensor
    y_trusted: Tensor
    looks: NDArray[np.float32]
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.class_names)


@dataclass(frozen=True, eq=False)
class _Source:
    """A clean task: training and test samples with what they look like."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    looks: NDArray[np.float32]
    class_names: tuple[str, ...]


def build_task(knobs: Knobs, seed: int, device: torch.device) -> NoisyTask:
    """The task of one seed: it draws the split, the trusted samples and the wrong labels."""
    source = _digits(knobs.data, seed) if knobs.task == "digits" else _chapters(seed)
    C = len(source.class_names)
    kept, trusted = _divide(source.y.numpy(), C, knobs.imbalance, seed)
    x, true = source.x[kept], source.y[kept]
    generator = seeded_generator(seed, 7)
    if knobs.noise == "instance":
        y, flipped = inject_instance_noise(x, true, knobs.rate, C, generator)
    else:
        y, flipped = inject_label_noise(true, knobs.rate, C, knobs.noise, generator)
    return NoisyTask(
        x=x.to(device),
        y=y.to(device),
        true=true.to(device),
        flipped=flipped.to(device),
        x_test=source.x_test.to(device),
        y_test=source.y_test.to(device),
        x_trusted=source.x[trusted].to(device),
        y_trusted=source.y[trusted].to(device),
        looks=source.looks[kept],
        class_names=source.class_names,
    )


def _divide(
    y: NDArray[np.int64], C: int, imbalance: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Training and trusted indices; class c keeps a share of imbalance^(-c / (C - 1)) of its samples."""
    rng = np.random.default_rng(seed)
    members = [rng.permutation(np.flatnonzero(y == c)) for c in range(C)]
    trusted = np.concatenate([m[:TRUSTED] for m in members])
    rest = [m[TRUSTED:] for m in members]
    if imbalance > 1:
        rest = [m[: max(2, round(len(m) * imbalance ** (-c / (C - 1))))] for c, m in enumerate(rest)]
    return np.sort(np.concatenate(rest)), np.sort(trusted)


def _digits(kind: str, seed: int) -> _Source:
    data = load_digit_source(kind, "flat", seed=seed)
    looks = data.unscale(data.x_train).numpy().astype(np.float32)
    return _Source(data.x_train, data.y_train, data.x_test, data.y_test, looks, data.class_names)


@lru_cache(maxsize=8)
def _chapters(seed: int) -> _Source:
    """Passages of the longest topics of Python's help texts as principal components of trigram counts.

    Few components, because in a thousand counts a thousand wrong labels are memorised at once.
    """
    texts = _longest_topics(CHAPTERS)
    passages: list[str] = []
    labels: list[int] = []
    for label, text in enumerate(texts.values()):
        flat = re.sub(r"\s+", " ", text)
        cut = [flat[i : i + CHARACTERS] for i in range(0, len(flat) - CHARACTERS + 1, CHARACTERS)]
        passages += cut
        labels += [label] * len(cut)
    y = np.array(labels, dtype=np.int64)
    train, test = stratified_split(y, 0.25, seed)
    counts = np.log1p(np.stack([_trigrams(p) for p in passages]))
    centred = (counts - counts[train].mean(0)).astype(np.float32)
    _, _, axes = np.linalg.svd(centred[train], full_matrices=False)
    components = centred @ axes[:COMPONENTS].T
    x, targets = torch.from_numpy(components / components[train].std()).float(), torch.from_numpy(y)
    looks = np.array([[ord(char) for char in passages[i]] for i in train], dtype=np.float32)
    return _Source(x[train], targets[train], x[test], targets[test], looks, tuple(texts))


def _longest_topics(count: int) -> dict[str, str]:
    """The longest topics by name, leaving out those that repeat a part of a longer one."""
    corpus = pydoc_topics()
    spans = [corpus.span(topic, "all") for topic in range(len(corpus.topics))]
    chosen: dict[str, str] = {}
    for topic in sorted(range(len(spans)), key=lambda k: spans[k][0] - spans[k][1]):
        text = corpus.decode(corpus.tokens[slice(*spans[topic])])
        middle = text[len(text) // 2 :][:200]
        if not any(middle in other for other in chosen.values()):
            chosen[corpus.topics[topic]] = text
        if len(chosen) == count:
            break
    return chosen


def _trigrams(passage: str) -> NDArray[np.float64]:
    text = passage.lower()
    keys = [crc32(text[i : i + 3].encode()) % BUCKETS for i in range(len(text) - 2)]
    return np.bincount(keys, minlength=BUCKETS).astype(np.float64)
