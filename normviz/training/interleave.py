"""Interleaving: many trainees advance side by side on one progress axis, so that all their curves grow together.

Every loop of the project is this one. A *trainee* is one arm with one seed: whatever makes a step, be it an optimizer
step on a batch, an episode of a game, a round of federated learning or a candidate of a search. Trainees may have
strides of different length (a batch that grows counts more samples): the one furthest behind goes next, and all end
together where the axis ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from normviz.frame import Frame, Value
from normviz.progress import STEPS, Progress

__all__ = ["Diverged", "Trainee", "interleave"]


class Diverged(Exception):  # noqa: N818 - an outcome, not an error of the program
    """A trainee's numbers are no longer finite; the message ends the sentence for the reader.

    Args:
        why: e.g. ``"the training loss is inf"``.
        lost: scalars that are infinite from here on.
    """

    def __init__(self, why: str, *, lost: Sequence[str] = ("loss",)) -> None:
        super().__init__(why)
        self.lost = tuple(lost)


class Trainee(Protocol):
    """One arm with one seed in training."""

    @property
    def arm(self) -> str:
        """Name of the arm."""

    @property
    def seed(self) -> int:
        """Its seed."""

    def step(self, at: int) -> Mapping[str, Value]:
        """Advance from the position ``at`` and return what that step's frame shows.

        Raises:
            Diverged: the numbers are no longer finite; the trainee is not called again.
        """


def interleave(
    trainees: Sequence[Trainee],
    *,
    until: int,
    evaluate: Callable[[Trainee, int], Mapping[str, Value] | None] | None = None,
    eval_every: int = 25,
    stride: Callable[[Trainee], int] | None = None,
    evaluate_all_first: bool = False,
    progress: Progress = STEPS,
) -> Iterator[Frame]:
    """Let all trainees advance in turn and yield a frame for every step and every evaluation.

    A frame of a step at position ``s`` shows what the step from ``s`` on measured (its loss is that after ``s``
    steps). Evaluations come before the step at their position: at 0, whenever another ``eval_every`` is passed, and at
    the end.

    Args:
        trainees: in the order in which they take turns.
        until: the axis's end: no step begins at or after it.
        evaluate: measures a trainee between two steps; None, or nothing returned: no frame.
        eval_every: distance between two evaluations on the axis.
        stride: how far a trainee's last step went (asked after each step); default: 1.
        evaluate_all_first: all trainees at a position are evaluated before the first of them steps.
        progress: what the axis counts, for messages.
    """
    at = dict.fromkeys(range(len(trainees)), 0)
    due = dict.fromkeys(range(len(trainees)), 0)

    def evaluated(i: int) -> Iterator[Frame]:
        trainee = trainees[i]
        if evaluate is not None and (at[i] >= due[i] or at[i] >= until):
            due[i] = (at[i] // eval_every + 1) * eval_every
            values = evaluate(trainee, at[i])
            if values is not None:
                yield Frame(at[i], trainee.arm, trainee.seed, values)

    going = list(at)
    while going:
        front = min(at[i] for i in going)
        turn = [i for i in going if at[i] == front]
        if evaluate_all_first:
            for i in turn:
                yield from evaluated(i)
        for i in turn:
            trainee = trainees[i]
            if not evaluate_all_first:
                yield from evaluated(i)
            if at[i] >= until:
                going.remove(i)
                continue
            try:
                values = trainee.step(at[i])
            except Diverged as end:
                going.remove(i)
                yield Frame.diverged(
                    at[i], trainee.arm, trainee.seed, str(end), lost=end.lost, unit=progress.one
                )
                continue
            yield Frame(at[i], trainee.arm, trainee.seed, values)
            at[i] = min(at[i] + (1 if stride is None else max(1, stride(trainee))), until)
