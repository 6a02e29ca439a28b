"""Reward normalization (BNPO, arXiv 2506.02864) live: a small policy learns arithmetic from right or wrong.

In a notebook::

    from normviz.experiments import reward_normalization as rn
    run = rn.run(rn.Knobs(steps=80))
    run.figures()["accuracy"]
    run.to_dataframe()
"""

from functools import partial

from normviz.experiments.experiment import Experiment
from normviz.experiments.reward_normalization.claims import CLAIMS
from normviz.experiments.reward_normalization.knobs import Knobs
from normviz.experiments.reward_normalization.presets import PRESETS
from normviz.experiments.run import run_experiment

__all__ = ["EXPERIMENT", "PRESETS", "Knobs", "run"]

EXPERIMENT = Experiment.for_page(
    "reward-normalization", knobs=Knobs, package=__name__, presets=PRESETS, claims=CLAIMS
)
run = partial(run_experiment, EXPERIMENT)
