"""What is drawn on the page *Modular diffusion*."""

from __future__ import annotations

import copy
from dataclasses import replace

from normviz.experiments.modular_diffusion.crosstalk_maps import crosstalk_maps_figure
from normviz.experiments.modular_diffusion.damage_plane import damage_plane_figure
from normviz.experiments.modular_diffusion.knobs import ARM_NAMES, Knobs
from normviz.experiments.modular_diffusion.recorded import CONCEPTS, MERGES
from normviz.experiments.modular_diffusion.sample_panels import sample_panels_figure
from normviz.figures import Board, Drawer, Figure, Sheet
from normviz.figures.vega import units

__all__ = ["sheet"]

FRAMED = ("orthogonal", "disjoint", "gaussian", "frozen")
"""Arms whose frames read the token."""


def _panels(knobs: Knobs, how: str, title: str, look_for: str) -> Drawer:
    def draw(board: Board) -> Figure:
        return sample_panels_figure(board, knobs, how, title, look_for)

    return draw


def _distances(board: Board) -> Figure:
    places = {"alone": "distance_alone"} | {word: f"distance_{how}" for how, word in MERGES.items()}
    return board.dots(
        places,
        title="Distance to the concepts' data",
        x="energy distance, mean over concepts",
        look_for="Which way of merging stays nearest to “alone”?",
    )


def _by_number(figure: Figure, last: int) -> Figure:
    """The same chart with ticks at 1, 2, … only, as positions are counted, and three digits on the vertical axis."""
    spec = copy.deepcopy(dict(figure.spec or {}))
    for unit in units(spec):
        encoding = unit.get("encoding", {})
        if "axis" in encoding.get("x", {}):
            encoding["x"]["axis"]["values"] = list(range(1, last + 1))
        if "axis" in encoding.get("y", {}):
            encoding["y"]["axis"]["format"] = ".3~g"
    return replace(figure, spec=spec)


def _added(board: Board, knobs: Knobs) -> Figure:
    figure = board.profile(
        "added_by_count",
        title="Damage by number of merged concepts",
        x="concepts in the sum",
        y="distance added by merging",
        look_for="Every concept damages the others. Whose line is steeper?",
    )
    return _by_number(figure, knobs.concepts)


def _over_steps(board: Board) -> Figure:
    return board.lines(
        {"distance_sum": "", "distance_alone": ", alone"},
        title="Distance during training",
        y="energy distance, mean over concepts",
        look_for="Alone it falls. When does the sum begin to suffer?",
    )


def _loss(board: Board) -> Figure:
    return board.lines(
        "loss",
        title="Training loss",
        y="squared error of the predicted noise",
        look_for="One fixed factor: is the concept learned more slowly?",
    )


def _on_inputs(board: Board) -> Figure:
    return board.lines(
        "activation_crosstalk",
        title="Crosstalk on the concepts' own inputs",
        y="response of the other adapters ÷ own response",
        look_for="Above 1 the others are louder than the concept itself.",
        log_scale=True,
    )


def _by_concept(knobs: Knobs) -> dict[str, Drawer]:
    """Distances of every concept, alone and in the sum, at the moment."""

    def drawer(how: str, word: str) -> Drawer:
        def draw(board: Board) -> Figure:
            names = CONCEPTS[: knobs.concepts]
            figure = board.profile(
                f"concepts_{how}",
                title=f"Distance by concept, {word}",
                x=", ".join(f"{i} {name}" for i, name in enumerate(names, 1)),
                y="energy distance",
                look_for="Which concepts suffer most?"
                if how == "sum"
                else "Which concepts are hard to learn?",
            )
            return _by_number(figure, knobs.concepts)

        return draw

    return {"by_concept_sum": drawer("sum", "summed"), "by_concept_alone": drawer("alone", "alone")}


def sheet(knobs: Knobs) -> Sheet:
    """The charts of a setting."""
    framed = [ARM_NAMES[kind] for kind in knobs.kinds(FRAMED)]

    def maps(board: Board) -> Figure:
        return crosstalk_maps_figure(board, knobs)

    def added(board: Board) -> Figure:
        return _added(board, knobs)

    def shares(board: Board) -> Figure:
        return board.only(framed).lines(
            {"own_share": "", "other_share": ", in others"},
            title="Where the token lies",
            y="share of its squared length in a frame",
            look_for="Does it turn into its own frame, and not into others?",
        )

    stage: dict[str, Drawer] = {
        "merged": _panels(
            knobs,
            "sum",
            "One summed model, all concepts",
            "Grey: the concept's data. Whose points still lie on it?",
        ),
        "alone": _panels(
            knobs,
            "alone",
            "A model for each concept",
            "Before merging: every user's own model. All should fit.",
        ),
        "distances": _distances,
        "crosstalk": maps,
        "added": added,
        "plane": damage_plane_figure,
    }
    other: dict[str, Drawer] = {
        how: _panels(
            knobs,
            how,
            f"One {MERGES[how]} model, all concepts",
            "An average leaves a part of each concept. Which part?"
            if how == "average"
            else "Fused on the concepts' own inputs. Is anything lost?",
        )
        for how in ("average", "fused")
    }
    mechanism: dict[str, Drawer] = {"inputs": _on_inputs}
    if framed:
        mechanism = {"shares": shares, **mechanism}
    more: dict[str, dict[str, Drawer]] = {
        "Other ways to merge": other,
        "Why it works": mechanism,
        "Concept by concept": _by_concept(knobs),
        "Training": {"over_steps": _over_steps, "loss": _loss},
    }
    return Sheet(stage, more)
