"""The story of the page *Active learning*, and the settings at which its claims are decided."""

from normviz.presets import Preset, Presets

__all__ = ["PRESETS"]

PRESETS = Presets(
    [
        Preset(
            "arms",
            "Four pulls, three arms",
            "Which of three slot machines is best after four pulls? A small network learns where to pull.",
        ),
        Preset(
            "six-pulls",
            "Six pulls",
            "The same with two pulls more: how much further does the trained policy sink?",
            {"queries": 6, "seeds": 1},
        ),
        Preset(
            "impossible",
            "Impossible problems",
            "Wrong decisions are counted, however close the arms: the hardest class cannot be solved by anybody.",
            {"loss": "best_identification", "classes": 4},
        ),
        Preset(
            "thresholds",
            "Where do labels change?",
            "Five points on a line and four noisy labels, against binary search, which was made for this (a minute).",
            {"task": "thresholds", "options": 5, "steps": 100, "particles": 16, "seeds": 1},
        ),
        Preset(
            "animals",
            "Twenty questions, lies",
            "One answer in five is wrong: which strategy still finds the animal?",
            {"task": "animals"},
        ),
        Preset(
            "animals-clean",
            "Twenty questions, no lies",
            "The same game with true answers: binary search is hard to beat.",
            {"task": "animals", "noise": 0.0},
        ),
    ]
)
