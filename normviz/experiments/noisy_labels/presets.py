"""The story of the page *Noisy labels*, and the settings at which its claims are decided."""

from typing import Any

from normviz.presets import Grid, Preset, Presets

__all__ = ["PRESETS"]

RATES = Grid("learning_rate", (0.03, 0.1, 0.3, 1.0), criterion="accuracy", better="higher")
"""The rates that both methods are trained with on tuning seeds; each is judged at its own best."""

BOTH: dict[str, Any] = {"arms": ("plain", "storm")}

PRESETS = Presets(
    [
        Preset(
            "wrong-labels",
            "40 % wrong labels",
            "Four of ten labels are wrong, and nobody says which: can the network find out by itself?",
        ),
        Preset(
            "best-rates",
            "Best learning rates",
            "Plain training and STORM, each at its own best learning rate: who learns fewer wrong labels?",
            BOTH,
            grid=RATES,
        ),
        Preset(
            "right-labels",
            "All labels right",
            "No label is wrong: does it do harm to weigh samples differently?",
            {**BOTH, "rate": 0.0},
            grid=RATES,
        ),
        Preset(
            "unequal-classes",
            "Unequal classes",
            "The largest class is four times the smallest: are rare classes taken for wrong labels?",
            {**BOTH, "imbalance": 4.0},
            grid=RATES,
        ),
        Preset(
            "plausible-mistakes",
            "Plausible mistakes",
            "Digits that look like another digit get its label: can such mistakes be told from hard cases?",
            {**BOTH, "noise": "instance"},
            grid=RATES,
        ),
        Preset(
            "cheaper",
            "A cheaper STORM",
            "1,024 hidden units, two passes, and a rescaler that learns once in four updates: cheap, and still better?",
            {**BOTH, "n_inner": 4, "passes": 2, "width_factor": 8},
            grid=RATES,
        ),
        Preset(
            "collapse",
            "Collapse",
            "Outer scale 1 and no burn-in: the rescaler trusts what is easy. Which classes keep any weight?",
            {"outer_scale": 1.0, "burn_in": 0, "arms": ("plain", "storm")},
        ),
    ]
)
