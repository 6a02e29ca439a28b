"""What the paper of the page *Sample reweighting* claims, measured here."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING

from normviz.claims import Claim, Measure, paired_difference
from normviz.experiments.sample_reweighting.knobs import STRATEGY_NAMES, Knobs
from normviz.frame import Log

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CLAIMS"]

UNIFORM, LINUPPER, QUADRATIC, EXTREMES = (
    STRATEGY_NAMES[name] for name in ("uniform", "linupper", "quadratic", "extremes")
)
TAIL = 3
"""Evaluations that are averaged for a final held-out loss."""
REDUNDANT = 0.5
"""Redundant share from which the gain of LinUpper is claimed."""
MANY_OUTLIERS = 0.15
"""Shuffled and foreign share from which outliers count as many."""

NO_TABLE = "Downstream accuracy of GPT-2 124M–684M and Llama 1.4B, 7B; the tables are not quoted here."


def _difference(arm: str, baselines: tuple[str, ...]) -> Measure:
    """Final held-out clean loss of an arm minus that of the best of others."""

    def measure(log: Log, knobs: Knobs) -> dict[int, float]:  # noqa: ARG001
        differences = [paired_difference(log, "heldout_loss", arm, b, window=TAIL) for b in baselines]
        shared = set.intersection(*(set(d) for d in differences))
        return {seed: max(d[seed] for d in differences) for seed in sorted(shared)}

    return measure


def _redundant_text(measure: Measure) -> Measure:
    def only(log: Log, knobs: Knobs) -> dict[int, float]:
        if knobs.task != "language" or knobs.redundant < REDUNDANT:
            return {}
        return dict(measure(log, knobs))

    return only


def _many_outliers(log: Log, knobs: Knobs) -> dict[int, float]:
    if knobs.task != "language" or knobs.shuffled + knobs.foreign < MANY_OUTLIERS - 1e-9:
        return {}
    return dict(_difference(QUADRATIC, (LINUPPER,))(log, knobs))


def _steps_saved(arm: str) -> Measure:
    """Steps the arm needs to reach the loss at which Uniform ends, minus Uniform's."""

    def measure(log: Log, knobs: Knobs) -> dict[int, float]:
        if knobs.task != "regression" or knobs.corrupted:
            return {}
        table = log.scalars("heldout_loss")
        saved: dict[int, float] = {}
        for seed in log.seeds:
            of_seed = table[table["seed"] == seed]
            curves = {a: of_seed[of_seed["arm"] == a] for a in (arm, UNIFORM)}
            if any(len(curve) < 2 for curve in curves.values()):
                continue
            end = curves[UNIFORM].iloc[-1]
            reached = curves[arm].loc[curves[arm]["value"] <= end["value"], "step"]
            saved[seed] = float(reached.min() - end["step"]) if len(reached) else math.inf
        return saved

    return measure


def _orders_below_the_rest(log: Log, knobs: Knobs) -> dict[int, float]:
    """log10 of LinUpper's final loss over the lowest of the other arms'."""
    if knobs.task != "regression" or knobs.corrupted:
        return {}
    final = {(a, int(s)): v for a, s, v in log.final("heldout_loss").itertuples(index=False)}
    orders: dict[int, float] = {}
    for seed in log.seeds:
        values = {arm: final.get((arm, seed)) for arm in (LINUPPER, UNIFORM, QUADRATIC, EXTREMES)}
        if all(v is not None and 0 < v < math.inf for v in values.values()):
            others = min(v for arm, v in values.items() if arm != LINUPPER and v is not None)
            orders[seed] = math.log10((values[LINUPPER] or math.nan) / others)
    return orders


def _bound(log: Log, knobs: Knobs) -> dict[int, float]:
    """Largest mean gap over its bound, over all arms and moments."""
    if knobs.task != "regression" or knobs.corrupted or knobs.step_size > 1:
        return {}
    gap, bound = log.scalars("average_gap"), log.scalars("bound")  # always logged together
    return _per_seed(gap.assign(value=gap["value"] / bound["value"]), max)


def _saving(log: Log, knobs: Knobs) -> dict[int, float]:
    """What LinUpper's weights take off the right side of the bound, at the worst moment."""
    table = log.scalars("bound_saving")
    return _per_seed(table[table["arm"] == LINUPPER], min) if knobs.task == "regression" else {}


def _weight_ratio(log: Log, knobs: Knobs) -> dict[int, float]:
    """Largest r log(largest weight / smallest weight) over all arms and steps; r is at least the knob's."""
    table = log.scalars("weight_log_ratio")
    return _per_seed(table.assign(value=knobs.r * table["value"]), max)


def _device_gap(log: Log, knobs: Knobs) -> dict[int, float]:  # noqa: ARG001
    return _per_seed(log.scalars("device_gap"), max)


def _cost(log: Log, knobs: Knobs) -> dict[int, float]:  # noqa: ARG001
    table = log.scalars("weighting_cost")
    return _per_seed(table[table["arm"] == LINUPPER], median)


