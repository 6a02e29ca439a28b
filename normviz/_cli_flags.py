"""Flags of the command line, made from an experiment's knobs, and the sentences about those that are refused."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from itertools import groupby, product
from pathlib import Path
from typing import Any, NoReturn

from normviz.knobs import Control, KnobError, Knobs
from normviz.uploads import BUILT_IN, MAX_BYTES, TextUploadError, keep_text, read_text
from normviz.validation import nearest

__all__ = ["Parser", "UsageError", "add_knob_flags", "combinations", "given_knobs", "parse_knobs"]

_DEST = "knob:"
"""Before a knob's name in the parsed arguments, so that no knob can meet another argument."""

_NEGATIVE = re.compile(r"^-(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$|^-inf$", re.IGNORECASE)
"""What is a value and no flag: argparse's own pattern knows no "-1e-3"."""

_CORPUS = "corpus"
"""The text knob that also takes a file."""


class UsageError(Exception):
    """The command line asks for something that is not there or not allowed; the message is one sentence."""


class Parser(argparse.ArgumentParser):
    """A parser that never abbreviates and raises its errors as :class:`UsageError`, with the nearest flags."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, add_help=True, **options
        )
        self.allowed: dict[str, str] = {}
        self._negative_number_matcher = _NEGATIVE

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
            known = [name for name in self._option_string_actions if name.startswith("--")]
            hits = [
                f"{hit} ({self.allowed[hit]})" if hit in self.allowed else hit for hit in nearest(flag, known)
            ]
            hint = f" Nearest: {', '.join(hits)}." if hits else " All flags: add --help."
            raise UsageError(f"There is no flag {flag}.{hint}")


def add_knob_flags(parser: Parser, schema: type[Knobs]) -> None:
    """Add one flag for each knob, in the page's sections; values stay text until :func:`parse_knobs`."""
    controls = sorted(schema.controls().values(), key=lambda c: _section_order(schema).index(c.section))
    for section, members in groupby(controls, key=lambda c: c.section):
        group = parser.add_argument_group(section or "knobs")
        for control in members:
            flag = f"--{control.name.replace('_', '-')}"
            options: dict[str, Any] = {"dest": _DEST + control.name, "default": argparse.SUPPRESS}
            options["help"] = _help(control).replace("%", "%%")
            if control.kind == "bool":
                options["action"] = argparse.BooleanOptionalAction
            else:
                options["metavar"] = {"int": "N", "float": "X", "text": "TEXT"}.get(control.kind, "NAME")
                options["nargs"] = "+" if control.kind == "choices" else None
                parser.allowed[flag] = control.allowed
            group.add_argument(flag, **options)


def _section_order(schema: type[Knobs]) -> list[str]:
    return list(dict.fromkeys(control.section for control in schema.controls().values()))


def _help(control: Control) -> str:
    allowed = control.allowed
    if control.name == _CORPUS:
        allowed = f"{BUILT_IN}, the key of a kept text, or a text file"
    default = " ".join(control.default) if isinstance(control.default, tuple) else control.default
    shown = str(default).lower() if isinstance(default, bool) else default
    takes = "" if control.kind == "bool" else f" Takes {allowed}."
    return f"{control.help}{takes} Default: {shown}."


def given_knobs(arguments: argparse.Namespace) -> dict[str, Any]:
    """The knobs that were given as flags, as text; several options also when separated by commas."""
    given = {n.removeprefix(_DEST): v for n, v in vars(arguments).items() if n.startswith(_DEST)}
    return {
        n: [p for part in v for p in part.split(",") if p] if isinstance(v, list) else v
        for n, v in given.items()
    }


def parse_knobs(schema: type[Knobs], values: dict[str, Any], setting: str = "") -> Knobs:
    """Check values; a text file given for ``corpus`` is checked and kept, and its key takes its place.

    Args:
        schema: the experiment's knobs.
        values: text or typed.
        setting: put before the sentence, to tell one combination of a sweep from the others.

    Raises:
        UsageError: one sentence for each knob that is refused.
    """
    before = f"{setting}: " if setting else ""
    try:
        if _CORPUS in values and _CORPUS in schema.controls():
            values = {**values, _CORPUS: _corpus_key(values[_CORPUS])}
        return schema.parse(values)
    except (KnobError, TextUploadError) as error:
        raise UsageError(f"{before}{error}") from error


def _corpus_key(given: str) -> str:
    if given == BUILT_IN:
        return given
    path = Path(given).expanduser()
    if not path.is_file():
        if re.fullmatch(r"text-[0-9a-f]{12}", given):
            read_text(given)
            return given
        raise UsageError(
            f"corpus takes {BUILT_IN}, the key of a kept text, or a text file: there is no file {given!r}."
        )
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(
                f"{path.name} has {path.stat().st_size:,} bytes; at most {MAX_BYTES:,} are allowed."
            )
        return keep_text(path.read_bytes(), path.name)
    except OSError as error:
        raise UsageError(f"{given} cannot be read: {error.strerror or error}.") from error


def combinations(schema: type[Knobs], grid: Sequence[str]) -> Iterator[dict[str, Any]]:
    """All combinations of ``name=value,value`` entries, each a mapping from knob to value as text.

    An entry of a knob with several options is one option, or several joined by "+".

    Raises:
        UsageError: an entry has another form, names no knob, or names one twice.
    """
    controls = schema.controls()
    axes: dict[str, list[Any]] = {}
    for entry in grid:
        name, equals, listed = entry.partition("=")
        name = name.strip().replace("-", "_")
        values = [part.strip() for part in listed.split(",") if part.strip()]
        if not equals or not values:
            raise UsageError(f"--grid takes name=value,value,…, got {entry!r}.")
        if name not in controls:
            hits = nearest(name, controls)
            hint = ", ".join(f"{hit} ({controls[hit].allowed})" for hit in hits) or ", ".join(controls)
            raise UsageError(f"There is no knob {name!r}. Nearest: {hint}.")
        if name in axes:
            raise UsageError(f"--grid {name} is given twice: list all its values in one.")
        several = controls[name].kind == "choices"
        axes[name] = [part.split("+") if several else part for part in dict.fromkeys(values)]
    return (dict(zip(axes, point, strict=True)) for point in product(*axes.values()))
