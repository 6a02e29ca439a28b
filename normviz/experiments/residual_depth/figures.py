"""What is drawn on the page *Residual depth*."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normviz.experiments.residual_depth.knobs import (
    SCALED,
    SMALL,
    Knobs,
    arm_name,
    scaled,
    sweep_name,
)
from normviz.experiments.residual_depth.recorded import SLOPES
from normviz.experiments.residual_depth.responses import response_figure
from normviz.experiments.residual_depth.theories import theory_figure
from normviz.figures import Board, Figure, Sheet
from normviz.frame import Log
from normviz.residual.counting import expected_norm_ratio, log_level_weights

__all__ = ["levels_theory", "module_sizes", "sheet"]

CEILING = 100.0
"""Greatest loss that is drawn: an exploding tower starts at 10¹⁴."""
GREATEST = 1e300
"""Greatest growth of a theory: near the largest float64, and far above every chart."""
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


def sheet(knobs: Knobs) -> Sheet:
    """The charts of a setting."""
    return {"training": _training, "expansion": _expansion, "sweep": _sweep}[knobs.task](knobs)


def _theory(board: Board, name: str, theory: Mapping[str, Sequence[float]], **options: Any) -> Figure:
    shared: dict[str, Any] = {"arms": board.arms, "step": board.step, "progress": board.progress}
    return theory_figure(board.log, name, theory, **{**shared, **options})


def _lambda_of_arms(knobs: Knobs) -> dict[str, float]:
    """λ of each trained arm that is nothing but a scale."""
    return {
        arm_name(method, knobs.rate_suffix(rate)): knobs.scale_of(method)
        for rate in knobs.learning_rates
        for method in knobs.methods
        if method in SCALED
    }


def _growth(modules: int, lam: float, power: float) -> float:
    """Expected size of the stream after so many independent modules, relative to the input."""
    return math.sqrt(min(expected_norm_ratio(modules, lam, power), GREATEST)) if modules else 1.0


def _stream_theory(log: Log, knobs: Knobs) -> dict[str, list[float]]:
    """|h_i| at the start, from |h_0|, for ReLU branches of He weights."""
    if knobs.activation != "relu":
        return {}
    start = {entry.arm: float(entry.value[0]) for entry in log.arrays("signal_by_layer", 0)}
    return {
        arm: [start[arm] * _growth(i, lam, HE_POWER) for i in range(knobs.depth + 1)]
        for arm, lam in _lambda_of_arms(knobs).items()
        if arm in start
    }


def _step_theory(knobs: Knobs) -> dict[str, list[float]]:
    """|f_l| / |h_{l-1}| at the start: constant for a scale, 1/√l behind a norm."""
    if knobs.activation != "relu":
        return {}
    behind_norm = {
        arm_name(norm, knobs.rate_suffix(rate)): [block**-0.5 for block in range(1, knobs.depth + 1)]
        for rate in knobs.learning_rates
        for norm in ("batchnorm", "layernorm")
        if norm in knobs.methods
    }
    constant = {arm: [lam * math.sqrt(HE_POWER)] * knobs.depth for arm, lam in _lambda_of_arms(knobs).items()}
    return behind_norm | constant


def _training(knobs: Knobs) -> Sheet:
    n, order = knobs.depth, min(knobs.order, knobs.depth)

    def signal(board: Board) -> Figure:
        return _theory(
            board,
            "signal_by_layer",
            _stream_theory(board.log, knobs),
            title="Signal through the depth",
            x="modules passed",
            y="norm of the stream, log scale",
            look_for="Go back to step 0: which scale lets the signal explode?",
            limits=(0.1, 1e7),
            span=(0, n),
            theory_label="theory, step 0",
        )

    def levels(board: Board) -> Figure:
        expected = _lambda_of_arms(knobs) if knobs.activation == "relu" else {}
        return _theory(
            board,
            "levels",
            {a: levels_theory(n, lam, order, HE_POWER, HE_POWER).tolist() for a, lam in expected.items()},
            title="Size of each level of the expansion",
            x="level k: modules on the path",
            y="norm relative to level 0, log scale",
            look_for="How much of the stream comes from paths through k modules?",
            limits=(1e-8, 1e6),
            span=(0, order),
            theory_label="theory, step 0",
        )

    def effective(board: Board) -> Figure:
        return _theory(
            board,
            "effective_scale",
            _step_theory(knobs),
            title="Effective scale of each module",
            x="module",
            y="branch over stream, log scale",
            look_for="Does a norm make later modules small, like 1/√module?",
            positions=range(1, n + 1),
            limits=(1e-4, 10.0),
            span=(1, n),
            theory_label="theory, step 0",
        )

    def gradient(board: Board) -> Figure:
        return _theory(
            board,
            "stream_gradient",
            {},
            title="Gradient through the depth",
            x="modules passed",
            y="norm of the gradient, log scale",
            look_for="Flat: early and late modules get gradients of the same size.",
            limits=(1e-8, 1e4),
            span=(0, n),
        )

    def alphas(board: Board) -> Figure:
        return board.only(arm for arm in board.arms if arm.startswith(arm_name("skipinit"))).profile(
            "alphas",
            title="What SkipInit learns",
            x="module",
            y="multiplier α",
            look_for="Learned from 0: is it closer to 1/√n or to 1/n?",
            reference={"1/√n": [n**-0.5] * n, "1/n": [1 / n] * n},
        )

    stage = {
        "signal": signal,
        "levels": levels,
        "effective": effective,
        "loss": _loss("1/√n or 1/n: which learns sooner at the same rate?"),
        "accuracy": partial(
            Board.lines,
            series="validation_accuracy",
            title="Accuracy on held-out examples",
            y="per cent",
            look_for="λ = 1 diverges at once. Who learns without normalization?",
            unit=" %",
        ),
        "complexity": partial(
            Board.lines,
            series="complexity",
            title="Geometric complexity of the network",
            y="squared Jacobian norm, log scale",
            look_for="How strongly does the output vary around the data?",
            log_scale=True,
            ceiling=1e3 * CEILING,
        ),
    }
    more = {"Gradients": {"gradient": gradient}}
    if "skipinit" in knobs.methods:
        more["Learned scales"] = {"alphas": alphas}
    return Sheet(stage, more)


def _loss(look_for: str, title: str = "Training loss") -> Any:
    return partial(
        Board.lines,
        series="loss",
        title=title,
        y="cross-entropy (nats), log scale",
        look_for=look_for,
        log_scale=True,
        ceiling=CEILING,
    )


def _expansion(knobs: Knobs) -> Sheet:
    methods = scaled(knobs)
    names = [arm_name(method) for method in methods]

    def levels(board: Board) -> Figure:
        sizes = module_sizes(board.log, knobs)
        n = max((entry.step for entry in board.log.arrays("levels", board.step)), default=knobs.depth)
        theory = {}
        if sizes is not None:
            for method, arm in zip(methods, names, strict=True):
                lam = knobs.scale_of(method, n)
                theory[arm] = levels_theory(n, lam, knobs.order, *sizes, coherent=knobs.tied).tolist()
        return _theory(
            board.only(names),
            "levels",
            theory,
            title="Size of each level, and its theory",
            x="level k: modules on the path",
            y="norm relative to level 0, log scale",
            look_for=_levels_text(knobs),
            limits=(1e-8, 1e8),
            span=(0, knobs.order),
        )

    def truncation(board: Board) -> Figure:
        return _theory(
            board.only(names),
            "truncation",
            {},
            title="What is missed when the sum stops at K",
            x="last level K that is kept",
            y="error relative to the output, log scale",
            look_for="Does the series converge for a larger λ?"
            if _curved(knobs)
            else "How few levels of 1/n are the whole network?",
            limits=(1e-12, 10.0),
            span=(0, knobs.order),
        )

    def growth(board: Board) -> Figure:
        visited = sorted({entry.step for entry in board.log.array_history("growth")})
        sizes = module_sizes(board.log, knobs)
        theory: dict[str, list[float]] = {}
        if sizes is not None and not knobs.tied and math.isclose(*sizes) and visited:
            theory = {
                arm: [_growth(m, knobs.scale_of(method, m), sizes[0]) for m in visited]
                for method, arm in zip(methods, names, strict=True)
            }
        return _theory(
            board.only(names),
            "growth",
            theory,
            title="Growth of the stream with depth",
            x="depth n",
            y="output over input, log scale",
            look_for=_growth_text(knobs),
            positions=visited,
            limits=(0.1, 1e12),
            span=(1, knobs.depth),
        )

    def slopes(board: Board) -> Figure:
        return _theory(
            board.only([SMALL]),
            "slopes",
            {SMALL: [K + 1.0 for K in range(13)]},
            title="Order of the remainder",
            x="last level K that is kept",
            y="power of λ in what is missed",
            look_for="Measured at the end: is it K + 1, as in theory?",
            log_scale=False,
            span=(0, SLOPES - 1),
            limits=(0.0, SLOPES + 1.0),
            theory_label="K + 1",
        )

    return Sheet({"levels": levels, "truncation": truncation, "growth": growth, "slopes": slopes})


def _curved(knobs: Knobs) -> bool:
    """Whether modules have second derivatives, so that trees join the chains from level 3 on."""
    return knobs.modules == "branches" and knobs.activation != "relu"


def _levels_text(knobs: Knobs) -> str:
    if knobs.tied:
        return "Dotted: all paths alike. Does only 1/n make levels fall?"
    if _curved(knobs):
        return "Dotted: chains only. Do trees lift levels 3 and above?"
    return "Dotted: independent paths. How fast do the levels of 1/n fall?"


def _growth_text(knobs: Knobs) -> str:
    if _curved(knobs) and knobs.activation == "tanh":
        return "tanh bounds what a module adds: does λ = 1 explode?"
    if knobs.tied:
        return "The same module again and again: does 1/√n still hold?"
    return "Which scale explodes, which one stays near the input?"


def _sweep(knobs: Knobs) -> Sheet:
    doses = {sweep_name(lam): lam for lam in knobs.lambdas()}
    marks = {"1/n": 1 / knobs.depth, "1/√n": knobs.depth**-0.5}

    def response(board: Board, name: str, **options: Any) -> Figure:
        return response_figure(
            board.log,
            name,
            doses,
            x="scale λ of every module, log scale",
            marks=marks,
            arms=board.arms,
            step=board.step,
            progress=board.progress,
            **options,
        )

    def levels(board: Board) -> Figure:
        return _theory(
            board,
            "levels",
            {},
            title="Size of each level of the expansion",
            x="level k: modules on the path",
            y="norm relative to level 0, log scale",
            look_for="Does a smaller λ damp paths through many modules?",
            limits=(1e-8, 1e6),
            span=(0, min(knobs.order, knobs.depth)),
        )

    return Sheet(
        {
            "complexity": partial(
                response,
                name="complexity",
                title="Geometric complexity of the network",
                y="squared Jacobian norm, log scale",
                look_for="The paper: one hump. Is the highest point inside?",
                log_scale=True,
            ),
            "accuracy": partial(
                response,
                name="validation_accuracy",
                title="Accuracy on held-out examples",
                y="per cent",
                look_for="Which scale is best? A cross: that scale diverged.",
            ),
            "loss": partial(
                response,
                name="loss",
                title="Training loss",
                y="cross-entropy (nats), log scale",
                look_for="Up to which scale does a larger λ fit faster?",
                log_scale=True,
            ),
            "levels": levels,
            "curves": _loss(
                "Which scales are too slow, which unstable?", title="Training loss over the steps"
            ),
        }
    )
