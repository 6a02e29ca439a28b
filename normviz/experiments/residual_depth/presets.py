"""The story of the page *Residual depth*, and the settings at which its claims are decided."""

from normviz.experiments.residual_depth.knobs import RATES
from normviz.presets import Grid, Preset, Presets

__all__ = ["PRESETS"]

PRESETS = Presets(
    [
        Preset(
            "towers",
            "Deep towers",
            "Sixty-four modules, six ways to keep the sum of all paths small: which towers learn?",
        ),
        Preset(
            "taken-apart",
            "Taken apart",
            "Stack modules without training: with 1/n a handful of levels is the whole network.",
            {"task": "expansion"},
        ),
        Preset(
            "same-module",
            "Same module everywhere",
            "One module at every place: now the paths add up, and 1/√n no longer holds the sum.",
            {"task": "expansion", "tied": True},
        ),
        Preset(
            "kinks",
            "Branches with ReLU",
            "Take the trained kind of branch apart: what do ReLU's kinks do to the order of the remainder?",
            {"task": "expansion", "modules": "branches", "depth": 32},
        ),
        Preset(
            "every-rate",
            "No scale, every rate",
            "Four learning rates: is there one at which a deep tower with λ = 1 trains?",
            {"methods": ("plain", "inv_sqrt"), "learning_rates": RATES},
        ),
        Preset(
            "best-rates",
            "Best rates",
            "300 steps, every method at its own best learning rate: who ends most accurate? About half a minute.",
            {"methods": ("inv_sqrt", "inv", "batchnorm"), "steps": 300},
            grid=Grid(
                "learning_rates", RATES, criterion="validation_accuracy", better="higher", arms="methods"
            ),
        ),
        Preset(
            "sweep",
            "Sweep the scale",
            "One tower with nine scales from 1/n to 1: where is its output most complex?",
            {"task": "sweep", "depth": 32, "sweep_points": 9},
        ),
    ]
)
