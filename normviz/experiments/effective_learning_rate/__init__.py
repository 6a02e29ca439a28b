"""Effective learning rate: why a normalized network learns ever more slowly, and what projection changes.

Normalize-and-Project (Lyle et al., arXiv 2407.01800) live. In a notebook::

    from normviz.experiments import effective_learning_rate as elr
    run = elr.run(elr.Knobs(task="equivalence", phases=2))
    run.figures()["difference"]
    run.verdicts()
"""

from normviz.experiments.effective_learning_rate.claims import CLAIMS
from normviz.experiments.effective_learning_rate.figures import draw
from normviz.experiments.effective_learning_rate.knobs import Knobs
from normviz.experiments.experiment import Experiment

__all__ = ["EXPERIMENT", "Knobs", "run"]

EXPERIMENT = Experiment.for_page(
    "effective-learning-rate", knobs=Knobs, package=__name__, draw=draw, claims=CLAIMS
)
run = EXPERIMENT.run
