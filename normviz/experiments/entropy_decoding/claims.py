"""What the paper of the page *Entropy decoding* claims, measured here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from normviz.claims import Bound, Effect, Identity, claims_of
from normviz.experiments.entropy_decoding.knobs import EAD, LARGE, RANDOM, SINGLE, SMALL
from normviz.frame import ArrayAt, Log
from normviz.measures import Measure, constant, derived, scalar

__all__ = ["CLAIMS", "above_the_line", "kept_by_half"]

HALF = 0.5
"""Largest share of the large model at which quality must be kept."""


def _at_the_end(log: Log, knobs: Any, name: str, arm: str, step: int) -> dict[int, ArrayAt]:
    """The array of each seed that was measured at this step."""
    del knobs
    return {e.seed: e for e in log.arrays(name) if e.arm == arm and e.step == step}


def kept_by_half(log: Log, knobs: Any) -> Mapping[int, float]:
    """Largest score at a threshold with a share of the large model of one half or less, in percent of its score alone.

    0 where every threshold has a larger share.
    """
    end = knobs.total_steps()
    scores = _at_the_end(log, knobs, "sweep_score", EAD, end)
    shares = _at_the_end(log, knobs, "sweep_share", EAD, end)
    best = scalar("score", LARGE, bad=-math.inf)(log, knobs)
    found = {}
    for seed, entry in scores.items():
        if seed in shares and best.get(seed, 0.0) > 0:
            allowed = entry.value[shares[seed].value <= HALF]
            found[seed] = 100 * float(allowed.max()) / best[seed] if len(allowed) else 0.0
    return found


def _trained(name: str, arm: str) -> Measure:
    """A scalar of a model when its training ends; the run then goes on with prompts."""

    def compute(log: Log, knobs: Any) -> Mapping[int, float]:
        table = log.scalars(name)
        own = table[(table["arm"] == arm) & (table["step"] == knobs.steps)]
        return dict(zip(own["seed"].tolist(), own["value"].tolist(), strict=True))

    return derived(compute, arms=(arm,))


def above_the_line(log: Log, knobs: Any) -> Mapping[int, float]:
    """How much more of the bits between small and large model is saved than the share of the large model says.

    In percent of these bits, mean over all thresholds with a share from 5 to 95 %. Random switching has 0: under
    teacher forcing its bits are on the straight line from the small to the large model.
    """
    bits = _at_the_end(log, knobs, "forced_bits", EAD, knobs.steps)
    shares = _at_the_end(log, knobs, "forced_share", EAD, knobs.steps)
    alone = [_trained("bits", arm)(log, knobs) for arm in (SMALL, LARGE)]
    found = {}
    for seed, entry in bits.items():
        if seed not in shares:
            continue
        small, large = (side[seed] for side in alone)
        share = shares[seed].value.astype(float)
        saved = (small - entry.value.astype(float)) / (small - large)
        inside = (share >= 0.05) & (share <= 0.95)
        if inside.any():
            found[seed] = 100 * float(np.mean((saved - share)[inside]))
    return found


def _score(arm: str) -> Measure:
    return scalar("score", arm, bad=-math.inf)


MORE_THAN_RANDOM = (_score(EAD) - _score(RANDOM)) * 100.0
"""Points by which the rule is better than random switching at the same share of the large model."""

RANDOM_WORDS = (
    "share of digits that follow the rule, EAD minus random switching, which is interpolated to the same share of "
    "tokens by the large model"
)
ABSTRACT = (
    "MATH: 50.4 against 52.1 % with the large model on 43 % of the tokens; 74.3 against 80.0 % on 25 %."
)

claim = claims_of("entropy-adaptive-decoding")

CLAIMS = (
    claim(
        "hard-characters",
        "The entropy of the small model is higher where characters are hard.",
        "Premise of the method.",
        "mean entropy of the small model on digits minus that on letters, held-out texts",
        _trained("hard_entropy", SMALL) - _trained("easy_entropy", SMALL),
        Effect("above", floor=0.5),
        "letters-and-digits",
        unit="bits",
        given={"task": "stretches"},
    ),
    claim(
        "published-costs",
        "Counted without catching up, cost is the share of the large model plus the small one's part of the rest.",
        "Savings of 41.5 % and 67 % in the abstract.",
        "largest distance of the formula from both savings, sizes 3 and 11, 1.5 and 14",
        constant("published_gap", EAD, reduce="max"),
        Identity("below", 0.001),
        "letters-and-digits",
        caveat="The sizes of the small models are inferred from this arithmetic.",
    ),
    claim(
        "quality-kept",
        "Most of the large model's quality is kept while it writes at most half of the tokens.",
        ABSTRACT + " That is 96.7 and 92.9 %.",
        "best score among the thresholds with a share of at most one half, in percent of the large model's score",
        derived(kept_by_half, arms=(EAD, LARGE)),
        Bound("above", 92.0),
        "many-prompts",
        unit="%",
        given={"task": "stretches"},
        caveat="The best of five thresholds, as the paper's figures are for a threshold that was chosen.",
    ),
    claim(
        "better-than-random",
        "Switching by entropy is better than switching at random with the same share of the large model.",
        "Not in the paper; what the abstract's figures would have to show to credit entropy.",
        RANDOM_WORDS,
        MORE_THAN_RANDOM,
        Effect("above", floor=2.0),
        "many-prompts",
        unit="points",
        given={"task": "stretches", "noise": lambda noise: noise > 0, "stretch": "long"},
        given_words="random digits",
    ),
    claim(
        "saving-with-catch-up",
        "Less work is done than by the large model alone, also when all tokens count that each model reads.",
        "Savings of 41.5 % and 67 %, without catching up.",
        "products of tokens and parameters with catching up, EAD over the large model alone",
        scalar("full", EAD),
        Effect("below", floor=0.05, null=1.0),
        "many-prompts",
        unit="times",
        given={"cache_policy": "lazy"},
        caveat="Catching up is one parallel pass: much work, little time on a processor that waits for memory.",
    ),
    claim(
        "faster",
        "A token takes less time than with the large model alone.",
        "Not in the paper, which counts parameters per token.",
        "wall time of a token, EAD over the large model alone",
        scalar("token_ms", EAD) / scalar("token_ms", LARGE),
        Effect("below", floor=0.1, null=1.0),
        "many-prompts",
        unit="times",
        caveat="Models this small: Python's own time is most of it.",
    ),
    claim(
        "no-oscillation",
        "Mean and shortest run keep the models from taking turns all the time.",
        "A stability constraint; no figure.",
        "changes of the model, the rule on every single token over EAD",
        scalar("switches", SINGLE) / scalar("switches", EAD),
        Effect("above", floor=1.0, null=1.0),
        "many-prompts",
        unit="times",
        caveat="A shortest run of ten tokens, our number, allows no more than ten changes in a hundred tokens.",
    ),
    claim(
        "one-threshold-for-both",
        "Switching by entropy is better than at random also where the large model is sure of what is hard.",
        ABSTRACT + " One threshold serves both models.",
        RANDOM_WORDS,
        MORE_THAN_RANDOM,
        Effect("above", floor=2.0),
        "sure-digits",
        unit="points",
        given={"task": "stretches", "noise": 0.0, "hysteresis": 0.0},
        caveat="We expect it not to hold: a large model that is sure has low entropy, and hands back.",
    ),
    claim(
        "lone-digits",
        "Switching by entropy is better than at random also where hard characters come one to four at a time.",
        "Not in the paper: a decision holds from the next token on.",
        RANDOM_WORDS,
        MORE_THAN_RANDOM,
        Effect("above", floor=2.0),
        "short-stretches",
        unit="points",
        given={"task": "stretches", "stretch": "short", "window": 5},
        caveat="We expect it not to hold: a digit is written before its entropy can change the writer.",
    ),
    claim(
        "real-text",
        "In real text the large model is called where it helps most.",
        "Score against share of the large model lies above a straight line (figure on MATH).",
        "bits per character saved, in percent of those between small and large model, minus the share of the large "
        "model; held-out text as it stands, mean over thresholds",
        derived(above_the_line, arms=(EAD, SMALL, LARGE)),
        Effect("above", floor=2.0),
        "real-text",
        unit="points",
        given={"task": "text"},
    ),
)
