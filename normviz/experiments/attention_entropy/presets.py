"""The story of the page *Attention entropy*, and the settings at which its claims are decided."""

from typing import Any

from normviz.presets import Grid, Preset, Presets

__all__ = ["PRESETS"]

RATES = (1e-3, 3e-3, 1e-2)
"""The rates that every kernel is trained with on tuning seeds; each is judged at its own best."""
BY_ACCURACY = Grid("learning_rate", RATES, criterion="accuracy", better="higher", arms="kinds")
BY_LOSS = Grid("learning_rate", RATES, criterion="validation_loss", arms="kinds")

RACE: dict[str, Any] = {"steps": 200, "batch_size": 32, "longest": "1024"}
"""Longer training in smaller batches, and little time for the clock: here the end of the training is judged."""

PRESETS = Presets(
    [
        Preset(
            "digits",
            "Digits",
            "Every pixel of a digit is a token: which kernels learn to look at few of them?",
        ),
        Preset(
            "all-kernels",
            "All kernels",
            "FLatten, Performer, PolaFormer and NaLa's sign form beside the others. About two minutes.",
            {
                "kinds": (
                    "softmax",
                    "elu1",
                    "relu",
                    "focused",
                    "performer",
                    "pola",
                    "nala_cosine",
                    "nala_sign",
                )
            },
        ),
        Preset(
            "low-floor",
            "A norm that matters more",
            "A lower floor τ and a higher λ: NaLa's power follows the norm of the query over a wider range.",
            {"lam": 5.0, "tau": 0.2, "kinds": ("softmax", "nala_cosine", "nala_sign")},
        ),
        Preset(
            "best-rates",
            "The race, best rates",
            "Linear attentions, each at its own best learning rate, 200 steps: who is best? About a minute.",
            {"kinds": ("elu1", "relu", "focused", "nala_cosine"), **RACE},
            grid=BY_ACCURACY,
        ),
        Preset(
            "ablation",
            "Which part helps?",
            "NaLa with a fixed power, and NaLa that drops negative coordinates: what is lost? About a minute.",
            {"kinds": ("nala_cosine", "nala_fixed", "nala_clipped"), **RACE},
            grid=BY_ACCURACY,
        ),
        Preset(
            "text",
            "Text",
            "The next character of a text: a token sees only those before it. About a minute.",
            {"task": "text", **RACE},
            grid=BY_LOSS,
        ),
        Preset(
            "long-sequences",
            "Longer sequences",
            "Digits of 256 pixels instead of 64: does the choice of the kernel weigh more? About two minutes.",
            {
                "kinds": ("elu1", "relu", "nala_cosine"),
                "side": "16",
                "batch_size": 16,
                "steps": 100,
                "longest": "8192",
            },
            grid=BY_ACCURACY,
        ),
    ]
)
