"""Quality against the large model's share, over thresholds: by decoding, or simulated on a given text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from normviz.decoding.entropy import token_entropy
from normviz.decoding.entropy_adaptive import EADResult, EntropyAdaptiveDecoder
from normviz.decoding.switching import ModelName, SwitchController

__all__ = ["SimulatedSwitching", "SweepPoint", "simulate_switching", "sweep_thresholds"]


class SweepPoint(NamedTuple):
    """Means over the prompts at one threshold.

    Attributes:
        threshold: tau in bits.
        score: mean score.
        large_fraction: mean share of tokens written by the large model.

    Reference: Simonds 2025, arXiv 2502.06833: score against the large model's share, one point for each threshold.
    """

    threshold: float
    score: float
    large_fraction: float


def sweep_thresholds(
    decoder_factory: Callable[[float], EntropyAdaptiveDecoder],
    prompts: Iterable[Tensor],
    thresholds: Iterable[float],
    score_fn: Callable[[Tensor, EADResult], float],
    max_new_tokens: int = 64,
    eos_id: int | None = None,
) -> list[SweepPoint]:
    """Decode every prompt at every threshold; one point of the quality curve each (the figure of arXiv 2502.06833).

    Args:
        decoder_factory: threshold -> decoder, called once per threshold.
        prompts: texts (n,) or (1, n).
        thresholds: in bits, in the order of the points returned.
        score_fn: (prompt, result) -> score.
        max_new_tokens: per prompt (64).
        eos_id: token that ends a text; None: none does.

    Returns:
        a point per threshold.

    Raises:
        ValueError: no prompts, and whatever the decoder refuses.
    """
    prompts = list(prompts)
    if not prompts:
        raise ValueError("prompts must hold at least one text, got none.")
    points = []
    for threshold in thresholds:
        decoder = decoder_factory(threshold)
        scores, shares = [], []
        for prompt in prompts:
            result = decoder.generate(prompt, max_new_tokens, eos_id)
            scores.append(float(score_fn(prompt, result)))
            shares.append(result.large_fraction)
        points.append(SweepPoint(threshold, math.fsum(scores) / len(scores), math.fsum(shares) / len(shares)))
    return points


@dataclass(frozen=True)
class SimulatedSwitching:
    """A switch rule's run over a given text of T tokens.

    Attributes:
        owner: T times "small" or "large": whose prediction of the token counts.
        entropy: T entropies in bits, as pushed.
        mean_entropy: T rolling means.
        bits: (T,), -log2 of the probability that the owner gave to the text's token.
        switches: number of changes.
        large_fraction: share of tokens predicted by the large model.

    Reference: the switch rule of Simonds 2025, arXiv 2502.06833; to run it over a given text is this library's.
    """

    owner: list[ModelName]
    entropy: list[float]
    mean_entropy: list[float]
    bits: Tensor
    switches: int
    large_fraction: float


def simulate_switching(
    small_logits: Tensor, large_logits: Tensor, targets: Tensor, controller: SwitchController
) -> SimulatedSwitching:
    """The switch rule under teacher forcing: who would predict each token of a given text, and how well.

    Both models' logits are computed once; many thresholds can then be tried without a model. Sum or mean of ``bits``
    over a held-out text is the quality to set against ``large_fraction``.

    Args:
        small_logits, large_logits: (T, V), each row the prediction of the token in the same row of ``targets``.
        targets: (T,) long.
        controller: is reset first.

    Raises:
        ValueError: shapes that do not fit.
        FloatingPointError: logits without a distribution.
    """
    if small_logits.shape != large_logits.shape or small_logits.ndim != 2:
        raise ValueError(
            f"small_logits and large_logits must have the same shape (T, V), got {tuple(small_logits.shape)} and "
            f"{tuple(large_logits.shape)}."
        )
    if targets.shape != small_logits.shape[:1]:
        raise ValueError(f"targets must have shape ({len(small_logits)},), got {tuple(targets.shape)}.")
    entropies = {"small": token_entropy(small_logits).tolist(), "large": token_entropy(large_logits).tolist()}
    controller.reset()
    owners: list[ModelName] = []
    pushed: list[float] = []
    means: list[float] = []
    for t in range(len(targets)):
        owners.append(controller.model)
        pushed.append(entropies[owners[-1]][t])
        means.append(controller.push(pushed[-1]).mean_entropy)
    by_large = torch.tensor([owner == "large" for owner in owners], dtype=torch.bool, device=targets.device)
    bits = torch.where(by_large, _bits(large_logits, targets), _bits(small_logits, targets))
    share = owners.count("large") / len(owners) if owners else 0.0
    return SimulatedSwitching(owners, pushed, means, bits, controller.switches, share)


def _bits(logits: Tensor, targets: Tensor) -> Tensor:
    log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    return -log_p.gather(-1, targets[:, None])[:, 0] / math.log(2)
