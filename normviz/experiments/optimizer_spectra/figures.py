"""What is drawn on the page *Optimizer spectra*: every optimizer at its best learning rate, and the grids."""

from __future__ import annotations

from dataclasses import replace

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
from normviz.experiments.optimizer_spectra.knobs import NAMES, Knobs, split_member
from normviz.experiments.optimizer_spectra.recorded import HISTOGRAM_RANGE
from normviz.figures import Board, Drawer, Figure, Sheet, seed_bands
from normviz.figures.bars import bar_figure

__all__ = ["sheet"]

FLOOR = 1e-4
"""Singular values below this share of the root mean square are not drawn."""

DIVERGED = 100.0
"""Final losses from here on are left out of the chart of learning rates."""

LOSS = {
    "digits": "cross-entropy (nats)",
    "regression": "‖AWB − C‖² / ‖C‖²",
    "language": "cross-entropy (nats)",
}
FIRA = (NAMES["fira"], NAMES["fira_free"])


def sheet(knobs: Knobs) -> Sheet:
    """The charts of a setting."""
    chosen = knobs.optimizers
    log_scale = knobs.task != "language"
    held_out = "Loss" if knobs.task == "regression" else "Validation loss"

    def at_best(draw: Drawer) -> Drawer:
        """The chart for the log in which each optimizer is one arm."""
        return lambda board: draw(board.of(best_log(board.log, knobs)))

    def gradient(board: Board) -> Figure:
        return _spectrum(
            board,
            "gradient_spectrum",
            title="Singular values of the gradient",
            look_for="What the optimizers are given. How many directions hold most?",
        )

    def update(board: Board) -> Figure:
        return _spectrum(
            board,
            "update_spectrum",
            title="Singular values of the update",
            look_for="Flat: every direction of the matrix moves alike. Who is flat?",
        )

    def loss(board: Board) -> Figure:
        return board.lines(
            "loss",
            title="Training loss",
            y=LOSS[knobs.task],
            look_for="Each at its best learning rate so far. Who falls fastest?",
            log_scale=log_scale,
        )

    def rank(board: Board) -> Figure:
        return board.lines(
            "effective_rank",
            title="Effective rank of the update",
            y="exp(entropy of squared singular values)",
            look_for="In how many directions does the matrix move?",
        )

    def norms(board: Board) -> Figure:
        return board.ridges(
            "norms",
            low=HISTOGRAM_RANGE[0],
            high=HISTOGRAM_RANGE[1],
            title="Norms of rows and columns",
            x="norm / mean norm",
            look_for="A peak at 1: all rows (neurons) or columns move alike.",
            layer_names=["rows", "columns"],
            quantity="norms",
        )

    def time(board: Board) -> Figure:
        return board.of(best_log(board.log, knobs)).curves(
            _against_time(board, knobs),
            title=f"{held_out} against time",
            x="seconds, measured in this run",
            y=LOSS[knobs.task],
            look_for="Steps times a step's median time. Who is fastest on this machine?",
            log_y=log_scale,
        )

    def grid(board: Board) -> Figure:
        return _grid(board, knobs, f"{held_out.lower()}, final")

    def sinkhorn(board: Board) -> Figure:
        entries = board.log.arrays("sinkhorn_residual", board.step)
        half_steps = max((len(e.value) for e in entries), default=0)
        return board.only([NAMES["sinkgd"]]).profile(
            "sinkhorn_residual",
            title="SinkGD: how far each half-sweep moves",
            x="sweeps over rows and columns",
            y="‖change‖ / ‖X‖",
            look_for="It never goes up. How small is it after five sweeps?",
            positions=[1 + k / 2 for k in range(half_steps)],
            log_scale=True,
        )

    def factors(board: Board) -> Figure:
        return factors_figure(board.only(FIRA))

    def limiter(board: Board) -> Figure:
        return board.only(FIRA).lines(
            {"residual_unlimited": ", before limiter", "residual": ", after"},
            title="Fira's part outside the subspace",
            y="Frobenius norm",
            look_for="Where the two part, the limiter held a jump back.",
            log_scale=True,
        )

    more: dict[str, dict[str, Drawer]] = {
        "Speed and rank": {"time": time, "rank": at_best(rank)},
        "Memory and machines": {"memory": at_best(_memory)},
    }
    if "normuon" in chosen:
        more["Memory and machines"]["plan"] = plan_figure
    if "sinkgd" in chosen:
        more["SinkGD"] = {"sinkhorn": at_best(sinkhorn)}
    if {"fira", "fira_free"} & set(chosen):
        more["Fira"] = {"factors": at_best(factors), "limiter": at_best(limiter)}
    return Sheet(
        stage={
            "update_spectrum": at_best(update),
            "gradient_spectrum": at_best(gradient),
            "loss": at_best(loss),
            "geometry": at_best(geometry_figure),
            "norms": at_best(norms),
            "grid": grid,
        },
        more=more,
    )


