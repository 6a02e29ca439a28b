"""Tokens per second of entropy adaptive decoding against the large model alone and speculative decoding.

    python -m benchmarks.decoding

Both models of the page *Entropy decoding* are trained as there, on stretches of letters and digits, so that entropies
and drafts are those of models that know something. Then every way of decoding writes 48 characters after each of some
prompts, in turns with the large model alone. Both count the thread's own CPU time: a busy machine disturbs little.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from benchmarks.report import paired_ratio, report
from normviz.decoding import (
    CharTransformer,
    EntropyAdaptiveDecoder,
    EntropySwitchController,
    RandomSwitchController,
    SpeculativeDecoder,
    SpeculativeResult,
)
from normviz.experiments.entropy_decoding.knobs import LARGE, SMALL, Knobs
from normviz.experiments.entropy_decoding.language import language_of
from normviz.experiments.entropy_decoding.learners import Learner
from normviz.experiments.entropy_decoding.recorded import NEW_TOKENS

PROMPTS, REPEATS = 2, 3
Decoder = EntropyAdaptiveDecoder | SpeculativeDecoder


def trained_pair(knobs: Knobs) -> tuple[CharTransformer, CharTransformer]:
    """The page's small and large model after its training."""
    models = []
    for arm in (SMALL, LARGE):
        learner = Learner(arm, 0, knobs, language_of(knobs, 0), torch.device("cpu"))
        for at in range(knobs.steps):
            learner.step(at)
        models.append(learner.pause(knobs.steps))
    return models[0], models[1]


def decoders(small: CharTransformer, large: CharTransformer, knobs: Knobs) -> dict[str, Decoder]:
    """Every way of decoding that is timed."""

    def adaptive(threshold: float) -> EntropyAdaptiveDecoder:
        return EntropyAdaptiveDecoder(small, large, EntropySwitchController(threshold))

    return {
        "small model alone": EntropyAdaptiveDecoder(small, large, RandomSwitchController(0.0)),
        "EAD, τ = 0.7": adaptive(0.7),
        "EAD, τ = 1": adaptive(1.0),
        "EAD, τ = 2": adaptive(2.0),
        **{
            f"speculative, γ = {gamma}": SpeculativeDecoder(
                small, large, gamma, temperature=knobs.temperature
            )
            for gamma in (2, 4)
        },
    }


def seconds(decoder: Decoder, prompts: torch.Tensor) -> Callable[[], float]:
    """CPU seconds for a token, mean over the prompts."""

    def measure() -> float:
        start = time.thread_time()
        for prompt in prompts:
            decoder.generate(prompt, NEW_TOKENS)
        return (time.thread_time() - start) / (NEW_TOKENS * len(prompts))

    return measure


def large_share(decoder: Decoder, prompts: torch.Tensor) -> float:
    """Passes of the large model for a new token, mean over the prompts."""
    found = []
    for prompt in prompts:
        result = decoder.generate(prompt, NEW_TOKENS)
        if isinstance(result, SpeculativeResult):
            found.append(result.large_calls / NEW_TOKENS)
        else:
            found.append(result.large_fraction)
    return sum(found) / len(found)


def main() -> None:
    """Train, compare and report."""
    torch.set_num_threads(1)
    knobs = Knobs(prompts=PROMPTS)
    small, large = trained_pair(knobs)
    prompts = language_of(knobs, 0).prompts
    alone = seconds(EntropyAdaptiveDecoder(small, large, RandomSwitchController(1.0)), prompts)
    rows: list[list[object]] = []
    for name, decoder in decoders(small, large, knobs).items():
        measure = seconds(decoder, prompts)
        ratio = paired_ratio(measure, alone, REPEATS)
        rows.append([name, large_share(decoder, prompts), 1 / measure(), *ratio])
    report(
        "decoding",
        "Time of a token over the large model alone",
        ("decoding", "large passes per token", "tokens/s", "median ratio", "lowest", "highest"),
        rows,
        f"{small.num_parameters} and {large.num_parameters} parameters: Python's own time is most of it. Speculative "
        "decoding gives the large model's text, EAD does not.",
    )


if __name__ == "__main__":
    main()
