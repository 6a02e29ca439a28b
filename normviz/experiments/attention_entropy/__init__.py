"""Attention entropy: NaLaFormer (arXiv 2506.21137) and other linear attentions against softmax, live.

In a notebook::

    from normviz.experiments import attention_entropy as ae
    run = ae.run(ae.Knobs(steps=40))
    run.figures()["entropy"]
    run.to_dataframe()
"""

from normviz.experiments.attention_entropy.claims import CLAIMS
from normviz.experiments.attention_entropy.figures import draw
from normviz.experiments.attention_entropy.knobs import Knobs
from normviz.experiments.experiment import Experiment

__all__ = ["EXPERIMENT", "Knobs", "run"]

EXPERIMENT = Experiment.for_page("attention-entropy", knobs=Knobs, package=__name__, draw=draw, claims=CLAIMS)
run = EXPERIMENT.run
