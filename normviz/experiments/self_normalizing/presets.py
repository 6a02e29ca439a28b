"""The story of the page *Self-normalizing networks*, and the settings at which its claims are decided."""

from normviz.presets import Grid, Preset, Presets

__all__ = ["PRESETS"]

RATES = Grid(
    "learning_rate",
    (1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    criterion="validation_accuracy",
    better="higher",
)
"""The rates that every network is trained with on tuning seeds; each is judged at its own best."""

PRESETS = Presets(
    [
        Preset(
            "deep",
            "32 layers",
            "Thirty-two hidden layers and one learning rate: who keeps its variance, and who learns at all?",
        ),
        Preset(
            "best-rates",
            "8 layers, best rates",
            "Eight layers, and every network at its own best learning rate: is the race still won?",
            {"depth": 8, "learning_rate": 3e-2, "classical": True},
            grid=RATES,
        ),
        Preset(
            "breast-cancer",
            "A small table",
            "Thirty measurements of 427 breast tumours, each network at its best rate: is a small table a fair race?",
            {"data": "breast_cancer", "depth": 8, "learning_rate": 3e-2, "classical": True},
            grid=RATES,
        ),
        Preset(
            "wine",
            "A tiny table",
            "Thirteen measurements of 134 wines: what is left of the differences when almost nobody errs?",
            {"data": "wine", "depth": 8, "learning_rate": 3e-2, "classical": True},
            grid=RATES,
        ),
        Preset(
            "two-depths",
            "Does depth pay?",
            "Every network with 8 and with 32 layers: what does depth cost each of them?",
            {"depth": 32, "second_depth": 8, "arms": ("snn", "relu_bn")},
        ),
        Preset(
            "loud-inputs",
            "Inputs too large",
            "Inputs four times too large: within a few layers SELU should pull the variance back to 1.",
            {"input_scale": 4.0, "arms": ("snn", "relu"), "depth": 16},
        ),
        Preset(
            "wrong-start",
            "Wrong weights",
            "SELU with He's weights: the theory asks for LeCun's. What happens to the variance?",
            {"arms": ("snn", "snn_he"), "depth": 16},
        ),
    ]
)
