"""Normalization statistics: LayerNorm (arXiv 1607.06450), PowerNorm (2003.07845) and UnifiedNorm (2208.01313) live.

In a notebook::

    from normviz.experiments import normalization_statistics as ns
    run = ns.run(ns.Knobs(steps=200))
    run.figures()["loss"]
    run.to_dataframe()
"""

from functools import partial

from normviz.experiments.experiment import Experiment
from normviz.experiments.normalization_statistics.claims import CLAIMS
from normviz.experiments.normalization_statistics.knobs import Knobs
from normviz.experiments.normalization_statistics.presets import PRESETS
from normviz.experiments.run import run_experiment

__all__ = ["EXPERIMENT", "PRESETS", "Knobs", "run"]

EXPERIMENT = Experiment.for_page(
    "normalization-statistics", knobs=Knobs, package=__name__, presets=PRESETS, claims=CLAIMS
)
run = partial(run_experiment, EXPERIMENT)
