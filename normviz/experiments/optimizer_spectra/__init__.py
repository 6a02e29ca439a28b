"""Optimizer spectra: SinkGD (arXiv 2502.06742), SWAN (2412.13148), Muon and NorMuon (2510.05491), Conda (2509.24218),
GaLore and Fira (2410.01623) beside AdamW and SGD, live.

In a notebook::

    from normviz.experiments import optimizer_spectra
    run = optimizer_spectra.run(optimizer_spectra.Knobs(optimizers=("adamw", "muon"), steps=40))
    run.figures()["update_spectrum"]
    run.verdicts()
"""

from functools import partial

from normviz.experiments.experiment import Experiment
from normviz.experiments.optimizer_spectra.claims import CLAIMS
from normviz.experiments.optimizer_spectra.knobs import Knobs
from normviz.experiments.optimizer_spectra.presets import PRESETS
from normviz.experiments.run import run_experiment

__all__ = ["EXPERIMENT", "PRESETS", "Knobs", "run"]

EXPERIMENT = Experiment.for_page(
    "optimizer-spectra", knobs=Knobs, package=__name__, presets=PRESETS, claims=CLAIMS
)
run = partial(run_experiment, EXPERIMENT)
