"""Entropy Adaptive Decoding: a small and a large model take turns, by the rolling entropy of who writes.

Simonds, "Entropy Adaptive Decoding: Dynamic Model Switching for Efficient Inference", arXiv 2502.06833.

At step t the active model m_t gives logits l_t after the text so far. Their entropy H_t at temperature 1 is pushed to
the controller, the token is drawn from l_t, and the controller names m_{t+1}. No token is verified or drawn again, so
the text may differ from the large model's: this is not lossless.

Each model keeps its own cache. A model that becomes active first reads, in one parallel pass, the tokens that the other
one wrote ("catch-up"). The paper does not say how caches are handled; neither the prompt's passes nor the catch-up are
in its costs (see :func:`normviz.decoding.cost_report`).
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

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
from normviz.decoding.entropy import token_entropy
from normviz.decoding.sampling import TokenSampler
from normviz.decoding.switching import MODELS, ModelName, SwitchController
from normviz.validation import check_choice, check_integer

__all__ = ["CACHE_POLICIES", "EADResult", "EntropyAdaptiveDecoder", "OnToken", "warn_if_not_smaller"]

CachePolicy = Literal["lazy", "sync", "drop"]
CACHE_POLICIES: tuple[CachePolicy, ...] = ("lazy", "sync", "drop")

OnToken = Callable[[int, int, str, float, float], object]
"""Called with index, token, owner, entropy, mean entropy."""


@dataclass(frozen=True)
class EADResult:
    """What one run of :class:`EntropyAdaptiveDecoder` wrote and what it took. T new tokens after a prompt of P.

    Attributes:
        tokens: (T,) long, the new tokens, the end token included.
        owner: T times "small" or "large": who wrote the token.
        entropy: T entropies in bits, as pushed to the controller.
        mean_entropy: T rolling means, as the controller gave them.
        switches: number of changes; one decided after the last token counts.
        large_fraction: share of tokens written by the large model (0 if there are none).
        catch_up_tokens: per model, the generated tokens it read at a change, without the newest one, which is ordinary
            decode input.
        processed_tokens: per model, all tokens that were fed to it.
        wall_time: seconds.
        prompt_length: P.

    Reference: Simonds 2025, arXiv 2502.06833; catch-up is counted here, the paper leaves it out.
    """

    tokens: Tensor
    owner: list[ModelName]
    entropy: list[float]
    mean_entropy: list[float]
    switches: int
    large_fraction: float
    catch_up_tokens: dict[str, int]
    processed_tokens: dict[str, int]
    wall_time: float
    prompt_length: int


def warn_if_not_smaller(small: CachedLM, large: CachedLM) -> None:
    """Warn that nothing can be saved if the small model has as many parameters as the large one."""
    if small.num_parameters >= large.num_parameters:
        warnings.warn(
            f"small has {small.num_parameters} parameters, large {large.num_parameters}: nothing can be saved.",
            UserWarning,
            stacklevel=3,
        )


class _Pair:
    """The two models' readers for one text, under one cache policy."""

    def __init__(self, small: CachedLM, large: CachedLM, policy: CachePolicy, prompt_length: int) -> None:
        self.readers: dict[ModelName, CachedReader] = {
            "small": CachedReader(small),
            "large": CachedReader(large),
        }
        self.catch_up: dict[str, int] = dict.fromkeys(MODELS, 0)
        self._policy = policy
        self._prompt_length = prompt_length
        self._active: ModelName | None = None

    def read_all(self, text: Tensor) -> None:
        for reader in self.readers.values():
            reader.read(text)

    def logits(self, name: ModelName, text: Tensor) -> Tensor:
        """(V,): what a model gives after ``text`` (n,)."""
        reader = self.readers[name]
        if self._policy == "sync":
            self.read_all(text)
        elif name != self._active is not None:
            if self._policy == "drop":
                reader.forget()
            known = max(reader.length, self._prompt_length)
            self.catch_up[name] += max(len(text) - known - 1, 0)
        self._active = name
        return reader.read(text)[-1]


