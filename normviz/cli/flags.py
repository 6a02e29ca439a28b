"""Flags made from an experiment's knobs.

Every knob ``some_name`` has the flag ``--knob-some-name``. It also has the short flag ``--some-name``, unless an option
of the command or another knob has that name: an option's name always means the option. A knob that is true or false has
the opposites ``--no-knob-some-name`` and ``--no-some-name``, by the same rule.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from normviz.cli.own_files import takes
from normviz.cli.parser import Parser
from normviz.knobs import Control, Knobs

__all__ = ["add_knob_flags", "given_knobs", "knob_flags"]

_DEST = "knob:"
"""Before a knob's name in the parsed arguments, so that a knob never has the name of another argument."""


def knob_flags(controls: Iterable[Control], taken: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The flags of every knob by its name: the short one where it is free, and the long one.

    Args:
        controls: the knobs.
        taken: flags of the command's options.
    """
    listed = list(controls)
    long = {c.name: f"--knob-{_dashed(c.name)}" for c in listed}
    short = {c.name: f"--{_dashed(c.name)}" for c in listed}
    used = {*taken, *(flag for c in listed for flag in _both(c, long[c.name]))}
    wanted = Counter(flag for c in listed for flag in _both(c, short[c.name]))
    return {
        c.name: (short[c.name], long[c.name])
        if all(flag not in used and wanted[flag] == 1 for flag in _both(c, short[c.name]))
        else (long[c.name],)
        for c in listed
    }


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _both(control: Control, flag: str) -> tuple[str, ...]:
    """A flag with its opposite, where it has one."""
    return (flag, f"--no-{flag.removeprefix('--')}") if control.kind == "bool" else (flag,)


def add_knob_flags(parser: Parser, schema: type[Knobs]) -> None:
    """Add the flags of every knob, in the page's sections; values stay text until they are parsed."""
    listed = list(schema.controls().values())
    flags = knob_flags(listed, parser.flags())
    sections = list(dict.fromkeys(control.section for control in listed))
    controls = sorted(listed, key=lambda c: sections.index(c.section))
    for section, members in groupby(controls, key=lambda c: c.section):
        group = parser.add_argument_group(section or "knobs")
        for control in members:
            options: dict[str, Any] = {"dest": _DEST + control.name, "default": argparse.SUPPRESS}
            options["help"] = _help(control).replace("%", "%%")
            if control.kind == "bool":
                options["action"] = argparse.BooleanOptionalAction
            else:
                options["metavar"] = {"int": "N", "float": "X", "text": "TEXT"}.get(control.kind, "NAME")
                several = "+" if control.min_choices else "*"
                options["nargs"] = several if control.kind == "choices" else None
                parser.allowed.update(dict.fromkeys(flags[control.name], control.allowed))
            group.add_argument(*flags[control.name], **options)


def _help(control: Control) -> str:
    allowed = takes(control)
    default = " ".join(control.default) if isinstance(control.default, tuple) else control.default
    shown = str(default).lower() if isinstance(default, bool) else default
    accepted = "" if control.kind == "bool" else f" Takes {allowed}."
    return f"{control.help}{accepted} Default: {shown or 'none'}."


def given_knobs(arguments: argparse.Namespace) -> dict[str, Any]:
    """The knobs that were given as flags, as text; several options also when separated by commas."""
    given = {n.removeprefix(_DEST): v for n, v in vars(arguments).items() if n.startswith(_DEST)}
    return {n: _parts(v) if isinstance(v, list) else v for n, v in given.items()}


def _parts(words: Sequence[str]) -> list[str]:
    return [part for word in words for part in word.split(",") if part]
