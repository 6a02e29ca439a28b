"""The story of the page *Adaptive batch size*, and the settings at which its claims are decided."""

from normviz.presets import Grid, Preset, Presets

__all__ = ["PRESETS", "RATES"]

RATES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Learning rates tried for each arm, times the usual one."""

JUDGED = ("small", "large", "norm")

PRESETS = Presets(
    [
        Preset(
            "growing",
            "Let the batch grow",
            "Noisy labels, 50 numbers each: the gradient shrinks, its noise stays, and the batch has to grow.",
        ),
        Preset(
            "two-numbers",
            "Two numbers",
            "Least squares in two dimensions: arrows on the landscape, and the exact test beside the usual one.",
            {"task": "toy", "arms": JUDGED, "eta": 0.5, "seeds": 2},
        ),
        Preset(
            "along-and-across",
            "Another test",
            "The augmented test weighs noise along the gradient and noise across it apart. Does it climb otherwise?",
            {"arms": ("small", "norm", "augmented"), "seeds": 1},
        ),
        Preset(
            "strict",
            "The public code's η",
            "η = 0.1 asks for a hundred times the ratio of noise and gradient: 20,000 samples are few for that.",
            {"arms": ("large", "norm", "adagrad"), "eta": 0.1, "seeds": 2},
        ),
        Preset(
            "leave-out-the-worst",
            "Leave out the worst",
            "The coordinate-wise test without the worst fifth of the coordinates (our extension).",
            {"arms": ("norm", "adagrad", "coordinates"), "quantile": 0.8, "seeds": 2},
        ),
        Preset(
            "best-rates",
            "Each at its best rate",
            "Three arms, each with the best of five learning rates: is the growing batch as good?",
            {"arms": JUDGED, "seeds": 2},
            Grid("rate_scale", RATES, "gap", "lower"),
        ),
        Preset(
            "digits",
            "A network on digits",
            "A network that can fit all of its 1,437 samples: many small steps win for the same samples.",
            {"task": "digits", "arms": JUDGED, "max_batch": 512, "seeds": 2},
            Grid("rate_scale", RATES, "accuracy", "higher"),
        ),
    ]
)
