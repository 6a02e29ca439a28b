"""The story of the page *Context adapters*, and the settings at which its claims are decided."""

from normviz.presets import Grid, Preset, Presets

__all__ = ["PRESETS"]

PRESETS = Presets(
    [
        Preset(
            "starts",
            "Five starts, one new task",
            "Shuffled digits are learned from five starts: who learns fast, and who still knows the old digits?",
        ),
        Preset(
            "wrong-data",
            "Calibrated on the wrong task",
            "KPA sees the digits it is to learn, IPA those it should keep: does it matter what the layers have seen?",
            {"arms": ("lora", "kpa", "ipa", "kpa_wrong", "ipa_wrong")},
        ),
        Preset(
            "noise",
            "Calibrated on noise",
            "Random pictures instead of digits: the covariance then says nothing about either task.",
            {"arms": ("pissa", "kpa", "ipa", "kpa_noise", "ipa_noise")},
        ),
        Preset(
            "few-samples",
            "Four calibration samples",
            "Four pictures leave most directions unseen: the damping has to fill them in.",
            {"samples": 4, "arms": ("lora", "pissa", "kpa", "ipa")},
        ),
        Preset(
            "turned",
            "Turned digits",
            "Digits turned by 90 degrees have strokes where the old ones are black: can KPA use the edges?",
            {"new_task": "rotated"},
        ),
        Preset(
            "same-pictures",
            "Same pictures, new labels",
            "No pixel is quiet for one task and strong for the other: is there anything left to keep?",
            {"new_task": "relabelled"},
        ),
        Preset(
            "own-rates",
            "Each at its own best rate",
            "Learning rate matters more than the start: what is left when each method has its own best one?",
            {"arms": ("lora", "pissa", "kpa", "ipa")},
            Grid("learning_rate", (3e-4, 1e-3, 3e-3, 1e-2), criterion="new_accuracy", better="higher"),
        ),
    ]
)
