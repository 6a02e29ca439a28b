"""Attention entropy: NaLaFormer (arXiv 2506.21137) and other linear attentions against softmax, live.

In a notebook::

    from normviz.experiments import attention_entropy as ae
    run = ae.run(ae.Knobs(steps=40))
    run.figures()["entropy"]
    run.to_dataframe()
"""

from functools import partial

from normviz.experiments.attention_entropy.claims import CLAIMS
from normviz.experiments.attention_entropy.knobs import Knobs
from normviz.experiments.attention_entropy.presets import PRESETS
from normviz.experiments.experiment import Experiment
from normviz.experiments.run import run_experiment

__all__ = ["EXPERIMENT", "PRESETS", "Knobs", "run"]

EXPERIMENT = Experiment.for_page(
    "attention-entropy", knobs=Knobs, package=__name__, presets=PRESETS, claims=CLAIMS
)
run = partial(run_experiment, EXPERIMENT)
