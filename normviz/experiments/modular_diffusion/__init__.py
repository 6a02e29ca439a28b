"""Modular diffusion: Orthogonal Adaptation (arXiv 2312.02432) live.

In a notebook::

    from normviz.experiments import modular_diffusion as md
    run = md.run(md.Knobs(concepts=4, arms=("orthogonal", "lora"), steps=200))
    run.figures()["merged"]
    run.figures()["distances"]
"""

from functools import partial

from normviz.experiments.experiment import Experiment
from normviz.experiments.modular_diffusion.claims import CLAIMS
from normviz.experiments.modular_diffusion.knobs import Knobs
from normviz.experiments.modular_diffusion.presets import PRESETS
from normviz.experiments.run import run_experiment

__all__ = ["EXPERIMENT", "PRESETS", "Knobs", "run"]

EXPERIMENT = Experiment.for_page(
    "modular-diffusion", knobs=Knobs, package=__name__, presets=PRESETS, claims=CLAIMS
)
run = partial(run_experiment, EXPERIMENT)
