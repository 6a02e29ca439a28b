"""The story of the page *Federated pruning*, and the settings at which its claims are decided."""

from normviz.presets import Grid, Preset, Presets

__all__ = ["PRESETS"]

RATES = Grid("learning_rate", (0.3, 1.0), criterion="accuracy", better="higher")
"""The rates that all methods are trained with on tuning seeds; each is judged at its own best."""

PRESETS = Presets(
    [
        Preset(
            "three-percent",
            "3 % of the weights",
            "Ten clients train a network of which 434 weights are left: does it help that the mask may move?",
        ),
        Preset(
            "best-rates",
            "Best learning rates",
            "FedTiny and a mask that is made once, each at its own best learning rate: which one learns more?",
            {"arms": ("fedtiny", "one_shot")},
            grid=RATES,
        ),
        Preset(
            "rivals",
            "Other ways to prune",
            "SynFlow prunes before training, PruneFL and FedDST go on pruning: who is best at 3 %?",
            {"arms": ("fedtiny", "synflow", "prunefl", "feddst")},
            grid=RATES,
        ),
        Preset(
            "parts",
            "Parts of FedTiny",
            "Without the clients' statistics, and with the blocks in the other order: does each part matter?",
            {"arms": ("fedtiny", "vanilla", "forward")},
        ),
        Preset(
            "every-candidate",
            "Train every candidate",
            "Eight candidates are all trained for twelve rounds: was the lowest loss the best?",
            {"task": "candidates", "pool_size": 8, "rounds": 12},
        ),
        Preset(
            "small-layers-dense",
            "Small layers stay dense",
            "ERK keeps the first layer and the head whole: which layers have weights to exchange now?",
            {"rule": "ERK"},
        ),
        Preset(
            "unlike-clients",
            "Clients without overlap",
            "Dirichlet 0.05: most digits are at one client only. What does the server's average still know?",
            {"alpha": 0.05},
        ),
    ]
)
