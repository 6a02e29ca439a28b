"""What a command refuses, and the exit codes."""

from __future__ import annotations

from rich.console import Console

__all__ = ["DONE", "FAILED", "INTERRUPTED", "USAGE", "UsageError", "complain"]

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


class UsageError(Exception):
    """The command line asks for something that is not there or not allowed; the message is one sentence."""


def complain(sentence: str) -> None:
    """Say on standard error what is wrong."""
    Console(stderr=True).print(f"normviz: {sentence}", markup=False, highlight=False, soft_wrap=True)
