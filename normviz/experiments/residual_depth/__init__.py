"""Residual depth (Dherin, Munn, arXiv 2510.03470) live: towers trained, taken apart, swept.

In a notebook::

    from normviz.experiments import residual_depth as rd
    run = rd.run(rd.Knobs(task="expansion", depth=32))
    run.figures()["levels"]
    run.to_dataframe()
"""

from normviz.experiments.experiment import Experiment
from normviz.experiments.residual_depth.claims import CLAIMS
from normviz.experiments.residual_depth.figures import draw
from normviz.experiments.residual_depth.knobs import Knobs

__all__ = ["EXPERIMENT", "Knobs", "run"]

EXPERIMENT = Experiment.for_page("residual-depth", knobs=Knobs, package=__name__, draw=draw, claims=CLAIMS)
run = EXPERIMENT.run
