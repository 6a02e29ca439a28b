"""Federated pruning: FedTiny (arXiv 2212.01977) live, with its rivals and what each costs a device.

In a notebook::

    from normviz.experiments import federated_pruning as fp
    run = fp.run(fp.Knobs(density=0.1, rounds=12))
    run.figures()["mask"]
    run.figures()["accuracy"]
"""

from functools import partial

from normviz.experiments.experiment import Experiment
from normviz.experiments.federated_pruning.claims import CLAIMS
from normviz.experiments.federated_pruning.knobs import Knobs
from normviz.experiments.federated_pruning.presets import PRESETS
from normviz.experiments.run import run_experiment

__all__ = ["EXPERIMENT", "PRESETS", "Knobs", "run"]

EXPERIMENT = Experiment.for_page(
    "federated-pruning", knobs=Knobs, package=__name__, presets=PRESETS, claims=CLAIMS
)
run = partial(run_experiment, EXPERIMENT)
