"""Sample reweighting by loss (arXiv 2502.06733) live: linear regression and a language model on mixed text.

In a notebook::

    from normviz.experiments import sample_reweighting as sr
    run = sr.run(sr.Knobs(task="regression"))
    run.figures()["heldout"]
    run.to_dataframe()
"""

from normviz.experiments.experiment import Experiment
from normviz.experiments.sample_reweighting.claims import CLAIMS
from normviz.experiments.sample_reweighting.figures import draw
from normviz.experiments.sample_reweighting.knobs import Knobs

__all__ = ["EXPERIMENT", "Knobs", "run"]

EXPERIMENT = Experiment.for_page(
    "sample-reweighting", knobs=Knobs, package=__name__, draw=draw, claims=CLAIMS
)
run = EXPERIMENT.run
