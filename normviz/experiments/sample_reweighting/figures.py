"""What is drawn on the page *Sample reweighting*."""

from __future__ import annotations

from normviz.experiments.sample_reweighting.knobs import (
    STRATEGY_NAMES,
    TEXT_SOURCES,
    Knobs,
    arm_names,
    sources,
)
from normviz.experiments.sample_reweighting.sample_rows import sample_rows_figure
from normviz.experiments.sample_reweighting.weight_curves import weight_curve_figure
from normviz.figures import Figure, area_figure, dot_figure, line_figure
from normviz.frame import Log

__all__ = ["draw"]


def draw(log: Log, knobs: Knobs, step: int | None = None) -> dict[str, Figure]:
    """All figures for what the log holds, with the cursor at ``step``."""
    arms = arm_names(knobs)
    shown = next((arm for arm in arms if arm != STRATEGY_NAMES["uniform"]), arms[0])
    language = knobs.task == "language"
    figures = {"weights": weight_curve_figure(log, knobs, step)}
    figures["heldout"] = line_figure(
        log,
        "heldout_loss",
        title="Loss on held-out clean text" if language else "Loss on fresh regular samples",
        y="cross-entropy (nats)" if language else "mean squared error / 2",
        look_for="The weights want to lower this with the same number of steps. Which line is lowest?",
        arms=arms,
        log_scale=not language,
        step=step,
        last=knobs.steps,
    )
    figures["shares"] = area_figure(
        log,
        {name: f"share/{name}" for name in sources(knobs)},
        title="Where the weight goes",
        y="share of the batch's weight",
        look_for="Uniform shows the mixture itself. Does the other arm take weight from what repeats? And who gains?",
        arms=arms,
        chosen=shown,
        step=step,
        last=knobs.steps,
    )
    if language:
        figures |= _language(log, knobs, arms, step)
    else:
        figures |= _regression(log, knobs, arms, step)
    figures["devices"] = line_figure(
        log,
        "local_weight_error",
        title="If each device looked only at its own losses",
        y="share of weight that is misplaced",
        look_for="Lowest and highest loss must come from all devices: the more devices, the more goes wrong.",
        arms=arms,
        step=step,
        last=knobs.steps,
    )
    return figures


def _language(log: Log, knobs: Knobs, arms: list[str], step: int | None) -> dict[str, Figure]:
    return {
        "domains": dot_figure(
            log,
            {name: f"heldout/{name}" for name in TEXT_SOURCES},
            title="Loss by kind of text",
            x="cross-entropy (nats)",
            look_for="What does weight on hard samples cost the duplicated ones? Shuffled text cannot be learned.",
            arms=arms,
            step=step,
        ),
        "samples": sample_rows_figure(log, knobs, step),
        "loss": line_figure(
            log,
            "batch_loss",
            title="Training loss, all samples weighing the same",
            y="cross-entropy (nats)",
            look_for="Duplicated samples count fully here: who knows them by heart leads, yet may lose on new text.",
            arms=arms,
            step=step,
            last=knobs.steps,
        ),
    }


def _regression(log: Log, knobs: Knobs, arms: list[str], step: int | None) -> dict[str, Figure]:
    return {
        "bound": line_figure(
            log,
            {"average_gap": "", "bound": ", bound"},
            title="The bound of theory and what it bounds",
            y="mean gap so far",
            look_for="The upper bundle holds the bounds, the lower what they bound: each must stay below its own.",
            arms=arms,
            log_scale=True,
            step=step,
            last=knobs.steps,
        ),
        "loss": line_figure(
            log,
            "loss",
            title="Training loss, all samples weighing the same",
            y="mean squared error / 2",
            look_for="The weighted loss would be higher by construction: only this mean compares the arms.",
            arms=arms,
            log_scale=True,
            step=step,
            last=knobs.steps,
        ),
        "saving": line_figure(
            log,
            "bound_saving",
            title="What the weights take off the bound",
            y="uniform's bound minus the arm's",
            look_for="Weight that rises with the loss can only help (LinUpper, Upper); Quadratic may fall below zero.",
            arms=arms,
            zero_line=True,
            step=step,
            last=knobs.steps,
        ),
    }
