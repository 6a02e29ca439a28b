"""Speculative decoding: a small model drafts, the large one verifies; the text is distributed as the large model's.

Leviathan, Kalman, Matias, "Fast Inference from Transformers via Speculative Decoding", arXiv 2211.17192 (algorithm 1);
the exact comparator of Entropy Adaptive Decoding (arXiv 2502.06833), which verifies nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from normviz.decoding.cached_lm import (
    CachedLM,
    CachedReader,
    check_length,
    check_pair,
    check_prompt,
    evaluating,
)
from normviz.decoding.entropy_adaptive import warn_if_not_smaller
from normviz.decoding.sampling import TokenSampler
from normviz.validation import check_integer

__all__ = ["SpeculativeDecoder", "SpeculativeResult"]


@dataclass(frozen=True)
class SpeculativeResult:
    """What one run of :class:`SpeculativeDecoder` wrote and what it took.

    Attributes:
        tokens: (T,) long, the new tokens, the end token included.
        accepted: drafted tokens that were accepted.
        proposed: drafted tokens.
        large_calls: rounds, each with one pass of the large model; the first one takes the prompt along.

    Reference: Leviathan, Kalman, Matias, arXiv 2211.17192, algorithm 1.
    """

    tokens: Tensor
    accepted: int
    proposed: int
    large_calls: int


class SpeculativeDecoder:
    """Draft ``gamma`` tokens with the small model, verify them in one pass of the large one.

    Leviathan, Kalman, Matias, arXiv 2211.17192, algorithm 1.

    With q_i the small and p_i the large model's distribution at a drafted position, both after temperature, top-k and
    top-p: accept x_i with probability min(1, p_i(x_i) / q_i(x_i)); at the first rejection draw from max(p_i - q_i, 0),
    normalised, and end the round; if all are accepted, draw one more token from p_{gamma+1}. Every token is then
    distributed as if the large model alone had written the text. A round costs gamma small passes and one large pass
    over gamma + 1 tokens.

    Args:
        small, large: models with a cache (:class:`normviz.decoding.CachedLM`) and the same vocabulary.
        gamma: tokens drafted per round, 4 by default; fewer where the text would become too long, or after an end
            token.
        temperature: of sampling, 1 by default; 0: the most probable token, and so the large model's greedy text.
        top_k, top_p: kept number and mass of the most probable tokens, top_k first; None: all.
        generator: source of randomness; torch's global one by default.

    Raises:
        ValueError: different vocabularies, gamma < 1, temperature < 0, top_k < 1, top_p outside (0, 1].

    Warns:
        UserWarning: the small model is not smaller.

    Example:
        >>> import torch
        >>> from normviz.decoding import ByteLSTM
        >>> decoder = SpeculativeDecoder(ByteLSTM(5, 4), ByteLSTM(5, 8), gamma=2, temperature=0.0)
        >>> result = decoder.generate(torch.tensor([1, 2]), max_new_tokens=6)
        >>> len(result.tokens), 2 <= result.large_calls <= 6
        (6, True)
    """

    def __init__(
        self,
        small: CachedLM,
        large: CachedLM,
        gamma: int = 4,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        check_pair(small, large)
        self.small, self.large = small, large
        self.gamma = check_integer("gamma", gamma, 1)
        self.sampler = TokenSampler(temperature, top_k, top_p, generator)
        warn_if_not_smaller(small, large)

    def generate(self, prompt: Tensor, max_new_tokens: int, eos_id: int | None = None) -> SpeculativeResult:
        """Continue a prompt.

        Args:
            prompt: (n,) or (1, n) integer tokens, n >= 1.
            max_new_tokens: number of new tokens at most; 0 gives an empty result.
            eos_id: token that ends the text at once; None: none does.

        Returns:
            the new tokens and counts of the work. The models' training flags are as before.

        Raises:
            ValueError: empty prompt, more than one text, tokens outside the vocabulary, max_new_tokens < 0, or a text
                longer than the context of either model.
            FloatingPointError: logits without a distribution (NaN, +inf, or all -inf).
        """
        prompt = check_prompt(prompt, self.small.vocab_size)
        count = check_length(prompt, max_new_tokens, self.small, self.large)
        if eos_id is not None:
            check_integer("eos_id", eos_id, 0, self.small.vocab_size - 1)
        text = torch.cat((prompt, prompt.new_zeros(count)))
        small, large = CachedReader(self.small), CachedReader(self.large)
        n, end = len(prompt), len(prompt) + count
        accepted = proposed = rounds = 0
        with evaluating(self.small, self.large):
            while n < end and (n == len(prompt) or int(text[n - 1]) != eos_id):
                # A round ends with a token of the large model, hence one draft fewer than there is room for.
                q = self._draft(small, text, n, min(self.gamma, end - n - 1), eos_id)
                drafted = len(q)
                p = self._probabilities(large, text[: n + drafted])[-drafted - 1 :]
                kept = self._verify(text, n, q, p, eos_id)
                rounds, proposed, accepted = rounds + 1, proposed + drafted, accepted + kept[0]
                n += kept[1]
                for reader in (small, large):
                    reader.truncate(n - 1)
        return SpeculativeResult(text[len(prompt) : n].clone(), accepted, proposed, rounds)

    def _probabilities(self, reader: CachedReader, text: Tensor) -> Tensor:
        return self.sampler.probabilities(reader.read(text))

    def _draft(
        self, small: CachedReader, text: Tensor, n: int, count: int, eos_id: int | None
    ) -> list[Tensor]:
        """Write up to ``count`` tokens into ``text`` after position n; the distribution (V,) each was drawn from."""
        q: list[Tensor] = []
        while len(q) < count and (not q or int(text[n + len(q) - 1]) != eos_id):
            q.append(self._probabilities(small, text[: n + len(q)])[-1])
            text[n + len(q) - 1] = self.sampler.draw(q[-1])
        return q

    def _verify(
        self, text: Tensor, n: int, q: list[Tensor], p: Tensor, eos_id: int | None
    ) -> tuple[int, int]:
        """Accept drafts from position n on and write the round's last token; numbers of accepted and of new tokens."""
        for i, draft in enumerate(q):
            x = int(text[n + i])
            draft = draft.to(p.device)
            if self.sampler.uniform() * float(draft[x]) >= float(p[i, x]):
                residual = (p[i] - draft).clamp_min(0.0)
                # Equal distributions are never rejected but for rounding; then p itself is what is left.
                text[n + i] = self.sampler.draw(residual if bool(residual.any()) else p[i])
                return i, i + 1
        if q and int(text[n + len(q) - 1]) == eos_id:
            return len(q), len(q)
        text[n + len(q)] = self.sampler.draw(p[len(q)])
        return len(q), len(q) + 1
