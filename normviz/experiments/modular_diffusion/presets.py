"""The story of the page *Modular diffusion*, and the settings at which its claims are decided."""

from normviz.presets import Grid, Preset, Presets

__all__ = ["PRESETS"]

RATES = Grid("learning_rate", (2e-3, 5e-3, 1e-2), "distance_alone")
"""Every arm gets the rate at which its concepts are best before merging: a user cannot know the others' adapters."""

PRESETS = Presets(
    [
        Preset(
            "three-concepts",
            "Three concepts",
            "Three users teach one model a shape each. Then their adapters are added up: which shapes survive?",
        ),
        Preset(
            "four-concepts",
            "Four concepts",
            "Four shapes; every method at its own best learning rate when its claims are judged.",
            {"concepts": 4},
            grid=RATES,
        ),
        Preset(
            "six-concepts",
            "Six concepts",
            "How fast does the damage grow with every concept that is added? About half a minute.",
            {"concepts": 6},
        ),
        Preset(
            "three-frames",
            "Three kinds of frames",
            "Columns of one's own, random columns, random numbers: must the users agree on who takes what?",
            {"arms": ("orthogonal", "disjoint", "gaussian"), "concepts": 4},
        ),
        Preset(
            "fixed-token",
            "Fixed token",
            "The token is not trained and cannot turn into its own frame: is merging still harmless?",
            {"arms": ("orthogonal", "frozen"), "concepts": 4},
        ),
        Preset(
            "shared-input",
            "Where it does not help",
            "Adapters in layers that read the same for all concepts: the weights are apart, the functions are not.",
            {"arms": ("orthogonal", "shared", "lora_shared"), "concepts": 4},
        ),
        Preset(
            "close-tokens",
            "Tokens nearly alike",
            "All tokens start close together: LoRA's adapters then read the same direction.",
            {"concepts": 4, "start_noise": 0.3},
        ),
    ]
)
