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
    arm_names,
    reference_arm,
)
from normviz.figures import Figure, dot_figure, line_figure
from normviz.frame import Log

__all__ = ["draw"]


def draw(log: Log, knobs: Knobs, step: int | None = None) -> dict[str, Figure]:
    """All figures for what the log holds, with the cursor at ``step``."""
    arms = arm_names(knobs)
    last = knobs.steps
    several = knobs.rewards == "accuracy_and_format"
    figures = {
        "accuracy": line_figure(
            log,
            "accuracy",
            title="Accuracy over all questions",
            y="probability of a right answer",
            look_for="Does a better normaliser learn faster? Compare distances with the bands over seeds.",
            arms=arms,
            step=step,
            last=last,
        ),
        "normaliser": normaliser_figure(log, knobs, step),
        "distribution": accuracy_distribution_figure(log, knobs, step),
        "noise": line_figure(
            log,
            "relative_noise",
            title="Noise of the gradient at one policy",
            y=f"noise ÷ that of {BASELINE}",
            look_for="Variance ÷ squared mean, all at the policy of "
            f"{reference_arm(knobs)}: below 1 is less noisy than R − p alone.",
            arms=arms,
            step=step,
            last=last,
        ),
        "moments": line_figure(
            log,
            {"moment_gradient": "", "moment_theory": ", V"},
            title="Second moment: measured, and V of theory",
            y="second moment",
            look_for="They part where the theorem's assumption fails: large gradients on questions of large advantage.",
            arms=[arm for arm in (BNPO, GRPO, BASELINE) if arm in arms],
            log_scale=True,
            step=step,
            last=last,
        ),
        "parameters": line_figure(
            log,
            {"alpha": ", α", "beta": ", β"},
            title="BNPO's normaliser, refitted to every batch",
            y="α and β",
            look_for="BNPO: for the accuracy. Summed: for both rewards in one, where large α and β mean a narrow spike."
            if several
            else "At 1 and 1 nothing is divided, at 1.5 and 1.5 it is GRPO. Which way does learning move them?",
            arms=[BNPO, UNDECOMPOSED] if several else [BNPO],
            log_scale=several,
            step=step,
            last=last,
        ),
        "operations": dot_figure(
            log,
            {name: f"accuracy/{name}" for name in OPERATIONS},
            title="Accuracy by kind of question",
            x="probability of a right answer",
            look_for="Is some kind of question left behind?",
            arms=arms,
            step=step,
        ),
        "gradients": line_figure(
            log,
            "grad_norm",
            title="Gradient norm in training",
            y="Euclidean norm",
            look_for="The level depends on the scale of the advantages; how much a line jitters does not.",
            arms=arms,
            log_scale=True,
            step=step,
            last=last,
        ),
        "map": moment_map_figure(log, knobs, step),
    }
    if several:
        form = line_figure(
            log,
            "format",
            title="Format: two digits, over all questions",
            y="probability of two digits",
            look_for="Taken apart, each reward has its own Beta. Does the second one come at the cost of the first?",
            arms=arms,
            step=step,
            last=last,
        )
        parts = line_figure(
            log,
            {"part/accuracy": ", accuracy", "part/format": ", format", f"part/{SUM}": ""},
            title="The advantage taken apart",
            y="mean |advantage|",
            look_for="What each reward adds to BNPO's. A line ends once all earn a reward: nothing is left.",
            arms=[BNPO, UNDECOMPOSED],
            log_scale=True,
            step=step,
            last=last,
        )
        figures = {"accuracy": figures.pop("accuracy"), "format": form, "parts": parts, **figures}
    return figures
