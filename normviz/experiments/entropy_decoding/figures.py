"""What is drawn on the page *Entropy decoding*."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from normviz.experiments.entropy_decoding.cost_curves import cost_figure
from normviz.experiments.entropy_decoding.knobs import EAD, LARGE, RANDOM, SINGLE, SMALL, SPECULATIVE, Knobs
from normviz.experiments.entropy_decoding.prompt_rows import prompt_rows_figure
from normviz.experiments.entropy_decoding.text_picture import text_figure
from normviz.figures import Board, Drawer, Figure, Sheet

__all__ = ["sheet"]

CURVE = ["arm", "x", "mean", "low", "high"]
Rows = list[tuple[str, float, float, float, float]]


def _sweep(board: Board, arm: str, x: str, y: str) -> Rows:
    """Mean and range over seeds of one array against another; positions are means over seeds."""
    found = {
        name: {e.seed: e.value.astype(float) for e in board.log.arrays(name, board.step) if e.arm == arm}
        for name in (x, y)
    }
    seeds = [seed for seed in found[x] if seed in found[y]]
    if not seeds:
        return []
    at, values = (np.stack([found[name][seed] for seed in seeds]) for name in (x, y))
    columns = zip(at.mean(0), values.mean(0), values.min(0), values.max(0), strict=True)
    return [(arm, float(at), float(mean), float(low), float(high)) for at, mean, low, high in columns]


def _point(board: Board, arm: str, y: str, at: float | None = None) -> Rows:
    """One point of an arm: the newest mean over its prompts, at its share of the large model or elsewhere."""
    last = {}
    for name in ("share", y):
        table = board.log.scalars(name)
        own = table[table["arm"] == arm]
        if board.step is not None:
            own = own[own["step"] <= board.step]
        last[name] = own.groupby("seed")["value"].last()
    if last["share"].empty or last[y].empty:
        return []
    x = float(last["share"].mean()) if at is None else at
    return [(arm, x, float(last[y].mean()), float(last[y].min()), float(last[y].max()))]


def _table(rows: Rows) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=CURVE)


def _quality(board: Board, knobs: Knobs) -> Figure:
    """Score against the share of the large model: the switch rule over thresholds, rivals, both models alone."""
    rows = _sweep(board, EAD, "sweep_share", "sweep_score")
    if RANDOM in board.arms:
        rows += _sweep(board, RANDOM, "sweep_share", "sweep_score")
    rows += _point(board, SMALL, "score") + _point(board, LARGE, "score")
    if SINGLE in board.arms:
        rows += _point(board, SINGLE, "score")
    judged = knobs.task == "stretches"
    return board.curves(
        _table(rows),
        title="Quality by share of the large model",
        x="share of characters by the large model",
        y="digits that follow the rule" if judged else "−bits per character, by the large model",
        look_for="Is EAD above random switching at the same share?"
        if judged
        else "Which text does the large model like?",
        points=True,
    )


def _forced(board: Board) -> Figure:
    """Bits per character under teacher forcing against the share, with the line between both models alone."""
    rows = sorted(_sweep(board, EAD, "forced_share", "forced_bits"), key=lambda row: row[1])
    ends: list[tuple[float, float]] = []
    for arm, x in ((SMALL, 0.0), (LARGE, 1.0)):
        table = board.log.scalars("bits")
        own = table[table["arm"] == arm]
        if board.step is not None:
            own = own[own["step"] <= board.step]
        newest = own.groupby("seed")["value"].last()
        if not newest.empty:
            rows.append((arm, x, float(newest.mean()), float(newest.min()), float(newest.max())))
            ends.append((x, float(newest.mean())))
    if RANDOM in board.arms and len(ends) == 2:
        rows += [(RANDOM, x, y, y, y) for x, y in ends]
    return board.curves(
        _table(rows),
        title="Held-out text by share",
        x="share of characters by the large model",
        y="bits per character",
        look_for="Below the straight line: called where it helps. Lower is better.",
        points=True,
    )


def _caches(board: Board, knobs: Knobs) -> Figure:
    """Tokens that each model has read while the reader's prompt is continued."""
    rows: Rows = []
    entries = [
        e for e in board.log.arrays("caches", board.step) if e.arm == EAD and e.seed == knobs.first_seed
    ]
    if entries:
        for arm, lengths in zip((SMALL, LARGE), entries[-1].value.astype(float).tolist(), strict=True):
            rows += [(arm, float(i + 1), v, v, v) for i, v in enumerate(lengths)]
    return board.curves(
        _table(rows),
        title="Tokens that each model has read",
        x="new character",
        y="tokens in the cache",
        look_for="A jump: a model catches up with all it missed.",
    )


