"""What is drawn on the page *Optimizer spectra*: every optimizer at its best learning rate, and the grids."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normviz.experiments.optimizer_spectra.best import (
    best_log,
    chosen_members,
    criterion,
    final_losses,
    members_by_arm,
)
from normviz.experiments.optimizer_spectra.charts import factors_figure, geometry_figure, plan_figure
from normviz.experiments.optimizer_spectra.knobs import HISTOGRAM_RANGE, Knobs, arm_names, split_member
from normviz.figures import Figure, line_figure, profile_figure, ridge_figure, seed_bands
from normviz.figures.bars import bar_figure
from normviz.figures.curves import curve_figure
from normviz.frame import Log

__all__ = ["draw"]

FLOOR = 1e-4
"""Singular values below this share of the root mean square are not drawn."""

DIVERGED = 100.0
"""Final losses from here on are left out of the chart of learning rates."""

LOSS = {
    "digits": "cross-entropy (nats)",
    "regression": "‖AWB − C‖² / ‖C‖²",
    "language": "cross-entropy (nats)",
}


def draw(log: Log, knobs: Knobs, step: int | None = None) -> dict[str, Figure]:
    """All figures for what the log holds, with the cursor at ``step``."""
    best = best_log(log, knobs)
    arms = arm_names(knobs)
    figures = {
        "gradient_spectrum": _spectrum(
            best,
            "gradient_spectrum",
            knobs,
            step,
            title="Singular values of the gradient",
            look_for="What the optimizers are given. A few directions hold almost everything.",
        ),
        "update_spectrum": _spectrum(
            best,
            "update_spectrum",
            knobs,
            step,
            title="Singular values of the update",
            look_for="What they make of it. Flat: every direction of the matrix moves alike.",
        ),
        "loss": _loss(best, knobs, step),
        "geometry": geometry_figure(best, arms=arms, step=step),
        "time": _time(best, log, knobs),
        "grid": _grid(log, knobs),
        "rank": line_figure(
            best,
            "effective_rank",
            title="Effective rank of the update",
            y="exp(entropy of squared singular values)",
            look_for="In how many directions does the matrix move? GaLore cannot exceed its rank.",
            arms=arms,
            step=step,
            last=knobs.steps,
        ),
        "norms": ridge_figure(
            best,
            "norms",
            low=HISTOGRAM_RANGE[0],
            high=HISTOGRAM_RANGE[1],
            title="Norms of rows and columns",
            x="norm / mean norm",
            look_for="A needle at 1: all rows (neurons) or columns (inputs) move by the same length. Click a name.",
            layer_names=["rows", "columns"],
            arms=arms,
            step=step,
        ),
        "memory": _memory(best, arms),
    }
    if "normuon" in knobs.optimizers:
        figures["plan"] = plan_figure(log)
    if "sinkgd" in knobs.optimizers:
        figures["sinkhorn"] = _sinkhorn(best, arms, step)
    if fira := [arm for arm in arms if arm.startswith("Fira")]:
        figures["factors"] = factors_figure(best, arms=fira, step=step)
        figures["limiter"] = line_figure(
            best,
            {"residual_unlimited": ", before limiter", "residual": ", after"},
            title="Fira's part outside the subspace",
            y="Frobenius norm",
            look_for="Where the two part, the limiter held a jump back. Log scale.",
            arms=fira,
            log_scale=True,
            step=step,
            last=knobs.steps,
        )
    return figures


def _loss(best: Log, knobs: Knobs, step: int | None) -> Figure:
    return line_figure(
        best,
        "loss",
        title="Training loss",
        y=LOSS[knobs.task],
        look_for="Each optimizer at its best learning rate so far; same network, start and batches. Log scale."
        if knobs.task != "language"
        else "Each optimizer at its best learning rate so far; same network, start and batches.",
        arms=arm_names(knobs),
        log_scale=knobs.task != "language",
        step=step,
        last=knobs.steps,
    )


def _spectrum(best: Log, name: str, knobs: Knobs, step: int | None, *, title: str, look_for: str) -> Figure:
    entries = best.arrays(name, step)
    parts: list[tuple[str, NDArray[np.float64]]] = []
    for arm in arm_names(knobs):
        values = [e.value.astype(float) for e in entries if e.arm == arm]
        if values:
            stack = np.stack(values)  # (seeds, singular values)
            x = np.arange(1, stack.shape[1] + 1)
            rows = np.stack([x, stack.mean(0), stack.min(0), stack.max(0)], axis=1)
            parts.append((arm, rows[rows[:, 2] >= FLOOR]))
    table = np.concatenate([rows for _, rows in parts]) if parts else np.zeros((0, 4))
    data = pd.DataFrame(table, columns=["x", "mean", "low", "high"])
    data["arm"] = [arm for arm, rows in parts for _ in range(len(rows))]
    when = f" (step {max(e.step for e in entries)})" if entries else ""
    return curve_figure(
        data,
        title=title + when,
        x="singular value, largest first",
        y="singular value / root mean square",
        look_for=look_for,
        arms=arm_names(knobs),
        log_y=True,
    )


def _time(best: Log, log: Log, knobs: Knobs) -> Figure:
    """The criterion against seconds: steps times the median time of a step of that optimizer, at any rate."""
    bands = seed_bands(best.scalars(criterion(knobs)))
    times = log.scalars("step_ms")
    by_arm: dict[str, list[float]] = {}
    for member, value in zip(times["arm"].tolist(), times["value"].tolist(), strict=True):
        by_arm.setdefault(split_member(member)[0], []).append(value)
    medians = {arm: float(np.median(values)) for arm, values in by_arm.items()}
    bands = bands[bands["arm"].isin(medians)]
    per_step = np.array([medians[arm] for arm in bands["arm"].tolist()])
    return curve_figure(
        bands.assign(x=bands["step"].to_numpy() * per_step / 1e3),
        title=f"{_criterion_name(knobs)} against time",
        x="seconds, measured in this run",
        y=LOSS[knobs.task],
        look_for="Steps times the median time of a step on this machine. Cheap optimizers look better than at scale.",
        arms=arm_names(knobs),
        log_y=knobs.task != "language",
    )


def _criterion_name(knobs: Knobs) -> str:
    return "Loss" if knobs.task == "regression" else "Validation loss"


def _grid(log: Log, knobs: Knobs) -> Figure:
    losses, members_chosen = final_losses(log, knobs), chosen_members(log, knobs)
    rows, edges = [], set()
    for arm, members in members_by_arm(log).items():
        if len(members) > 1 and members_chosen[arm] in (members[0], members[-1]):
            edges.add(arm)
        for member in members:
            values = [v for v in losses.get(member, {}).values() if v < DIVERGED]
            if values:
                rate = split_member(member)[1]
                rows.append((arm, rate, sum(values) / len(values), min(values), max(values)))
    chosen = {arm: split_member(member)[1] for arm, member in members_chosen.items()}
    rates = ", ".join(
        f"{arm} {chosen[arm]:g}{'†' if arm in edges else ''}" for arm in arm_names(knobs) if arm in chosen
    )
    note = " † At the end of its grid: a better one may lie beyond." if edges else ""
    return curve_figure(
        pd.DataFrame(rows, columns=["arm", "x", "mean", "low", "high"]),
        title="Every learning rate that was trained",
        x="learning rate",
        y=f"{_criterion_name(knobs).lower()}, final",
        look_for=f"The other charts show each line's lowest point. Best so far: {rates}.{note}",
        arms=arm_names(knobs),
        log_x=True,
        log_y=True,
        points=True,
    )


def _memory(best: Log, arms: list[str]) -> Figure:
    def by_arm(name: str) -> dict[str, float]:
        table = best.scalars(name)
        return dict(zip(table["arm"].tolist(), table["value"].tolist(), strict=True))

    held, numbers, formula = (by_arm(n) for n in ("state_bytes", "state_numbers", "state_formula"))
    per_number = {arm: held[arm] / numbers[arm] for arm in held if numbers[arm] > 0}
    expected = {arm: formula[arm] * per_number.get(arm, 0.0) for arm in formula}
    return bar_figure(
        held,
        title="Memory of the optimizer",
        x="bytes per matrix parameter (float32)",
        look_for="Counted in the storage; the grey mark is the paper's formula. The weight itself takes 4 bytes.",
        arms=arms,
        expected=expected,
        expected_label="formula",
    )


def _sinkhorn(best: Log, arms: list[str], step: int | None) -> Figure:
    entries = best.arrays("sinkhorn_residual", step)
    half_steps = max((len(e.value) for e in entries), default=0)
    return profile_figure(
        best,
        "sinkhorn_residual",
        title="SinkGD: how far each half-sweep moves",
        x="sweeps over rows and columns",
        y="‖change‖ / ‖X‖",
        look_for="After five sweeps (the default) hardly anything changes. It never goes up.",
        arms=[arm for arm in arms if arm == "SinkGD"],
        positions=[1 + k / 2 for k in range(half_steps)],
        log_scale=True,
        step=step,
    )
