"""What is drawn on the page *Schedule refinement*."""

from __future__ import annotations

import numpy as np
import pandas as pd

from normviz.experiments.schedule_refinement.knobs import ARMS, FIRST_RUN, Knobs
from normviz.experiments.schedule_refinement.rate_grid import rate_grid_figure
from normviz.figures import Board, Drawer, Figure, Sheet

__all__ = ["sheet"]

MOST_POINTS = 200
"""Points of a curve over the run: what a small chart can show."""

REFINED = ARMS["refined"]


def _schedules(board: Board) -> Figure:
    return board.curves(
        _profiles(board, "multiplier"),
        title="The schedules",
        x="training step",
        y="learning rate ÷ its largest",
        look_for="Refined comes after the first run. Where is its maximum?",
    )


def _profiles(board: Board, name: str) -> pd.DataFrame:
    """Mean and range over seeds of an array over the steps of a run, thinned."""
    entries = board.log.arrays(name, board.step)
    rows = []
    for arm in board.arms:
        values = [entry.value.astype(float) for entry in entries if entry.arm == arm]
        if not values:
            continue
        stack = np.stack(values)
        at = np.unique(np.linspace(0, stack.shape[1] - 1, MOST_POINTS).astype(int))
        part = stack[:, at]
        rows.append(
            pd.DataFrame(
                {"arm": arm, "x": at + 1, "mean": part.mean(0), "low": part.min(0), "high": part.max(0)}
            )
        )
    if not rows:
        return pd.DataFrame(columns=["arm", "x", "mean", "low", "high"])
    return pd.concat(rows, ignore_index=True)


def _norms(knobs: Knobs) -> Drawer:
    def draw(board: Board) -> Figure:
        return board.only([FIRST_RUN]).lines(
            "norm",
            title="Gradient norms of the first run",
            y=f"{knobs.norm_type()} norm of the gradient",
            look_for="Do they fall at the start? Do they vanish at the end?",
            log_scale=True,
        )

    return draw


def _smoothed(board: Board) -> Figure:
    return board.only([FIRST_RUN]).curves(
        _profiles(board, "smooth"),
        title="The norms after smoothing",
        x="training step",
        y="median of a window",
        look_for="This is what the schedule is computed from.",
        log_y=True,
    )


def _weights(board: Board) -> Figure:
    return board.only([FIRST_RUN]).curves(
        _profiles(board, "weights"),
        title="The weights they give",
        x="training step",
        y="weight ÷ the largest",
        look_for="Small norms weigh much. Times the weights still to come: the schedule.",
    )


def _loss(knobs: Knobs) -> Drawer:
    if knobs.convex():

        def draw_gap(board: Board) -> Figure:
            return board.lines(
                {"best": "", "bound": ", bound"},
                title="Gap to the minimum, and theory's bound",
                y="f(x) − f*, lowest of the rates",
                look_for="Dashed: what theory promises at the end. How loose is it?",
                log_scale=True,
            )

        return draw_gap

    def draw(board: Board) -> Figure:
        return board.lines(
            "best",
            title="Held-out loss",
            y="loss (nats), lowest of the rates",
            look_for="Flat is ahead for long. Who is ahead at the end?",
            log_scale=True,
        )

    return draw


def _grid(knobs: Knobs) -> Drawer:
    def draw(board: Board) -> Figure:
        return rate_grid_figure(board, knobs)

    return draw


def _final(knobs: Knobs) -> Drawer:
    x = "gap to the minimum" if knobs.convex() else "held-out loss (nats)"

    def draw(board: Board) -> Figure:
        shown = [arm for arm in board.arms if arm != FIRST_RUN]
        return board.only(shown).dots(
            {"own best rate": "best", "middle rate": "base"},
            title="At its own best rate, and untuned",
            x=x,
            look_for="A schedule without its own learning rate is judged unfairly.",
            zero=False,
        )

    return draw


def _theory(board: Board) -> Figure:
    bounds = board.log.scalars("bound")
    gaps = board.log.scalars("best")
    if board.step is not None:
        bounds, gaps = bounds[bounds["step"] <= board.step], gaps[gaps["step"] <= board.step]
    newest = [table.groupby(["arm", "seed"], sort=False)["value"].last() for table in (bounds, gaps)]
    ratios = (newest[0] / newest[1]).replace([np.inf, -np.inf], np.nan).dropna()
    by_arm = ratios.groupby(level="arm").median()
    return board.bars(
        {arm: float(by_arm[arm]) for arm in board.arms if arm in by_arm.index},
        title="How loose theory's bound is",
        x="bound ÷ measured gap, median over seeds",
        look_for="1 would be tight. Whose bound is nearest?",
    )


def sheet(knobs: Knobs) -> Sheet:
    """The charts of a setting."""
    stage: dict[str, Drawer] = {
        "schedule": _schedules,
        "norms": _norms(knobs),
        "weights": _weights,
        "loss": _loss(knobs),
        "grid": _grid(knobs),
    }
    more: dict[str, Drawer] = {"smooth": _smoothed}
    if knobs.convex():
        stage["theory"] = _theory
        more["final"] = _final(knobs)
    else:
        stage["final"] = _final(knobs)
    return Sheet(stage, {"How it came about": more})
