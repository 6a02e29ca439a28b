"""Conditional normalization: LOAN (arXiv 2212.08208) and SSTAN (arXiv 2308.10111) live.

In a notebook::

    from normviz.experiments import conditional_normalization as cn
    run = cn.run(cn.Knobs(patches=800, epochs=3))
    run.figures()["maps"]
    run = cn.run("style-transfer")
    run.figures()["pictures"]
"""

from functools import partial

from normviz.experiments.conditional_normalization.claims import CLAIMS
from normviz.experiments.conditional_normalization.knobs import Knobs
from normviz.experiments.conditional_normalization.presets import PRESETS
from normviz.experiments.experiment import Experiment
from normviz.experiments.run import run_experiment

__all__ = ["EXPERIMENT", "PRESETS", "Knobs", "run"]

EXPERIMENT = Experiment.for_page(
    "conditional-normalization", knobs=Knobs, package=__name__, presets=PRESETS, claims=CLAIMS
)
run = partial(run_experiment, EXPERIMENT)
