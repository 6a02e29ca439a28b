"""LoRA limits (Hu et al., arXiv 2406.03136) live: when an adapter's gradient costs less than quadratic time.

In a notebook::

    from normviz.experiments import lora_limits
    run = lora_limits.run(lora_limits.Knobs(length=512, teacher_radius=4.0))
    run.figures()["walk"]
    run.to_dataframe()
"""

from functools import partial

from normviz.experiments.experiment import Experiment
from normviz.experiments.lora_limits.claims import CLAIMS
from normviz.experiments.lora_limits.knobs import Knobs
from normviz.experiments.lora_limits.presets import PRESETS
from normviz.experiments.run import run_experiment

__all__ = ["EXPERIMENT", "PRESETS", "Knobs", "run"]

EXPERIMENT = Experiment.for_page("lora-limits", knobs=Knobs, package=__name__, presets=PRESETS, claims=CLAIMS)
run = partial(run_experiment, EXPERIMENT)
