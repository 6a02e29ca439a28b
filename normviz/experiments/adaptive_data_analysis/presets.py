"""The story of the page *Adaptive data analysis*, and the settings at which its claims are decided."""

from normviz.presets import Preset, Presets

__all__ = ["PRESETS"]

PRESETS = Presets(
    [
        Preset(
            "noise",
            "Nothing to find",
            "2,000 features of pure noise, one question each: what does the holdout say about a vote of them all?",
        ),
        Preset(
            "reusable-holdout",
            "The reusable holdout",
            "The experiment of the Science paper without signal: who reports the 50 % that are true?",
            {"task": "holdout"},
        ),
        Preset(
            "signal",
            "Twenty true features",
            "The same with 20 features that tell something: who finds more, and who reports it honestly?",
            {"task": "holdout", "signal": True},
        ),
        Preset(
            "small-universe",
            "A small universe",
            "Nine binary features: PMW and Median answer 2,000 questions from a hypothesis about all 1,024 cells.",
            {"task": "universe", "threshold": 0.1, "sigma": 0.004},
        ),
        Preset(
            "hill-climb",
            "Tuning by hill climb",
            "500 configurations of a digits classifier, scored on the same 200 rows: does any mechanism save us?",
            {"task": "climb", "queries": 500, "threshold": 0.05, "sigma": 0.02, "noise": 0.02},
        ),
        Preset(
            "budget",
            "A budget that runs out",
            "Thresholdout with ten answers from the holdout: what does the reader see when they are spent?",
            {
                "mechanisms": ("plain", "thresholdout"),
                "sparse_noise": "laplace",
                "sigma": 0.004,
                "budget": 10,
            },
        ),
    ]
)
