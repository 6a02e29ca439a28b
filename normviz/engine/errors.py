"""An exception in one line for the reader."""

from __future__ import annotations

__all__ = ["describe"]

_LONGEST = 500


def describe(error: BaseException) -> str:
    """Type and text of an exception in one line of bounded length."""
    text = " ".join(str(error).split())
    line = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"
