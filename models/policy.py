"""A policy over short token sequences: it reads a prompt and writes a response, one token after the other.

The smallest thing that has what reinforcement learning of a language model has: a prompt, several sampled responses,
a log-probability for each sampled token. The context of every position has a fixed size, so the network is a plain
multilayer perceptron on concatenated token embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from normviz.models import _checks
from normviz.models._layers import Activation, NormFactory, embedding
from normviz.models.mlp import MLP

__all__ = ["TokenPolicy"]


class TokenPolicy(nn.Module):
    """Prompt (P tokens) -> distribution over responses (T tokens), autoregressive.

    Sequences (B, P + T) -> logits (B, T, num_actions): those at position t depend on the prompt and on the t response
    tokens before it. A response consists of the tokens 0 ... num_actions - 1; the others occur in prompts only.

    Args:
        vocab_size: number of different tokens V.
        num_actions: how many of them, from 0 on, can be written; V by default.
        prompt_length: P.
        response_length: T.
        embedding_dim: width of a token's embedding (16 by default), initially N(0, 1).
        hidden: widths of the hidden layers ((64, 64) by default).
        norm: width -> norm layer of the hidden layers, or None (default).
        activation: name or factory, "relu" by default.

    Raises:
        ValueError: a size below 1, ``num_actions`` above ``vocab_size``, an unknown activation; in forward and in
            sampling: tensors of another length.

    Example:
        >>> policy = TokenPolicy(14, num_actions=11, prompt_length=3, response_length=2)
        >>> sequences = policy.sample(torch.tensor([[7, 11, 8]]), torch.rand(1, 2))
        >>> sequences.shape, policy.log_probs(sequences).shape
        (torch.Size([1, 5]), torch.Size([1, 2]))
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        prompt_length: int,
        response_length: int,
        num_actions: int | None = None,
        embedding_dim: int = 16,
        hidden: Sequence[int] = (64, 64),
        norm: NormFactory | None = None,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        _checks.size("vocab_size", vocab_size)
        self.num_actions = _checks.size("num_actions", vocab_size if num_actions is None else num_actions)
        if self.num_actions > vocab_size:
            raise ValueError(f"num_actions must be at most vocab_size={vocab_size}, got {num_actions}.")
        self.prompt_length = _checks.size("prompt_length", prompt_length)
        self.response_length = _checks.size("response_length", response_length)
        _checks.size("embedding_dim", embedding_dim)
        self.unwritten = vocab_size  # stands for response tokens that are still to come
        self.embedding = embedding(vocab_size + 1, embedding_dim, std=1.0)
        context = prompt_length + response_length - 1
        self.network = MLP(
            context * embedding_dim, hidden, self.num_actions, norm=norm, activation=activation
        )

    def logits_at(self, tokens: Tensor, position: int) -> Tensor:
        """Logits (B, num_actions) of one response position; what stands at it and behind it is not read."""
        known = self.prompt_length + position
        context = self.prompt_length + self.response_length - 1
        seen = torch.cat(
            [tokens[:, :known], torch.full_like(tokens[:, known:context], self.unwritten)], dim=1
        )  # (B, P + T - 1)
        logits: Tensor = self.network(self.embedding(seen).flatten(1))
        return logits

    def forward(self, tokens: Tensor) -> Tensor:
        """Map sequences (B, P + T) to logits (B, T, num_actions)."""
        self._check("tokens", tokens, self.prompt_length + self.response_length)
        return torch.stack([self.logits_at(tokens, t) for t in range(self.response_length)], dim=1)

    def log_probs(self, tokens: Tensor) -> Tensor:
        """Log-probability of each response token of sequences (B, P + T), given what is before it: (B, T)."""
        response = tokens[:, self.prompt_length :]
        return log_softmax(self(tokens), dim=-1).gather(2, response[:, :, None])[:, :, 0]

    @torch.no_grad()
    def sample(self, prompts: Tensor, uniforms: Tensor) -> Tensor:
        """Sequences (B, P + T) with responses drawn from the policy by the inverse of its distribution function.

        Args:
            prompts: (B, P) int64.
            uniforms: (B, T) numbers in [0, 1); the same numbers give policies that are alike the same responses.
        """
        self._check("uniforms", uniforms, self.response_length)
        tokens = self._blank(prompts)
        for t in range(self.response_length):
            below = self.logits_at(tokens, t).softmax(-1).cumsum(-1)  # (B, num_actions)
            drawn = (below <= uniforms[:, t : t + 1]).sum(-1)
            tokens[:, self.prompt_length + t] = drawn.clamp(max=self.num_actions - 1)
        return tokens

    @torch.no_grad()
    def greedy(self, prompts: Tensor) -> Tensor:
        """Sequences (B, P + T) with the most probable token at every position."""
        tokens = self._blank(prompts)
        for t in range(self.response_length):
            tokens[:, self.prompt_length + t] = self.logits_at(tokens, t).argmax(-1)
        return tokens

    def _blank(self, prompts: Tensor) -> Tensor:
        self._check("prompts", prompts, self.prompt_length)
        return torch.cat([prompts, prompts.new_zeros(len(prompts), self.response_length)], dim=1)

    def _check(self, name: str, tensor: Tensor, length: int) -> None:
        if tensor.ndim != 2 or tensor.shape[1] != length:
            raise ValueError(f"{name} must have shape (B, {length}), got {tuple(tensor.shape)}.")

    def extra_repr(self) -> str:
        """Lengths and number of actions."""
        return (
            f"prompt_length={self.prompt_length}, response_length={self.response_length}, "
            f"num_actions={self.num_actions}"
        )
