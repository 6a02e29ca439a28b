"""What is drawn on the page *Reward normalization*."""

from __future__ import annotations

from normviz.experiments.reward_normalization.beta_curves import (
    BASELINE,
    BNPO,
    GRPO,
    accuracy_distribution_figure,
    moment_map_figure,
    normaliser_figure,
)
from normviz.experiments.reward_normalization.knobs import (
    OPERATIONS,
    SUM,
    UNDECOMPOSED,
    Knobs,
    reference_arm,
)
from normviz.experiments.reward_normalization.question_map import question_map_figure
from normviz.figures import Board, Drawer, Figure, Sheet

__all__ = ["sheet"]


def sheet(knobs: Knobs) -> Sheet:
    """The charts of a setting; with two rewards the stage shows both."""
    several = knobs.rewards == "accuracy_and_format"
    reference = reference_arm(knobs)

    def questions(board: Board) -> Figure:
        return question_map_figure(board, reference)

    def accuracy(board: Board) -> Figure:
        return board.lines(
            "accuracy",
            title="Accuracy over all questions",
            y="probability of a right answer",
            look_for="Who learns fastest? Compare distances with the bands over seeds.",
        )

    def distribution(board: Board) -> Figure:
        return accuracy_distribution_figure(board, reference)

    def noise(board: Board) -> Figure:
        return board.lines(
            "relative_noise",
            title="Noise of the gradient at one policy",
            y=f"variance ÷ squared mean, over that of {BASELINE}",
            look_for=f"All at the policy of {reference}: who is below 1?",
        )

    def moments(board: Board) -> Figure:
        return board.only((BNPO, GRPO, BASELINE)).lines(
            {"moment_gradient": "", "moment_theory": ", V"},
            title="Second moment: measured, and V of theory",
            y="second moment",
            look_for="Where do measurement and theory part?",
            log_scale=True,
        )

    def parameters(board: Board) -> Figure:
        return board.only((BNPO, UNDECOMPOSED) if several else (BNPO,)).lines(
            {"alpha": ", α", "beta": ", β"},
            title="BNPO's normaliser, refitted to every batch",
            y="α and β",
            look_for="Large α and β: a narrow spike. Who has one?"
            if several
            else "At 1 nothing is divided, at 1.5 it is GRPO. Which way?",
            log_scale=several,
        )

    def normaliser(board: Board) -> Figure:
        return normaliser_figure(board, reference)

    def theory(board: Board) -> Figure:
        return moment_map_figure(board, reference)

    def operations(board: Board) -> Figure:
        return board.dots(
            {name: f"accuracy/{name}" for name in OPERATIONS},
            title="Accuracy by kind of question",
            x="probability of a right answer",
            look_for="Is some kind of question left behind?",
        )

    def gradients(board: Board) -> Figure:
        return board.lines(
            "grad_norm",
            title="Gradient norm in training",
            y="Euclidean norm",
            look_for="The level depends on the advantages' scale. Who jitters least?",
            log_scale=True,
        )

    def form(board: Board) -> Figure:
        return board.lines(
            "format",
            title="Format: two digits, over all questions",
            y="probability of two digits",
            look_for="Does the second reward come at the cost of the first?",
        )

    def parts(board: Board) -> Figure:
        return board.only((BNPO, UNDECOMPOSED)).lines(
            {"part/accuracy": ", accuracy", "part/format": ", format", f"part/{SUM}": ""},
            title="The advantage taken apart",
            y="mean |advantage|",
            look_for="What does each reward add? A line ends where nothing is left.",
            log_scale=True,
        )

    shown: dict[str, Drawer] = {"questions": questions, "accuracy": accuracy}
    noisy: dict[str, Drawer] = {"noise": noise, "moments": moments}
    if several:
        stage = {
            **shown,
            "format": form,
            "parts": parts,
            "distribution": distribution,
            "parameters": parameters,
        }
        more = {"Noise": {**noisy, "gradients": gradients}}
    else:
        stage = {**shown, "distribution": distribution, **noisy, "parameters": parameters}
        more = {"Gradients": {"gradients": gradients}}
    return Sheet(
        stage=stage,
        more={
            **more,
            "The normaliser": {"normaliser": normaliser, "map": theory},
            "Kinds of questions": {"operations": operations},
        },
    )
