"""The story of the page *Shifting statistics*, and the settings at which its claims are decided."""

from typing import Any

from normviz.presets import Preset, Presets

__all__ = ["PRESETS"]

ROW: dict[str, Any] = {"task": "tasks"}

PRESETS = Presets(
    [
        Preset(
            "low-contrast",
            "Pale digits, four at a time",
            "A network trained on clean digits meets pale ones, four at a time: whose statistics help it to read?",
        ),
        Preset(
            "sorted-noise",
            "Noisy digits, sorted",
            "Noisy digits, all zeros first, then all ones: a batch now tells about one class, and misleads.",
            {"corruption": "gaussian_noise", "order": "sorted", "batch_size": 16},
        ),
        Preset(
            "all-corruptions",
            "All corruptions",
            "Four corruptions, two orders, three batch sizes: how often is the middle better than both ends? A minute.",
            {"task": "grid", "methods": ("source", "tbn", "alpha", "entropy", "core")},
        ),
        Preset(
            "tasks",
            "Tasks in a row",
            "Two digits, then the next two, each pair in its own light: what do the running statistics remember?",
            ROW,
        ),
        Preset(
            "no-shift",
            "Tasks in the same light",
            "The same five tasks without a change of light: is there anything left to gain?",
            {**ROW, "task_shift": 0.0, "norms": ("bn", "ada_1", "ada_04")},
        ),
        Preset(
            "strong-shift",
            "Tasks in glaring light",
            "Twice the change of light from task to task: does AdaB²N gain more?",
            {**ROW, "task_shift": 1.0, "norms": ("bn", "ada_1", "ada_04")},
        ),
        Preset(
            "frozen",
            "Weights that stand still",
            "The same batches, but nothing is learned: now old statistics do not go stale. Which κ remembers best?",
            {**ROW, "frozen": True, "norms": ("bn", "ada_1", "ada_04", "ada_0", "bn_alone")},
        ),
    ]
)
