"""The story of the page *Effective learning rate*, and the settings at which its claims are decided."""

from normviz.presets import Grid, Preset, Presets

__all__ = ["PRESETS"]

RATES = (3e-4, 1e-3, 3e-3)
"""Learning rates of Adam that every network and agent is trained with on tuning seeds."""

PRESETS = Presets(
    [
        Preset(
            "resets",
            "New labels, again and again",
            "Random labels change every 250 steps: whose effective learning rate falls, though none was lowered?",
        ),
        Preset(
            "many-phases",
            "Twenty phases",
            "Twice as many phases at one learning rate: how far does the rate fall, and does it matter? About half a "
            "minute.",
            {"phases": 20},
        ),
        Preset(
            "best-rates",
            "Best rates, and remedies",
            "The norm and NaP at their own best rates, with three other remedies added to each. About a minute.",
            {
                "arms": ("layer", "nap"),
                "remedies": ("l2", "shrink", "redo"),
                "remedies_with_nap": True,
                "phases": 15,
            },
            grid=Grid("adam_lr", RATES, criterion="phase_accuracy", better="higher"),
        ),
        Preset(
            "norm-free",
            "Without a norm",
            "A high rate, thirty short phases: does a network without norm stop learning, does a ResNet need NaP? "
            "About three minutes.",
            {
                "arms": ("none", "nap", "resnet", "resnet_nap"),
                "depth": 3,
                "adam_lr": 3e-3,
                "phases": 30,
                "period": 150,
            },
        ),
        Preset(
            "equivalence",
            "The same network twice",
            "Plain SGD in double precision: projection and rescaled rates give the same network, digit by digit.",
            {"task": "equivalence", "phases": 8, "period": 150},
        ),
        Preset(
            "stationary",
            "Nothing changes",
            "Ordinary digits, each network at its best rate: does projection cost accuracy?",
            {"task": "stationary", "arms": ("layer", "nap"), "phases": 6},
            grid=Grid("adam_lr", RATES, criterion="accuracy", better="higher"),
        ),
        Preset(
            "games",
            "Games in turn",
            "Three games of Catch, played twice in turn: who still learns the second time? About a minute.",
            {"task": "games", "agents": ("layer", "nap", "decay", "cyclic", "fresh")},
            grid=Grid("adam_lr", RATES, criterion="game_return", better="higher", arms="agents"),
        ),
    ]
)
