"""The story of the page *Sample reweighting*, and the settings at which its claims are decided."""

from normviz.presets import Grid, Preset, Presets

__all__ = ["PRESETS"]

RATES = Grid("learning_rate", (1e-3, 3e-3, 1e-2, 3e-2), criterion="heldout_loss", arms="strategies")
"""The rates of AdamW that every strategy is trained with on tuning seeds; each is judged at its own best."""

STEP_SIZES = Grid("step_size", (0.5, 1.0, 1.5, 1.9), criterion="heldout_loss", arms="strategies")
"""The same for gradient descent, in units of 1/L."""

PRESETS = Presets(
    [
        Preset(
            "half-repeats",
            "Half of it repeats",
            "Half of the text is eight passages again and again: who spends weight on what is known already?",
        ),
        Preset(
            "best-rates",
            "Best learning rates",
            "A higher learning rate; judged with every strategy at its own best rate: who knows new text best?",
            {"learning_rate": 1e-2},
            grid=RATES,
        ),
        Preset(
            "with-and-without",
            "With and without repeats",
            "Uniform and LinUpper on text with repeats and on text without: is the gain due to the repeats?",
            {"strategies": ("uniform", "linupper"), "without_repeats": True},
            grid=RATES,
        ),
        Preset(
            "outliers",
            "Many outliers",
            "Nothing repeats, a fifth is shuffled or foreign: does it pay to distrust the highest losses?",
            {
                "strategies": ("uniform", "linupper", "quadratic"),
                "redundant": 0.0,
                "shuffled": 0.1,
                "foreign": 0.1,
            },
            grid=RATES,
        ),
        Preset(
            "bound",
            "Theory: the bound",
            "Linear regression, where all samples can be fitted at once: the mean gap must stay below its bound.",
            {"task": "regression", "steps": 200},
        ),
        Preset(
            "regression-best-steps",
            "Regression, best steps",
            "Linear regression with larger steps; judged with every strategy at its own best: who needs the fewest?",
            {"task": "regression", "steps": 200, "step_size": 1.5},
            grid=STEP_SIZES,
        ),
        Preset(
            "wrong-targets",
            "Wrong targets",
            "A tenth of the targets is wrong: now the largest losses are the wrong ones. Who follows them?",
            {"task": "regression", "steps": 200, "corrupted": 0.1},
        ),
    ]
)
