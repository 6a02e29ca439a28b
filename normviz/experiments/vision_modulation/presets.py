"""The story of the page *Vision modulation*, and the settings at which its claims are decided."""

from typing import Any

from normviz.presets import Preset, Presets

__all__ = ["PRESETS"]

NINE: dict[str, Any] = {"side": 3, "colours": 6, "question": "row-column"}
"""The larger world: nine cells, six colours, three words."""

PRESETS = Presets(
    [
        Preset(
            "four-cells",
            "Four cells",
            "A word names one of four cells: can gain and bias of the norms bring its colour into the text?",
        ),
        Preset(
            "keep-the-language",
            "Keep the language",
            "The model has learned text first: how much of it is left after it has learned to see?",
            {"arms": ("attention", "frozen", "concat", "concat_frozen"), "host_steps": 400},
        ),
        Preset(
            "four-conditioners",
            "Four conditioners",
            "Attention, MLP, convolution, or one change for all words: who reads the right cell? About 40 seconds.",
            {"arms": ("attention", "mlp", "conv", "pooled"), "steps": 400, "host_steps": 0},
        ),
        Preset(
            "row-and-column",
            "Row and column",
            "Three words name the cell together: who needs less arithmetic for it? About half a minute.",
            {"question": "row-column", "arms": ("attention", "concat"), "steps": 800, "host_steps": 0},
        ),
        Preset(
            "nine-cells",
            "Nine cells",
            "The same with nine cells and six colours, where tokens before the text learn slowly. About two minutes.",
            {**NINE, "arms": ("attention", "concat"), "steps": 3000, "host_steps": 0},
        ),
        Preset(
            "which-words",
            "Which words",
            "Eight words of text stand before the question: whose norms does the picture change?",
            {"arms": ("attention", "pooled"), "filler": 8, "steps": 240},
        ),
        Preset(
            "bias-alone",
            "Bias alone",
            "Only the bias of the norms may change: is the gain needed at all?",
            {"modulate": "shift", "arms": ("attention", "pooled", "concat")},
        ),
    ]
)
