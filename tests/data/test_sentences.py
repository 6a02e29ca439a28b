from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from normviz.data import TextCorpus, load_sentences
from normviz.data import sentences as module
from normviz.data.sentences import IGNORED, _padded

TEXT = {
    "one": "The cat sees the dog. The dog sees nothing! Why?\n\nIt is the end of the day; nobody sees the cat: good",
    "two": "A very long sentence has more words than there is room for. The dog sleeps now.",
}
LISTED = [
    "the cat sees the dog .",
    "the dog sees nothing !",
    "it is the end of the day ;",
    "nobody sees the cat :",
    "a very long sentence has more words than there is room for .",
    "the dog sleeps now .",
]
"""Its sentences of four words or more, by hand."""


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    corpus = TextCorpus.from_documents("toy", TEXT)
    monkeypatch.setattr(module, "load_corpus", lambda key: corpus)
    for cached in (_padded, load_sentences):
        cached.cache_clear()
    yield
    for cached in (_padded, load_sentences):
        cached.cache_clear()


@pytest.mark.usefixtures("toy")
def test_sentences_are_those_of_the_text_padded_and_cut() -> None:
    data = load_sentences("toy", longest=8, val_fraction=0.34, seed=1)
    assert (len(data.train[0]), len(data.held_out[0])) == (4, 2)
    tokens = torch.cat([data.train[0], data.held_out[0]])
    targets = torch.cat([data.train[1], data.held_out[1]])
    read = []
    for row, following in zip(tokens.tolist(), targets.tolist(), strict=True):
        words = [row[0], *(t for t in following if t != IGNORED)]
        read.append(" ".join(data.vocabulary[t] for t in words))
        real = len(words) - 1
        assert following[real:] == [IGNORED] * (8 - real)
        assert row[1 : real + 1] == following[: len(row[1 : real + 1])], "one place ahead"
        assert row[real + 1 :] == [0] * (7 - real)
    cut = [" ".join(sentence.split()[:9]) for sentence in LISTED]
    assert sorted(read) == sorted(cut)


@pytest.mark.usefixtures("toy")
def test_rare_words_are_one_token() -> None:
    data = load_sentences("toy", vocabulary=5)
    assert data.vocab_size == 5
    assert data.vocabulary[2:] == ("the", ".", "dog"), "most frequent first, equal ones by the alphabet"
    words = [word for sentence in LISTED for word in sentence.split()]
    tokens = torch.cat([data.train[0], data.held_out[0]])
    first = torch.cat([data.train[1], data.held_out[1]])
    rare = int((first == 1).sum()) + int((tokens[:, 0] == 1).sum())
    assert rare == sum(word not in data.vocabulary[2:] for word in words)


@pytest.mark.usefixtures("toy")
def test_seeds_draw_other_splits_and_keep_their_own() -> None:
    splits = {tuple(load_sentences("toy", seed=seed).held_out[0].flatten().tolist()) for seed in range(12)}
    assert len(splits) > 3
    one = load_sentences("toy", seed=7)
    load_sentences.cache_clear()
    assert torch.equal(load_sentences("toy", seed=7).held_out[0], one.held_out[0])
    tokens, targets = one.batches(3)(7, 0)
    assert tokens.shape == targets.shape == (3, 32)
    assert one.to("meta").train[0].is_meta


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"vocabulary": 2}, "vocabulary"),
        ({"longest": 1}, "longest"),
        ({"val_fraction": 1.0}, "val_fraction"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_arguments(arguments: dict[str, float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        load_sentences("toy", **arguments)  # type: ignore[arg-type]


def test_a_text_without_sentences_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = TextCorpus.from_documents("short", {"a": "one two three four five"})
    monkeypatch.setattr(module, "load_corpus", lambda key: corpus)
    _padded.cache_clear()
    with pytest.raises(ValueError, match="at least 2 sentences of 4 words, got 1"):
        load_sentences("short", seed=999)
    _padded.cache_clear()
