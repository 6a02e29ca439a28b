"""Residual depth (Dherin, Munn, arXiv 2510.03470) live: towers trained, taken apart, swept.

In a notebook::

    from normviz.experiments import residual_depth as rd
    run = rd.run("taken-apart")
    run.figures()["levels"]
    run.to_dataframe()
"""

from functools import partial

from normviz.experiments.experiment import Experiment
from normviz.experiments.residual_depth.claims import CLAIMS
from normviz.experiments.residual_depth.knobs import Knobs
from normviz.experiments.residual_depth.presets import PRESETS
from normviz.experiments.run import run_experiment

__all__ = ["EXPERIMENT", "PRESETS", "Knobs", "run"]

EXPERIMENT = Experiment.for_page(
    "residual-depth", knobs=Knobs, package=__name__, presets=PRESETS, claims=CLAIMS
)
run = partial(run_experiment, EXPERIMENT)
