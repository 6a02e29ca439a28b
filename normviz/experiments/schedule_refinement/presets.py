"""The story of the page *Schedule refinement*, and the settings at which its claims are decided."""

from normviz.presets import Preset, Presets

__all__ = ["PRESETS"]

DIGITS = {
    "task": "digits",
    "optimizer": "sgd",
    "schedules": ("refined", "linear", "cosine", "flat"),
    "rates": 5,
    "steps": 500,
    "seeds": 1,
}
TEXT = {
    "task": "text",
    "optimizer": "adam",
    "schedules": ("refined", "linear", "cosine"),
    "rates": 3,
    "steps": 300,
    "seeds": 1,
}

PRESETS = Presets(
    [
        Preset(
            "worst-case",
            "Theory's own ground",
            "Absolute regression: record, refine, run again. Who comes closest to the minimum, and how near is theory?",
        ),
        Preset(
            "logistic",
            "A smooth convex loss",
            "Logistic regression with noisy labels: how far is theory's bound from what happens?",
            {"task": "logistic"},
        ),
        Preset(
            "two-runs",
            "A warm-up on text",
            "A small language model: norms fall at the start. Does a warm-up appear that nobody asked for?",
            TEXT,
        ),
        Preset(
            "every-rival",
            "Every rival at its best",
            "The same with five learning rates for five schedules; about half a minute for each seed.",
            {**TEXT, "schedules": ("refined", "linear", "cosine", "inverse_sqrt", "flat"), "rates": 5},
        ),
        Preset(
            "clean-digits",
            "Norms that vanish",
            "Digits without noise: gradients shrink to nothing, and the refined schedule peaks late. Does it help?",
            DIGITS,
        ),
        Preset(
            "noisy-digits",
            "Noise keeps them up",
            "40 % of the labels are wrong: gradients cannot vanish. What does the refined schedule look like now?",
            {**DIGITS, "label_noise": 0.4},
        ),
        Preset(
            "unsmoothed",
            "Without smoothing",
            "Absolute regression with the weights of raw norms: is what comes out still a schedule?",
            {"tau": 0.0},
        ),
    ]
)
