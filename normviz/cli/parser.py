"""The parser of all commands: it never abbreviates, and its errors name the nearest flags."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from normviz.cli.errors import UsageError
from normviz.validation import nearest

__all__ = ["EXIT_CODES", "Parser"]

EXIT_CODES = "exit codes: 0 done, 1 failed, 2 bad arguments, 130 interrupted"

_NEGATIVE = re.compile(r"^-(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$|^-inf$", re.IGNORECASE)
"""What is a value and no flag: argparse's own pattern knows no "-1e-3"."""


class Parser(argparse.ArgumentParser):
    """A parser that never abbreviates and raises its errors as :class:`UsageError`, with the nearest flags."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, add_help=True, **options
        )
        self.allowed: dict[str, str] = {}
        self._negative_number_matcher = _NEGATIVE

    def flags(self) -> list[str]:
        """All flags with two dashes that it knows so far."""
        return [name for name in self._option_string_actions if name.startswith("--")]

    def option(self, flag: str) -> argparse.Action | None:
        """What a flag means here; None if there is no such flag."""
        return self._option_string_actions.get(flag)

    def commands(self) -> dict[str, Parser]:
        """The parsers of the commands below this one, by name."""
        below = [a.choices for a in self._actions if isinstance(a, argparse._SubParsersAction)]
        return {name: inner for listed in below for name, inner in (listed or {}).items()}

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would have printed."""
        missing = re.match(r"argument (--[\w-]+)[^:]*: expected .*argument", message)
        if missing:
            flag = missing[1]
            takes = f": it takes {self.allowed[flag]}" if flag in self.allowed else ""
            raise UsageError(f"{flag} needs a value{takes}.")
        raise UsageError(f"{message[:1].upper()}{message[1:]}.")

    def refuse(self, unknown: Sequence[str]) -> None:
        """Raise for arguments that are left over.

        Raises:
            UsageError: there is one; names the nearest flags and what they take.
        """
        for argument in unknown:
            if not argument.startswith("-"):
                raise UsageError(f"{argument!r} is one argument too many.")
            flag = argument.partition("=")[0]
            hits = [
                f"{hit} ({self.allowed[hit]})" if hit in self.allowed else hit
                for hit in nearest(flag, self.flags())
            ]
            hint = f" Nearest: {', '.join(hits)}." if hits else " All flags: add --help."
            raise UsageError(f"There is no flag {flag}.{hint}")
