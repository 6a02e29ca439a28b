"""What is drawn on the page *LoRA limits*."""

from __future__ import annotations

import numpy as np
import pandas as pd

from normviz.experiments.lora_limits.cost_chart import cost_figure
from normviz.experiments.lora_limits.knobs import CHEBYSHEV, EXACT, TAYLOR, Knobs
from normviz.experiments.lora_limits.recorded import DEGREES
from normviz.experiments.lora_limits.walk import walk_figure
from normviz.figures import Board, Drawer, Figure, Sheet

__all__ = ["sheet"]

CERTIFICATE = ", certificate"


def _walk(knobs: Knobs) -> Drawer:
    def draw(board: Board) -> Figure:
        return walk_figure(board, knobs)

    return draw


def _loss(board: Board) -> Figure:
    return board.lines(
        "loss",
        title="Training loss",
        y="squared error of one output",
        look_for="Do the curves lie on each other? Who leaves, and when?",
        log_scale=True,
    )


def _cost(board: Board) -> Figure:
    return cost_figure(board, [arm for arm in (EXACT, TAYLOR) if arm in board.arms])


def _by_degree(board: Board, names: dict[str, str], title: str, y: str, look_for: str) -> Figure:
    """Arrays by degree at the moment: mean and range over the seeds that have a finite number there."""
    arms = board.arms.only((TAYLOR, CHEBYSHEV))
    rows = []
    for name, ending in names.items():
        entries = board.log.arrays(name, board.step)
        for arm in arms:
            tables = [e.value.astype(float) for e in entries if e.arm == arm]
            for i, degree in enumerate(DEGREES):
                found = [float(table[i]) for table in tables if np.isfinite(table[i])]
                if found:
                    rows.append((arm + ending, arm, degree, sum(found) / len(found), min(found), max(found)))
    data = pd.DataFrame(rows, columns=["arm", "of", "x", "mean", "low", "high"])
    return board.of(board.log, arms.with_endings(names.values())).curves(
        data, title=title, x="degree g of the polynomial", y=y, look_for=look_for, log_y=True, points=True
    )


def _errors(board: Board) -> Figure:
    return _by_degree(
        board,
        {"true_error": "", "certificate": CERTIFICATE},
        "Error of the gradient, and its certificate",
        "largest error of W_Q's gradient",
        "Upper lines: certificates. How far above the true errors?",
    )


def _polynomial_errors(board: Board) -> Figure:
    return _by_degree(
        board,
        {"eps_by_degree": ""},
        "Largest error of the polynomial",
        "largest |P(x) / eˣ − 1|",
        "Chebyshev is lower here. Is it lower in the gradient too?",
    )


def _gradient_error(board: Board) -> Figure:
    others = [arm for arm in board.arms if arm != EXACT]
    return board.only(others or board.arms).lines(
        "gradient_error",
        title="Error of the gradient in training",
        y="‖low-rank − exact‖ ÷ ‖exact‖, same weights",
        look_for="The degree that is kept: when is it too low?",
        log_scale=True,
    )


def _spectrum(board: Board) -> Figure:
    return board.profile(
        "spectrum",
        title="Spectrum of the attention matrix",
        x="number of the singular value",
        y="singular value ÷ largest",
        look_for="Larger norms lift the tail: more columns are needed.",
        log_scale=True,
    )


def _radius(board: Board) -> Figure:
    return board.lines(
        "radius",
        title="Radius of the scores",
        y="τ · longest query · longest key",
        look_for="Does training push it up?",
    )


def _rank(board: Board) -> Figure:
    return board.lines(
        "rank",
        title="Columns of the factors",
        y="monomials C(d + g, g)",
        look_for="The exact arm shows what its norms would need.",
        log_scale=True,
    )


def _degree(board: Board) -> Figure:
    return board.lines(
        "degree",
        title="Degree of the polynomial",
        y="degree g",
        look_for="Chosen anew in each step, but for one arm.",
    )


def _eps(board: Board) -> Figure:
    others = [arm for arm in board.arms if arm != EXACT]
    return board.only(others or board.arms).lines(
        "eps",
        title="Certified error of the polynomial",
        y="largest |P(x) / eˣ − 1| on the radius",
        look_for="At 1 and above nothing is certified.",
        log_scale=True,
    )


def _operations(board: Board) -> Figure:
    return board.lines(
        "operations",
        title="Operations of one gradient in training",
        y="counted operations",
        look_for="Who needs more than the exact arm, and from when?",
        log_scale=True,
    )


def sheet(knobs: Knobs) -> Sheet:
    """The charts of a setting."""
    return Sheet(
        {
            "walk": _walk(knobs),
            "loss": _loss,
            "cost": _cost,
            "errors": _errors,
            "gradient_error": _gradient_error,
            "spectrum": _spectrum,
        },
        {
            "Norms and ranks": {"radius": _radius, "rank": _rank, "degree": _degree},
            "Errors and operations": {
                "eps": _eps,
                "polynomial_errors": _polynomial_errors,
                "operations": _operations,
            },
        },
    )