class EntropyAdaptiveDecoder:
    """Greedy or sampled decoding with two models that take turns (arXiv 2502.06833).

    For each token: logits of the active model, their entropy in bits at temperature 1 whatever the sampling, the token,
    and the controller's decision who writes the next one.

    Args:
        small, large: models with a cache (:class:`normviz.decoding.CachedLM`) and the same vocabulary.
        controller: e.g. :class:`normviz.decoding.EntropySwitchController`; reset at the start of every text.
        temperature: of sampling; 0 (default): the most probable token.
        top_k, top_p: kept number and mass of the most probable tokens, top_k first; None: all.
        cache_policy: "lazy" (default): a model reads what it missed when it becomes active. "sync": both models read
            every token as it comes. "drop": a model that becomes active reads the whole text anew. The numbers are the
            same, the work is not.
        immediate: draw the present token again with the large model when the controller changes from small to large
            (default False: the change holds from the next token). It is then the large model's token, though the
            entropy pushed was the small one's, and the small model's pass was an extra one.
        eager_prefill: both models read the prompt at the start (default False: each at its first use).
        generator: source of randomness; torch's global one by default.

    Raises:
        ValueError: different vocabularies, unknown cache_policy, temperature < 0, top_k < 1, top_p outside (0, 1].

    Warns:
        UserWarning: the small model is not smaller.

    Example:
        >>> import torch
        >>> from normviz.decoding import CharTransformer, EntropySwitchController
        >>> small, large = (CharTransformer(5, width, 1, 2, context=32) for width in (4, 8))
        >>> decoder = EntropyAdaptiveDecoder(small, large, EntropySwitchController(99.0))
        >>> result = decoder.generate(torch.tensor([1, 2, 3]), max_new_tokens=4)
        >>> result.owner, result.processed_tokens
        (['small', 'small', 'small', 'small'], {'small': 6, 'large': 0})
    """

    def __init__(
        self,
        small: CachedLM,
        large: CachedLM,
        controller: SwitchController,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        cache_policy: CachePolicy = "lazy",
        immediate: bool = False,
        eager_prefill: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        check_pair(small, large)
        self.small, self.large, self.controller = small, large, controller
        self.sampler = TokenSampler(temperature, top_k, top_p, generator)
        check_choice("cache_policy", cache_policy, CACHE_POLICIES)
        self.cache_policy: CachePolicy = cache_policy
        self.immediate = bool(immediate)
        self.eager_prefill = bool(eager_prefill)
        warn_if_not_smaller(small, large)

    def generate(
        self,
        prompt: Tensor,
        max_new_tokens: int,
        eos_id: int | None = None,
        on_token: OnToken | None = None,
    ) -> EADResult:
        """Continue a prompt.

        Args:
            prompt: (n,) or (1, n) integer tokens, n >= 1.
            max_new_tokens: number of new tokens at most; 0 gives an empty result.
            eos_id: token that ends the text at once, also within a minimum run; None: none does.
            on_token: called as ``on_token(index, token, owner, entropy, mean_entropy)`` after each token.

        Returns:
            the new tokens, who wrote each, entropies, and counts of the work. The models' training flags are as before.

        Raises:
            ValueError: empty prompt, more than one text, tokens outside the vocabulary, max_new_tokens < 0, or a text
                longer than the context of either model.
            FloatingPointError: logits without a distribution (NaN, +inf, or all -inf).
        """
        prompt = check_prompt(prompt, self.small.vocab_size)
        count = check_length(prompt, max_new_tokens, self.small, self.large)
        if eos_id is not None:
            check_integer("eos_id", eos_id, 0, self.small.vocab_size - 1)
        self.controller.reset()
        start = time.perf_counter()
        text = torch.cat((prompt, prompt.new_zeros(count)))
        pair = _Pair(self.small, self.large, self.cache_policy, len(prompt))
        owners: list[ModelName] = []
        entropies: list[float] = []
        means: list[float] = []
        with evaluating(self.small, self.large):
            if self.eager_prefill and count:
                pair.read_all(prompt)
            for n in range(len(prompt), len(prompt) + count):
                owner = self.controller.model
                logits = pair.logits(owner, text[:n])
                entropy = float(token_entropy(logits))
                mean, following, _ = self.controller.push(entropy)
                if self.immediate and owner == "small" and following == "large":
                    owner = following
                    logits = pair.logits(owner, text[:n])
                token = self.sampler.draw(self.sampler.probabilities(logits))
                text[n] = token
                owners.append(owner)
                entropies.append(entropy)
                means.append(mean)
                if on_token is not None:
                    on_token(len(owners) - 1, token, owner, entropy, mean)
                if token == eos_id:
                    break
        return EADResult(
            tokens=text[len(prompt) : len(prompt) + len(owners)].clone(),
            owner=owners,
            entropy=entropies,
            mean_entropy=means,
            switches=self.controller.switches,
            large_fraction=owners.count("large") / len(owners) if owners else 0.0,
            catch_up_tokens=pair.catch_up,
            processed_tokens={name: reader.processed for name, reader in pair.readers.items()},
            wall_time=time.perf_counter() - start,
            prompt_length=len(prompt),
        )
