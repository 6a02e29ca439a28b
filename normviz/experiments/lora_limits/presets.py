"""The story of the page *LoRA limits*, and the settings at which its claims are decided."""

from normviz.presets import Preset, Presets

__all__ = ["PRESETS"]

PRESETS = Presets(
    [
        Preset(
            "drift",
            "Two curves, one drift",
            "Adapters learn a teacher with larger norms: do both gradients train alike, and what do the norms do?",
        ),
        Preset(
            "long-sequences",
            "Up to 65,536 tokens",
            "One gradient on longer and longer sequences: how fast does its time grow? Takes half a minute.",
            {
                "arms": ("exact", "taylor"),
                "longest_exact": "4096",
                "longest": "65536",
                "steps": 20,
                "length": 128,
            },
        ),
        Preset(
            "all-projections",
            "All three projections",
            "The paper's general case at its own scale 1/d: adapters on queries, keys and values.",
            {"adapt": "qkv", "scale": "theory", "arms": ("exact", "taylor", "kept")},
        ),
        Preset(
            "past-the-limit",
            "Past the limit",
            "A teacher with radius 9 and 128 tokens: the factors become wider than the sequence is long.",
            {"teacher_radius": 9.0, "length": 128, "arms": ("exact", "taylor", "kept"), "steps": 200},
        ),
        Preset(
            "wider-head",
            "A wider head",
            "The same with four channels and ε = 0.03: the number of monomials explodes.",
            {"head_dim": 4, "eps": 0.03, "length": 512, "rank": 2, "arms": ("exact", "taylor")},
        ),
    ]
)
