"""The story of the page *Compatible representations*, and the settings at which its claims are decided."""

from normviz.presets import Preset, Presets

__all__ = ["PRESETS"]

PRESETS = Presets(
    [
        Preset(
            "rotated",
            "Turned digits",
            "The gallery is now asked about digits turned by 90°: how far may the map leave the rotations?",
        ),
        Preset(
            "upright",
            "The same digits",
            "Nothing is turned: do questions of the new model find more in the old gallery than old questions did?",
            {"downstream": "upright"},
        ),
        Preset(
            "crippled",
            "An old model too weak",
            "The old model has seen five of ten classes: can any map make its gallery good enough?",
            {"old_classes": 5, "arms": ("strict", "lam_1", "affine")},
        ),
        Preset(
            "hinge",
            "A hard threshold",
            "The term is exactly zero up to λ: does the map use all of the distance it is allowed?",
            {"mode": "hinge"},
        ),
        Preset(
            "rivals",
            "Rivals",
            "Procrustes alone, soft orthogonality, weight decay, and two methods that map the old features forward.",
            {"arms": ("strict", "lam_1", "affine", "procrustes", "soft", "decay", "fct", "fastfill")},
        ),
        Preset(
            "three-models",
            "Three models in a row",
            "A middle model stands between: does every newer model find something in every older gallery?",
            {"models": 3, "downstream": "upright", "arms": ("strict", "lam_1", "affine"), "old_classes": 6},
        ),
        Preset(
            "without-start",
            "No closed form to start",
            "The maps begin as the identity: does descent alone turn one model's features onto the other's?",
            {"start": "identity"},
        ),
    ]
)
