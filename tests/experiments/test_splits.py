"""The split into training and held-out data is drawn by the seed: no experiment trains two seeds on one split."""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile

import pytest

from normviz.data import TextBatches, TextCorpus, load_digits, load_mnist1d, load_sentences, load_table
from normviz.data import digits as digits_module
from normviz.data import mnist1d as mnist1d_module
from normviz.data import sentences as sentences_module
from normviz.data import tabular as tabular_module
from normviz.experiments import get_experiment
from normviz.experiments.noisy_labels import tasks

ROWS: list[tuple[str, dict[str, object]]] = [
    ("normalization-statistics", {"task": "vision", "norms": "batch", "steps": 10}),
    ("normalization-statistics", {"task": "language", "norms": "batch", "steps": 10}),
    ("normalization-statistics", {"task": "language", "tokens": "words", "norms": "batch", "steps": 10}),
    ("normalization-statistics", {"task": "vision", "network": "vit", "norms": "batch", "steps": 10}),
    ("normalization-statistics", {"task": "recurrent", "norms": "none", "steps": 10}),
    ("self-normalizing", {"arms": "relu", "depth": 2, "steps": 10}),
    ("self-normalizing", {"data": "wine", "arms": "relu", "depth": 2, "steps": 10}),
    ("evolving-layers", {"layers": "S0", "batch_sizes": "8", "steps": 10}),
    ("evolving-layers", {"data": "mnist1d", "layers": "S0", "batch_sizes": "8", "steps": 10}),
    ("evolving-layers", {"mode": "search", "budget": 1, "population": 3, "trial_steps": 10}),
    ("effective-learning-rate", {"arms": "none", "phases": 1, "period": 20}),
    ("effective-learning-rate", {"task": "stationary", "arms": "layer", "phases": 1, "period": 20}),
    ("schedule-refinement", {"task": "text", "schedules": "flat", "rates": 1, "steps": 40}),
    ("schedule-refinement", {"task": "digits", "schedules": "flat", "rates": 1, "steps": 40}),
    ("optimizer-spectra", {"task": "digits", "optimizers": "adamw", "grid": "1", "steps": 20}),
    ("optimizer-spectra", {"task": "language", "optimizers": "adamw", "grid": "1", "steps": 20}),
    ("residual-depth", {"depth": 4, "methods": "plain", "steps": 10}),
    ("attention-entropy", {"kinds": "softmax", "side": "4", "longest": "1024", "steps": 10}),
    ("attention-entropy", {"task": "text", "kinds": "softmax", "longest": "1024", "steps": 10}),
    ("sample-reweighting", {"strategies": "uniform", "batch_size": 8, "steps": 10}),
    ("noisy-labels", {"arms": "plain", "steps": 50}),
    ("noisy-labels", {"task": "text", "arms": "plain", "steps": 50}),
    ("context-adapters", {"arms": "kpa", "first_steps": 50, "steps": 10}),
    ("compatible-representations", {"arms": "strict", "steps": 10, "old_steps": 20, "new_steps": 20}),
    ("federated-pruning", {"arms": "dense", "clients": 2, "rounds": 3}),
    ("entropy-decoding", {"task": "text", "steps": 10, "prompts": 2, "rivals": "random"}),
    ("adaptive-batch-size", {"task": "digits", "arms": "large", "samples": 1000}),
]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> set[int | None]:
    """The seeds of all splits that are made, or that text is taken from."""
    seeds: set[int | None] = set()
    for cached in (load_digits, load_mnist1d, load_sentences, load_table, tasks._chapters):
        cached.cache_clear()
    for module in (digits_module, mnist1d_module, tabular_module, tasks):
        split: Callable[..., object] = module.stratified_split

        def recorded(labels: object, size: float, seed: int, split: Callable[..., object] = split) -> object:
            seeds.add(seed)
            return split(labels, size, seed)

        monkeypatch.setattr(module, "stratified_split", recorded)
    generator = sentences_module.seeded_generator

    def recorded_generator(seed: int) -> object:
        seeds.add(seed)
        return generator(seed)

    monkeypatch.setattr(sentences_module, "seeded_generator", recorded_generator)
    windows, init = TextCorpus.windows, TextBatches.__init__

    def recorded_windows(self: TextCorpus, *args: object, **kwargs: object) -> object:
        seeds.add(self.split_seed)
        return windows(self, *args, **kwargs)  # type: ignore[arg-type]

    def recorded_init(self: TextBatches, corpus: TextCorpus, *args: object, **kwargs: object) -> None:
        seeds.add(corpus.split_seed)
        init(self, corpus, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(TextCorpus, "windows", recorded_windows)
    monkeypatch.setattr(TextBatches, "__init__", recorded_init)
    return seeds


@pytest.mark.parametrize(("slug", "values"), ROWS)
def test_every_seed_draws_its_split(slug: str, values: dict[str, object], drawn: set[int | None]) -> None:
    experiment = get_experiment(slug)
    knobs = experiment.knobs.parse({**values, "seeds": 2, "first_seed": 13})
    frames = experiment.frames(knobs, "cpu")
    for _ in takewhile(lambda frame: frame.step < 2, frames):
        pass
    assert drawn == {13, 14}
