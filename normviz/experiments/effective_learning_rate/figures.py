"""What is drawn on the page *Effective learning rate*."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import numpy as np

from normviz.experiments.effective_learning_rate.claims import late
from normviz.experiments.effective_learning_rate.growth import growth_figure
from normviz.experiments.effective_learning_rate.knobs import (
    FRESH,
    GLOBAL,
    LAYERWISE,
    NAP,
    REMEDIES,
    REPLAY,
    SWEEP,
    Knobs,
    Variant,
    normed,
    rate_name,
    variants,
)
from normviz.figures import Board, Drawer, Figure, Sheet
from normviz.frame import Frame, FrameLog

__all__ = ["growth_figure", "sheet"]


def sheet(knobs: Knobs) -> Sheet:
    """The charts of a setting."""
    return {
        "memorisation": _memorisation,
        "equivalence": _equivalence,
        "stationary": _stationary,
        "games": _games,
    }[knobs.task](knobs)


def _by_layer(name: str, knobs: Knobs) -> dict[str, str]:
    """The scalar of each hidden weight tensor, and what its line is called after the arm."""
    return {f"{name}/{layer}": f", W{'₀₁₂₃₄₅'[layer]}" for layer in range(1, knobs.layers() + 1)}


def _rates(knobs: Knobs, look_for: str, *arms: str) -> Drawer:
    """Effective learning rate of every hidden layer; explicit decays span orders of magnitude."""

    def draw(board: Board) -> Figure:
        return board.only(arms or board.arms).lines(
            _by_layer("elr", knobs),
            title="Effective learning rate of each layer",
            y="effective / set learning rate",
            look_for=look_for,
            log_scale=knobs.task == "games",
        )

    return draw


def _loss(look_for: str) -> Drawer:
    return partial(
        Board.lines, series="loss", title="Training loss", y="cross-entropy (nats)", look_for=look_for
    )


_lengths: Drawer = partial(
    Board.lines,
    series="length",
    title="Length of the hidden weights",
    y="‖W‖ relative to the start",
    look_for="Projection holds it at 1. How far do the others grow?",
)
_dormant: Drawer = partial(
    Board.lines,
    series="dormant",
    title="Dormant units",
    y="share of hidden units (%)",
    look_for="Units that (almost) never fire: do they come back?",
    unit=" %",
)
_gradients: Drawer = partial(
    Board.lines,
    series="grad_norm",
    title="Gradient norm",
    y="Euclidean norm, log scale",
    look_for="Behind a norm: does it shrink as the weights grow?",
    log_scale=True,
)
_phases: Drawer = partial(
    Board.lines,
    series="phase_accuracy",
    title="Accuracy at the end of each phase",
    y="accuracy on the phase's labels (%)",
    look_for="Falling: later labels are learned less well than the first.",
    unit=" %",
)


def _memorisation(knobs: Knobs) -> Sheet:
    plain = normed(knobs)
    stage: dict[str, Drawer] = {
        "rates": _rates(knobs, "With a norm only it falls. Does NaP hold it?", plain, NAP, REPLAY),
        "phases": _phases,
        "lengths": _lengths,
        "dormant": _dormant,
        "loss": _loss("It jumps at every reset. How far does it come down?"),
    }
    late_charts: dict[str, Drawer] = {}
    if knobs.sweep:
        late_charts["sweep"] = partial(_sweep, knobs)
    if knobs.remedies:
        late_charts["remedies"] = partial(_remedies, knobs)
    first = "sweep" if knobs.sweep else "remedies" if knobs.remedies and knobs.remedies_with_nap else ""
    if not first:
        return Sheet({**stage, "gradients": _gradients}, {"Late phases": late_charts} if late_charts else {})
    stage[first] = late_charts.pop(first)
    return Sheet(
        stage,
        {"Gradients": {"gradients": _gradients}} | ({"Late phases": late_charts} if late_charts else {}),
    )


def _late_by_seed(board: Board, knobs: Knobs, arm: str) -> Mapping[int, float]:
    """Mean accuracy of an arm's last phases, for the seeds that have ended."""
    return {s: v for s, v in late(arm)(board.log, knobs).items() if math.isfinite(v)}


def _sweep(knobs: Knobs, board: Board) -> Figure:
    """Late accuracy against the learning rate, for each network without remedy."""
    factors = sorted((1.0, *SWEEP))
    bases = [v.name for v in variants(knobs) if v.factor == 1.0 and not v.remedy and v.name != REPLAY]
    ended = FrameLog()
    for base in bases:
        by_rate = [_late_by_seed(board, knobs, rate_name(Variant(base), knobs, f)) for f in factors]
        for seed in set.intersection(*(set(found) for found in by_rate)):
            accuracies = np.array([found[seed] for found in by_rate])
            ended.append(Frame(board.log.last_step, base, seed, {"late": accuracies}))
    return (
        board.of(ended)
        .only(bases)
        .profile(
            "late",
            title="Late phases at three learning rates",
            x="log₁₀ of the learning rate",
            y="accuracy, last five phases (%)",
            look_for="At the end: compare each network at its own best.",
            positions=[float(np.log10(factor * knobs.learning_rate())) for factor in factors],
            step=None,
        )
    )


