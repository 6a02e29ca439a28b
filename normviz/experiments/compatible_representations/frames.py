"""What is trained on the page *Compatible representations*: every map between the same two models, side by side.

First a seed's models are trained, each once; then their features are fixed, and the maps learn on them.
"""

from __future__ import annotations

from collections.abc import Iterator

from normviz.experiments.compatible_representations.knobs import ARM_NAMES, FORWARD, Knobs
from normviz.experiments.compatible_representations.learners import ForwardLearner, Learner, MapLearner
from normviz.experiments.compatible_representations.measured import Plane, raw_models, values_of
from normviz.experiments.compatible_representations.old_and_new import OldAndNew
from normviz.frame import Frame, Value
from normviz.training import Trainee, interleave, resolve_device

__all__ = ["frames"]

EVALUATIONS = 10


def frames(knobs: Knobs, device: str = "auto") -> Iterator[Frame]:
    """Fit every map and yield what the page shows; see :class:`Knobs` for what can be set."""
    where = resolve_device(device)
    kinds = knobs.kinds()
    yield from (Frame(0, ARM_NAMES[kinds[0]], seed) for seed in knobs.seed_range())
    every = max(5, -(-knobs.steps // EVALUATIONS))
    members: list[Learner] = []
    planes: dict[int, Plane] = {}
    raw: dict[int, dict[str, Value]] = {}
    for seed in knobs.seed_range():
        world = OldAndNew(knobs, seed, where)
        planes[seed], raw[seed] = Plane(world), raw_models(world)
        members += [
            ForwardLearner(kind, world, every) if kind in FORWARD else MapLearner(kind, world)
            for kind in kinds
        ]

    def evaluate(trainee: Trainee, at: int) -> dict[str, Value]:
        assert isinstance(trainee, MapLearner | ForwardLearner)
        return values_of(trainee, planes[trainee.seed], raw[trainee.seed], at)

    for frame in interleave(
        members, until=knobs.steps, evaluate=evaluate, eval_every=every, evaluate_all_first=True
    ):
        if frame.values:
            yield frame
