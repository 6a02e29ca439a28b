"""What is drawn of the painters."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from normviz.arms import Arms
from normviz.experiments.conditional_normalization.knobs import PAINTERS, Knobs
from normviz.experiments.conditional_normalization.point_clouds import cloud_figure
from normviz.experiments.conditional_normalization.recorded import DOMAINS, LAYOUTS, POSITIONS
from normviz.experiments.conditional_normalization.style_walk import style_walk_figure
from normviz.experiments.conditional_normalization.tiles import (
    Tile,
    layout_colours,
    painted_colours,
    tiles_figure,
)
from normviz.figures import Board, Drawer, Figure, Sheet
from normviz.figures.scales import Span
from normviz.frame import ArrayAt

__all__ = ["DOMAIN_ARMS", "paint_sheet"]

DOMAIN_ARMS = Arms.of({f"domain {name}": i for i, name in enumerate(DOMAINS)})
"""The art domains and their looks."""
CODED = ("sstan", "spade", "style")
"""Painters with one code for a style, the one that is drawn first."""


def paint_sheet(knobs: Knobs) -> Sheet:
    """The charts of a setting."""
    kinds = knobs.kinds()
    painter = PAINTERS[next((k for k in ("sstan", "sean", "spade", "style") if k in kinds), kinds[0])]
    coded = [PAINTERS[kind] for kind in CODED if kind in kinds]

    def pictures(board: Board) -> Figure:
        return _pictures(board, painter)

    def walk(board: Board) -> Figure:
        return style_walk_figure(board, coded[0])

    def codes(board: Board) -> Figure:
        return _codes(board, coded[0])

    def shares(board: Board) -> Figure:
        return _shares(board.only(coded))

    def separated(board: Board) -> Figure:
        return board.only(coded).lines(
            "separated",
            title="Codes on their own domain's side",
            y="share of test pictures",
            look_for="With one encoder per domain this is easy.",
        )

    def kl(board: Board) -> Figure:
        return board.only(coded).lines(
            "kl",
            title="What a code says",
            y="KL divergence (nats per picture)",
            look_for="Near 0 the code says nothing of the picture.",
        )

    stage: dict[str, Drawer] = {"pictures": pictures}
    if len(kinds) > 1:
        stage["rivals"] = _rivals
    stage["error"] = _error
    training: dict[str, Drawer] = {"pixels": _pixels, "loss": _loss}
    more: dict[str, dict[str, Drawer]] = {"Training": training, "Style": {"change": _change}}
    if coded:
        stage |= {"codes": codes, "shares": shares, "walk": walk}
        more["Style"] |= {"separated": separated, "kl": kl}
    return Sheet(stage, more)


_error: Drawer = partial(
    Board.lines,
    series="transfer_error",
    title="Error in another picture's style",
    y="mean difference of colours (from −1 to 1)",
    look_for="Near 0.2: the domain's colours, not the picture's own.",
)
_pixels: Drawer = partial(
    Board.lines,
    series="pixels",
    title="Difference from the training pictures",
    y="mean absolute difference of pixels",
    look_for="Here a picture is painted in its own layout and style.",
)
_loss: Drawer = partial(
    Board.lines,
    series="loss",
    title="Training loss",
    y="loss",
    look_for="With a discriminator it does not say how good pictures are.",
)
_change: Drawer = partial(
    Board.lines,
    series="style_change",
    title="How much the style changes",
    y="largest difference of a pixel between styles",
    look_for="Layout only stays at 0: one picture for all styles.",
)


def _newest(board: Board, name: str, arm: str = "") -> ArrayAt | None:
    """The newest array of an arm, or of any."""
    found = [e for e in board.log.arrays(name, board.step) if not arm or e.arm == arm]
    return found[0] if found else None


def _examples(board: Board) -> tuple[ArrayAt, ArrayAt] | None:
    """The style pictures and the layouts that are drawn."""
    styles, layouts = _newest(board, "style_pictures"), _newest(board, "layout_maps")
    return None if styles is None or layouts is None else (styles, layouts)


def _pictures(board: Board, arm: str) -> Figure:
    """Every layout in every style; styles above, layouts at the left."""
    examples, painted = _examples(board), _newest(board, "pictures", arm)
    tiles, text, moment = [], "Pictures by layout and style; nothing is measured yet.", ""
    if examples is not None and painted is not None:
        styles, layouts = examples
        tiles = [Tile(0, 1 + k, painted_colours(image)) for k, image in enumerate(styles.value)]
        tiles += [Tile(1 + i, 0, layout_colours(m)) for i, m in enumerate(layouts.value)]
        tiles += [
            Tile(1 + i, 1 + k, painted_colours(image))
            for i, row in enumerate(painted.value)
            for k, image in enumerate(row)
        ]
        moment = board.progress.at(painted.step)
        apart = float(np.ptp(painted.value.astype(float).mean((0, 3, 4)), axis=0).mean())
        text = (
            f"Pictures by {arm} at {moment}: {LAYOUTS} layouts, each in the style of one test picture of every "
            f"domain. The mean colours of the {len(DOMAINS)} styles span {apart:.2f}."
        )
    return tiles_figure(
        tiles,
        rows=["style of", *(f"layout {i + 1}" for i in range(LAYOUTS))],
        columns=["", *(f"domain {name}" for name in DOMAINS)],
        title="Layouts in other pictures' styles",
        look_for="Does a column take its colours, a row its shapes?",
        alt_text=text,
        moment=moment,
    )


def _rivals(board: Board) -> Figure:
    """The first layout in every style, one row for each painter; the styles above."""
    examples = _examples(board)
    found = {arm: entry for arm in board.arms if (entry := _newest(board, "pictures", arm)) is not None}
    tiles, text, moment = [], "Pictures by painter; nothing is measured yet.", ""
    if examples is not None and found:
        tiles = [Tile(0, k, painted_colours(image)) for k, image in enumerate(examples[0].value)]
        tiles += [
            Tile(1 + i, k, painted_colours(image))
            for i, arm in enumerate(board.arms)
            if arm in found
            for k, image in enumerate(found[arm].value[0])
        ]
        moment = board.progress.at(max(entry.step for entry in found.values()))
        apart = {arm: float(np.ptp(e.value[0].astype(float), axis=0).mean()) for arm, e in found.items()}
        listed = ", ".join(f"{arm} {value:.2f}" for arm, value in apart.items())
        text = f"One layout in four styles at {moment}. Mean range of a pixel over the styles: {listed}."
    return tiles_figure(
        tiles,
        rows=["style of", *board.arms],
        columns=[f"domain {name}" for name in DOMAINS],
        title="One layout, painter by painter",
        look_for="Who paints the same picture in every style?",
        alt_text=text,
        moment=moment,
    )


def _codes(board: Board, arm: str) -> Figure:
    """Codes of the test pictures in the two directions in which they differ most."""
    codes, domains = _newest(board, "codes", arm), _newest(board, "domains")
    data, text, moment = pd.DataFrame(columns=["arm", "x", "y"]), "Map of codes; nothing is measured yet.", ""
    width = height = Span(-1.0, 1.0)
    if codes is not None and domains is not None:
        places = codes.value.astype(float)
        names = [DOMAIN_ARMS.names[int(d)] for d in domains.value]
        data = pd.DataFrame({"arm": names, "x": places[:, 0].round(4), "y": places[:, 1].round(4)})
        width, height = Span.of(places[:, 0]), Span.of(places[:, 1])
        moment = board.progress.at(codes.step)
        means = data.groupby("arm")[["x", "y"]].mean()
        listed = ", ".join(f"{name} ({x:.2g}, {y:.2g})" for name, x, y in means.itertuples())
        text = f"Style codes of test pictures at {moment}. Means: {listed}."
    return cloud_figure(
        data,
        kinds=DOMAIN_ARMS,
        title="Style codes of test pictures",
        look_for="Do the domains come apart? A line then separates them.",
        alt_text=text,
        x="first direction of the codes",
        y="second direction of the codes",
        width=width,
        height=height,
        moment=moment,
        legend=True,
    )


def _shares(board: Board) -> Figure:
    """Share of walking pictures nearest to the target domain, by position."""
    rows = []
    for arm in board.arms:
        found = [e.value.astype(float) for e in board.log.arrays("moves", board.step) if e.arm == arm]
        if found:
            stack = np.stack(found)
            rows += [
                (arm, *c) for c in zip(POSITIONS, stack.mean(0), stack.min(0), stack.max(0), strict=True)
            ]
    return board.curves(
        pd.DataFrame(rows, columns=["arm", "x", "mean", "low", "high"]),
        title="Pictures that reach the target domain",
        x="position along the normal (0: not moved)",
        y="share nearest to the target's colours",
        look_for="Does it rise from left to right?",
        points=True,
    )
