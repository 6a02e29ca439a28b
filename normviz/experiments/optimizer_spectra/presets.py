"""The story of the page *Optimizer spectra*, and the settings at which its claims are decided.

Every optimizer has its own grid of learning rates inside each run; see :func:`.best.at_best` for how one is chosen.
"""

from normviz.presets import Preset, Presets

__all__ = ["PRESETS"]

PRESETS = Presets(
    [
        Preset(
            "digits",
            "Eight optimizers",
            "One gradient with few strong directions, eight optimizers: which directions does each move in?",
        ),
        Preset(
            "matrix-equation",
            "A matrix equation",
            "The whole problem is one ill-conditioned matrix: does a flat spectrum pay at once?",
            {
                "task": "regression",
                "optimizers": ("sgd", "adamw", "muon", "sinkgd", "gradnorm", "whitening", "swan"),
            },
        ),
        Preset(
            "text",
            "Text",
            "A small transformer predicts the next character: who needs fewer steps than AdamW? About three minutes.",
            {
                "task": "language",
                "steps": 100,
                "optimizers": (
                    "adamw",
                    "muon",
                    "normuon",
                    "sinkgd",
                    "swan",
                    "conda",
                    "conda_once",
                    "adafactor",
                    "soap",
                    "galore",
                    "fira",
                    "lora",
                ),
            },
        ),
        Preset(
            "half-the-steps",
            "Half the steps",
            "On text the others get half of AdamW's steps: who still ends level with it? About two minutes.",
            {
                "task": "language",
                "steps": 100,
                "shorter": 0.5,
                "optimizers": ("adamw", "sinkgd", "swan", "conda"),
            },
        ),
        Preset(
            "halves",
            "SWAN's two halves",
            "SWAN normalizes rows and whitens: what does each half do alone? About a minute.",
            {"task": "language", "steps": 100, "optimizers": ("swan", "gradnorm", "whitening")},
        ),
        Preset(
            "bad-batch",
            "One bad batch",
            "One gradient is twenty times too large: whose loss jumps, and whose limiter holds?",
            {"spike": True, "optimizers": ("adamw", "sgd", "swan", "fira", "fira_free")},
        ),
        Preset(
            "cheap-whitening",
            "Cheap whitening",
            "SWAN with diagonal products instead of matrix products: how long does a step take?",
            {
                "task": "language",
                "steps": 40,
                "grid": "1",
                "swan_scheme": "diagonal",
                "optimizers": ("adamw", "swan"),
            },
        ),
    ]
)
