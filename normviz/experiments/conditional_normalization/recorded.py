"""What the frames of the page *Conditional normalization* hold, in numbers that frames and charts share."""

from __future__ import annotations

__all__ = [
    "DAYS_SHOWN",
    "DOMAINS",
    "FORECASTS",
    "LAYOUTS",
    "PAINTED",
    "PAPER_PARAMETERS",
    "PATCHES",
    "POSITIONS",
    "REGIONS",
    "TESTED",
]

TESTED = 600
"""Test patches of the fire world."""
PATCHES = ("A", "B", "C")
"""Test patches whose maps are drawn: little, middling and much danger."""
FORECASTS = 100
"""Test patches whose forecasts are drawn as points."""
DAYS_SHOWN = tuple(range(1, 367, 5))
"""Days of the year for which the three patches are forecast."""

PAPER_PARAMETERS = 413_762
"""Trainable parameters of LOAN's official network with its default arguments."""

PAINTED = 96
"""Test pictures of the painted world."""
DOMAINS = ("A", "B", "C", "D")
"""Art domains."""
REGIONS = ("sky", "ground", "disc", "water")
"""Classes of a layout."""
LAYOUTS = 3
"""Test layouts that are painted in the style of one test picture of each domain."""
POSITIONS = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
"""Moves along a plane's normal: 1 is the distance from the other domains' mean code to the target's."""
