"""The story of the page *Conditional normalization*, and the settings at which its claims are decided."""

from typing import Any

from normviz.presets import Preset, Presets

__all__ = ["PRESETS"]

PAINT: dict[str, Any] = {"task": "paint"}

PRESETS = Presets(
    [
        Preset(
            "place",
            "Where it burns",
            "Dry weather is dangerous only where the land burns: does it help to join map and weather early?",
        ),
        Preset(
            "only-means",
            "Only means count",
            "Now the mean dryness and the mean land cover decide: is there anything left to gain by joining early?",
            {"response": "global"},
        ),
        Preset(
            "season",
            "A season of fire",
            "The day of the year counts too: what does a network gain that is told the day? About half a minute.",
            {"season": 2.0, "models": ("late", "loan", "late_day", "loan_day")},
        ),
        Preset(
            "style-transfer",
            "Paint in another's style",
            "Paint a layout in the style of another picture: who keeps both apart? About half a minute.",
            PAINT,
        ),
        Preset(
            "one-encoder",
            "One encoder for all",
            "The encoder is not told the domain: are the domains still apart, and can we walk from one to another?",
            {**PAINT, "painters": ("sstan",), "encoder": "one"},
        ),
        Preset(
            "five-painters",
            "Five ways to condition",
            "Layout only, style only, style at the start, in every norm, or per region. About a minute.",
            {**PAINT, "painters": ("layout", "style", "spade", "sstan", "sean"), "steps": 160},
        ),
        Preset(
            "adversary",
            "Against a discriminator",
            "Trained as the paper does it: are the pictures sharper than with a loss on pixels? About a minute.",
            {**PAINT, "painters": ("spade", "sstan"), "adversary": True, "paint_rate": 1e-3, "steps": 200},
        ),
    ]
)
