"""Every way of decoding on the same prompts: what each writes, whether it is right, and what it costs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from normviz.data.sampling import seeded_generator
from normviz.decoding import (
    CharTransformer,
    EADResult,
    EntropyAdaptiveDecoder,
    EntropySwitchController,
    RandomSwitchController,
    SpeculativeDecoder,
    SwitchController,
    cost_report,
)
from normviz.experiments.entropy_decoding.knobs import EAD, LARGE, RANDOM, SINGLE, SMALL, SPECULATIVE, Knobs
from normviz.experiments.entropy_decoding.language import Language
from normviz.experiments.entropy_decoding.recorded import NEW_TOKENS, RANDOM_SHARES
from normviz.frame import Frame, Value

__all__ = ["Contest", "Tally", "bits_by", "controller_of", "decoder_of"]

DRAW, SWITCH = 11, 12
"""Streams of a seed for sampled tokens and for random switches."""


def controller_of(knobs: Knobs, tau: float | None = None) -> EntropySwitchController:
    """The switch rule of a setting, with another threshold if one is given."""
    return EntropySwitchController(
        knobs.tau if tau is None else tau,
        window=knobs.window,
        min_tokens=knobs.min_tokens,
        start=knobs.start,
        hysteresis=knobs.hysteresis,
    )


def decoder_of(
    small: CharTransformer,
    large: CharTransformer,
    controller: SwitchController,
    knobs: Knobs,
    generator: torch.Generator,
) -> EntropyAdaptiveDecoder:
    """A decoder of a setting with a switch rule."""
    return EntropyAdaptiveDecoder(
        small,
        large,
        controller,
        temperature=knobs.temperature,
        cache_policy=knobs.cache_policy,
        immediate=knobs.immediate,
        generator=generator,
    )


@torch.no_grad()
def bits_by(model: CharTransformer, prompt: Tensor, new: Tensor) -> float:
    """Mean of -log2 of the probability that a model gives to the characters (T,) after a prompt (P,)."""
    text = torch.cat((prompt, new)).to(next(model.parameters()).device)
    logits, _ = model(text[None, :-1])
    log_p = logits[0, len(prompt) - 1 :].log_softmax(-1).gather(-1, text[len(prompt) :, None])
    return float(-log_p.mean() / math.log(2))


class Decoded(NamedTuple):
    """What one way of decoding wrote after one prompt, and what it took."""

    tokens: Tensor
    share: float
    cost: float
    full: float
    milliseconds: float
    switches: float
    owner: list[str]


@dataclass
class Tally:
    """Sums over the prompts so far.

    Attributes:
        right, judged: characters that are right, and that can be right or wrong.
        bits: sum over prompts of bits per character by the large model (real text only).
    """

    right: float = 0.0
    judged: float = 0.0
    bits: float = 0.0
    prompts: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, result: Decoded, verdicts: NDArray[np.int64] | None, bits: float) -> None:
        """Count one more prompt."""
        self.prompts += 1
        if verdicts is None:
            self.bits += bits
        else:
            self.right += float((verdicts == 1).sum())
            self.judged += float((verdicts >= 0).sum())
        found = {
            "share": result.share,
            "cost": result.cost,
            "full": result.full,
            "token_ms": result.milliseconds,
            "switches": result.switches,
        }
        for name, value in found.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    @property
    def score(self) -> float:
        """Share of the digits that follow the rule (0 if none was written); for real text minus bits per character."""
        if self.bits:
            return -self.bits / self.prompts
        return self.right / self.judged if self.judged else 0.0

    def mean(self, name: str) -> float:
        """Mean over the prompts so far."""
        return self.sums[name] / self.prompts


class Contest:
    """All ways of decoding of one seed.

    Args:
        knobs: the setting.
        seed: of sampling and random switches.
        language: prompts and right answers.
        small, large: the trained models.
    """

    def __init__(
        self, knobs: Knobs, seed: int, language: Language, small: CharTransformer, large: CharTransformer
    ) -> None:
        self.knobs, self.seed, self.language, self.small, self.large = knobs, seed, language, small, large
        self.taus = knobs.taus()
        self.shares = RANDOM_SHARES if "random" in knobs.rivals else ()
        self.alone = {SMALL: Tally(), LARGE: Tally()}
        self.by_tau = [Tally() for _ in self.taus]
        self.by_share = [Tally() for _ in self.shares]
        self.others = {
            name: Tally()
            for name, kind in ((SINGLE, "single"), (SPECULATIVE, "speculative"))
            if kind in knobs.rivals
        }

    def play(self, k: int) -> Iterator[Frame]:
        """Decode after prompt ``k`` in every way; a frame of each arm with its means over the prompts so far."""
        prompt, position = self.language.prompts[k], self.knobs.steps + k + 1
        for name, tally in self.alone.items():
            self._count(
                tally, prompt, self._switching(RandomSwitchController(float(name == LARGE)), prompt, k)
            )
        shown: Decoded | None = None
        for tau, tally in zip(self.taus, self.by_tau, strict=True):
            result = self._switching(controller_of(self.knobs, tau), prompt, k)
            self._count(tally, prompt, result)
            if tau == self.knobs.tau:
                shown = result
        for i, (share, tally) in enumerate(zip(self.shares, self.by_share, strict=True)):
            switches = RandomSwitchController(
                share,
                min_tokens=self.knobs.min_tokens,
                generator=seeded_generator(self.seed, SWITCH, k, i),
            )
            self._count(tally, prompt, self._switching(switches, prompt, k))
        if SINGLE in self.others:
            rule = EntropySwitchController(
                self.knobs.tau, 1, 1, self.knobs.start, hysteresis=self.knobs.hysteresis
            )
            self._count(self.others[SINGLE], prompt, self._switching(rule, prompt, k))
        if SPECULATIVE in self.others:
            self._count(self.others[SPECULATIVE], prompt, self._speculative(prompt, k))
        assert shown is not None
        for name, tally in [*self.alone.items(), *self.others.items()]:
            yield Frame(position, name, self.seed, _scalars(tally))
        yield Frame(position, EAD, self.seed, self._of_rule(prompt, shown))
        if self.shares:
            yield Frame(position, RANDOM, self.seed, self._of_random())

    # -- one way of decoding ------------------------------------------------------------------------------------------

    def _switching(self, controller: SwitchController, prompt: Tensor, k: int) -> Decoded:
        decoder = decoder_of(
            self.small, self.large, controller, self.knobs, seeded_generator(self.seed, DRAW, k)
        )
        result: EADResult = decoder.generate(prompt, NEW_TOKENS)
        report = cost_report(result, self.small.num_parameters, self.large.num_parameters)
        return Decoded(
            result.tokens,
            report.large_fraction,
            report.decode_only,
            report.with_catch_up,
            1000 * result.wall_time / NEW_TOKENS,
            100 * result.switches / NEW_TOKENS,
            list(result.owner),
        )

    def _speculative(self, prompt: Tensor, k: int) -> Decoded:
        """Costs: every drafted token passes both models, and a round adds one token of the large one."""
        decoder = SpeculativeDecoder(
            self.small,
            self.large,
            self.knobs.gamma,
            self.knobs.temperature,
            generator=seeded_generator(self.seed, DRAW, k),
        )
        begin = time.perf_counter()
        result = decoder.generate(prompt, NEW_TOKENS)
        passed = time.perf_counter() - begin
        ratio = self.small.num_parameters / self.large.num_parameters
        cost = (result.proposed * (ratio + 1) + result.large_calls) / NEW_TOKENS
        # The share says how many passes of the large model a token took: 1 for the large model alone.
        calls = result.large_calls / NEW_TOKENS
        return Decoded(result.tokens, calls, cost, cost, 1000 * passed / NEW_TOKENS, 0.0, [])

    def _count(self, tally: Tally, prompt: Tensor, result: Decoded) -> None:
        text = torch.cat((prompt, result.tokens)).numpy()
        verdicts = self.language.judge(text, len(prompt))
        bits = bits_by(self.large, prompt, result.tokens) if verdicts is None else 0.0
        tally.add(result, verdicts, bits)

    # -- frames -------------------------------------------------------------------------------------------------------

    def _of_rule(self, prompt: Tensor, shown: Decoded) -> dict[str, Value]:
        """Means at the threshold that is set and at all of them; for the first seed also the text just written."""
        values: dict[str, Value] = _scalars(self.by_tau[self.taus.index(self.knobs.tau)])
        values["sweep_score"] = np.array([tally.score for tally in self.by_tau], dtype=np.float32)
        for name in ("share", "cost", "full", "token_ms"):
            values[f"sweep_{name}"] = _means(self.by_tau, name)
        if self.seed == self.knobs.first_seed:
            text = torch.cat((prompt, shown.tokens)).numpy()
            values["row_codes"] = _codes(self.language, text[len(prompt) :])
            values["row_owner"] = np.array([owner == "large" for owner in shown.owner], dtype=np.float32)
            verdicts = self.language.judge(text, len(prompt))
            if verdicts is not None:
                values["row_right"] = verdicts.astype(np.float32)
        return values

    def _of_random(self) -> dict[str, Value]:
        """The curve from the small to the large model, and its score where the share is that of the rule."""
        tallies = [self.alone[SMALL], *self.by_share, self.alone[LARGE]]
        share, score = _means(tallies, "share"), np.array([t.score for t in tallies], dtype=np.float32)
        order = np.argsort(share, kind="stable")
        at = self.by_tau[self.taus.index(self.knobs.tau)].mean("share")
        return {
            "sweep_share": share[order],
            "sweep_score": score[order],
            "share": at,
            "score": float(np.interp(at, share[order], score[order])),
        }


def _scalars(tally: Tally) -> dict[str, Value]:
    names = ("share", "cost", "full", "token_ms", "switches")
    return {"score": tally.score, **{name: tally.mean(name) for name in names}}


def _means(tallies: Sequence[Tally], name: str) -> NDArray[np.float32]:
    return np.array([tally.mean(name) for tally in tallies], dtype=np.float32)


def _codes(language: Language, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """Code points of characters."""
    return np.array([ord(language.vocabulary[token]) for token in tokens], dtype=np.float32)
