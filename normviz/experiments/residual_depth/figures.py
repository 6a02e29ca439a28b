"""What is drawn on the page *Residual depth*."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from normviz.experiments.residual_depth.knobs import (
    SCALED,
    SMALL,
    Knobs,
    arm_name,
    arm_names,
    scaled,
    sweep_name,
)
from normviz.figures import Figure, line_figure, profile_figure
from normviz.figures.responses import response_figure
from normviz.figures.theories import theory_figure
from normviz.frame import Log
from normviz.residual.counting import log_level_weights

__all__ = ["SLOPES", "draw", "levels_theory", "module_sizes"]

SLOPES = 5
"""Remainders whose order is measured, if there are as many levels."""
CEILING = 100.0
"""Greatest loss that is drawn: an exploding tower starts at 10¹⁴."""
HE_POWER = 2.0
"""E|f(h)|^2 / |h|^2 of a branch of two He layers with a ReLU between, and the same for its Jacobian."""


def levels_theory(
    n: int, lam: float, order: int, power: float, gain: float, *, coherent: bool = False
) -> NDArray[np.float64]:
    """Expected size of each level relative to the input, k = 0..order.

    Independent modules of mean zero: the C(n, k) paths of a level are uncorrelated, each lam^k sqrt(power gain^{k-1})
    in size, so that the level is sqrt(C(n, k)) times that. Coherent paths: C(n, k) times.

    Args:
        n: number of modules.
        lam: scale.
        order: last level.
        power: E|f(x)|^2 / |x|^2 of one module.
        gain: E|J v|^2 / |v|^2 of its Jacobian.
        coherent: all paths point the same way.
    """
    logs = log_level_weights(n, 1.0, order) * (1.0 if coherent else 0.5)
    k = np.arange(order + 1)
    with np.errstate(divide="ignore"):
        path = k * np.log(lam) + np.where(k > 0, np.log(power) / 2 + (k - 1) * np.log(gain) / 2, 0.0)
    return np.asarray(np.exp(logs + path))


def module_sizes(log: Log, knobs: Knobs) -> tuple[float, float] | None:
    """(power, gain) of the modules: exact for linear maps and ReLU branches, else as measured; None before that."""
    if knobs.task == "expansion" and knobs.modules == "linear":
        return 1.0, 1.0
    if knobs.activation == "relu":
        return HE_POWER, HE_POWER
    measured = [log.scalars(f"module/{name}")["value"] for name in ("power", "gain")]
    if any(values.empty for values in measured):
        return None
    power, gain = (float(values.mean()) for values in measured)
    return power, gain


def draw(log: Log, knobs: Knobs, step: int | None = None) -> dict[str, Figure]:
    """All figures for what the log holds, with the cursor at ``step``."""
    if knobs.task == "expansion":
        return _expansion(log, knobs, step)
    return _sweep(log, knobs, step) if knobs.task == "sweep" else _training(log, knobs, step)


def _lambda_of_arms(knobs: Knobs) -> dict[str, float]:
    """λ of each trained arm that is nothing but a scale."""
    several = len(knobs.learning_rates) > 1
    return {
        arm_name(method, rate if several else None): knobs.scale_of(method)
        for rate in knobs.learning_rates
        for method in knobs.methods
        if method in SCALED
    }


def _stream_theory(log: Log, knobs: Knobs) -> dict[str, list[float]]:
    """|h_i| at the start, from |h_0|: (1 + 2 λ²)^{i/2} for ReLU branches of He weights."""
    if knobs.activation != "relu":
        return {}
    start = {entry.arm: float(entry.value[0]) for entry in log.arrays("signal_by_layer", 0)}
    return {
        arm: [start[arm] * math.exp(0.5 * i * math.log1p(HE_POWER * lam**2)) for i in range(knobs.depth + 1)]
        for arm, lam in _lambda_of_arms(knobs).items()
        if arm in start
    }


def _step_theory(knobs: Knobs) -> dict[str, list[float]]:
    """|f_l| / |h_{l-1}| at the start: constant for a scale, 1/√l behind a norm."""
    blocks = range(1, knobs.depth + 1)
    several = len(knobs.learning_rates) > 1
    theory = {
        arm_name(norm, rate if several else None): [block**-0.5 for block in blocks]
        for rate in knobs.learning_rates
        for norm in ("batchnorm", "layernorm")
        if norm in knobs.methods and knobs.activation == "relu"
    }
    if knobs.activation == "relu":
        theory |= {
            arm: [lam * math.sqrt(HE_POWER)] * knobs.depth for arm, lam in _lambda_of_arms(knobs).items()
        }
    return theory


def _training(log: Log, knobs: Knobs, step: int | None) -> dict[str, Figure]:
    arms, last, n = arm_names(knobs), knobs.steps, knobs.depth
    order = min(knobs.order, n)
    levels = (
        {
            arm: levels_theory(n, lam, order, HE_POWER, HE_POWER).tolist()
            for arm, lam in _lambda_of_arms(knobs).items()
        }
        if knobs.activation == "relu"
        else {}
    )
    figures = {
        "accuracy": line_figure(
            log,
            "validation_accuracy",
            title="Accuracy on held-out digits",
            y="per cent",
            look_for="λ = 1 diverges before it has a line. Who learns without normalization, how far from BatchNorm?",
            arms=arms,
            step=step,
            last=last,
        ),
        "loss": line_figure(
            log,
            "loss",
            title="Training loss",
            y="cross-entropy (nats), log scale",
            look_for="1/√n starts to learn sooner than 1/n at the same rate: its branches weigh √n times more.",
            arms=arms,
            log_scale=True,
            step=step,
            last=last,
            ceiling=CEILING,
        ),
        "signal": theory_figure(
            log,
            "signal_by_layer",
            _stream_theory(log, knobs),
            title="Signal through the depth",
            x="modules passed",
            y="norm of the stream, log scale",
            look_for="Go back to step 0: λ = 1 leaves the chart, 1/√n ends at about e times its input, 1/n near it.",
            arms=arms,
            limits=(0.1, 1e7),
            span=(0, n),
            step=step,
            theory_label="theory, step 0",
        ),
        "levels": theory_figure(
            log,
            "levels",
            levels,
            title="Size of each level of the expansion",
            x="level k: modules on the path",
            y="norm relative to level 0, log scale",
            look_for="With 1/n levels fall fast: a shallow ensemble. With 1/√n paths through many modules count.",
            arms=arms,
            limits=(1e-8, 1e6),
            span=(0, order),
            step=step,
            theory_label="theory, step 0",
        ),
        "gradient": theory_figure(
            log,
            "stream_gradient",
            {},
            title="Gradient through the depth",
            x="modules passed",
            y="norm of the gradient, log scale",
            look_for="From right to left, the way the gradient goes: a flat line means every module is told as much.",
            arms=arms,
            limits=(1e-8, 1e4),
            span=(0, n),
            step=step,
        ),
        "effective": theory_figure(
            log,
            "effective_scale",
            _step_theory(knobs),
            title="Effective scale of each module",
            x="module",
            y="branch over stream, log scale",
            look_for="Normalized branches add size 1 to a stream that grows: their share falls like 1/√module.",
            arms=arms,
            positions=range(1, n + 1),
            limits=(1e-4, 10.0),
            span=(1, n),
            step=step,
            theory_label="theory, step 0",
        ),
        "complexity": line_figure(
            log,
            "complexity",
            title="Geometric complexity of the network",
            y="squared Jacobian norm, log scale",
            look_for="How strongly the output varies around the data: the capacity that the scale controls.",
            arms=arms,
            log_scale=True,
            step=step,
            last=last,
            ceiling=1e3 * CEILING,
        ),
    }
    if "skipinit" in knobs.methods:
        figures["alphas"] = profile_figure(
            log,
            "alphas",
            title="What SkipInit learns",
            x="module",
            y="multiplier α",
            look_for="Learned from 0: compare their size with the two fixed rules.",
            arms=[arm for arm in arms if arm.startswith(arm_name("skipinit"))],
            reference={"1/√n": [n**-0.5] * n, "1/n": [1 / n] * n},
            step=step,
        )
    return figures


def _expansion(log: Log, knobs: Knobs, step: int | None) -> dict[str, Figure]:
    methods = scaled(knobs)
    arms = [arm_name(method) for method in methods]
    sizes = module_sizes(log, knobs)
    moment = max((entry.step for entry in log.arrays("levels", step)), default=knobs.depth)
    seen = next((entry for entry in log.arrays("growth", None)), None)
    visited = _visited(log)
    levels: dict[str, list[float]] = {}
    growth: dict[str, list[float]] = {}
    if sizes is not None:
        for method, arm in zip(methods, arms, strict=True):
            lam = knobs.scale_of(method, moment)
            levels[arm] = levels_theory(moment, lam, knobs.order, *sizes, coherent=knobs.tied).tolist()
            if not knobs.tied and math.isclose(*sizes) and seen is not None:
                growth[arm] = [
                    math.exp(min(0.5 * m * math.log1p(sizes[0] * knobs.scale_of(method, m) ** 2), 700.0))
                    for m in visited
                ]
    return {
        "levels": theory_figure(
            log,
            "levels",
            levels,
            title="Size of each level, measured and in theory",
            x="level k: modules on the path",
            y="norm relative to level 0, log scale",
            look_for=_levels_text(knobs),
            arms=arms,
            limits=(1e-8, 1e8),
            span=(0, knobs.order),
            step=step,
            unit="depth",
        ),
        "truncation": theory_figure(
            log,
            "truncation",
            {},
            title="What is missed when the sum stops at level K",
            x="last level K that is kept",
            y="error relative to the output, log scale",
            look_for="1/n: a handful of levels is the whole network. "
            + (
                "Curved modules with a larger λ: a series that need not converge."
                if _curved(knobs)
                else "λ = 1: the first levels are next to nothing."
            ),
            arms=arms,
            limits=(1e-12, 10.0),
            span=(0, knobs.order),
            step=step,
            unit="depth",
        ),
        "growth": theory_figure(
            log,
            "growth",
            growth,
            title="Growth of the stream with depth",
            x="depth n",
            y="output over input, log scale",
            look_for=_growth_text(knobs),
            arms=arms,
            positions=visited,
            limits=(0.1, 1e12),
            span=(1, knobs.depth),
            step=step,
            unit="depth",
        ),
        "slopes": theory_figure(
            log,
            "slopes",
            {SMALL: [K + 1.0 for K in range(13)]},
            title="Order of the remainder",
            x="last level K that is kept",
            y="power of λ in what is missed",
            look_for="Measured at the end. Smooth modules: K + 1, as the theorem says. ReLU: kinks hold it below 3.",
            arms=[SMALL],
            log_scale=False,
            span=(0, SLOPES - 1),
            limits=(0.0, SLOPES + 1.0),
            step=step,
            unit="depth",
            theory_label="K + 1",
        ),
    }


def _curved(knobs: Knobs) -> bool:
    """Whether modules have second derivatives, so that trees join the chains from level 3 on."""
    return knobs.modules == "branches" and knobs.activation != "relu"


def _levels_text(knobs: Knobs) -> str:
    if knobs.tied:
        return "Dotted: theory of one repeated path, C(n, k) times. Only 1/n makes the levels fall."
    theory = "theory of independent paths"
    if _curved(knobs):
        return f"Dotted: {theory}, chains only. Curved modules also have trees, from level 3 on."
    return f"Dotted: {theory}. 1/n: levels fall fast."


def _growth_text(knobs: Knobs) -> str:
    if _curved(knobs) and knobs.activation == "tanh":
        return (
            "tanh bounds what a module can add: even λ = 1 does not explode, and 1/n stays near the identity."
        )
    if knobs.tied:
        return (
            "One module again and again: its paths add up. Explodes for λ = 1, grows for 1/√n; 1/n holds it."
        )
    return "Explodes for λ = 1, constant for 1/√n, and 1/n: close to the identity."


def _visited(log: Log) -> list[int]:
    """Depths at which the growing tower was looked at."""
    return sorted({entry.step for entry in log.array_history("growth")})


def _sweep(log: Log, knobs: Knobs, step: int | None) -> dict[str, Figure]:
    doses = {sweep_name(lam): lam for lam in knobs.lambdas()}
    marks = {"1/n": 1 / knobs.depth, "1/√n": knobs.depth**-0.5}
    x = "scale λ of every module, log scale"
    return {
        "accuracy": response_figure(
            log,
            "validation_accuracy",
            doses,
            title="Accuracy on held-out digits",
            x=x,
            y="per cent",
            look_for="The best scale for this depth, rate and number of steps; a cross marks scales that diverged.",
            marks=marks,
            step=step,
        ),
        "loss": response_figure(
            log,
            "loss",
            doses,
            title="Training loss",
            x=x,
            y="cross-entropy (nats), log scale",
            look_for="Capacity at work: up to some scale a larger λ fits the training data faster.",
            log_scale=True,
            marks=marks,
            step=step,
        ),
        "complexity": response_figure(
            log,
            "complexity",
            doses,
            title="Geometric complexity of the network",
            x=x,
            y="squared Jacobian norm, log scale",
            look_for="The paper: one hump. Is the highest point inside, or at an end of what still trains?",
            log_scale=True,
            marks=marks,
            step=step,
        ),
        "levels": theory_figure(
            log,
            "levels",
            {},
            title="Size of each level of the expansion",
            x="level k: modules on the path",
            y="norm relative to level 0, log scale",
            look_for="The smaller λ, the steeper: paths through many modules are damped.",
            arms=list(doses),
            limits=(1e-8, 1e6),
            span=(0, min(knobs.order, knobs.depth)),
            step=step,
        ),
        "curves": line_figure(
            log,
            "loss",
            title="Training loss over the steps",
            y="cross-entropy (nats), log scale",
            look_for="Too small a scale is slow, too large a one unstable.",
            arms=list(doses),
            log_scale=True,
            step=step,
            last=knobs.steps,
            ceiling=CEILING,
        ),
    }
