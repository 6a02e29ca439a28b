"""Schedule refinement (Defazio et al., arXiv 2310.07831) live: the schedule that the last run's gradients ask for.

In a notebook::

    from normviz.experiments import schedule_refinement as sr
    run = sr.run(sr.Knobs(task="absolute", steps=500))
    run.figures()["schedule"]
    run.to_dataframe()
"""

from functools import partial

from normviz.experiments.experiment import Experiment
from normviz.experiments.run import run_experiment
from normviz.experiments.schedule_refinement.claims import CLAIMS
from normviz.experiments.schedule_refinement.knobs import Knobs
from normviz.experiments.schedule_refinement.presets import PRESETS

__all__ = ["EXPERIMENT", "PRESETS", "Knobs", "run"]

EXPERIMENT = Experiment.for_page(
    "schedule-refinement", knobs=Knobs, package=__name__, presets=PRESETS, claims=CLAIMS
)
run = partial(run_experiment, EXPERIMENT)
