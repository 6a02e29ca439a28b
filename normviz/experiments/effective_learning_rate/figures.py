"""What is drawn on the page *Effective learning rate*."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from normviz.experiments.effective_learning_rate.claims import late_and_first
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
from normviz.figures import Figure, line_figure, profile_figure
from normviz.figures.dots import dot_figure
from normviz.frame import Frame, FrameLog, Log

__all__ = ["draw", "growth_figure"]


def draw(log: Log, knobs: Knobs, step: int | None = None) -> dict[str, Figure]:
    """All figures for what the log holds, with the cursor at ``step``."""
    return {
        "memorisation": _memorisation,
        "equivalence": _equivalence,
        "stationary": _stationary,
        "games": _games,
    }[knobs.task](log, knobs, step)


def _names(knobs: Knobs) -> list[str]:
    return [variant.name for variant in variants(knobs)]


def _by_layer(name: str, knobs: Knobs) -> dict[str, str]:
    """The scalar of each hidden weight tensor, and what its line is called after the arm."""
    return {f"{name}/{layer}": f", W{'₀₁₂₃₄₅'[layer]}" for layer in range(1, knobs.layers() + 1)}


def _rates(log: Log, knobs: Knobs, step: int | None, arms: Sequence[str], look_for: str) -> Figure:
    """Effective learning rate of every hidden layer; explicit decays span orders of magnitude."""
    return line_figure(
        log,
        _by_layer("elr", knobs),
        title="Effective learning rate of each layer",
        y="effective / set learning rate",
        look_for=look_for,
        arms=[name for name in arms if name in _names(knobs)],
        log_scale=knobs.task == "games",
        step=step,
        last=knobs.total_steps(),
    )


def _lengths(log: Log, knobs: Knobs, step: int | None) -> Figure:
    return line_figure(
        log,
        "length",
        title="Length of the hidden weights",
        y="‖W‖ relative to the start",
        look_for="Projection holds it at 1. Where a norm follows, growth changes nothing but the speed of learning.",
        arms=_names(knobs),
        step=step,
        last=knobs.total_steps(),
    )


def _dormant(log: Log, knobs: Knobs, step: int | None) -> Figure:
    changing = knobs.task != "stationary"
    return line_figure(
        log,
        "dormant",
        title="Dormant units",
        y="share of hidden units (%)",
        look_for="Units that (almost) never fire. Do they come back"
        + (", or do they pile up from one task to the next?" if changing else "?"),
        arms=_names(knobs),
        unit=" %",
        step=step,
        last=knobs.total_steps(),
    )


def _loss(log: Log, knobs: Knobs, step: int | None, look_for: str) -> Figure:
    return line_figure(
        log,
        "loss",
        title="Training loss",
        y="cross-entropy (nats)",
        look_for=look_for,
        arms=_names(knobs),
        step=step,
        last=knobs.total_steps(),
    )


def _gradients(log: Log, knobs: Knobs, step: int | None) -> Figure:
    return line_figure(
        log,
        "grad_norm",
        title="Gradient norm",
        y="Euclidean norm",
        look_for="Behind a norm the gradient shrinks as the weights grow, by 1 / ‖W‖. Log scale.",
        arms=_names(knobs),
        log_scale=True,
        step=step,
        last=knobs.total_steps(),
    )


def _memorisation(log: Log, knobs: Knobs, step: int | None) -> dict[str, Figure]:
    figures = {
        "phases": line_figure(
            log,
            "phase_accuracy",
            title="Accuracy at the end of each phase",
            y="accuracy on the phase's labels (%)",
            look_for="Flat: each new set of labels is learned as well as the first. Falling: plasticity is lost.",
            arms=_names(knobs),
            unit=" %",
            step=step,
            last=knobs.total_steps(),
        ),
        "rates": _rates(
            log,
            knobs,
            step,
            (normed(knobs), NAP, REPLAY),
            "With a norm only it falls though nobody asked. NaP holds it."
            + (" Replayed, it falls again." if knobs.replay else ""),
        ),
        "lengths": _lengths(log, knobs, step),
        "dormant": _dormant(log, knobs, step),
        "loss": _loss(
            log, knobs, step, "It jumps at every reset. How far does it come down before the next one?"
        ),
        "gradients": _gradients(log, knobs, step),
    }
    if knobs.sweep:
        figures["sweep"] = _sweep(log, knobs)
    if knobs.remedies:
        figures["remedies"] = _remedies(log, knobs)
    return figures


def _sweep(log: Log, knobs: Knobs) -> Figure:
    """Late accuracy against the learning rate, for each network without remedy."""
    factors = sorted((1.0, *SWEEP))
    bases = [v.name for v in variants(knobs) if v.factor == 1.0 and not v.remedy and v.name != REPLAY]
    derived = FrameLog()
    for base in bases:
        by_rate = [late_and_first(log, rate_name(Variant(base), knobs, factor)) for factor in factors]
        for seed in set.intersection(*(set(found) for found in by_rate)):
            late = np.array([found[seed][0] for found in by_rate])
            derived.append(Frame(log.last_step, base, seed, {"late": late}))
    return profile_figure(
        derived,
        "late",
        title="Late phases at three learning rates",
        x="log₁₀ of the learning rate",
        y="accuracy, last five phases (%)",
        look_for="Compare each network at its own best, not only at one rate. Shown when the run has ended.",
        arms=bases,
        positions=[float(np.log10(factor * knobs.learning_rate())) for factor in factors],
    )


def _remedies(log: Log, knobs: Knobs) -> Figure:
    """Late accuracy of each remedy, with and without NaP."""
    bases = [name for name in (normed(knobs), NAP) if name in _names(knobs)]
    places = {"none": "", **{REMEDIES[r]: f", {REMEDIES[r]}" for r in knobs.remedies}}
    derived = FrameLog()
    for base in bases:
        for end in places.values():
            for seed, (late, _) in late_and_first(log, base + end).items():
                derived.append(Frame(log.last_step, base, seed, {f"late{end}": late}))
    return dot_figure(
        derived,
        {place: f"late{end}" for place, end in places.items()},
        title="Late phases with each remedy",
        x="accuracy, last five phases (%)",
        look_for=(
            "Are the remedies closer together with NaP than without?"
            if knobs.remedies_with_nap
            else "Do the remedies help the norm? Remedies with NaP too shows whether NaP makes them alike."
        )
        + " Shown when the run has ended.",
        arms=bases,
        zero=False,
    )


def _equivalence(log: Log, knobs: Knobs, step: int | None) -> dict[str, Figure]:
    line = partial(line_figure, log, step=step, last=knobs.total_steps())
    plain = normed(knobs)
    return {
        "loss": _loss(
            log,
            knobs,
            step,
            f"{LAYERWISE} lies on {NAP}, {REPLAY} on {plain}: click the legend to see one at a time.",
        ),
        "difference": line(
            "difference",
            title="Difference of the logits",
            y="largest |difference|",
            look_for=f"{REPLAY} is compared with {plain}, the others with {NAP}. Rounding is near 1e-14. Log scale.",
            arms=_names(knobs),
            log_scale=True,
        ),
        "step_sizes": line(
            _by_layer("rate", knobs),
            title="Learning rates that were used",
            y="learning rate",
            look_for="Rescaled rates must rise to keep up with growing weights; replayed ones fall. Log scale.",
            arms=[name for name in (LAYERWISE, GLOBAL, REPLAY) if name in _names(knobs)],
            log_scale=True,
        ),
        "rates": _rates(
            log,
            knobs,
            step,
            (NAP, LAYERWISE, GLOBAL, plain, REPLAY),
            "What the function feels. Layer-wise rates hold it like NaP, one global factor only on average.",
        ),
        "lengths": _lengths(log, knobs, step),
        "laws": line(
            {"law/cosine": ", cos", "law/growth": ", law"},
            title="Two laws, checked at every step",
            y="largest error",
            look_for="cos: gradient against weight, 0. law: the squared length grows by lr² ‖gradient‖². Log scale.",
            arms=[plain],
            log_scale=True,
        ),
    }


def _stationary(log: Log, knobs: Knobs, step: int | None) -> dict[str, Figure]:
    return {
        "accuracy": line_figure(
            log,
            "accuracy",
            title="Accuracy on held-out digits",
            y="accuracy (%)",
            look_for="Nothing changes here. Does projection cost anything?",
            arms=_names(knobs),
            unit=" %",
            step=step,
            last=knobs.total_steps(),
        ),
        "rates": _rates(
            log,
            knobs,
            step,
            (normed(knobs), NAP, REPLAY),
            "Once the digits are learned gradients vanish, and the weights stop growing.",
        ),
        "lengths": _lengths(log, knobs, step),
        "loss": _loss(log, knobs, step, "Does a constant effective rate stop it from settling?"),
        "dormant": _dormant(log, knobs, step),
        "gradients": _gradients(log, knobs, step),
    }


def _games(log: Log, knobs: Knobs, step: int | None) -> dict[str, Figure]:
    line = partial(line_figure, log, arms=_names(knobs), step=step, last=knobs.total_steps())
    visits = {
        f"game {visit % knobs.tasks + 1}, cycle {visit // knobs.tasks + 1}": f"game_return/{visit}"
        for visit in range(knobs.tasks * knobs.cycles)
    }
    return {
        "returns": line(
            "return",
            title="Return",
            y="mean of the last 20 episodes",
            look_for="It drops with every new game. Who recovers, and who still does in the second cycle?",
        ),
        "rates": _rates(
            log,
            knobs,
            step,
            [
                name
                for name in _names(knobs)
                if name != FRESH and log.scalars("elr/1")["arm"].isin([name]).any()
            ],
            "The implicit schedule of the norm, NaP's constant, and the explicit decay. Log scale.",
        ),
        "games": dot_figure(
            log,
            visits,
            title="Return in each game",
            x="mean return, second half of the game",
            look_for="Compare a game's two cycles, and each agent with the network that is fresh in every game.",
            arms=_names(knobs),
            step=step,
            zero=False,
        ),
        "lengths": _lengths(log, knobs, step),
        "dormant": _dormant(log, knobs, step),
        "loss": line(
            "loss",
            title="Temporal-difference loss",
            y="Huber loss",
            look_for="Spikes at a change of game: the old values are wrong. Log scale.",
            log_scale=True,
        ),
    }
