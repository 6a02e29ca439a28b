"""Sample reweighting by loss (arXiv 2502.06733) live: linear regression and a language model on mixed text.

In a notebook::

    from normviz.experiments import sample_reweighting as sr
    run = sr.run(sr.Knobs(task="regression"))
    run.figures()["heldout"]
    run.to_dataframe()
"""

from functools import partial

from normviz.experiments.experiment import Experiment
from normviz.experiments.run import run_experiment
from normviz.experiments.sample_reweighting.claims import CLAIMS
from normviz.experiments.sample_reweighting.knobs import Knobs
from normviz.experiments.sample_reweighting.presets import PRESETS

__all__ = ["EXPERIMENT", "PRESETS", "Knobs", "run"]

EXPERIMENT = Experiment.for_page(
    "sample-reweighting", knobs=Knobs, package=__name__, presets=PRESETS, claims=CLAIMS
)
run = partial(run_experiment, EXPERIMENT)
