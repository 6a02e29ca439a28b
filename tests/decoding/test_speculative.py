"""Speculative decoding: the large model's text and distribution, its rounds, caches and refusals."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from normviz.decoding import ByteLSTM, CharTransformer, SpeculativeDecoder, TokenSampler
from tests.decoding.references import FunctionLM, table_lm

VOCAB = 6
PROMPT = torch.tensor([3, 1, 4])


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(np.asarray(x, dtype=np.float64) - np.max(x))
    return e / e.sum()


def greedy(model: torch.nn.Module, prompt: Tensor, count: int) -> list[int]:
    text = prompt.tolist()
    for _ in range(count):
        with torch.no_grad():
            text.append(int(model(torch.tensor([text]))[0][0, -1].argmax()))
    return text[len(prompt) :]


def pair(kind: str):
    torch.manual_seed(3)
    if kind == "transformer":
        return CharTransformer(VOCAB, 4, 1, 1, 60), CharTransformer(VOCAB, 8, 2, 2, 60)
    if kind == "lstm":
        return ByteLSTM(VOCAB, 3), ByteLSTM(VOCAB, 8, depth=2)
    return table_lm(VOCAB, 0, 1), table_lm(VOCAB, 1, 2)


@pytest.mark.parametrize("kind", ["transformer", "lstm", "table"])
@pytest.mark.parametrize("gamma", [1, 3, 7])
def test_check_11_greedy_text_is_the_large_models(kind: str, gamma: int) -> None:
    small, large = pair(kind)
    decoder = SpeculativeDecoder(small, large, gamma, temperature=0.0)
    for count in (1, 2, 30):
        result = decoder.generate(PROMPT, count)
        assert result.tokens.tolist() == greedy(large, PROMPT, count)
        assert result.accepted <= result.proposed
        # Every round writes its accepted drafts and one token more.
        assert result.accepted + result.large_calls == count


def test_check_11_first_tokens_have_the_large_models_frequencies() -> None:
    small, large = table_lm(VOCAB, 0, 1), table_lm(VOCAB, 1, 2)
    decoder = SpeculativeDecoder(small, large, gamma=2, generator=torch.Generator().manual_seed(0))
    draws = [tuple(decoder.generate(torch.tensor([2]), 3).tokens.tolist()) for _ in range(4000)]
    p = [softmax(large.function([token])) for token in range(VOCAB)]
    q = softmax(small.function([2]))
    assert 0.5 * np.abs(p[2] - q).sum() > 0.2, "the two models differ, so that drafts are rejected"
    first = Counter(draw[0] for draw in draws)
    for token in range(VOCAB):
        expected = p[2][token]
        assert first[token] / 4000 == pytest.approx(
            expected, abs=3.5 * math.sqrt(expected * (1 - expected) / 4000)
        )
    # Pairs as well: the second token follows the large model's transition, whichever way it was drawn.
    pairs = Counter(draw[:2] for draw in draws)
    chi2 = sum(
        (pairs[a, b] - 4000 * p[2][a] * p[a][b]) ** 2 / (4000 * p[2][a] * p[a][b])
        for a in range(VOCAB)
        for b in range(VOCAB)
    )
    assert chi2 < 75, "36 cells: mean 35, standard deviation 8.4"


@pytest.mark.parametrize("options", [{"temperature": 0.6}, {"top_k": 3}, {"top_p": 0.7}])
def test_filters_apply_to_both_models(options: dict) -> None:
    small, large = table_lm(VOCAB, 0, 1), table_lm(VOCAB, 1, 2)
    decoder = SpeculativeDecoder(small, large, gamma=2, generator=torch.Generator().manual_seed(1), **options)
    draws = Counter(int(decoder.generate(torch.tensor([2]), 2).tokens[0]) for _ in range(800))
    p = softmax(large.function([2]) / options.get("temperature", 1.0))
    order = np.argsort(-p)
    if "top_k" in options:
        p[order[3:]] = 0
    if "top_p" in options:
        p[order[int(np.searchsorted(np.cumsum(p[order]), 0.7)) + 1 :]] = 0
    p /= p.sum()
    for token in range(VOCAB):
        assert draws[token] / 800 == pytest.approx(
            p[token], abs=4 * math.sqrt(p[token] * (1 - p[token]) / 800)
        )


def test_acceptance_rate_is_the_overlap_of_the_two() -> None:
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    small, large = FunctionLM(lambda text: np.log(q), 3, 1), FunctionLM(lambda text: np.log(p), 3, 2)
    decoder = SpeculativeDecoder(small, large, gamma=1, generator=torch.Generator().manual_seed(2))
    result = decoder.generate(torch.tensor([0]), 3000)
    rate = np.minimum(p, q).sum()
    error = math.sqrt(rate * (1 - rate) / result.proposed)
    assert result.accepted / result.proposed == pytest.approx(rate, abs=4 * error)


@pytest.mark.parametrize("kind", ["transformer", "lstm", "table"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_check_11_a_model_accepts_its_own_drafts(kind: str, temperature: float) -> None:
    _, large = pair(kind)
    with pytest.warns(UserWarning, match="nothing can be saved"):
        decoder = SpeculativeDecoder(large, large, gamma=4, temperature=temperature)
    torch.manual_seed(0)
    result = decoder.generate(PROMPT, 20)
    assert result.accepted == result.proposed == 16
    assert result.large_calls == 4
    assert len(result.tokens) == 20


def test_rounds_and_caches() -> None:
    """Small counts up; large agrees but for every third token, where it repeats the last one."""
    small = FunctionLM(lambda text: 9 * np.eye(10)[(text[-1] + 1) % 10], 10, 1)
    large = FunctionLM(lambda text: 9 * np.eye(10)[(text[-1] + (len(text) % 3 > 0)) % 10], 10, 2)
    result = SpeculativeDecoder(small, large, gamma=3, temperature=0.0).generate(torch.tensor([0]), 8)
    assert result.tokens.tolist() == [1, 2, 2, 3, 4, 4, 5, 6]
    # Drafts 1 2 3 | 3 4 5 | 5: the third is rejected twice, the last round has room for one draft.
    assert large.fed == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5]]
    assert small.fed == [[0], [1], [2], [2], [3], [4], [4]]
    assert (result.large_calls, result.proposed, result.accepted) == (3, 7, 5)


def test_after_full_acceptance_the_small_model_reads_two_tokens() -> None:
    small, large = (FunctionLM(lambda text: 9 * np.eye(10)[(text[-1] + 1) % 10], 10, n) for n in (1, 2))
    result = SpeculativeDecoder(small, large, gamma=2, temperature=0.0).generate(torch.tensor([[0]]), 6)
    assert result.tokens.tolist() == [1, 2, 3, 4, 5, 6]
    assert small.fed == [[0], [1], [2, 3], [4]]
    assert large.fed == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("gamma", [1, 2, 4, 9])
def test_an_end_token_ends_the_text(gamma: int, temperature: float) -> None:
    small, large = (FunctionLM(lambda text: 90 * np.eye(10)[(text[-1] + 1) % 10], 10, n) for n in (1, 2))
    result = SpeculativeDecoder(small, large, gamma, temperature).generate(torch.tensor([0]), 50, eos_id=6)
    assert result.tokens.tolist() == [1, 2, 3, 4, 5, 6]
    assert result.accepted == result.proposed


def test_a_rejected_end_token_does_not_end_the_text() -> None:
    small = FunctionLM(lambda text: 9 * np.eye(4)[3], 4, 1)
    large = FunctionLM(lambda text: 9 * np.eye(4)[len(text) % 3], 4, 2)
    result = SpeculativeDecoder(small, large, gamma=3, temperature=0.0).generate(
        torch.tensor([0]), 5, eos_id=3
    )
    assert result.tokens.tolist() == [1, 2, 0, 1, 2]
    # Nothing is drafted after an end token; the last round has no room for a draft.
    assert (result.accepted, result.proposed, result.large_calls) == (0, 4, 5)


def test_a_text_fills_the_context_but_does_not_exceed_it() -> None:
    torch.manual_seed(0)
    small, large = CharTransformer(VOCAB, 4, 1, 1, context=12), CharTransformer(VOCAB, 8, 1, 1, context=10)
    decoder = SpeculativeDecoder(small, large, gamma=5, temperature=0.0)
    assert decoder.generate(PROMPT, 7).tokens.tolist() == greedy(large, PROMPT, 7)
    with pytest.raises(ValueError, match=r"max_new_tokens.*context"):
        decoder.generate(PROMPT, 8)


def test_no_new_tokens_and_training_flags() -> None:
    small, large = pair("transformer")
    small.train()
    large.eval()
    decoder = SpeculativeDecoder(small, large)
    empty = decoder.generate(PROMPT, 0)
    assert (empty.tokens.tolist(), empty.accepted, empty.proposed, empty.large_calls) == ([], 0, 0, 0)
    decoder.generate(PROMPT, 5)
    assert (small.training, large.training) == (True, False)


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_logits_without_a_distribution(bad: float, which: int) -> None:
    models = [
        FunctionLM(lambda text, i=i: [bad] * 3 if i == which else [0.0, 1.0, 2.0], 3, i + 1) for i in (0, 1)
    ]
    with pytest.raises(FloatingPointError, match="logits"):
        SpeculativeDecoder(*models).generate(torch.tensor([0]), 4)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"gamma": 0}, "gamma"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 2.0}, "top_p"),
    ],
)
def test_bad_options(options: dict, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        SpeculativeDecoder(*pair("table"), **options)


def test_bad_calls() -> None:
    decoder = SpeculativeDecoder(*pair("table"))
    for prompt in (torch.zeros(0, dtype=torch.long), torch.zeros(2, 2, dtype=torch.long)):
        with pytest.raises(ValueError, match="prompt"):
            decoder.generate(prompt, 3)
    with pytest.raises(ValueError, match="max_new_tokens"):
        decoder.generate(PROMPT, -1)
    with pytest.raises(ValueError, match="eos_id"):
        decoder.generate(PROMPT, 1, eos_id=VOCAB)
    with pytest.raises(ValueError, match="vocab_size"):
        SpeculativeDecoder(table_lm(5, 0, 1), table_lm(6, 0, 2))


# ------------------------------------------------------------------------------------------- the distribution


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"top_p": 0.5}, [0]),
        ({"top_p": 0.51}, [0, 2]),
        ({"top_p": 0.8}, [0, 2]),
        ({"top_p": 0.95}, [0, 1, 2]),
        ({"top_p": 1.0}, [0, 1, 2, 3]),
        ({"top_p": 1e-9}, [0]),
        ({"top_k": 1}, [0]),
        ({"top_k": 3}, [0, 1, 2]),
        ({"top_k": 9}, [0, 1, 2, 3]),
        ({"top_k": 2, "top_p": 0.625}, [0]),
        ({"top_k": 2, "top_p": 0.63}, [0, 2]),
    ],
)
def test_smallest_set_of_most_probable_tokens(options: dict, kept: list[int]) -> None:
    p = np.array([0.5, 0.15, 0.3, 0.05])
    ours = TokenSampler(**options).probabilities(torch.tensor(np.stack([np.log(p)] * 2)))
    expected = np.where(np.isin(np.arange(4), kept), p, 0)
    np.testing.assert_allclose(ours.numpy(), np.stack([expected / expected.sum()] * 2), atol=1e-12)


def test_temperature_sharpens_towards_the_argmax() -> None:
    logits = torch.tensor([1.0, 3.0, 2.0])
    np.testing.assert_allclose(
        TokenSampler(temperature=0.7).probabilities(logits).numpy(), softmax(logits.numpy() / 0.7), atol=1e-6
    )
    for temperature in (0.0, 1e-300, 1e-6):
        assert TokenSampler(temperature, top_k=3, top_p=0.9).probabilities(logits).tolist() == [0.0, 1.0, 0.0]
