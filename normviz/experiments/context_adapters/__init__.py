"""CorDA (Yang et al., arXiv 2406.05223) live: where an adapter starts decides what a network learns and what it keeps.

In a notebook::

    from normviz.experiments import context_adapters
    run = context_adapters.run(context_adapters.Knobs(rank=4, learning_rate=3e-3))
    run.figures()["trade"]
    run.to_dataframe()
"""

from functools import partial

from normviz.experiments.context_adapters.claims import CLAIMS
from normviz.experiments.context_adapters.knobs import Knobs
from normviz.experiments.context_adapters.presets import PRESETS
from normviz.experiments.experiment import Experiment
from normviz.experiments.run import run_experiment

__all__ = ["EXPERIMENT", "PRESETS", "Knobs", "run"]

EXPERIMENT = Experiment.for_page(
    "context-adapters", knobs=Knobs, package=__name__, presets=PRESETS, claims=CLAIMS
)
run = partial(run_experiment, EXPERIMENT)