def _places(board: Board, knobs: Knobs) -> Figure:
    judged = knobs.task == "stretches"
    return board.profile(
        "entropy_by_place",
        title="Entropy by place",
        x="place: −1 last letter, 1 first digit" if judged else "place of the letter in its word",
        y="mean entropy in bits, held-out text",
        look_for="Where is it hard? Is the large model surer?",
        positions=knobs.places(),
    )


def _bars(board: Board, name: str, arms: Sequence[str], title: str, x: str, look_for: str) -> Figure:
    table = board.log.scalars(name)
    newest = table.groupby(["arm", "seed"], sort=False)["value"].last().groupby("arm").mean().to_dict()
    shown = [arm for arm in board.arms if arm in arms and arm in newest]
    return board.bars({arm: newest[arm] for arm in shown}, title=title, x=x, look_for=look_for)


def _loss(board: Board) -> Figure:
    return board.lines(
        "loss", title="Training loss", y="bits per character", look_for="How far apart are the two models?"
    )


def _time(board: Board) -> Figure:
    return _bars(
        board,
        "token_ms",
        (SMALL, LARGE, EAD, SINGLE, SPECULATIVE),
        "Measured time of a token",
        "milliseconds",
        "So small models: Python's own time is most of it.",
    )


def _switches(board: Board) -> Figure:
    return _bars(
        board,
        "switches",
        (EAD, SINGLE),
        "Changes of the writer",
        "changes per 100 characters",
        "How often do they take turns without mean and shortest run?",
    )


def _passes(board: Board) -> Figure:
    return _bars(
        board,
        "share",
        (SMALL, LARGE, EAD, SINGLE, SPECULATIVE),
        "Passes of the large model",
        "passes per new character",
        "Speculative: one pass checks several drafted tokens.",
    )


def sheet(knobs: Knobs) -> Sheet:
    """The charts of a setting."""

    def text(board: Board) -> Figure:
        return text_figure(board, knobs)

    def rows(board: Board) -> Figure:
        return prompt_rows_figure(board, knobs)

    def quality(board: Board) -> Figure:
        return _quality(board, knobs)

    def costs(board: Board) -> Figure:
        return cost_figure(board, knobs)

    def caches(board: Board) -> Figure:
        return _caches(board, knobs)

    def places(board: Board) -> Figure:
        return _places(board, knobs)

    def scores(board: Board) -> Figure:
        names = [arm for arm in board.arms if arm != SPECULATIVE]
        return board.only(names).lines(
            "score",
            title="Quality, mean over prompts so far",
            y="digits that follow the rule" if knobs.task == "stretches" else "−bits per character",
            look_for="Does the order hold as prompts are added?",
        )

    judged = knobs.task == "stretches"
    curves: dict[str, Drawer] = {"quality": quality, "forced": _forced}
    first = "quality" if judged else "forced"
    stage: dict[str, Drawer] = {
        "text": text,
        "rows": rows,
        first: curves.pop(first),
        "costs": costs,
        "caches": caches,
        "places": places,
    }
    return Sheet(
        stage,
        {
            "Quality": {**curves, "scores": scores},
            "Rivals": {"passes": _passes, "time": _time, "switches": _switches},
            "Training": {"loss": _loss},
        },
    )
