"""What is drawn on the page *Evolving layers*."""

from __future__ import annotations

import numpy as np

from normviz.experiments.evolving_layers.candidates import (
    ANCHORS,
    REFERENCES,
    VERDICTS,
    Trial,
    best,
    front,
    population,
    trials,
)
from normviz.experiments.evolving_layers.expression import graph_figure
from normviz.experiments.evolving_layers.knobs import FOUND, Knobs, arm_name, arm_names
from normviz.figures import Figure, area_figure, line_figure, profile_figure
from normviz.figures.scatters import Dot, scatter_figure
from normviz.figures.sweeps import sweep_figure
from normviz.frame import Log

__all__ = ["RESPONSE_AT", "VERDICT_NAMES", "draw"]

RESPONSE_AT = tuple(np.linspace(-4, 4, 33).tolist())
"""Values, in standard deviations, at which a trained layer's response is measured."""

VERDICT_NAMES = {
    "accepted": "accepted",
    "constant": "ignores its input",
    "nan": "not a number",
    "quality": "learns too little",
    "stability": "gradient explodes",
    "error": "raised an error",
}
ORIGIN_NAMES = {"initial": "start", "random": "random", "mutation": "mutated"}
MOST_DOTS = 400
TEXT = 90


def draw(log: Log, knobs: Knobs, step: int | None = None) -> dict[str, Figure]:
    """All figures for what the log holds, with the cursor at ``step``."""
    return _comparison(log, knobs, step) if knobs.mode == "compare" else _search(log, knobs, step)


def _comparison(log: Log, knobs: Knobs, step: int | None) -> dict[str, Figure]:
    arms = arm_names(knobs)
    layers = [*knobs.layers, *([FOUND] if knobs.found else [])]
    points = {arm_name(layer, size): (layer, size) for layer in layers for size in knobs.workers()}
    largest = [arm_name(layer, knobs.batch_size()) for layer in layers]
    return {
        "sweep": sweep_figure(
            log,
            "validation_accuracy",
            points,
            title="Accuracy against images per worker",
            x="images per worker",
            y="accuracy on held-out digits (%)",
            look_for="Layers that use the batch sink towards the left; layers that look at each image stay level.",
            step=step,
        ),
        "loss": line_figure(
            log,
            "loss",
            title="Training loss",
            y="cross-entropy (nats)",
            look_for="Same images, start and step size; n: images per worker. Which layer learns fastest? Log scale.",
            arms=arms,
            log_scale=True,
            step=step,
            last=knobs.steps,
        ),
        "response": profile_figure(
            log,
            "response",
            title="A trained layer's answer to one value",
            x="value of one pixel (standard deviations)",
            y="output",
            look_for="Measured in the second layer as it trains: is there a kink (ReLU), a bend, a ceiling?",
            arms=largest,
            positions=RESPONSE_AT,
            step=step,
        ),
        "accuracy": line_figure(
            log,
            "validation_accuracy",
            title="Accuracy on held-out digits",
            y="accuracy (%)",
            look_for="In eval mode, where layers that used the batch use running statistics instead.",
            arms=arms,
            step=step,
            last=knobs.steps,
            unit=" %",
        ),
        "validation": line_figure(
            log,
            "validation_loss",
            title="Loss on held-out digits",
            y="cross-entropy (nats)",
            look_for="Finer than accuracy: how much worse is a layer in eval mode than its training loss? Log scale.",
            arms=arms,
            log_scale=True,
            step=step,
            last=knobs.steps,
        ),
        "gradients": line_figure(
            log,
            "grad_norm",
            title="Gradient norm",
            y="Euclidean norm",
            look_for="Do small batches make a layer's gradients jump? Log scale.",
            arms=arms,
            log_scale=True,
            step=step,
            last=knobs.steps,
        ),
    }


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
        dots.append(Dot(t.arm, across, up, f"{ORIGIN_NAMES[t.origin]}: {t.graph.to_formula()}"[:TEXT], bold))
    return dots


def _references(log: Log, step: int | None) -> dict[str, np.ndarray]:
    """Scores (3,) of the published layers, first seed, where they are known."""
    known = {name: log.arrays(f"reference/{name}", step) for name in REFERENCES}
    return {
        name: 100 * min(entries, key=lambda e: e.seed).value for name, entries in known.items() if entries
    }


def _search(log: Log, knobs: Knobs, step: int | None) -> dict[str, Figure]:
    arms = arm_names(knobs)
    found = trials(log, step)
    known = _references(log, step)
    winner = best(log, step)
    said = (
        f"{winner.arm}, candidate {winner.index}: mean accuracy {100 * winner.mean:.1f} %. Left: inputs, right: output."
        if winner
        else "Shown as soon as a first candidate passes all tests."
    )
    return {
        "verdicts": area_figure(
            log,
            {VERDICT_NAMES[v]: f"count/{v}" for v in VERDICTS},
            title="What became of the candidates",
            y="candidates so far",
            look_for="Almost everything is rejected. Does evolution propose more that passes than random search?",
            arms=arms,
            step=step,
            last=knobs.budget,
            x="candidate",
        ),
        "pareto": scatter_figure(
            _dots(found, knobs, 0, 1),
            groups=arms,
            known={name: (float(s[0]), float(s[1])) for name, s in known.items()},
            title="Accepted layers on two architectures",
            x=f"accuracy on {ANCHORS[0]} (%)",
            y=f"accuracy on {ANCHORS[1]} network (%)",
            look_for="Large: on the Pareto front of its search, where a third, depthwise network counts too.",
            x_domain=(0.0, 100.0),
            y_domain=(0.0, 100.0),
        ),
        "graph": graph_figure(winner.graph if winner else None, said, title="The best layer so far"),
        "best": line_figure(
            log,
            "best",
            title="Accuracy of the best layer so far",
            y="mean accuracy on three networks (%)",
            look_for="Same number of candidates for each search: who finds the better layer, and when?",
            arms=arms,
            step=step,
            last=knobs.budget,
            unit=" %",
            x="candidate",
        ),
        "population": scatter_figure(
            _dots(found, knobs, None, None),
            groups=arms,
            title="The population as it ages",
            x="candidate",
            y="mean accuracy on three networks (%)",
            look_for="Large: alive; the oldest leave as new ones come. Does the cloud rise?",
            x_domain=(0.0, float(knobs.budget)),
            y_domain=(0.0, 100.0),
            wide=True,
        ),
    }
