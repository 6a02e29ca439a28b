"""Vision modulation: LaVi (arXiv 2506.16691) live.

In a notebook::

    from normviz.experiments import vision_modulation as vm
    run = vm.run(vm.Knobs(side=3, colours=6, steps=400))
    run.figures()["world"]
    run.figures()["accuracy"]
"""

from functools import partial

from normviz.experiments.experiment import Experiment
from normviz.experiments.run import run_experiment
from normviz.experiments.vision_modulation.claims import CLAIMS
from normviz.experiments.vision_modulation.knobs import Knobs
from normviz.experiments.vision_modulation.presets import PRESETS

__all__ = ["EXPERIMENT", "PRESETS", "Knobs", "run"]

EXPERIMENT = Experiment.for_page(
    "vision-modulation", knobs=Knobs, package=__name__, presets=PRESETS, claims=CLAIMS
)
run = partial(run_experiment, EXPERIMENT)
