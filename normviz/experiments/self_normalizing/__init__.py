"""Self-normalizing networks (Klambauer et al., arXiv 1706.02515) live: deep MLPs, the moment map, its theorems.

In a notebook::

    from normviz.experiments import self_normalizing as snn
    run = snn.run(snn.Knobs(steps=100, depth=16))
    run.figures()["variance"]
    run.to_dataframe()
"""

from functools import partial

from normviz.experiments.experiment import Experiment
from normviz.experiments.run import run_experiment
from normviz.experiments.self_normalizing.claims import CLAIMS
from normviz.experiments.self_normalizing.knobs import Knobs
from normviz.experiments.self_normalizing.presets import PRESETS

__all__ = ["EXPERIMENT", "PRESETS", "Knobs", "run"]

EXPERIMENT = Experiment.for_page(
    "self-normalizing", knobs=Knobs, package=__name__, presets=PRESETS, claims=CLAIMS
)
run = partial(run_experiment, EXPERIMENT)