def _spectrum(board: Board, name: str, *, title: str, look_for: str) -> Figure:
    entries = board.log.arrays(name, board.step)
    parts: list[tuple[str, NDArray[np.float64]]] = []
    for arm in board.arms:
        values = [e.value.astype(float) for e in entries if e.arm == arm]
        if values:
            stack = np.stack(values)  # (seeds, singular values)
            x = np.arange(1, stack.shape[1] + 1)
            rows = np.stack([x, stack.mean(0), stack.min(0), stack.max(0)], axis=1)
            parts.append((arm, rows[rows[:, 2] >= FLOOR]))
    table = np.concatenate([rows for _, rows in parts]) if parts else np.zeros((0, 4))
    data = pd.DataFrame(table, columns=["x", "mean", "low", "high"])
    data["arm"] = [arm for arm, rows in parts for _ in range(len(rows))]
    figure = board.curves(
        data,
        title=title,
        x="singular value, largest first",
        y="singular value / root mean square",
        look_for=look_for,
        log_y=True,
    )
    moment = board.progress.at(max(e.step for e in entries)) if entries else ""
    return replace(figure, moment=moment)


def _against_time(board: Board, knobs: Knobs) -> pd.DataFrame:
    """The criterion against seconds: steps times the median time of a step of that optimizer, at any rate."""
    bands = seed_bands(best_log(board.log, knobs).scalars(criterion(knobs)))
    times = board.log.scalars("step_ms")
    by_arm: dict[str, list[float]] = {}
    for member, value in zip(times["arm"].tolist(), times["value"].tolist(), strict=True):
        by_arm.setdefault(split_member(member)[0], []).append(value)
    medians = {arm: float(np.median(values)) for arm, values in by_arm.items()}
    bands = bands[bands["arm"].isin(list(medians))]
    per_step = np.array([medians[arm] for arm in bands["arm"].tolist()])
    return bands.assign(x=bands["step"].to_numpy() * per_step / 1e3)


def _grid(board: Board, knobs: Knobs, y: str) -> Figure:
    losses, chosen = final_losses(board.log, knobs), chosen_members(board.log, knobs)
    rows, rates = [], []
    for arm, members in members_by_arm(board.log).items():
        at_edge = len(members) > 1 and chosen[arm] in (members[0], members[-1])
        rates.append(
            f"{arm} {split_member(chosen[arm])[1]:g}{' (at the end of its grid)' if at_edge else ''}"
        )
        for member in members:
            values = [v for v in losses.get(member, {}).values() if v < DIVERGED]
            if values:
                rate = split_member(member)[1]
                rows.append((arm, rate, sum(values) / len(values), min(values), max(values)))
    figure = board.curves(
        pd.DataFrame(rows, columns=["arm", "x", "mean", "low", "high"]),
        title="Every learning rate that was trained",
        x="learning rate",
        y=y,
        look_for="The other charts show each lowest point. Is it inside its grid?",
        log_x=True,
        log_y=True,
        points=True,
    )
    return replace(figure, alt=f"{figure.alt} Best so far: {', '.join(rates)}.") if rows else figure


def _memory(board: Board) -> Figure:
    def by_arm(name: str) -> dict[str, float]:
        table = board.log.scalars(name)
        return dict(zip(table["arm"].tolist(), table["value"].tolist(), strict=True))

    held, numbers, formula = (by_arm(n) for n in ("state_bytes", "state_numbers", "state_formula"))
    per_number = {arm: held[arm] / numbers[arm] for arm in held if numbers[arm] > 0}
    return bar_figure(
        held,
        title="Memory of the optimizer",
        x="bytes per matrix parameter (float32)",
        look_for="Counted in the storage. Does it meet the formula's grey mark?",
        arms=board.arms,
        expected={arm: formula[arm] * per_number.get(arm, 0.0) for arm in formula},
        expected_label="formula",
    )
