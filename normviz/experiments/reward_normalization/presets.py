"""The story of the page *Reward normalization*, and the settings at which its claims are decided."""

from normviz.presets import Grid, Preset, Presets

__all__ = ["PRESETS"]

RATES = Grid(
    "learning_rate",
    (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    criterion="accuracy",
    better="higher",
    arms="estimators",
)
"""The rates that every estimator is trained with on tuning seeds; each is judged at its own best."""

PRESETS = Presets(
    [
        Preset(
            "accuracy",
            "Right or wrong",
            "A policy that is right in a third of the cases learns arithmetic: whose gradient is least noisy?",
        ),
        Preset(
            "best-rates",
            "Best rates",
            "Every estimator at its own best learning rate: who ends with the most right answers?",
            {"estimators": ("bnpo", "grpo", "reinforce", "remax", "reinforce++")},
            grid=RATES,
        ),
        Preset(
            "good-start",
            "Only hard questions left",
            "The policy starts with 80 % right answers: does GRPO's extra weight on hard questions pay?",
            {"start": 0.8},
        ),
        Preset(
            "pairs",
            "Two answers per question",
            "With two answers per question the accuracy p is known badly: what happens to the noise?",
            {"group": 2},
        ),
        Preset(
            "two-rewards",
            "Two rewards",
            "A second reward, for two digits: does it help to normalize each by itself?",
            {"rewards": "accuracy_and_format", "estimators": ("bnpo", "grpo", "reinforce_baseline")},
        ),
        Preset(
            "sgd",
            "Plain gradient descent",
            "SGD instead of Adam: now an estimator with larger advantages also takes larger steps.",
            {"optimizer": "sgd", "learning_rate": 0.3},
        ),
    ]
)
