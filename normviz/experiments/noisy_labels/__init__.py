"""Noisy labels: STORM (arXiv 2412.12955) live.

In a notebook::

    from normviz.experiments import noisy_labels as nl
    run = nl.run(nl.Knobs(rate=0.4, steps=400))
    run.figures()["accuracy"]
    run.figures()["least"]
"""

from functools import partial

from normviz.experiments.experiment import Experiment
from normviz.experiments.noisy_labels.claims import CLAIMS
from normviz.experiments.noisy_labels.knobs import Knobs
from normviz.experiments.noisy_labels.presets import PRESETS
from normviz.experiments.run import run_experiment

__all__ = ["EXPERIMENT", "PRESETS", "Knobs", "run"]

EXPERIMENT = Experiment.for_page(
    "noisy-labels", knobs=Knobs, package=__name__, presets=PRESETS, claims=CLAIMS
)
run = partial(run_experiment, EXPERIMENT)
