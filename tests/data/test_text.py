from __future__ import annotations

from pydoc_data.topics import topics as source

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from normviz.data import TextBatches, TextCorpus, pydoc_topics
from normviz.data.text import REPLACEMENT


def toy(**kwargs: object) -> TextCorpus:
    documents = {"short": "ab" * 10, "long": "cde" * 40, "none": "", "tiny": "f"}
    return TextCorpus.from_documents("toy", documents, **({"val_fraction": 0.25} | kwargs))  # type: ignore[arg-type]


def test_pydoc_topics_are_the_modules_text_in_name_order() -> None:
    corpus = pydoc_topics()
    names = sorted(source)
    assert corpus.topics == tuple(names)
    assert corpus.decode(corpus.tokens) == "".join(source[name] for name in names)
    assert corpus.vocabulary == "".join(sorted(set("".join(source.values()))))
    for k in (0, len(names) // 2, len(names) - 1):
        start, stop = corpus.span(k, "all")
        assert corpus.decode(corpus.tokens[start:stop]) == source[names[k]]
    assert pydoc_topics() is corpus


def test_bytes() -> None:
    corpus = pydoc_topics("byte")
    assert corpus.vocab_size == 256
    text = "".join(source[name] for name in corpus.topics)
    assert bytes(corpus.tokens.tolist()) == text.encode()
    assert corpus.decode(corpus.encode("naïve – ok")) == "naïve – ok"
    assert corpus.decode(torch.tensor([0x61, 0xFF])) == "a" + REPLACEMENT


def test_spans_partition_every_topic() -> None:
    corpus = toy()
    assert corpus.topics == ("short", "long", "tiny")
    assert [corpus.span(0, split) for split in ("train", "val", "all")] == [(0, 15), (15, 20), (0, 20)]
    assert [corpus.span(1, split) for split in ("train", "val", "all")] == [(20, 110), (110, 140), (20, 140)]
    assert corpus.span(2, "val") == (141, 141)


@given(seed=st.integers(0, 10_000), topic=st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_a_drawn_split_partitions_every_topic(seed: int, topic: int) -> None:
    plain = toy()
    corpus = plain.resplit(seed)
    assert corpus.split_seed == seed
    ((start, stop),) = corpus.spans(topic, "all")
    assert (start, stop) == plain.span(topic, "all")
    ((begin, end),) = corpus.spans(topic, "val")
    assert end - begin == plain.span(topic, "val")[1] - plain.span(topic, "val")[0], "as long as at the end"
    train = [p for piece in corpus.spans(topic, "train") for p in range(*piece)]
    assert sorted([*train, *range(begin, end)]) == list(range(start, stop))
    assert train == sorted(train)
    assert torch.equal(corpus.resplit(None).windows("val", 4).tokens, plain.windows("val", 4).tokens)


def test_splits_of_seeds_differ_and_reach_all_places() -> None:
    begins = {toy().resplit(seed).spans(1, "val")[0][0] for seed in range(600)}
    assert begins == set(range(20, 111)), "30 tokens of the 120 from 20 to 140: every start is possible"
    firsts = [toy().resplit(seed).spans(0, "val")[0][0] for seed in range(20)]
    seconds = [toy().resplit(seed).spans(1, "val")[0][0] - 20 for seed in range(20)]
    assert firsts != seconds, "topics are drawn apart"


def test_a_part_in_two_pieces_has_no_span() -> None:
    seed = next(s for s in range(50) if len(toy().resplit(s).spans(1, "train")) == 2)
    with pytest.raises(ValueError, match="topic 1 has its train part in 2 pieces"):
        toy().resplit(seed).span(1, "train")
    with pytest.raises(ValueError, match="seed"):
        toy().resplit(-1)


@pytest.mark.parametrize("order", ["shuffled", "topic"])
def test_windows_of_a_drawn_split_are_equally_likely_and_never_cross_it(order: str) -> None:
    documents = {"a": "abcdefghijklmnop", "b": "qrstuvwxyz012345"}
    plain = TextCorpus.from_documents("two", documents, val_fraction=0.25)
    seed = next(s for s in range(200) if [len(plain.resplit(s).spans(k, "train")) for k in (0, 1)] == [2, 1])
    corpus = plain.resplit(seed)
    possible = [
        start
        for topic in (0, 1)
        for begin, end in corpus.spans(topic, "train")
        for start in range(begin, end - 2)
    ]
    source = corpus.batches(2, 8, order=order, topic_run=1)
    starts = torch.zeros(32, dtype=torch.double)
    position = {int(token): at for at, token in enumerate(corpus.tokens)}
    draws = 1500
    for step in range(draws):
        windows = source.draw(0, step)
        for first, last, topic in zip(
            windows.tokens[:, 0], windows.targets[:, -1], windows.topics, strict=True
        ):
            at = position[int(first)]
            assert position[int(last)] == at + 2
            assert int(topic) == at // 16
            starts[at] += 1
    assert set(starts.nonzero().flatten().tolist()) == set(possible)
    # In "topic" the topic is drawn 1500 times: its share, near a half, has a standard deviation of at most 0.013.
    share = 1 / len(possible)
    assert ((starts / (8 * draws) - share).abs()[possible] < 5 * 0.013 * 2 * share).all()


def test_windows_are_exhaustive_without_overlap() -> None:
    corpus = toy()
    windows = corpus.windows("train", 4)
    assert windows.tokens.shape == windows.targets.shape
    assert windows.topics.tolist() == [0] * 3 + [1] * 22  # (15 - 1) // 4 and (90 - 1) // 4
    text = corpus.decode(corpus.tokens)
    for window, targets, start in zip(
        windows.tokens, windows.targets, [*range(0, 12, 4), *range(20, 108, 4)], strict=True
    ):
        assert corpus.decode(window) == text[start : start + 4]
        assert corpus.decode(targets) == text[start + 1 : start + 5]
    some = corpus.windows("train", 4, limit=5)
    assert some.topics.tolist() == [0, 1, 1, 1, 1]
    assert torch.equal(some.tokens[0], windows.tokens[0])
    assert len(corpus.windows("train", 4, limit=100).tokens) == 25


@given(
    context=st.integers(1, 29),
    seed=st.integers(0, 1000),
    step=st.integers(0, 1000),
    order=st.sampled_from(["shuffled", "topic"]),
    split=st.sampled_from(["train", "val", "all"]),
)
@settings(max_examples=60, deadline=None)
def test_windows_never_cross_topics_or_the_cut(
    context: int, seed: int, step: int, order: str, split: str
) -> None:
    # Every position carries its own token, so that a window tells where it came from.
    documents = {
        name: "".join(chr(256 + 200 * i + j) for j in range(n))
        for i, (name, n) in enumerate([("a", 40), ("b", 150), ("c", 12)])
    }
    corpus = TextCorpus.from_documents("positions", documents, val_fraction=0.25)
    windows = corpus.batches(context, 5, order=order, split=split).draw(seed, step)
    assert windows.tokens.shape == windows.targets.shape == (5, context)
    for tokens, targets, topic in zip(windows.tokens, windows.targets, windows.topics, strict=True):
        start, stop = corpus.span(int(topic), split)
        assert tokens.tolist() == list(range(int(tokens[0]), int(tokens[0]) + context))
        assert targets.tolist() == [t + 1 for t in tokens.tolist()]
        assert start <= tokens[0]
        assert targets[-1] < stop


@pytest.mark.parametrize("order", ["shuffled", "topic"])
def test_every_window_is_equally_likely_in_both_orders(order: str) -> None:
    corpus = TextCorpus.from_documents("two", {"a": "abcdefgh", "b": "ijklmnopqrst"}, val_fraction=0.25)
    batches = corpus.batches(2, 8, order=order, topic_run=1)  # 6 - 2 = 4 windows in a, 9 - 2 = 7 in b
    draws = [batches.draw(0, step) for step in range(4000)]
    starts = torch.cat([d.tokens[:, 0] for d in draws]).bincount(minlength=20).double()
    expected = torch.zeros(20, dtype=torch.double)
    expected[[*range(4), *range(8, 15)]] = 32000 / 11
    assert torch.equal(starts > 0, expected > 0)
    # In "topic" the topic is drawn 4000 times: its share 4/11 has a standard deviation of 0.0076.
    assert ((starts / 32000 - expected / 32000).abs() < 5 * 0.0076 / 4).all()


def test_topic_order_keeps_one_topic_per_run_and_then_jumps() -> None:
    corpus = pydoc_topics()
    batches = corpus.batches(32, 8, order="topic", topic_run=5)
    seen = []
    for run in range(20):
        topics = {int(t) for step in range(5 * run, 5 * run + 5) for t in batches.draw(0, step).topics}
        assert len(topics) == 1
        seen.append(topics.pop())
    assert len(set(seen)) > 8
    shuffled = corpus.batches(32, 8).draw(0, 0).topics
    assert len(shuffled.unique()) > 2


def test_batch_statistics_jump_in_topic_order() -> None:
    """The point of the mode: letter frequencies vary more between batches sorted by topic.

    At the demonstrations' batch of 16 windows of 64 the variance is about three times that of shuffled batches.
    """
    corpus = pydoc_topics()

    def spread(order: str, seed: int) -> float:
        source = corpus.batches(64, 16, order=order, topic_run=1)
        counts = [
            source(seed, step)[0].flatten().bincount(minlength=corpus.vocab_size) for step in range(300)
        ]
        return float((torch.stack(counts) / 1024).var(0).sum())

    for seed in range(3):
        assert spread("topic", seed) > 1.5 * spread("shuffled", seed)


def test_pure_function_of_seed_and_step() -> None:
    corpus = pydoc_topics()
    for order in ("shuffled", "topic"):
        source, again = corpus.batches(16, 4, order=order), corpus.batches(16, 4, order=order)
        later = again(1, 9)
        for step in range(9):
            source(1, step)
        assert all(torch.equal(a, b) for a, b in zip(source(1, 9), later, strict=True))
        assert not torch.equal(source(2, 9)[0], later[0])
        assert not torch.equal(source(1, 8)[0], later[0])
        assert not torch.equal(corpus.batches(16, 4, order=order, stream=1)(1, 9)[0], later[0])
        tokens, targets = source(1, 9)
        windows = source.draw(1, 9)
        assert torch.equal(tokens, windows.tokens)
        assert torch.equal(targets, windows.targets)


def test_encode_and_limited_vocabulary() -> None:
    corpus = toy()
    assert corpus.decode(corpus.encode("decaf")) == "decaf"
    with pytest.raises(ValueError, match=r"'x' at position 2"):
        corpus.encode("abx")
    limited = TextCorpus.from_documents("limited", {"t": "aaaabbbccd" * 5}, max_vocabulary=3)
    assert limited.vocabulary == "ab" + REPLACEMENT
    assert limited.decode(limited.tokens[:10]) == "aaaabbb" + REPLACEMENT * 3
    assert limited.decode(limited.encode("abz")) == "ab" + REPLACEMENT
    exact = TextCorpus.from_documents("exact", {"t": "abc" * 5}, max_vocabulary=3)
    assert exact.vocabulary == "abc"


def test_other_device() -> None:
    corpus = toy()
    moved = corpus.to("meta")
    assert moved.tokens.is_meta
    assert moved.batches(4, 2)(0, 0)[0].is_meta
    assert not corpus.tokens.is_meta


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"level": "word"}, "'char'"),
        ({"val_fraction": 0}, "val_fraction"),
        ({"val_fraction": 1.0}, "val_fraction"),
        ({"max_vocabulary": 1}, "max_vocabulary"),
        ({"documents": {}}, "non-empty"),
        ({"documents": {"a": ""}}, "non-empty"),
    ],
)
def test_corpus_errors(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        TextCorpus.from_documents(**({"name": "x", "documents": {"t": "some text"}} | arguments))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"context": 0}, "context"),
        ({"context": 90}, r"at most 89 for the train part of 'toy', got 90"),
        ({"batch_size": 0}, "batch_size"),
        ({"split": "test"}, "'val'"),
        ({"order": "sorted"}, "'topic'"),
        ({"topic_run": 0}, "topic_run"),
        ({"stream": -1}, "stream"),
    ],
)
def test_batches_errors(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        TextBatches(toy(), **({"context": 4, "batch_size": 2} | arguments))  # type: ignore[arg-type]


def test_more_errors() -> None:
    corpus = toy()
    assert corpus.batches(89, 1)(0, 0)[0].shape == (1, 89)
    with pytest.raises(ValueError, match="at most 29"):
        corpus.windows("val", 30)
    with pytest.raises(ValueError, match="limit"):
        corpus.windows("val", 3, limit=0)
    with pytest.raises(ValueError, match="topic"):
        corpus.span(3)
    for seed, step in ((-1, 0), (0, -1)):
        with pytest.raises(ValueError, match="must be an integer >= 0"):
            corpus.batches(4, 2)(seed, step)
