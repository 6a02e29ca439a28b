"""What is drawn on the page *Evolving layers*."""

from __future__ import annotations

import numpy as np

from normviz.arms import Arms
from normviz.experiments.evolving_layers.candidates import (
    ANCHORS,
    REFERENCES,
    VERDICTS,
    Trial,
    best,
    formula,
    front,
    population,
    trials,
)
from normviz.experiments.evolving_layers.expression import graph_figure
from normviz.experiments.evolving_layers.knobs import Knobs, arm_name
from normviz.experiments.evolving_layers.recorded import RESPONSE_AT
from normviz.experiments.evolving_layers.scatters import Dot, scatter_figure
from normviz.experiments.evolving_layers.sweeps import sweep_figure
from normviz.figures import Board, Figure, Sheet
from normviz.frame import Log

__all__ = ["VERDICT_NAMES", "sheet"]

VERDICT_NAMES = {
    "accepted": "accepted",
    "constant": "ignores its input",
    "nan": "not a number",
    "quality": "learns too little",
    "stability": "gradient explodes",
    "error": "raised an error",
}
VERDICT_LOOKS = Arms.of(
    dict(zip((VERDICT_NAMES[verdict] for verdict in VERDICTS), (2, 6, 7, 4, 3, 1), strict=True))
)
ORIGIN_NAMES = {"initial": "start", "random": "random", "mutation": "mutated"}
MOST_DOTS = 400
TEXT = 90


def sheet(knobs: Knobs) -> Sheet:
    """The charts of a setting."""
    return _comparison(knobs) if knobs.mode == "compare" else _search(knobs)


def _comparison(knobs: Knobs) -> Sheet:
    points = {arm_name(name, n): (name, float(n)) for name in knobs.trained_layers() for n in knobs.workers()}
    largest = [arm_name(name, knobs.batch_size()) for name in knobs.trained_layers()]
    across = "images per worker" if knobs.shrink == "workers" else "images per batch"

    def response(board: Board) -> Figure:
        return board.only(largest).profile(
            "response",
            title="A trained layer's answer to one value",
            x="value of one pixel (standard deviations)",
            y="output",
            look_for="In the second layer: a kink, a bend, a ceiling?",
            positions=RESPONSE_AT,
        )

    def sweep(board: Board) -> Figure:
        return sweep_figure(
            board.log,
            "validation_accuracy",
            points,
            title=f"Accuracy against {across}",
            x=across,
            y="accuracy on held-out images (%)",
            look_for="Which layers lose accuracy towards the left, which stay level?",
            arms=board.arms,
            step=board.step,
            progress=board.progress,
        )

    def loss(board: Board) -> Figure:
        return board.lines(
            "loss",
            title="Training loss",
            y="cross-entropy (nats)",
            look_for="Same images, same start. Which layer learns fastest?",
            log_scale=True,
        )

    def accuracy(board: Board) -> Figure:
        return board.lines(
            "validation_accuracy",
            title="Accuracy on held-out images",
            y="accuracy (%)",
            look_for="In eval mode: running statistics stand in for those of the batch.",
            unit=" %",
        )

    def validation(board: Board) -> Figure:
        return board.lines(
            "validation_loss",
            title="Loss on held-out images",
            y="cross-entropy (nats)",
            look_for="How much worse is eval mode than the training loss?",
            log_scale=True,
        )

    def gradients(board: Board) -> Figure:
        return board.lines(
            "grad_norm",
            title="Gradient norm",
            y="Euclidean norm",
            look_for="Do few images make a layer's gradients jump?",
            log_scale=True,
        )

    return Sheet(
        stage={
            "response": response,
            "sweep": sweep,
            "accuracy": accuracy,
            "loss": loss,
            "validation": validation,
            "gradients": gradients,
        }
    )


def _dots(found: list[Trial], knobs: Knobs, x: int | None, y: int | None) -> list[Dot]:
    """Accepted candidates: by two anchors, or by number and mean accuracy where an anchor is None."""
    accepted = [t for t in found if t.scores]
    alive = population(accepted, knobs.population)
    best_of = {
        (t.arm, t.seed, t.index)
        for arm, seed in dict.fromkeys((t.arm, t.seed) for t in accepted)
        for t in front([a for a in accepted if (a.arm, a.seed) == (arm, seed)])
    }
    dots = []
    for t in accepted[-MOST_DOTS:]:
        across = float(t.index) if x is None else 100 * t.scores[x]
        up = 100 * (t.mean if y is None else t.scores[y])
        bold = (t.arm, t.seed, t.index) in (alive if x is None else best_of)
        dots.append(Dot(t.arm, across, up, f"{ORIGIN_NAMES[t.origin]}: {formula(t.graph)}"[:TEXT], bold))
    return dots


def _references(log: Log, step: int | None) -> dict[str, np.ndarray]:
    """Scores (3,) of the published layers, first seed, where they are known."""
    known = {name: log.arrays(f"reference/{name}", step) for name in REFERENCES}
    return {
        name: 100 * min(entries, key=lambda e: e.seed).value for name, entries in known.items() if entries
    }


def _search(knobs: Knobs) -> Sheet:
    def pareto(board: Board) -> Figure:
        return scatter_figure(
            _dots(trials(board.log, board.step), knobs, 0, 1),
            groups=board.arms,
            known={
                name: (float(s[0]), float(s[1])) for name, s in _references(board.log, board.step).items()
            },
            title="Accepted layers on two networks",
            x=f"accuracy on {ANCHORS[0]} (%)",
            y=f"accuracy on {ANCHORS[1]} network (%)",
            look_for="Large: no other is better on all three. Which search found them?",
            x_domain=(0.0, 100.0),
            y_domain=(0.0, 100.0),
        )

    def graph(board: Board) -> Figure:
        winner = best(board.log, board.step)
        said = (
            f"{winner.arm}, candidate {winner.index}: {100 * winner.mean:.1f} %. Left: inputs, right: output."
            if winner
            else "Shown as soon as a first candidate passes all tests."
        )
        return graph_figure(winner.graph if winner else None, said, title="The best layer so far")

    def verdicts(board: Board) -> Figure:
        return board.areas(
            {VERDICT_NAMES[v]: f"count/{v}" for v in VERDICTS},
            title="What became of the candidates",
            y="candidates so far",
            look_for="Does evolution propose more that passes than random search?",
            kinds=VERDICT_LOOKS,
        )

    def best_so_far(board: Board) -> Figure:
        return board.lines(
            "best",
            title="Accuracy of the best layer so far",
            y="mean accuracy on three networks (%)",
            look_for="Who finds the better layer, and when?",
            unit=" %",
        )

    def ageing(board: Board) -> Figure:
        return scatter_figure(
            _dots(trials(board.log, board.step), knobs, None, None),
            groups=board.arms,
            title="The population as it ages",
            x="candidate",
            y="mean accuracy on three networks (%)",
            look_for="Large: in the population. Are newer candidates better?",
            x_domain=(0.0, float(knobs.budget)),
            y_domain=(0.0, 100.0),
        )

    def saved(board: Board) -> Figure:
        return board.lines(
            "training_saved",
            title="Training that rejection saves",
            y="training steps saved (%)",
            look_for="Against training every candidate on all three networks.",
            unit=" %",
        )

    return Sheet(
        stage={
            "pareto": pareto,
            "graph": graph,
            "verdicts": verdicts,
            "best": best_so_far,
            "population": ageing,
            "saved": saved,
        }
    )
