"""Twenty questions with wrong answers: many games side by side, one question further with each step."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from normviz.adaptive.active_learning import (
    ANIMALS,
    BanditProblem,
    GeneralizedBinarySearchPolicy,
    animal_answers,
)
from normviz.adaptive.history_policy import decide
from normviz.experiments.active_learning.contest import build_rival
from normviz.experiments.active_learning.knobs import ANIMAL_QUERIES, Knobs, arm_name
from normviz.frame import Value

__all__ = ["GAMES", "AnimalGames", "assumed_noise"]

GAMES = 60
"""Games about each animal."""
SHOWN_ANIMAL = ANIMALS.index("owl")
LEAST_NOISE = 0.02


def assumed_noise(noise: float) -> float:
    """Share of wrong answers that the soft search assumes: the true one, but not quite none."""
    return max(noise, LEAST_NOISE)


class AnimalGames:
    """One strategy in many games about all animals.

    Args:
        kind: the strategy's key in the knobs.
        knobs: the setting.
        seed: of questions and answers.
    """

    stride = 1

    def __init__(self, kind: str, knobs: Knobs, seed: int) -> None:
        self.arm, self.seed = arm_name(kind), seed
        table = animal_answers()
        self._problem = BanditProblem.twenty_questions(table)
        self._policy = build_rival(kind, self._problem, ANIMAL_QUERIES, assumed_noise(knobs.noise))
        self._belief = GeneralizedBinarySearchPolicy(
            self._problem, ANIMAL_QUERIES, assumed_noise(knobs.noise)
        )
        self._generator = torch.Generator().manual_seed(
            int(np.random.SeedSequence([seed, 20]).generate_state(1)[0])
        )
        self._animal = torch.arange(len(ANIMALS)).repeat_interleave(GAMES)
        self._yes = (knobs.noise + (1 - 2 * knobs.noise) * table)[self._animal]
        self._counts = torch.zeros(len(self._animal), table.shape[1], 3, dtype=torch.float64)
        self._first = seed == knobs.first_seed
        self._asked: list[np.ndarray] = []
        self._beliefs: list[np.ndarray] = []
        self._found: list[np.ndarray] = []

    @torch.no_grad()
    def step(self, at: int) -> Mapping[str, Value]:  # noqa: ARG002
        """Ask one more question in every game."""
        logits = self._policy(self._counts / ANIMAL_QUERIES)
        choice = torch.multinomial(logits.softmax(-1), 1, generator=self._generator)
        draw = torch.rand(choice.shape, generator=self._generator, dtype=torch.float64)
        answer = (draw < self._yes.gather(1, choice)).double()
        rows = torch.arange(len(choice))
        self._counts[rows, choice[:, 0], 0] += 1
        self._counts[rows, choice[:, 0], 1] += answer[:, 0]
        self._counts[..., 2] += 1
        self._asked.append(np.bincount(choice[:, 0].numpy(), minlength=logits.shape[1]) / len(choice))
        return {}

    @torch.no_grad()
    def evaluate(self, at: int) -> Mapping[str, Value]:  # noqa: ARG002
        """How many animals would be named rightly now."""
        features = self._counts / ANIMAL_QUERIES
        right = decide(self._policy, self._problem, features, ANIMAL_QUERIES) == self._animal
        by_animal = right.double().view(len(ANIMALS), GAMES).mean(1).numpy()
        belief = self._belief.posterior(features)
        values: dict[str, Value] = {
            "identified": 100 * float(right.double().mean()),
            "wrong": 100 * (1 - float(right.double().mean())),
            "certain": 100 * float(belief.amax(1).mean()),
        }
        if self._first:
            self._found.append(by_animal)
            self._beliefs.append(belief[SHOWN_ANIMAL * GAMES].numpy())
            values |= {"found": np.stack(self._found), "belief": np.stack(self._beliefs)}
            if self._asked:
                values["asked"] = np.stack(self._asked)
        return values
