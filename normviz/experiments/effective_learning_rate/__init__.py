"""Effective learning rate: why a normalized network learns ever more slowly, and what projection changes.

Normalize-and-Project (Lyle et al., arXiv 2407.01800) live. In a notebook::

    from normviz.experiments import effective_learning_rate as elr
    run = elr.run("equivalence")
    run.figures()["difference"]
    run.verdicts()
"""

from functools import partial

from normviz.experiments.effective_learning_rate.claims import CLAIMS
from normviz.experiments.effective_learning_rate.knobs import Knobs
from normviz.experiments.effective_learning_rate.presets import PRESETS
from normviz.experiments.experiment import Experiment
from normviz.experiments.run import run_experiment

__all__ = ["EXPERIMENT", "PRESETS", "Knobs", "run"]

EXPERIMENT = Experiment.for_page(
    "effective-learning-rate", knobs=Knobs, package=__name__, presets=PRESETS, claims=CLAIMS
)
run = partial(run_experiment, EXPERIMENT)
