"""The story of the page *Normalization statistics*, and the settings at which its claims are decided."""

from normviz.presets import Grid, Preset, Presets

__all__ = ["PRESETS"]

RECURRENT_RATES = Grid(
    "learning_rate", (1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 4e-2), criterion="validation_loss", arms="norms"
)
"""The rates that both recurrent networks are trained with on tuning seeds: their times are compared at the best."""

RATES = Grid("learning_rate", (1e-3, 2e-3, 5e-3, 1e-2), criterion="validation_loss", arms="norms")
"""The rates that every norm is trained with on tuning seeds; each is judged at its own best."""

PRESETS = Presets(
    [
        Preset(
            "language",
            "Language",
            "A small transformer reads text: which statistics can be trusted at test time?",
        ),
        Preset(
            "sorted",
            "Batches by topic",
            "Sort the batches by topic: every batch statistic jumps when the topic changes.",
            {"sorted_batches": True},
        ),
        Preset(
            "best-rates",
            "Language, best rates",
            "Every norm at its own best learning rate, 200 steps: who ends lowest? About two minutes.",
            {
                "norms": ("layer", "batch", "power", "power_v", "power_v_plain", "unified"),
                "steps": 200,
                "reference": False,
            },
            grid=RATES,
        ),
        Preset(
            "small-batches",
            "Vision, small batches",
            "Digits with batches of 64 and of 4: whose statistics survive the small batch? About 40 seconds.",
            {
                "task": "vision",
                "norms": ("layer", "batch", "none"),
                "batch_size": 64,
                "small_batch": 4,
                "steps": 240,
            },
            grid=Grid(
                "learning_rate", (5e-4, 2e-3, 5e-3, 1e-2, 2e-2), criterion="validation_loss", arms="norms"
            ),
        ),
        Preset(
            "outliers",
            "One image far too bright",
            "A vision transformer, and one image far too bright in every tenth batch: which running statistic is "
            "least disturbed? About a minute.",
            {
                "task": "vision",
                "network": "vit",
                "norms": ("layer", "batch", "unified", "unified_filtered", "ema"),
                "small_batch": 16,
                "outlier_every": 10,
                "steps": 160,
            },
        ),
        Preset(
            "recurrent",
            "Recurrent network",
            "An LSTM with and without LayerNorm inside its cell, each at its best learning rate: who needs fewer "
            "updates, and how much arithmetic?",
            {"task": "recurrent", "norms": ("layer", "none"), "steps": 200},
            grid=RECURRENT_RATES,
        ),
        Preset(
            "words",
            "Words and padding",
            "Sentences of words, filled up with padding: do batch statistics jump more than on images? At the end "
            "UnifiedNorm is folded for inference.",
            {"tokens": "words", "norms": ("layer", "batch", "unified", "unified_filtered")},
        ),
    ]
)
