"""Two small tables to ask about: animals with yes/no attributes, and jokes with features.

Written for this library, for the kinds of task of Zhang, Jain, Jamieson, arXiv 2010.15382 (noisy 20 Questions, joke
recommendation), whose own data are not used. The answers are what an everyday speaker would say.
"""

from __future__ import annotations

import torch
from torch import Tensor

from normviz.adaptive.animal_table import ANIMAL_TABLE, ANIMALS, QUESTIONS
from normviz.validation import check_real

__all__ = ["ANIMALS", "JOKES", "JOKE_TRAITS", "QUESTIONS", "animal_answers", "joke_features"]

JOKE_TRAITS: tuple[str, ...] = (
    "plays with words",
    "is absurd",
    "is about animals",
    "is about work",
    "is about science",
    "is dry",
)

JOKES: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("Why did the bicycle lie down? It was two tired.", (1.0, 0.3, 0.0, 0.0, 0.0, 0.2)),
    ("I told my plants a joke. They are still growing into it.", (0.8, 0.5, 0.0, 0.0, 0.2, 0.3)),
    ("My cat reads my mail, but only the bills worry her.", (0.0, 0.8, 1.0, 0.1, 0.0, 0.4)),
    ("A fish walks into a bank and asks for a current account.", (0.9, 0.8, 0.9, 0.2, 0.0, 0.1)),
    ("My dog is a good listener. He has never finished a report either.", (0.0, 0.3, 0.9, 0.7, 0.0, 0.6)),
    ("The meeting could have been a mail. The mail could have been silence.", (0.0, 0.1, 0.0, 1.0, 0.0, 1.0)),
    ("I am not late. I am early for tomorrow.", (0.3, 0.4, 0.0, 0.8, 0.0, 0.5)),
    ("Our office plant was promoted. It never says no.", (0.0, 0.9, 0.0, 1.0, 0.0, 0.5)),
    ("Never trust an atom: it makes up everything.", (1.0, 0.2, 0.0, 0.0, 1.0, 0.2)),
    ("There are two kinds of people: those who can guess from incomplete data.", (0.3, 0.1, 0.0, 0.0, 0.9, 1.0)),
    ("The experiment failed, which is what it was for.", (0.0, 0.2, 0.0, 0.3, 0.9, 0.9)),
    ("A snail was robbed by turtles. It all happened so fast.", (0.1, 1.0, 1.0, 0.0, 0.0, 0.3)),
)  # fmt: skip


def animal_answers(noise: float = 0.0) -> Tensor:
    """Probability [16, 20] that the answer about an animal to a question is yes.

    Args:
        noise: probability of the wrong answer, in [0, 0.5); 0 by default.

    Returns:
        Float64; rows as ``ANIMALS``, columns as ``QUESTIONS``; for ``BanditProblem.twenty_questions``.

    Raises:
        ValueError: noise outside [0, 0.5).
    """
    noise = check_real("noise", noise, 0, 0.5, high_open=True)
    truth = torch.tensor(ANIMAL_TABLE, dtype=torch.float64)
    return noise + (1 - 2 * noise) * truth


def joke_features() -> Tensor:
    """Features [12, 6] of the jokes, scaled to length 1, float64: actions and decisions of a recommendation problem.

    theta is then what a reader likes about jokes; rows as ``JOKES``, columns as ``JOKE_TRAITS``.
    """
    table = torch.tensor([traits for _, traits in JOKES], dtype=torch.float64)
    return torch.nn.functional.normalize(table, dim=1)
