"""Text from outside (links, names of runs, uploads) shown as it is: without meaning as Markdown, of bounded length."""

from __future__ import annotations

__all__ = ["plain"]

LONGEST = 300
"""Characters of a text that are shown."""

SPECIAL = r"\`*_{}[]()<>#+-!|~$:"


def plain(text: str) -> str:
    """The text for a place that takes Markdown."""
    escaped = "".join(f"\\{c}" if c in SPECIAL else c for c in text[:LONGEST])
    return " ".join(escaped.split())
