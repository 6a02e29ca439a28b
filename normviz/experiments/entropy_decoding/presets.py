"""The story of the page *Entropy decoding*, and the settings at which its claims are decided."""

from normviz.presets import Preset, Presets

__all__ = ["PRESETS"]

LEARNED = {"steps": 600}
"""Training for a comparison: so long that the large model has learned its sums. Found on seeds 11 and 12, which no
verdict has: 300 steps at any of four rates, or with more texts per step, were too few."""

PRESETS = Presets(
    [
        Preset(
            "letters-and-digits",
            "Letters and digits",
            "Letters are easy, digits are hard: does the large model write where it is needed?",
        ),
        Preset(
            "many-prompts",
            "Many prompts",
            "Longer training, five times as many prompts: is entropy better than chance? About 40 seconds.",
            {**LEARNED, "prompts": 40},
        ),
        Preset(
            "sure-digits",
            "Sure digits",
            "No digit is random: the large model becomes sure and hands back too early. About 40 seconds.",
            {**LEARNED, "noise": 0.0, "prompts": 40, "rivals": ("random",)},
        ),
        Preset(
            "hysteresis",
            "Sure digits, hysteresis",
            "The large model hands back only 0.7 bits below the threshold: does it stay? About half a minute.",
            {**LEARNED, "noise": 0.0, "hysteresis": 0.7, "rivals": ("random",)},
        ),
        Preset(
            "short-stretches",
            "Short stretches",
            "Digits come one to four at a time: entropy tells it when the digit is written. About 40 seconds.",
            {**LEARNED, "stretch": "short", "prompts": 40, "rivals": ("random", "single")},
        ),
        Preset(
            "write-again",
            "Short, written again",
            "No window, no shortest run, and a hard character is written again: a repair? About half a minute.",
            {
                **LEARNED,
                "stretch": "short",
                "window": 1,
                "min_tokens": 1,
                "immediate": True,
                "rivals": ("random",),
            },
        ),
        Preset(
            "real-text",
            "Real text",
            "Python's help texts: which letters of a word need the large model?",
            {"task": "text", "tau": 2.0, "steps": 300, "learning_rate": 3e-3},
        ),
    ]
)
