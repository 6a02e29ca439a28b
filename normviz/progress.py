"""Progress axes: what the number ``step`` of a frame counts, in words for axes, slider and status line."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["QUERIES", "ROUNDS", "SAMPLES", "STEPS", "TOKENS", "Progress"]


@dataclass(frozen=True)
class Progress:
    """The quantity along which an experiment moves on.

    Args:
        one: a unit in the singular, e.g. ``"step"``.
        many: in the plural.
        axis: title of a chart's horizontal axis.
    """

    one: str
    many: str
    axis: str

    def at(self, position: float) -> str:
        """A position in words, e.g. ``"step 40"``."""
        return f"{self.one} {position:.0f}"


STEPS = Progress("step", "steps", "training step")
SAMPLES = Progress("sample", "samples", "training samples seen")
ROUNDS = Progress("round", "rounds", "communication round")
TOKENS = Progress("token", "tokens", "tokens")
QUERIES = Progress("query", "queries", "queries asked")
