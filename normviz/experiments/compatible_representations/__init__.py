"""Compatible representations (Ricci et al., arXiv 2509.16664) live: maps that keep old features usable.

In a notebook::

    from normviz.experiments import compatible_representations as cr
    run = cr.run(cr.PRESETS["rotated"])
    run.figures()["tradeoff"]
    run.to_dataframe()
"""

from functools import partial

from normviz.experiments.compatible_representations.claims import CLAIMS
from normviz.experiments.compatible_representations.knobs import Knobs
from normviz.experiments.compatible_representations.presets import PRESETS
from normviz.experiments.experiment import Experiment
from normviz.experiments.run import run_experiment

__all__ = ["EXPERIMENT", "PRESETS", "Knobs", "run"]

EXPERIMENT = Experiment.for_page(
    "compatible-representations", knobs=Knobs, package=__name__, presets=PRESETS, claims=CLAIMS
)
run = partial(run_experiment, EXPERIMENT)
