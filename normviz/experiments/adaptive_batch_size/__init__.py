"""Adaptive batch size (Lau et al., arXiv 2402.11215) live: a batch that grows when its gradient is too noisy.

In a notebook::

    from normviz.experiments import adaptive_batch_size as ab
    run = ab.run(ab.Knobs(task="toy", eta=0.5))
    run.figures()["staircase"]
    run.to_dataframe()
"""

from functools import partial

from normviz.experiments.adaptive_batch_size.claims import CLAIMS
from normviz.experiments.adaptive_batch_size.knobs import Knobs
from normviz.experiments.adaptive_batch_size.presets import PRESETS
from normviz.experiments.experiment import Experiment
from normviz.experiments.run import run_experiment

__all__ = ["EXPERIMENT", "PRESETS", "Knobs", "run"]

EXPERIMENT = Experiment.for_page(
    "adaptive-batch-size", knobs=Knobs, package=__name__, presets=PRESETS, claims=CLAIMS
)
run = partial(run_experiment, EXPERIMENT)
