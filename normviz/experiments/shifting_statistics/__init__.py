"""Shifting statistics: AdaB²N (arXiv 2310.08855) and alpha-BN with Core (arXiv 2110.04065) live.

In a notebook::

    from normviz.experiments import shifting_statistics as ss
    run = ss.run(ss.Knobs(corruption="blur", batch_size=16))
    run.figures()["digits"]
    run = ss.run("tasks")
    run.figures()["distance"]
"""

from functools import partial

from normviz.experiments.experiment import Experiment
from normviz.experiments.run import run_experiment
from normviz.experiments.shifting_statistics.claims import CLAIMS
from normviz.experiments.shifting_statistics.knobs import Knobs
from normviz.experiments.shifting_statistics.presets import PRESETS

__all__ = ["EXPERIMENT", "PRESETS", "Knobs", "run"]

EXPERIMENT = Experiment.for_page(
    "shifting-statistics", knobs=Knobs, package=__name__, presets=PRESETS, claims=CLAIMS
)
run = partial(run_experiment, EXPERIMENT)
