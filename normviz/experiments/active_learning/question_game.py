"""Twenty questions, played by the reader: a belief about sixteen animals, and questions that halve it.

Free of PyTorch: the page's server plays it. Generalized binary search (Nowak 2011) with a share of wrong answers: the
belief of an animal is multiplied by 1 - eps if it agrees with an answer and by eps if not.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from normviz.adaptive.animal_table import ANIMAL_TABLE, ANIMALS, QUESTIONS

__all__ = ["BUDGET", "Asker", "QuestionGame"]

Array = NDArray[np.float64]

BUDGET = 20
"""Questions of a game."""
TABLE = np.array(ANIMAL_TABLE, dtype=bool)
TIE = 1e-9


@dataclass
class Asker:
    """One player's questions, answers and belief.

    Args:
        eps: share of answers taken to be wrong, in (0, 0.5).

    Attributes:
        history: (question, answer) so far.

    Raises:
        ValueError: eps outside (0, 0.5).
    """

    eps: float
    history: list[tuple[int, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not 0 < self.eps < 0.5:
            raise ValueError(f"eps must be in (0, 0.5), got {self.eps!r}.")

    def belief(self) -> Array:
        """Probability of each animal [16]."""
        logs = np.zeros(len(ANIMALS))
        for question, answer in self.history:
            logs += np.where(TABLE[:, question] == answer, np.log1p(-self.eps), np.log(self.eps))
        weights = np.exp(logs - logs.max())
        belief: Array = weights / weights.sum()
        return belief

    def next_question(self) -> int:
        """The question that splits the belief most evenly; of equal ones the one asked least, then the first."""
        balance = np.abs(self.belief() @ (2.0 * TABLE - 1))
        asked = np.bincount([q for q, _ in self.history], minlength=len(QUESTIONS))
        even = balance <= balance.min() + TIE
        return int(np.flatnonzero(even)[np.argmin(asked[even])])

    def guess(self) -> int:
        """The likeliest animal; the first of equal ones."""
        return int(np.argmax(self.belief() >= self.belief().max() - TIE))

    def tell(self, question: int, answer: bool) -> None:
        """Note an answer.

        Raises:
            ValueError: a question that does not exist, or one more than the budget.
        """
        if not 0 <= question < len(QUESTIONS):
            raise ValueError(f"question must be one of 0 to {len(QUESTIONS) - 1}, got {question}.")
        if len(self.history) >= BUDGET:
            raise ValueError(f"question must be one of the first {BUDGET}; all are asked.")
        self.history.append((question, bool(answer)))

    def back(self) -> None:
        """Take the last answer back."""
        if self.history:
            self.history.pop()


class QuestionGame:
    """A hidden animal, the reader and the policy, each with its own questions and the same share of wrong answers.

    Args:
        noise: probability that an answer is wrong, in [0, 0.5).
        seed: of the animal and of the answers.
    """

    def __init__(self, noise: float, seed: int) -> None:
        if not 0 <= noise < 0.5:
            raise ValueError(f"noise must be in [0, 0.5), got {noise!r}.")
        self.noise, self.seed = noise, seed
        rng = np.random.default_rng([seed, 16])
        self.animal = int(rng.integers(len(ANIMALS)))
        self._wrong = rng.random((2, BUDGET)) < noise
        eps = max(noise, 0.02)
        self.reader, self.policy = Asker(eps), Asker(eps)
        self.guessed: int | None = None

    @property
    def over(self) -> bool:
        """Whether the reader has guessed or has no question left."""
        return self.guessed is not None or len(self.reader.history) >= BUDGET

    def ask(self, question: int) -> bool:
        """The reader asks, the policy asks one of its own; returns the reader's answer."""
        t = len(self.reader.history)
        answers = []
        for i, (player, asked) in enumerate(
            ((self.reader, question), (self.policy, self.policy.next_question()))
        ):
            answer = bool(TABLE[self.animal, asked] ^ self._wrong[i, t]) if t < BUDGET else False
            player.tell(asked, answer)
            answers.append(answer)
        return answers[0]

    def guess(self, animal: int) -> bool:
        """The reader's final guess; returns whether it is right."""
        self.guessed = animal
        return animal == self.animal
