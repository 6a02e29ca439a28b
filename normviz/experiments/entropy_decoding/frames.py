"""What runs on the page *Entropy decoding*: two models learn a language, then every way of decoding writes it.

The axis first counts training steps. At every evaluation the reader's prompt is continued with the models as they are.
Then it counts prompts: after each one every way of decoding writes, and its means over the prompts so far are shown.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from normviz.experiments.entropy_decoding.contest import Contest
from normviz.experiments.entropy_decoding.held_out import Reading, picture, published_gap, simulated
from normviz.experiments.entropy_decoding.knobs import EAD, LARGE, SMALL, Knobs
from normviz.experiments.entropy_decoding.language import Language, language_of
from normviz.experiments.entropy_decoding.learners import Learner
from normviz.frame import Frame, Value
from normviz.training import Diverged, Trainee, interleave, resolve_device

__all__ = ["frames"]

EVALUATIONS = 8


def frames(knobs: Knobs, device: str = "auto") -> Iterator[Frame]:
    """Train both models, decode with both, and yield what the page shows; see :class:`Knobs` for what can be set."""
    where = resolve_device(device)
    yield from (Frame(0, SMALL, seed) for seed in knobs.seed_range())
    pairs = [Pair(knobs, seed, where) for seed in knobs.seed_range()]
    every = max(5, knobs.steps // EVALUATIONS)
    yield from interleave(
        [trainee for pair in pairs for trainee in (pair.small, pair.large, pair)],
        until=knobs.steps,
        evaluate=_evaluate,
        eval_every=every,
        stride=lambda trainee: every if isinstance(trainee, Pair) else 1,
        evaluate_all_first=True,
    )
    contests = [pair.contest() for pair in pairs if pair.trained]
    for k in range(knobs.prompts):
        for contest in contests:
            yield from contest.play(k)


class Pair:
    """Both models of one seed and what they do together: the arm ``EAD`` while they train.

    Args:
        knobs: the setting.
        seed: of everything.
        device: where the models are.
    """

    arm = EAD

    def __init__(self, knobs: Knobs, seed: int, device: torch.device) -> None:
        self.knobs, self.seed = knobs, seed
        self.language: Language = language_of(knobs, seed)
        self.small, self.large = (Learner(arm, seed, knobs, self.language, device) for arm in (SMALL, LARGE))

    @property
    def trained(self) -> bool:
        """Whether both models have come to the end of their training."""
        return self.small.tape.whole and self.large.tape.whole and self.sound

    @property
    def sound(self) -> bool:
        """Whether the weights of both are finite."""
        return self.small.sound and self.large.sound

    def step(self, at: int) -> dict[str, Value]:  # noqa: ARG002 - a trainee is told where it stands
        """Nothing: the two models learn by themselves.

        Raises:
            Diverged: one of them has diverged.
        """
        if not self.sound:
            raise Diverged("one of its models has diverged", lost=("score",))
        return {}

    def look(self, at: int) -> dict[str, Value]:
        """The switch rule with the models as they are."""
        small, large = self.small.model.eval(), self.large.model.eval()
        values: dict[str, Value] = {}
        if self.knobs.task == "text" or at >= self.knobs.steps:
            values |= simulated(Reading(small, self.language), Reading(large, self.language), self.knobs)
        if self.seed == self.knobs.first_seed:
            values |= picture(self.knobs, self.seed, self.language, small, large)
        if not at:
            values["published_gap"] = published_gap()
        return values

    def contest(self) -> Contest:
        """All ways of decoding with the trained models."""
        return Contest(self.knobs, self.seed, self.language, self.small.model.eval(), self.large.model.eval())


def _evaluate(trainee: Trainee, step: int) -> dict[str, Value] | None:
    """Bits and entropies of a model, or what both do together; nothing where weights are no longer finite."""
    if isinstance(trainee, Pair):
        return trainee.look(step) if trainee.sound else None
    assert isinstance(trainee, Learner)
    model = trainee.pause(step)
    return Reading(model, trainee.language).values(trainee.knobs.places()) if trainee.sound else None
