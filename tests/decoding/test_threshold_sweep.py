"""Sweeps over thresholds: by decoding, and simulated on a given text."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from normviz.decoding import (
    EntropyAdaptiveDecoder,
    EntropySwitchController,
    simulate_switching,
    sweep_thresholds,
)
from tests.decoding.references import table_lm

VOCAB = 7
SMALL, LARGE = table_lm(VOCAB, 0, 10), table_lm(VOCAB, 1, 40)


def decoder(threshold: float) -> EntropyAdaptiveDecoder:
    return EntropyAdaptiveDecoder(SMALL, LARGE, EntropySwitchController(threshold, window=3, min_tokens=2))


def test_points_are_means_over_the_prompts() -> None:
    prompts = [torch.tensor([t, 1]) for t in range(VOCAB)]
    points = sweep_thresholds(
        decoder,
        iter(prompts),
        iter([1.2, 0.4]),
        lambda prompt, result: int(prompt[0]) + len(result.tokens),
        12,
    )
    assert [point.threshold for point in points] == [1.2, 0.4]
    for point in points:
        shares = [decoder(point.threshold).generate(prompt, 12).large_fraction for prompt in prompts]
        assert point.large_fraction == pytest.approx(np.mean(shares))
        assert point.score == pytest.approx(3 + 12)


def test_defaults_and_end_tokens() -> None:
    lengths: list[int] = []

    def score(_: torch.Tensor, result) -> float:
        lengths.append(len(result.tokens))
        return 0.0

    sweep_thresholds(decoder, [torch.tensor([0])], [1.0], score)
    tokens = decoder(1.0).generate(torch.tensor([0]), 64).tokens.tolist()
    sweep_thresholds(decoder, [torch.tensor([0])], [1.0], score, eos_id=tokens[3])
    assert lengths == [64, tokens.index(tokens[3]) + 1]


def test_check_13_the_large_share_falls_as_the_threshold_rises() -> None:
    generator = torch.Generator().manual_seed(0)

    def sampling(threshold: float) -> EntropyAdaptiveDecoder:
        controller = EntropySwitchController(threshold, window=5, min_tokens=3)
        return EntropyAdaptiveDecoder(SMALL, LARGE, controller, temperature=1.0, generator=generator)

    prompts = [torch.tensor([t % VOCAB]) for t in range(21)]
    points = sweep_thresholds(sampling, prompts, [1.5, 2.0, 2.3, 2.6], lambda *_: 0.0, 40)
    shares = [point.large_fraction for point in points]
    assert all(a > b + 0.02 for a, b in itertools.pairwise(shares)), shares


def test_no_prompts_no_means() -> None:
    with pytest.raises(ValueError, match="prompts"):
        sweep_thresholds(decoder, [], [1.0], lambda *_: 0.0)


def test_simulation_on_the_decoders_own_text_has_its_owners() -> None:
    controller = EntropySwitchController(2.2, window=3, min_tokens=2)
    generator = torch.Generator().manual_seed(0)
    sampling = EntropyAdaptiveDecoder(SMALL, LARGE, controller, temperature=1.0, generator=generator)
    result = sampling.generate(torch.tensor([2]), 60)
    assert result.switches > 2
    text = [2, *result.tokens.tolist()]
    logits = [torch.tensor(np.stack([model.function([t]) for t in text[:-1]])) for model in (SMALL, LARGE)]
    simulated = simulate_switching(*logits, torch.tensor(text[1:]), controller)
    assert simulated.owner == result.owner
    assert simulated.entropy == pytest.approx(result.entropy, abs=1e-6)
    assert simulated.mean_entropy == pytest.approx(result.mean_entropy, abs=1e-6)
    assert (simulated.switches, simulated.large_fraction) == (result.switches, result.large_fraction)
    for t, owner in enumerate(result.owner):
        row = logits[owner == "large"][t].double().numpy()
        expected = np.log2(np.exp(row).sum()) - row[text[t + 1]] / np.log(2)
        assert float(simulated.bits[t]) == pytest.approx(expected, abs=1e-5)


def test_simulation_refuses_what_does_not_fit() -> None:
    controller, logits = EntropySwitchController(1.0), torch.zeros(4, 3)
    targets = torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match="large_logits"):
        simulate_switching(logits, torch.zeros(4, 2), targets, controller)
    with pytest.raises(ValueError, match="targets"):
        simulate_switching(logits, logits, targets[:3], controller)
    empty = simulate_switching(logits[:0], logits[:0], targets[:0], controller)
    assert (empty.owner, empty.large_fraction, empty.bits.shape) == ([], 0.0, (0,))
