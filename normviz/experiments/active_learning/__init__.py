"""Learning to actively learn (Zhang, Jain, Jamieson, arXiv 2010.15382) live: a strategy of questions that is trained.

In a notebook::

    from normviz.experiments import active_learning as al
    run = al.run(al.PRESETS["animals"])
    run.figures()["identified"]
    run.to_dataframe()
"""

from functools import partial

from normviz.experiments.active_learning.claims import CLAIMS
from normviz.experiments.active_learning.knobs import Knobs
from normviz.experiments.active_learning.presets import PRESETS
from normviz.experiments.experiment import Experiment
from normviz.experiments.run import run_experiment

__all__ = ["EXPERIMENT", "PRESETS", "Knobs", "run"]

EXPERIMENT = Experiment.for_page(
    "active-learning", knobs=Knobs, package=__name__, presets=PRESETS, claims=CLAIMS
)
run = partial(run_experiment, EXPERIMENT)
