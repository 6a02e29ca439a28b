"""Adaptive data analysis (Dwork et al., arXiv 1411.2664) live: how often the same holdout may be asked.

In a notebook::

    from normviz.experiments import adaptive_data_analysis as ada
    run = ada.run(ada.Knobs(rows=500, queries=500))
    run.figures()["reported"]
    run.to_dataframe()
"""

from functools import partial

from normviz.experiments.adaptive_data_analysis.claims import CLAIMS
from normviz.experiments.adaptive_data_analysis.knobs import Knobs
from normviz.experiments.adaptive_data_analysis.presets import PRESETS
from normviz.experiments.experiment import Experiment
from normviz.experiments.run import run_experiment

__all__ = ["EXPERIMENT", "PRESETS", "Knobs", "run"]

EXPERIMENT = Experiment.for_page(
    "adaptive-data-analysis", knobs=Knobs, package=__name__, presets=PRESETS, claims=CLAIMS
)
run = partial(run_experiment, EXPERIMENT)
