"""The two models in training. What was trained once is played back: a change of the switch rule trains nothing anew."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from normviz.decoding import CharTransformer
from normviz.experiments.entropy_decoding.knobs import LARGE, SMALL, Knobs
from normviz.experiments.entropy_decoding.language import Language
from normviz.experiments.entropy_decoding.recorded import CONTEXT
from normviz.frame import Value
from normviz.training import Diverged
from normviz.training.seeding import seeded

__all__ = ["Learner", "Tape", "TapeShelf", "build_model"]

INIT = {SMALL: 1, LARGE: 2}
"""Streams of a seed's random initial weights."""
WEIGHT_DECAY = 0.01


def build_model(name: str, vocab: int, knobs: Knobs) -> CharTransformer:
    """An untrained model, by torch's random stream.

    Args:
        name: ``SMALL`` or ``LARGE``.
        vocab: number of characters.
        knobs: widths and layers.
    """
    width, depth = (knobs.small_width, 1) if name == SMALL else (knobs.large_width, knobs.large_depth)
    return CharTransformer(vocab, width, depth, knobs.heads(width), CONTEXT)


class Tape:
    """A model's training as it was: the loss of every step, and the weights at every evaluation.

    Attributes:
        whole: the training has come to its end.
    """

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.weights: dict[int, dict[str, Tensor]] = {}
        self.whole = False


class TapeShelf:
    """The tapes of the last trainings of this process, by what they depend on.

    Args:
        most: tapes that are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._tapes: OrderedDict[tuple[Any, ...], Tape] = OrderedDict()

    def take(self, key: tuple[Any, ...]) -> Tape:
        """The whole tape of this key; an empty one where there is none."""
        tape = self._tapes.get(key)
        if tape is None or not tape.whole:
            tape = self._tapes[key] = Tape()
        self._tapes.move_to_end(key)
        while len(self._tapes) > self._most:
            self._tapes.popitem(last=False)
        return tape


SHELF = TapeShelf(most=20)
"""Two models of ten seeds: some 60 MB."""


class Learner:
    """One model with one seed, as :func:`normviz.training.interleave` sees it.

    Args:
        arm: ``SMALL`` or ``LARGE``.
        seed: of weights and batches.
        knobs: the setting.
        language: what it reads.
        device: where it is.
        shelf: of tapes; one that is there is played back instead of training.

    Attributes:
        sound: its weights are finite.
    """

    def __init__(
        self,
        arm: str,
        seed: int,
        knobs: Knobs,
        language: Language,
        device: torch.device,
        shelf: TapeShelf = SHELF,
    ) -> None:
        self.arm, self.seed, self.language = arm, seed, language
        self.sound = True
        self._device, self.knobs = device, knobs
        self.tape = shelf.take((*knobs.training_key(), arm, seed, str(device)))
        self._plays = self.tape.whole
        with seeded(1000 * seed + INIT[arm]):
            self.model = build_model(arm, len(language.vocabulary), knobs).to(device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=knobs.learning_rate, weight_decay=WEIGHT_DECAY
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1 - step / knobs.steps)

    def step(self, at: int) -> dict[str, Value]:
        """One update: its loss in bits per character."""
        if self._plays:
            return {"loss": self.tape.losses[at]}
        tokens, targets = (part.to(self._device) for part in self.language.batch(at))
        self.model.train()
        self.optimizer.zero_grad()
        logits, _ = self.model(tokens)
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.schedule.step()
        bits = loss.item() / math.log(2)
        if not math.isfinite(bits):
            self.sound = False
            raise Diverged(f"the training loss is {bits}", lost=("loss", "bits"))
        self.tape.losses.append(bits)
        return {"loss": bits}

    def pause(self, at: int) -> CharTransformer:
        """The model at an evaluation, with the weights that it has after ``at`` steps."""
        if self._plays:
            self.model.load_state_dict(self.tape.weights[at])
        else:
            self.tape.weights[at] = {name: value.clone() for name, value in self.model.state_dict().items()}
            self.tape.whole = at >= self.knobs.steps
        self.sound = all(bool(parameter.isfinite().all()) for parameter in self.model.parameters())
        return self.model.eval()
