"""What a command prints for other programs: whole, unwrapped, and quiet when nobody reads it any more."""

from __future__ import annotations

import os
import sys
from typing import Any

from normviz.cli.records import as_json

__all__ = ["print_document", "print_text"]


def print_document(value: Any) -> None:
    """Print one JSON document on standard output; nothing is printed if it cannot be made."""
    print_text(as_json(value))


def print_text(text: str) -> None:
    """Print text on standard output as it is.

    Raises:
        SystemExit: the reader has closed the pipe, as ``head`` does.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError as error:
        # What is still buffered goes nowhere, so that the interpreter does not complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from error