def _per_seed(table: pd.DataFrame, summary: Callable[[list[float]], float]) -> dict[int, float]:
    """A summary of all values of each seed."""
    values: dict[int, list[float]] = {}
    for seed, value in zip(table["seed"].tolist(), table["value"].tolist(), strict=True):
        values.setdefault(seed, []).append(value)
    return {seed: summary(of_seed) for seed, of_seed in sorted(values.items())}


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="linupper-beats-uniform",
        paper="dynamic-reweighting",
        statement="Where much of the text repeats, LinUpper learns the clean text faster than uniform weights.",
        paper_figure=NO_TABLE,
        measured="held-out loss on clean text, LinUpper minus Uniform, after equally many steps",
        measure=_redundant_text(_difference(LINUPPER, (UNIFORM,))),
        unit="nats",
        needs="the language task with Uniform and LinUpper and a redundant share of at least 0.5",
    ),
    Claim(
        id="linupper-best",
        paper="dynamic-reweighting",
        statement="LinUpper is the best of the strategies.",
        paper_figure="Best on average of LinUpper, Quadratic and Extremes (qualitative).",
        measured="held-out loss on clean text, LinUpper minus the better of Quadratic and Extremes",
        measure=_redundant_text(_difference(LINUPPER, (QUADRATIC, EXTREMES))),
        unit="nats",
        needs="the language task with LinUpper, Quadratic and Extremes and a redundant share of at least 0.5",
    ),
    Claim(
        id="quadratic-with-outliers",
        paper="dynamic-reweighting",
        statement="With many outliers it pays to take weight from the highest losses too: Quadratic beats LinUpper.",
        paper_figure="Not a figure of the paper: what its reason for shaping the weights leads one to expect.",
        measured="held-out loss on clean text, Quadratic minus LinUpper",
        measure=_many_outliers,
        unit="nats",
        needs="the language task with LinUpper and Quadratic and shuffled plus foreign of at least 0.15",
    ),
    Claim(
        id="regression-linupper",
        paper="dynamic-reweighting",
        statement="In linear regression LinUpper converges faster than uniform weights.",
        paper_figure="Toy regression (figure 7, qualitative).",
        measured="steps LinUpper needs for the loss at which Uniform ends, minus Uniform's",
        measure=_steps_saved(LINUPPER),
        unit="steps",
        needs="the regression task with Uniform and LinUpper and no corrupted samples",
    ),
    Claim(
        id="regression-quadratic",
        paper="dynamic-reweighting",
        statement="In linear regression Quadratic also converges faster than uniform weights.",
        paper_figure="Toy regression (figure 7, qualitative).",
        measured="steps Quadratic needs for the loss at which Uniform ends, minus Uniform's",
        measure=_steps_saved(QUADRATIC),
        unit="steps",
        needs="the regression task with Uniform and Quadratic and no corrupted samples",
    ),
    Claim(
        id="regression-linupper-fastest",
        paper="dynamic-reweighting",
        statement="In linear regression LinUpper converges fastest of all strategies.",
        paper_figure="Toy regression (figure 7, qualitative).",
        measured="log10 of LinUpper's final loss over the lowest of Uniform's, Quadratic's and Extremes'",
        measure=_orders_below_the_rest,
        unit="orders of magnitude",
        needs="the regression task with all four strategies and no corrupted samples",
    ),
    Claim(
        id="bound-holds",
        paper="dynamic-reweighting",
        statement="With a common minimiser and a step of at most 1/L the mean gap stays below the bound.",
        paper_figure="Theorem for smooth convex losses (derived anew here, without the paper's constants).",
        measured="largest mean gap over its bound, all arms and moments",
        measure=_bound,
        threshold=1.0,
        exact=True,
        needs="the regression task, no corrupted samples, a step size of at most 1",
    ),
    Claim(
        id="linupper-tightens-bound",
        paper="dynamic-reweighting",
        statement="Taking weight from low losses tightens the bound: LinUpper's is never above uniform weights'.",
        paper_figure="Consequence of the theorem.",
        measured="uniform weights' bound minus LinUpper's on the same path, at the worst moment",
        measure=_saving,
        threshold=-1e-9,
        side="above",
        exact=True,
        needs="the regression task with LinUpper and no corrupted samples",
    ),
    Claim(
        id="bounded-weights",
        paper="dynamic-reweighting",
        statement="No sample gets more than e^(1/r) times the weight of another.",
        paper_figure="Ratio e^(1/r): 12.2 at r = 0.4 (follows from the formula).",
        measured="largest r · log(largest weight ÷ smallest weight), all arms and steps; 1 is the limit",
        measure=_weight_ratio,
        threshold=1 + 1e-4,
        exact=True,
        needs="at least one step",
    ),
    Claim(
        id="devices-add-up",
        paper="dynamic-reweighting",
        statement="With the weights of the whole batch, the losses of all devices average to the loss of the batch.",
        paper_figure="By construction (one all-gather of the losses, factor W per device).",
        measured="largest relative difference of the mean over virtual devices from the whole batch's loss",
        measure=_device_gap,
        threshold=1e-5,
        exact=True,
        needs="at least one step",
    ),
    Claim(
        id="costs-nothing",
        paper="dynamic-reweighting",
        statement="The weights cost next to nothing: they use losses one has anyway.",
        paper_figure="No extra forward pass, nothing stored per sample (qualitative).",
        measured="median time for weights and weighted loss, in per cent of forward and backward pass",
        measure=_cost,
        threshold=1.0,
        unit="%",
        needs="the language task with LinUpper on a CPU",
        caveat="The cost is a fixed number of tiny operations, beside a network of 110,000 parameters.",
    ),
)
