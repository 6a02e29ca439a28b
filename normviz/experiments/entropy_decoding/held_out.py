"""Both models on held-out text and on the reader's prompt: entropies, and the switch rule under teacher forcing."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from normviz.data.sampling import seeded_generator
from normviz.decoding import CharTransformer, simulate_switching, token_entropy
from normviz.decoding.costs import cost_report
from normviz.decoding.entropy_adaptive import EADResult
from normviz.experiments.entropy_decoding.contest import controller_of, decoder_of
from normviz.experiments.entropy_decoding.knobs import Knobs
from normviz.experiments.entropy_decoding.language import Language
from normviz.experiments.entropy_decoding.recorded import FINE, NEW_TOKENS, TEACHER_FORCED
from normviz.frame import Value

__all__ = ["Reading", "picture", "published_gap", "simulated"]

PICTURE = 13
"""Stream of a seed for the tokens of the picture."""

PUBLISHED = ((0.43, 3.0, 11.0, 0.415), (0.25, 1.5, 14.0, 0.67))
"""Share of the large model, sizes in billions (the small ones follow from the arithmetic), saving in the abstract."""


class Reading:
    """One model's logits on the held-out texts.

    Attributes:
        logits: (texts x CONTEXT, V), texts end to end.
        targets: (texts x CONTEXT,).
        entropy: (texts x CONTEXT,), bits.
    """

    @torch.no_grad()
    def __init__(self, model: CharTransformer, language: Language) -> None:
        device = next(model.parameters()).device
        tokens, targets = (part.to(device) for part in language.held_out)
        self.logits = model(tokens)[0].flatten(0, 1)
        self.targets = targets.flatten()
        self.entropy: NDArray[np.float64] = token_entropy(self.logits).cpu().double().numpy()
        self._language = language

    def values(self, places: tuple[int, ...]) -> dict[str, Value]:
        """Bits per character, mean entropy by place, and mean entropy of hard and of easy characters."""
        log_p = self.logits.log_softmax(-1).gather(-1, self.targets[:, None])
        at, hard = self._language.places.ravel(), self._language.hard.ravel()
        return {
            "bits": float(-log_p.mean() / np.log(2)),
            "entropy_by_place": np.array(
                [_mean(self.entropy[at == place]) for place in places], dtype=np.float32
            ),
            "hard_entropy": _mean(self.entropy[hard]),
            "easy_entropy": _mean(self.entropy[~hard]),
        }


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else float("nan")


def simulated(small: Reading, large: Reading, knobs: Knobs) -> dict[str, Value]:
    """Bits per character and share of the large model at many thresholds, the switch rule on the given text."""
    runs = [
        simulate_switching(small.logits, large.logits, small.targets, controller_of(knobs, tau))
        for tau in TEACHER_FORCED
    ]
    return {
        "forced_bits": np.array([float(run.bits.mean()) for run in runs], dtype=np.float32),
        "forced_share": np.array([run.large_fraction for run in runs], dtype=np.float32),
    }


@torch.no_grad()
def picture(
    knobs: Knobs, seed: int, language: Language, small: CharTransformer, large: CharTransformer
) -> dict[str, Value]:
    """How the models go on after the reader's prompt, and who would write the same text at other thresholds.

    Returns:
        Code points of prompt and text, owners (1: large), both models' entropies of every new character, and the owners
        at every threshold of :data:`FINE` (thresholds, characters) for the text as it stands.
    """
    asked = language.encode(knobs.prompt if knobs.task == "stretches" else knobs.text_prompt)
    decoder = decoder_of(small, large, controller_of(knobs), knobs, seeded_generator(seed, PICTURE))
    result = decoder.generate(asked, NEW_TOKENS)
    text = torch.cat((asked, result.tokens)).to(next(small.parameters()).device)
    read = partial(_logits, text=text, begin=len(asked))
    of_small, of_large, targets = read(small), read(large), text[len(asked) :]
    by_tau = [
        [
            owner == "large"
            for owner in simulate_switching(of_small, of_large, targets, controller_of(knobs, tau)).owner
        ]
        for tau in FINE
    ]
    codes = [ord(language.vocabulary[token]) for token in text.tolist()]
    return {
        "text_codes": np.array(codes, dtype=np.float32),
        "text_owner": np.array([owner == "large" for owner in result.owner], dtype=np.float32),
        "text_small": token_entropy(of_small).cpu().numpy(),
        "text_large": token_entropy(of_large).cpu().numpy(),
        "text_by_tau": np.array(by_tau, dtype=np.float32),
        "caches": np.stack([_lengths(result, name) for name in ("small", "large")]).astype(np.float32),
    }


def _logits(model: CharTransformer, text: Tensor, begin: int) -> Tensor:
    """(T, V): predictions of the characters from ``begin`` on."""
    logits: Tensor = model(text[None, :-1])[0]
    return logits[0, begin - 1 :]


def _lengths(result: EADResult, name: str) -> NDArray[np.int64]:
    """Tokens in a model's cache when each new token is drawn: all before it if the model writes it, else as before."""
    length, found = 0, []
    for t, owner in enumerate(result.owner):
        if owner == name:
            length = result.prompt_length + t
        found.append(length)
    return np.array(found, dtype=np.int64)


def published_gap() -> float:
    """Largest distance of the decode-only cost from the savings in the abstract."""
    gaps = []
    for share, n_small, n_large, saving in PUBLISHED:
        written = round(100 * share)
        owners = ["large"] * written + ["small"] * (100 - written)
        result = EADResult(
            torch.zeros(100, dtype=torch.long),
            owners,  # type: ignore[arg-type]
            [0.0] * 100,
            [0.0] * 100,
            1,
            share,
            {"small": 0, "large": 0},
            {"small": 100, "large": written},
            0.0,
            1,
        )
        gaps.append(abs(1 - cost_report(result, n_small, n_large).decode_only - saving))
    return max(gaps)
