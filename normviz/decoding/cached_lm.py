"""What a language model with a cache offers to a decoder, and a reader that keeps one model's cache up to date."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from normviz.validation import check_integer

__all__ = [
    "CachedLM",
    "CachedReader",
    "TokenCache",
    "check_length",
    "check_pair",
    "check_prompt",
    "evaluating",
]


@runtime_checkable
class TokenCache(Protocol):
    """What a model remembers of the tokens that it has processed.

    Reference: none, no paper: the paper of Entropy Adaptive Decoding (arXiv 2502.06833) does not say how caches are
    handled.
    """

    @property
    def length(self) -> int:
        """Number of tokens held; also the position of the next token."""

    def truncate(self, n: int) -> None:
        """Keep the first n tokens, in place."""


@runtime_checkable
class CachedLM(Protocol):
    """A causal language model with a cache; a ``nn.Module`` that is called as ``model(tokens, cache)``.

    Attributes:
        num_parameters: number of parameters.
        vocab_size: number of tokens V.
        context: longest text in tokens, None without a limit.

    Reference: none, no paper: what the decoders of arXiv 2502.06833 and arXiv 2211.17192 need of a model.
    """

    @property
    def num_parameters(self) -> int:
        """Number of parameters."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens V."""

    @property
    def context(self) -> int | None:
        """Longest text in tokens; None: no limit."""

    def forward(self, tokens: Tensor, cache: Any = None) -> tuple[Tensor, Any]:
        """Process the tokens after those in the cache.

        Args:
            tokens: (1, n) long. Their positions begin at ``cache.length``.
            cache: what an earlier call returned; None: the text begins here.

        Returns:
            logits (1, n, V) of the token after each of these, and the cache to give to the next call. It may be
            another object than the one given.
        """


@contextmanager
def evaluating(*models: CachedLM) -> Iterator[None]:
    """Models in eval mode and without gradients; afterwards every part's training flag is as it was."""
    flags = [(part, part.training) for model in models for part in _module(model).modules()]
    try:
        for model in models:
            _module(model).eval()
        with torch.no_grad():
            yield
    finally:
        for part, flag in flags:
            part.training = flag


def _module(model: CachedLM) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise TypeError(f"a model must be an nn.Module, got {type(model).__name__}.")
    return model


class CachedReader:
    """One model that reads a growing text through its own cache.

    Attributes:
        processed: number of tokens that were fed to the model.
    """

    def __init__(self, model: CachedLM) -> None:
        self.model = _module(model)
        parameter = next(self.model.parameters(), None)
        self._device = None if parameter is None else parameter.device
        self._cache: Any = None
        self._last: Tensor | None = None
        self.processed = 0

    @property
    def length(self) -> int:
        """Number of tokens in the cache."""
        return 0 if self._cache is None else int(self._cache.length)

    def read(self, text: Tensor) -> Tensor:
        """Logits after the tokens of ``text`` (n,) that the cache does not hold yet: (n - length, V), at least one row.

        A text that the cache holds wholly costs nothing: its last logits are given again.
        """
        new = text[self.length :]
        if len(new) or self._last is None:
            logits, self._cache = self.model(new[None].to(self._device), self._cache)
            self.processed += len(new)
            self._last = logits[0]  # (n - length, V)
            return logits[0]  # type: ignore[no-any-return]
        return self._last[-1:]

    def truncate(self, n: int) -> None:
        """Leave only the first n tokens in the cache."""
        if n < self.length:
            self._cache.truncate(n)
            self._last = None

    def forget(self) -> None:
        """Empty the cache."""
        self._cache = self._last = None


# -------------------------------------------------------------------------------------------------- arguments


def check_pair(small: CachedLM, large: CachedLM) -> None:
    """Raise ValueError unless both models have the same vocabulary size."""
    if small.vocab_size != large.vocab_size:
        raise ValueError(
            f"small and large must have the same vocab_size, got {small.vocab_size} and {large.vocab_size}."
        )


def check_prompt(prompt: Tensor, vocab_size: int) -> Tensor:
    """The prompt as (n,) long.

    Raises:
        ValueError: empty, more than one text, not integers, or a token outside the vocabulary.
    """
    prompt = torch.as_tensor(prompt)
    if prompt.ndim == 2 and prompt.shape[0] == 1:
        prompt = prompt[0]
    if prompt.ndim != 1 or len(prompt) == 0:
        raise ValueError(
            f"prompt must have shape (n,) or (1, n) with n >= 1 (one text at a time), got {tuple(prompt.shape)}."
        )
    if prompt.dtype == torch.bool or prompt.is_floating_point() or prompt.is_complex():
        raise ValueError(f"prompt must hold integer tokens, got {prompt.dtype}.")
    prompt = prompt.long()
    low, high = int(prompt.min()), int(prompt.max())
    if low < 0 or high >= vocab_size:
        raise ValueError(f"prompt must hold tokens in [0, {vocab_size - 1}], got {low} to {high}.")
    return prompt


def check_length(prompt: Tensor, max_new_tokens: int, *models: CachedLM) -> int:
    """Return ``max_new_tokens`` if prompt and new tokens fit into every model's context.

    Raises:
        ValueError: max_new_tokens < 0, or the text would be longer than a context.
    """
    count = check_integer("max_new_tokens", max_new_tokens, 0)
    for model in models:
        if model.context is not None and len(prompt) + count > model.context:
            raise ValueError(
                f"prompt and max_new_tokens must fit into the context of {model.context} tokens, got "
                f"{len(prompt)} + {count}."
            )
    return count
