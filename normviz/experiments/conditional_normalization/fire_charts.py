"""What is drawn of the forecasts of fire."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from normviz.experiments.conditional_normalization.knobs import MODELS, Knobs
from normviz.experiments.conditional_normalization.point_clouds import cloud_figure
from normviz.experiments.conditional_normalization.recorded import PATCHES
from normviz.experiments.conditional_normalization.tiles import Tile, signed_colours, tiles_figure
from normviz.experiments.conditional_normalization.year_curve import year_figure
from normviz.figures import Board, Drawer, Figure, Sheet
from normviz.figures.scales import Span
from normviz.frame import ArrayAt

__all__ = ["fire_sheet"]

UNIT = Span(0.0, 1.0)
ABREAST = 4
"""Channels in a row of the chart of all scales."""


def fire_sheet(knobs: Knobs) -> Sheet:
    """The charts of a setting."""
    modulated = [MODELS[kind] for kind in knobs.kinds() if kind.startswith("loan")]
    arm = modulated[-1] if modulated else ""

    def maps(board: Board) -> Figure:
        return _maps(board, arm)

    def year(board: Board) -> Figure:
        return year_figure(board)

    def scales(board: Board) -> Figure:
        return _all_scales(board, arm, knobs.width)

    stage: dict[str, Drawer] = {"maps": maps, "auroc": _auroc, "forecasts": _forecasts}
    if knobs.has_day:
        stage["year"] = year
    stage["world"] = _world
    if modulated:
        stage["follows"] = _follows
    rest: dict[str, Drawer] = {"scales": scales} if modulated else {}
    if not knobs.has_day:
        stage["loss"] = _loss
        return Sheet(stage, {**({"Maps": rest} if rest else {}), "Training": {"test_loss": _test_loss}})
    return Sheet(
        stage, {**({"Maps": rest} if rest else {}), "Training": {"loss": _loss, "test_loss": _test_loss}}
    )


_auroc: Drawer = partial(
    Board.lines,
    series="auroc",
    title="Test AUROC by epoch",
    y="AUROC on 600 test patches",
    look_for="0.5 is guessing. Who learns where dryness burns?",
)
_follows: Drawer = partial(
    Board.lines,
    series="gamma_response",
    title="Does γ follow the response?",
    y="correlation over pixels of test patches",
    look_for="At 1 the scale is the map of what burns.",
)
_loss: Drawer = partial(
    Board.lines,
    series="loss",
    title="Training loss",
    y="nats per patch",
    look_for="0.69 is guessing. Who leaves it first?",
)
_test_loss: Drawer = partial(
    Board.lines,
    series="test_loss",
    title="Loss on test patches",
    y="nats per patch",
    look_for="Rises while the training loss falls: it learns by heart.",
)


def _newest(board: Board, name: str, arm: str = "") -> ArrayAt | None:
    """The newest array of an arm, or of any."""
    found = [e for e in board.log.arrays(name, board.step) if not arm or e.arm == arm]
    return found[0] if found else None


def _maps(board: Board, arm: str) -> Figure:
    """True response, scale and shift of three test patches; every kind of map has its own range of colours."""
    truth, found, danger = (_newest(board, *a) for a in (("response",), ("modulation", arm), ("danger",)))
    columns: tuple[str, ...] = ("true response", "γ, learned", "β, learned") if arm else ("true response",)
    rows = [f"patch {name}" for name in PATCHES]
    tiles, text, moment = [], "Maps of three patches; nothing is measured yet.", ""
    if truth is not None and danger is not None:
        rows = [f"{row}: fire {p:.0%}" for row, p in zip(PATCHES, danger.value.tolist(), strict=True)]
        tiles = [Tile(i, 0, signed_colours(m, 1.0)) for i, m in enumerate(truth.value)]
        text = "Maps of the true response to dryness in three test patches, from −1 (blue) to 1 (orange)."
        if found is not None and arm:
            largest = np.abs(found.value).max((0, 2, 3))
            tiles += [
                Tile(i, 1 + k, signed_colours(found.value[i, k], float(largest[k])))
                for i in range(len(PATCHES))
                for k in range(2)
            ]
            columns = ("true response", *(f"{s} to ±{v:.2g}" for s, v in zip("γβ", largest, strict=True)))
            moment = board.progress.at(found.step)
            r = [_correlation(truth.value, found.value[:, k]) for k in range(2)]
            text += (
                f" Beside them scale γ and shift β of {arm} at {moment}, in the channel whose γ follows the response "
                f"most closely: correlation {r[0]:.2f} and {r[1]:.2f}."
            )
    return tiles_figure(
        tiles,
        rows=rows,
        columns=columns,
        title="What the map tells the norm",
        look_for="Do γ's shapes become those of the response, or their negative?",
        alt_text=text,
        moment=moment,
    )


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    flat = a.ravel().astype(float), b.ravel().astype(float)
    return float(np.corrcoef(*flat)[0, 1]) if all(v.std() > 0 for v in flat) else 0.0


def _world(board: Board) -> Figure:
    """Response, dryness and their product in the three patches: the law that the models do not know."""
    response, dryness, danger = (_newest(board, name) for name in ("response", "dryness", "danger"))
    tiles, rows = [], [f"patch {name}" for name in PATCHES]
    text = "Maps of response and dryness; nothing is measured yet."
    if response is not None and dryness is not None and danger is not None:
        product = response.value * dryness.value
        largest = float(np.abs(dryness.value).max())
        for i, maps in enumerate(zip(response.value, dryness.value, product, strict=True)):
            tops = (1.0, largest, largest)
            tiles += [
                Tile(i, k, signed_colours(m, t)) for k, (m, t) in enumerate(zip(maps, tops, strict=True))
            ]
        means = product.mean((1, 2)).tolist()
        rows = [f"{row}: fire {p:.0%}" for row, p in zip(PATCHES, danger.value.tolist(), strict=True)]
        text = "Maps of response, dryness and their product. Mean product: " + ", ".join(
            f"patch {name} {m:.2f}" for name, m in zip(PATCHES, means, strict=True)
        )
        text += ". Blue is negative, orange positive."
    return tiles_figure(
        tiles,
        rows=rows,
        columns=("response", "dryness", "product"),
        title="The law that decides",
        look_for="Orange in the product is danger. Left: the true probability.",
        alt_text=text,
    )


def _all_scales(board: Board, arm: str, width: int) -> Figure:
    """The scale in every channel of the middle patch."""
    found, truth = _newest(board, "all_scales", arm), _newest(board, "response")
    rows = -(-width // ABREAST)
    tiles, text, moment = [], "Maps of γ in all channels; nothing is measured yet.", ""
    if found is not None and truth is not None:
        largest = float(np.abs(found.value).max())
        moment = board.progress.at(found.step)
        r = [_correlation(truth.value[1], gamma) for gamma in found.value]
        tiles = [
            Tile(*divmod(k, ABREAST), signed_colours(gamma, largest), f"r {r[k]:.2f}")
            for k, gamma in enumerate(found.value)
        ]
        text = f"Maps of γ of {arm} in all channels for patch B at {moment}; largest size {largest:.2g}."
    return tiles_figure(
        tiles,
        rows=[""] * rows,
        columns=[""] * ABREAST,
        title="γ of patch B, all channels",
        look_for="r: correlation with the true response. How many channels use it?",
        alt_text=text,
        captions=True,
        moment=moment,
    )


def _forecasts(board: Board) -> Figure:
    """Forecast against the true probability, a point for each of a hundred test patches and each arm."""
    truth = _newest(board, "truth")
    found = {arm: _newest(board, "forecast", arm) for arm in board.arms}
    parts, text, moment = [], "Forecast against true probability; nothing is measured yet.", ""
    there = {arm: entry for arm, entry in found.items() if entry is not None}
    if truth is not None and there:
        true = truth.value.astype(float)
        parts = [
            pd.DataFrame({"arm": arm, "x": true.round(4), "y": entry.value.astype(float).round(4)})
            for arm, entry in there.items()
        ]
        moment = board.progress.at(max(entry.step for entry in there.values()))
        errors = {arm: float(np.abs(e.value.astype(float) - true).mean()) for arm, e in there.items()}
        listed = ", ".join(f"{arm} {error:.2f}" for arm, error in errors.items())
        text = f"Forecast against true probability of fire at {moment}. Mean absolute difference: {listed}."
    data = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["arm", "x", "y"])
    return cloud_figure(
        data,
        kinds=board.arms,
        title="Forecasts of a hundred patches",
        look_for="On the diagonal the forecast is the truth. Who comes near?",
        alt_text=text,
        x="true probability of fire",
        y="forecast",
        width=UNIT,
        height=UNIT,
        moment=moment,
        diagonal=True,
    )
