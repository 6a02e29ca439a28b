"""Next-token distributions after temperature, top-k and top-p, and draws from them."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from normviz.validation import check_integer, check_real

__all__ = ["TokenSampler"]


class TokenSampler:
    """Turns logits into the distribution that is sampled, and draws from it.

    In this order: temperature, the ``top_k`` most probable tokens, of these the smallest set of the most probable with
    mass at least ``top_p`` (mass after the top-k cut). What is left is normalised again.

    Args:
        temperature: logits are divided by it; 0: the most probable token with certainty, whatever top_k and top_p.
        top_k: number of tokens kept; None: all.
        top_p: mass kept, in (0, 1]; None or 1: all.
        generator: source of randomness; torch's global one by default.

    Raises:
        ValueError: temperature < 0 or not finite, top_k < 1, top_p outside (0, 1].

    Reference: none, no paper: the sampling that the decoders of arXiv 2502.06833 and arXiv 2211.17192 have in
    common.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        self.temperature = check_real("temperature", temperature, 0, high_open=True)
        self.top_k = None if top_k is None else check_integer("top_k", top_k, 1)
        self.top_p = None if top_p is None else check_real("top_p", top_p, 0, 1, low_open=True)
        self.generator = generator

    def probabilities(self, logits: Tensor) -> Tensor:
        """Distributions (..., V) for logits (..., V), in float32 or float64.

        Raises:
            FloatingPointError: a NaN or +inf among the logits, or a row of only -inf.
        """
        logits = logits if logits.dtype == torch.float64 else logits.float()
        peak = logits.amax(-1, keepdim=True)
        if not bool(torch.isfinite(peak).all()):
            raise FloatingPointError("logits hold NaN or +inf, or a row of only -inf: no distribution.")
        if self.temperature == 0:
            return one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
        logits = (logits - peak) / max(self.temperature, torch.finfo(logits.dtype).tiny)
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            kept = torch.zeros_like(logits, dtype=torch.bool)
            kept.scatter_(-1, logits.topk(self.top_k, dim=-1).indices, True)
            logits = logits.masked_fill(~kept, -math.inf)
        p = logits.softmax(-1)
        if self.top_p is not None and self.top_p < 1:
            sorted_p, order = p.sort(stable=True, dim=-1, descending=True)
            before = sorted_p.cumsum(-1) - sorted_p  # mass of the more probable tokens
            # Sums of rounded probabilities miss a mass that they should reach exactly by a few units.
            reached = before >= self.top_p - 4 * torch.finfo(p.dtype).eps
            reached[..., 0] = False
            p = p.masked_fill(torch.zeros_like(reached).scatter(-1, order, reached), 0.0)
            p = p / p.sum(-1, keepdim=True)
        return p

    def draw(self, probabilities: Tensor) -> int:
        """A token from a distribution (V,), which need not be normalised."""
        if self.temperature == 0:
            return int(probabilities.argmax())
        if self.generator is not None:
            probabilities = probabilities.to(self.generator.device)
        return int(torch.multinomial(probabilities, 1, generator=self.generator))

    def uniform(self) -> float:
        """A number in [0, 1)."""
        device = None if self.generator is None else self.generator.device
        return float(torch.rand((), generator=self.generator, device=device, dtype=torch.float32))
