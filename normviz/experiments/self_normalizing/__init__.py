"""Self-normalizing networks (Klambauer et al., arXiv 1706.02515) live: deep MLPs, the moment map, its theorems.

In a notebook::

    from normviz.experiments import self_normalizing as snn
    run = snn.run(snn.Knobs(steps=100, depth=16))
    run.figures()["variance"]
    run.to_dataframe()
"""

from normviz.experiments.experiment import Experiment
from normviz.experiments.self_normalizing.claims import CLAIMS
from normviz.experiments.self_normalizing.figures import draw
from normviz.experiments.self_normalizing.knobs import Knobs

__all__ = ["EXPERIMENT", "Knobs", "run"]

EXPERIMENT = Experiment.for_page("self-normalizing", knobs=Knobs, package=__name__, draw=draw, claims=CLAIMS)
run = EXPERIMENT.run
