"""What is drawn of all corruptions, orders and batch sizes."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from normviz.arms import Arms
from normviz.experiments.shifting_statistics.cell_measures import accuracies, best_elsewhere, by_alpha
from normviz.experiments.shifting_statistics.grid import CELLS, GRID_ALPHAS, cells_where
from normviz.experiments.shifting_statistics.heat_maps import Panel, heat_map_figure
from normviz.experiments.shifting_statistics.knobs import METHODS, Knobs
from normviz.experiments.shifting_statistics.pictures import corruptions_figure
from normviz.figures import Board, Drawer, Figure, Sheet
from normviz.figures.exports import with_legends

__all__ = ["grid_sheet"]

SHORT = {
    "source": "Src",
    "tbn": "TBN",
    "alpha": "α",
    "entropy": "Ent",
    "core": "Core",
    "tent": "TENT",
    "adabn": "AdaBN",
    "tbn_ema": "run",
    "tbn_core": "T+C",
}
"""Names of the methods below a narrow column."""

SOURCE, TBN, ENTROPY, CORE = (METHODS[k] for k in ("source", "tbn", "entropy", "core"))
INITIALS = {METHODS[k]: word for k, word in SHORT.items()}
STREAMS = Arms.of(
    {"shuffled, 64": 0, "shuffled, 16": 1, "shuffled, 4": 2, "sorted, 64": 5, "sorted, 16": 4, "sorted, 4": 3}
)
"""Orders and batch sizes of the grid."""


def grid_sheet(knobs: Knobs) -> Sheet:
    """The charts of all corruptions, orders and batch sizes."""
    stage: dict[str, Drawer] = {"corruptions": corruptions_figure, "cells": _cells}
    if "alpha" in knobs.kinds():
        stage |= {"streams": _by_stream, "gain": _gain}
    pairs = {"core", "entropy"} <= set(knobs.kinds())
    if pairs:
        stage["wins"] = _wins
    return Sheet(stage, {"Cell by cell": {"line": _line}})


_line: Drawer = partial(
    Board.lines,
    series="accuracy",
    title="Accuracy, one cell after the other",
    y="right answers (%)",
    look_for="Large batches first, then 16, then 4.",
    unit=" %",
)


def _mean_cells(board: Board, arm: str) -> np.ndarray:
    """Accuracy of an arm in every cell up to the moment shown, mean over seeds; NaN where there is none."""
    tables = list(accuracies(board.log, arm).values())
    values = np.full(len(CELLS), np.nan)
    if tables:
        stack = np.stack(tables)
        there = ~np.isnan(stack).all(0)
        values[there] = np.nanmean(stack[:, there], axis=0)
    if board.step is not None:
        values[board.step + 1 :] = np.nan
    return values


def _cells(board: Board) -> Figure:
    """Accuracy of every method in every cell: a panel for each order, rows corruptions and batch sizes."""
    order = {name: cells_where(orders=(key,)) for key, name in (("iid", "shuffled"), ("sorted", "sorted"))}
    columns = {arm: _mean_cells(board, arm) for arm in board.arms}
    panels, rows = [], []
    for name, cells in order.items():
        ranked = sorted(cells, key=lambda i: (CELLS[i].corruption, -CELLS[i].batch))
        rows = [f"{CELLS[i].name.split(',')[0]}, {CELLS[i].batch}" for i in ranked]
        values = np.stack([columns[arm][ranked] for arm in board.arms], axis=1)  # (cells, methods)
        if np.isfinite(values).any():
            panels.append(Panel(name, values))
    done = int(max((np.isfinite(v).sum() for v in columns.values()), default=0))
    means = ", ".join(f"{a} {np.nanmean(v):.0f} %" for a, v in columns.items() if np.isfinite(v).any())
    text = (
        f"Map of the accuracy in {done} of {len(CELLS)} cells. Means: {means}."
        if panels
        else "Map of the accuracy in every cell; nothing is measured yet."
    )
    return heat_map_figure(
        panels,
        count=2,
        row_names=rows,
        column_names=[INITIALS[arm] for arm in board.arms],
        named_columns=True,
        title="Accuracy in every cell",
        look_for="Is one column bright in every row?",
        alt_text=text,
        value="right answers (%)",
        limits=(0.0, 100.0),
        x="method",
        y="corruption, images of a batch",
        moment=f"{done} cells" if panels else "",
    )


def _by_stream(board: Board) -> Figure:
    """Accuracy against alpha for every order and batch size, mean over corruptions; the band is the range of seeds."""
    tables, ends = by_alpha(board.log), {a: accuracies(board.log, a) for a in (TBN, SOURCE)}
    rows: list[tuple[str, float, float, float, float]] = []
    for key, name in (("iid", "shuffled"), ("sorted", "sorted")):
        for batch in (64, 16, 4):
            cells = list(cells_where(orders=(key,), batches=(batch,)))
            curves = [
                [float(np.mean(table[seed][cells])) for table in (ends[TBN],)]
                + np.mean(tables[seed][cells], axis=0).tolist()
                + [float(np.mean(ends[SOURCE][seed][cells]))]
                for seed in tables
                if all(seed in ends[a] for a in ends)
            ]
            whole = [c for c in curves if all(map(math.isfinite, c))]
            for i, alpha in enumerate((0.0, *GRID_ALPHAS, 1.0) if whole else ()):
                column = [c[i] for c in whole]
                mean = float(np.mean(column))
                rows.append((f"{name}, {batch}", alpha, mean, min(column), max(column)))
    return _with_legend(
        board,
        pd.DataFrame(rows, columns=["arm", "x", "mean", "low", "high"]),
    )


def _with_legend(board: Board, data: pd.DataFrame) -> Figure:
    figure = board.curves(
        data,
        title="Accuracy against α, by order and batch",
        x="α (0: test batch, 1: source)",
        y="right answers (%), mean over corruptions",
        look_for="Which curves have their top between both ends?",
        arms=STREAMS,
        points=True,
    )
    assert figure.spec is not None
    return replace(figure, spec=with_legends(figure.spec, set(STREAMS.names)))


def _gain(board: Board) -> Figure:
    """By how much alpha-BN, alpha chosen on other seeds, is better than the better of its ends, in every cell."""
    tables = by_alpha(board.log)
    low, high = accuracies(board.log, TBN), accuracies(board.log, SOURCE)
    found = []
    for seed in tables:
        chosen = best_elsewhere(tables, seed)
        if chosen is not None and seed in low and seed in high:
            found.append(chosen - np.maximum(low[seed], high[seed]))
    gain = np.mean(found, axis=0) if found else np.full(len(CELLS), np.nan)
    if board.step is not None:
        gain[board.step + 1 :] = np.nan
    best = [np.max(tables[s], axis=1) - np.maximum(low[s], high[s]) for s in tables if s in low and s in high]
    ahead = int((np.mean(best, axis=0) > 0).sum()) if best else 0
    return _cell_bars(
        gain,
        note=f" The best α of each stream itself would be above in {ahead}.",
        title="Gain of the middle over both ends",
        look_for="Orange: the mixture is better than both ends.",
    )


def _wins(board: Board) -> Figure:
    """Core minus entropy in every cell, mean over seeds."""
    difference = _mean_cells(board, CORE) - _mean_cells(board, ENTROPY)
    return _cell_bars(
        difference,
        title="Core minus entropy, in every cell",
        look_for="Same α, same steps: in how many cells is Core ahead?",
    )


def _cell_bars(values: np.ndarray, *, title: str, look_for: str, note: str = "") -> Figure:
    """A map of differences: rows corruptions, columns order and batch size."""
    names = list(dict.fromkeys(cell.corruption for cell in CELLS))
    columns = [("iid", 64), ("iid", 16), ("iid", 4), ("sorted", 64), ("sorted", 16), ("sorted", 4)]
    table = np.full((len(names), len(columns)), np.nan)
    for i, cell in enumerate(CELLS):
        table[names.index(cell.corruption), columns.index((cell.order, cell.batch))] = values[i]
    there = np.isfinite(table)
    ahead = int((table[there] > 0).sum())
    text = (
        f"Map of differences of accuracy. Above zero in {ahead} of {int(there.sum())} cells, mean "
        f"{table[there].mean():.1f} points.{note}"
        if there.any()
        else "Map of differences of accuracy; nothing is measured yet."
    )
    return heat_map_figure(
        [Panel("", table)] if there.any() else [],
        count=1,
        row_names=[
            CELLS[i].name.split(",")[0]
            for i in (next(j for j, c in enumerate(CELLS) if c.corruption == n) for n in names)
        ],
        column_names=[f"{'shuf.' if order == 'iid' else 'sort.'} {batch}" for order, batch in columns],
        named_columns=True,
        title=title,
        look_for=look_for,
        alt_text=text,
        value="points",
        limits=(-10.0, 10.0),
        x="order and images of a batch",
        y="corruption",
        scheme="blueorange",
        moment=f"{ahead} of {int(there.sum())} above 0" if there.any() else "",
    )
