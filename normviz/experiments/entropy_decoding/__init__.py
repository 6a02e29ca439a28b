"""Entropy decoding: Entropy Adaptive Decoding (arXiv 2502.06833) live.

In a notebook::

    from normviz.experiments import entropy_decoding as ed
    run = ed.run(ed.Knobs(tau=0.7))
    run.figures()["text"]
    run.figures()["quality"]
"""

from functools import partial

from normviz.experiments.entropy_decoding.claims import CLAIMS
from normviz.experiments.entropy_decoding.knobs import Knobs
from normviz.experiments.entropy_decoding.presets import PRESETS
from normviz.experiments.experiment import Experiment
from normviz.experiments.run import run_experiment

__all__ = ["EXPERIMENT", "PRESETS", "Knobs", "run"]

EXPERIMENT = Experiment.for_page(
    "entropy-decoding", knobs=Knobs, package=__name__, presets=PRESETS, claims=CLAIMS
)
run = partial(run_experiment, EXPERIMENT)
