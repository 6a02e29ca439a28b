"""Normalization statistics: LayerNorm (arXiv 1607.06450) and PowerNorm (arXiv 2003.07845) live.

In a notebook::

    from normviz.experiments import normalization_statistics as ns
    run = ns.run(ns.Knobs(steps=200))
    run.figures()["loss"]
    run.to_dataframe()
"""

from normviz.experiments.experiment import Experiment
from normviz.experiments.normalization_statistics.claims import CLAIMS
from normviz.experiments.normalization_statistics.figures import draw
from normviz.experiments.normalization_statistics.knobs import Knobs

__all__ = ["EXPERIMENT", "Knobs", "run"]

EXPERIMENT = Experiment.for_page(
    "normalization-statistics", knobs=Knobs, package=__name__, draw=draw, claims=CLAIMS
)
run = EXPERIMENT.run