def _remedies(knobs: Knobs, board: Board) -> Figure:
    """Late accuracy of each remedy, with and without NaP."""
    bases = [name for name in (normed(knobs), NAP) if name in board.arms]
    places = {"none": "", **{REMEDIES[r]: f", {REMEDIES[r]}" for r in knobs.remedies}}
    ended = FrameLog(
        Frame(board.log.last_step, base, seed, {f"late{end}": value})
        for base in bases
        for end in places.values()
        for seed, value in _late_by_seed(board, knobs, base + end).items()
    )
    return (
        board.of(ended)
        .only(bases)
        .dots(
            {place: f"late{end}" for place, end in places.items()},
            title="Late phases with each remedy",
            x="accuracy, last five phases (%)",
            look_for="At the end: are the remedies closer together with NaP?"
            if knobs.remedies_with_nap
            else "At the end: does a remedy help the norm?",
            zero=False,
            step=None,
        )
    )


def _equivalence(knobs: Knobs) -> Sheet:
    plain = normed(knobs)

    def step_sizes(board: Board) -> Figure:
        return board.only((LAYERWISE, GLOBAL, REPLAY)).lines(
            _by_layer("rate", knobs),
            title="Learning rates that were used",
            y="learning rate, log scale",
            look_for="Rescaled rates rise with the weights. Do replayed ones fall?",
            log_scale=True,
        )

    def laws(board: Board) -> Figure:
        return board.only([plain]).lines(
            {"law/cosine": ", cos", "law/growth": ", law"},
            title="Two laws, checked at every step",
            y="largest error, log scale",
            look_for="cos: gradient against weight. law: growth of the squared length.",
            log_scale=True,
        )

    return Sheet(
        {
            "difference": partial(
                Board.lines,
                series="difference",
                title="Difference of the logits",
                y="largest |difference|, log scale",
                look_for=f"{REPLAY} against {plain}, others against {NAP}: only rounding?",
                log_scale=True,
            ),
            "loss": _loss(f"Does {LAYERWISE} lie on {NAP}, and {REPLAY} on {plain}?"),
            "rates": _rates(knobs, "Which rates hold it level in every layer?"),
            "step_sizes": step_sizes,
            "lengths": _lengths,
            "laws": laws,
        },
        {"Phases": {"phases": _phases}},
    )


def _stationary(knobs: Knobs) -> Sheet:
    return Sheet(
        {
            "accuracy": partial(
                Board.lines,
                series="accuracy",
                title="Accuracy on held-out digits",
                y="accuracy (%)",
                look_for="Nothing changes here. Does projection cost anything?",
                unit=" %",
            ),
            "rates": _rates(
                knobs, "Do the weights stop growing once all is learned?", normed(knobs), NAP, REPLAY
            ),
            "lengths": _lengths,
            "loss": _loss("Does a constant effective rate stop it from settling?"),
            "dormant": _dormant,
            "gradients": _gradients,
        }
    )


def _games(knobs: Knobs) -> Sheet:
    visits = {
        f"game {visit % knobs.tasks + 1}, cycle {visit // knobs.tasks + 1}": f"game_return/{visit}"
        for visit in range(knobs.tasks * knobs.cycles)
    }

    def rates(board: Board) -> Figure:
        """Of agents that keep one network; one without a norm has no effective rate."""
        known = set(board.log.scalars("elr/1")["arm"]) - {FRESH}
        return _rates(knobs, "Norm: implicit fall. NaP: constant. Which is explicit?", *known or {NAP})(board)

    return Sheet(
        {
            "returns": partial(
                Board.lines,
                series="return",
                title="Return",
                y="mean of the last 20 episodes",
                look_for="It drops with every new game. Who recovers?",
            ),
            "visits": partial(
                Board.lines,
                series="game_return",
                title="Return of each game when it ends",
                y="mean return, second half of the game",
                look_for="Who does as well in the second cycle as in the first?",
            ),
            "rates": rates,
            "lengths": _lengths,
            "dormant": _dormant,
            "loss": partial(
                Board.lines,
                series="loss",
                title="Temporal-difference loss",
                y="Huber loss, log scale",
                look_for="Are there spikes where the game changes?",
                log_scale=True,
            ),
        },
        {
            "Game by game": {
                "games": partial(
                    Board.dots,
                    places=visits,
                    title="Return in each game",
                    x="mean return, second half of the game",
                    look_for="Compare a game's two cycles, and each agent with Fresh net.",
                    zero=False,
                )
            }
        },
    )
