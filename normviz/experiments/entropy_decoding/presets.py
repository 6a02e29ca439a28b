"""The story of the page *Entropy decoding*, and the settings at which its claims are decided."""

from normviz.presets import Preset, Presets

__all__ = ["PRESETS"]

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
            "Five times as many prompts: is switching by entropy better than at random? About half a minute a seed.",
            {"prompts": 40},
        ),
        Preset(
            "sure-digits",
            "Sure digits",
            "No digit is random: the large model becomes sure, its entropy falls, and it hands back too early.",
            {"noise": 0.0, "prompts": 40, "rivals": ("random",)},
        ),
        Preset(
            "hysteresis",
            "Sure digits, hysteresis",
            "The large model hands back only 0.7 bits below the threshold: does it stay for the whole stretch?",
            {"noise": 0.0, "hysteresis": 0.7, "rivals": ("random",)},
        ),
        Preset(
            "short-stretches",
            "Short stretches",
            "Digits come one to four at a time: entropy tells it only when the digit is already written.",
            {"stretch": "short", "prompts": 40, "rivals": ("random", "single")},
        ),
        Preset(
            "write-again",
            "Short, written again",
            "No window and no shortest run, and the large model writes the hard character again: does it repair that?",
            {"stretch": "short", "window": 1, "min_tokens": 1, "immediate": True, "rivals": ("random",)},
        ),
        Preset(
            "real-text",
            "Real text",
            "Python's help texts: which letters of a word need the large model?",
            {"task": "text", "tau": 2.0, "prompts": 6},
        ),
    ]
)
