"""Small independent pieces: models that look answers up, the switch rule and entropies as NumPy loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class TextCache:
    """The tokens themselves."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = tokens

    @property
    def length(self) -> int:
        return len(self.tokens)

    def truncate(self, n: int) -> None:
        del self.tokens[n:]


class FunctionLM(nn.Module):
    """Logits are a function of the whole text; notes down every piece it is fed. Its cache is changed in place."""

    def __init__(
        self,
        function: Callable[[list[int]], Any],
        vocab: int,
        parameters: int = 1,
        context: int | None = None,
    ) -> None:
        super().__init__()
        self.function = function
        self.vocab_size = vocab
        self.num_parameters = parameters
        self.context = context
        self.fed: list[list[int]] = []
        self.modes: list[tuple[bool, bool]] = []

    def forward(self, tokens: Tensor, cache: TextCache | None = None) -> tuple[Tensor, TextCache]:
        assert tokens.ndim == 2
        assert tokens.dtype == torch.long
        cache = TextCache([]) if cache is None else cache
        self.fed.append(tokens[0].tolist())
        self.modes.append((self.training, torch.is_grad_enabled()))
        rows = []
        for token in tokens[0].tolist():
            cache.tokens.append(token)
            rows.append(torch.as_tensor(self.function(cache.tokens), dtype=torch.float32))
        return torch.stack(rows)[None], cache


def table_lm(vocab: int, seed: int, parameters: int) -> FunctionLM:
    """A Markov chain: logits depend on the last token, after some tokens flat and after others steep."""
    rng = np.random.default_rng(seed)
    steepness = rng.permutation(np.geomspace(0.1, 5, vocab))[:, None]
    table = (steepness * rng.standard_normal((vocab, vocab))).astype(np.float32)
    return FunctionLM(lambda text: table[text[-1]], vocab, parameters)


def entropy_bits(logits: np.ndarray) -> float:
    """-sum p log2 p in float64, term by term."""
    finite = [float(x) for x in logits if x > -np.inf]
    top = max(finite)
    weights = [np.exp(x - top) for x in finite]
    total = sum(weights)
    return -sum(w / total * np.log2(w / total) for w in weights if w > 0)


def naive_rule(
    entropies: list[float],
    threshold: float,
    window: int,
    min_tokens: int,
    start: str,
    hysteresis: float = 0.0,
) -> str:
    """Who writes after these entropies, from the whole history and without state: replayed from the beginning."""
    owner, since = start, 0
    for t in range(1, len(entropies) + 1):
        mean = np.mean(entropies[max(0, t - window) : t])
        want = "large" if mean > threshold else ("small" if mean <= threshold - hysteresis else owner)
        if want != owner and t - since >= min_tokens:
            owner, since = want, t
    return owner
