"""Evolving layers (Liu et al., arXiv 2004.02967) live: the published layers over batch sizes, and the search itself.

In a notebook::

    from normviz.experiments import evolving_layers as ev
    run = ev.run(ev.Knobs(mode="search", budget=100))
    run.figures()["pareto"]
    print(ev.candidates.best(run.log))
"""

from functools import partial

from normviz.experiments.evolving_layers import candidates
from normviz.experiments.evolving_layers.claims import CLAIMS
from normviz.experiments.evolving_layers.knobs import Knobs
from normviz.experiments.evolving_layers.presets import PRESETS
from normviz.experiments.experiment import Experiment
from normviz.experiments.run import run_experiment

__all__ = ["EXPERIMENT", "PRESETS", "Knobs", "candidates", "run"]

EXPERIMENT = Experiment.for_page(
    "evolving-layers", knobs=Knobs, package=__name__, presets=PRESETS, claims=CLAIMS
)
run = partial(run_experiment, EXPERIMENT)
