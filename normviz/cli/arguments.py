"""The commands' arguments: options of each command, and the flags of the experiment that is named."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from contextlib import suppress

from normviz import __version__
from normviz.claims import LEAST_SEEDS
from normviz.cli.flags import add_knob_flags
from normviz.cli.parser import EXIT_CODES, Parser
from normviz.engine import find_experiment
from normviz.experiments import SLUGS, Experiment
from normviz.variables import VARIABLES

__all__ = ["HELP", "SHELLS", "add_options", "parsers"]

HELP: dict[str, str] = {
    "list": "the pages, their presets and papers, and which can be run",
    "run": "run one experiment and judge its claims",
    "more": "add seeds to a stored run and judge its claims again",
    "sweep": "run all combinations of some knobs",
    "reproduce": "run the presets that decide the claims of pages, and write the evidence",
    "app": "open the pages in a browser",
    "completion": "print the script with which a shell completes commands, flags and names",
}
"""Every command in a few words."""

_USAGE = {
    "run": "normviz run <slug> [--preset name] [--knob value ...] [options]",
    "sweep": "normviz sweep <slug> --grid knob=a,b [--grid ...] [--preset name] [--knob value ...] [options]",
    "more": "normviz more <run id> [--seeds N] [options]",
}
_WHOLE_RUN = "write run.parquet (everything) or run.csv (the scalars)"
_OUT = {
    "run": _WHOLE_RUN,
    "more": _WHOLE_RUN,
    "sweep": "write the last values of all runs: .csv or .parquet (a table), or .json (with the verdicts)",
    "reproduce": "write all claims with their verdicts to one .json file",
}
SHELLS = ("bash", "zsh")
"""Shells whose completion script can be printed."""

_DESCRIPTION = "See how normalization, optimizers, schedules, attention and reweighting shape training."


def parsers(arguments: Sequence[str]) -> tuple[Parser, dict[str, Parser]]:
    """The parser and those of the commands; ``run`` and ``sweep`` have the flags of the experiment that is named."""
    parser = Parser(prog="normviz", description=_DESCRIPTION, epilog=f"{_variables()}\n\n{EXIT_CODES}")
    parser.add_argument("--version", action="version", version=f"normviz {__version__}")
    sub = parser.add_subparsers(dest="command", metavar="command")
    commands: dict[str, Parser] = {}
    for name, text in HELP.items():
        about = f"{text[:1].upper()}{text[1:]}."
        commands[name] = sub.add_parser(
            name, help=text, description=about, epilog=EXIT_CODES, usage=_USAGE.get(name)
        )
        _add_positional(commands[name], name)
        add_options(commands[name], name)
    if arguments and arguments[0] in ("run", "sweep") and (named := _named(arguments[1:])) is not None:
        command = commands[arguments[0]]
        add_knob_flags(command, named.knobs)
        listed = "".join(f"\n  {p.slug}: {p.sentence}" for p in named.presets.values())
        command.epilog = f"presets:{listed}\n\n{EXIT_CODES}"
    return parser, commands


def _variables() -> str:
    """The environment variables, one a line."""
    width = max(map(len, VARIABLES))
    lines = (
        textwrap.fill(text, 100, initial_indent=f"  {name:{width}}  ", subsequent_indent=" " * (width + 4))
        for name, text in VARIABLES.items()
    )
    return "\n".join(("environment variables:", *lines))


def _add_positional(command: Parser, name: str) -> None:
    """What a command names: an experiment, a stored run, a shell."""
    slugs = f"one of {', '.join(SLUGS)}, or the package of an experiment of your own"
    if name in ("run", "sweep"):
        text = f"{slugs}; name it before --help to see its knobs and presets"
        command.add_argument("slug", nargs="?", help=text)
    elif name == "more":
        command.add_argument("run_id", nargs="?", metavar="run", help="id of a stored run, or its start")
    elif name == "reproduce":
        command.add_argument("slug", nargs="?", default="all", help=f"all (default), or {slugs}")
    elif name == "completion":
        command.add_argument("shell", nargs="?", help=f"one of {', '.join(SHELLS)}")


def add_options(command: Parser, name: str) -> None:
    """Add the options of a command, without the flags of knobs.

    Args:
        command: the parser that gets them.
        name: of the command, a key of :data:`HELP`.
    """
    if name in ("run", "sweep"):
        command.add_argument(
            "--preset", metavar="NAME", help="start from this preset; knob flags override it"
        )
    if name == "more":
        command.add_argument("--seeds", default="1", metavar="N", help="seeds to add (default 1)")
    if name in ("run", "sweep", "reproduce"):
        command.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, mps")
        command.add_argument("--no-store", action="store_true", help="do not keep the runs")
    if name in ("run", "more", "sweep", "reproduce"):
        command.add_argument("--quiet", action="store_true", help="say nothing but errors")
        command.add_argument("--traceback", action="store_true", help="show where a run failed")
        command.add_argument("--out", metavar="FILE", help=_OUT[name])
    if name in ("sweep", "reproduce"):
        command.add_argument("--workers", metavar="N", help="processes (default: one per core, at most 8)")
        command.add_argument(
            "--ray",
            nargs="?",
            const="",
            metavar="ADDRESS",
            help="run on Ray: on this machine, or at an address",
        )
    if name in ("list", "run", "more", "sweep", "reproduce"):
        command.add_argument(
            "--json",
            action="store_true",
            help="the result as one JSON document, nothing else on standard output",
        )
    if name == "sweep":
        command.add_argument(
            "--grid",
            action="append",
            default=[],
            metavar="KNOB=A,B,…",
            help="values of a knob; give several for all combinations. A knob of several options takes one, or some "
            "joined by +: norms=layer,power+batch",
        )
    if name == "reproduce":
        _add_reproduce(command)
    if name == "app":
        command.add_argument("--port", default="8501", help="port to listen on (default 8501)")
        command.add_argument(
            "--address",
            default="127.0.0.1",
            help="address to listen on (default 127.0.0.1: this machine only)",
        )
        command.add_argument(
            "--no-browser",
            action="store_true",
            help="open no browser; without this one opens if the command is typed where windows can be shown",
        )


def _add_reproduce(command: Parser) -> None:
    command.add_argument(
        "--presets", metavar="A,B", help="only these presets of the page; the evidence of the others stays"
    )
    command.add_argument(
        "--seeds",
        default=str(LEAST_SEEDS),
        metavar="N",
        help=f"seeds of each verdict (default {LEAST_SEEDS})",
    )
    command.add_argument(
        "--evidence",
        metavar="FOLDER",
        help="where the evidence is written (default: evidence/ of the checkout)",
    )
    command.add_argument("--no-write", action="store_true", help="judge only, write no evidence")


def _named(arguments: Sequence[str]) -> Experiment | None:
    """The experiment that the arguments name, None if it cannot be found."""
    first = [argument for argument in arguments[:1] if not argument.startswith("-")]
    for name in [argument for argument in arguments if argument in SLUGS] or first:
        with suppress(ValueError):  # said when the arguments are checked
            return find_experiment(name)
    return None
