"""The commands' arguments: options of each command, and the flags of the experiment that is named."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from normviz import __version__
from normviz.claims import LEAST_SEEDS
from normviz.cli.flags import add_knob_flags
from normviz.cli.parser import EXIT_CODES, Parser
from normviz.engine import find_experiment
from normviz.experiments import SLUGS, Experiment

__all__ = ["HELP", "parsers"]

HELP: dict[str, str] = {
    "list": "the pages, their presets and papers, and which can be run",
    "run": "run one experiment and judge its claims",
    "more": "add seeds to a stored run and judge its claims again",
    "sweep": "run all combinations of some knobs",
    "reproduce": "run the presets that decide the claims of pages, and write the evidence",
    "app": "open the pages in a browser",
}
"""Every command in a few words."""

_USAGE = {
    "run": "normviz run <slug> [--preset name] [--knob value ...] [options]",
    "sweep": "normviz sweep <slug> --grid knob=a,b [--grid ...] [--preset name] [--knob value ...] [options]",
    "more": "normviz more <run id> [--seeds N] [options]",
}
_DESCRIPTION = "See how normalization, optimizers, schedules, attention and reweighting shape training."


def parsers(arguments: Sequence[str]) -> tuple[Parser, dict[str, Parser]]:
    """The parser and those of the commands; ``run`` and ``sweep`` have the flags of the experiment that is named."""
    parser = Parser(prog="normviz", description=_DESCRIPTION, epilog=EXIT_CODES)
    parser.add_argument("--version", action="version", version=f"normviz {__version__}")
    sub = parser.add_subparsers(dest="command", metavar="command")
    commands: dict[str, Parser] = {}
    for name, text in HELP.items():
        about = f"{text[:1].upper()}{text[1:]}."
        commands[name] = sub.add_parser(
            name, help=text, description=about, epilog=EXIT_CODES, usage=_USAGE.get(name)
        )
    commands["list"].add_argument("--json", action="store_true", help="as JSON")
    slugs = f"one of {', '.join(SLUGS)}, or the package of an experiment of your own"
    for name in ("run", "sweep"):
        commands[name].add_argument(
            "slug", nargs="?", help=f"{slugs}; name it before --help to see its knobs and presets"
        )
        commands[name].add_argument(
            "--preset", metavar="NAME", help="start from this preset; knob flags override it"
        )
    commands["more"].add_argument("run_id", nargs="?", metavar="run", help="id of a stored run, or its start")
    commands["more"].add_argument("--seeds", default="1", metavar="N", help="seeds to add (default 1)")
    commands["reproduce"].add_argument("slug", nargs="?", default="all", help=f"all (default), or {slugs}")
    _add_running(commands)
    for name in ("run", "more"):
        commands[name].add_argument(
            "--out", metavar="FILE", help="write run.parquet (everything) or run.csv (the scalars)"
        )
    commands["sweep"].add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="KNOB=A,B,…",
        help="values of a knob; give several for all combinations. A knob of several options takes one, or some "
        "joined by +: norms=layer,power+batch",
    )
    _add_reproduce(commands["reproduce"])
    app = commands["app"]
    app.add_argument("--port", default="8501", help="port to listen on (default 8501)")
    app.add_argument(
        "--address", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine only)"
    )
    if arguments and arguments[0] in ("run", "sweep") and (named := _named(arguments[1:])) is not None:
        command = commands[arguments[0]]
        add_knob_flags(command, named.knobs)
        listed = "".join(f"\n  {p.slug}: {p.sentence}" for p in named.presets.values())
        command.epilog = f"presets:{listed}\n\n{EXIT_CODES}"
    return parser, commands


def _add_running(commands: dict[str, Parser]) -> None:
    """Options of all commands that train."""
    for name in ("run", "sweep", "reproduce"):
        commands[name].add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, mps")
        commands[name].add_argument("--no-store", action="store_true", help="do not keep the runs")
    for name in ("run", "more", "sweep", "reproduce"):
        commands[name].add_argument("--quiet", action="store_true", help="say nothing but errors")
        commands[name].add_argument("--traceback", action="store_true", help="show where a run failed")


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
    command.add_argument("--workers", metavar="N", help="processes (default: one per core)")
    command.add_argument(
        "--ray", nargs="?", const="", metavar="ADDRESS", help="run on Ray: on this machine, or at an address"
    )
    command.add_argument(
        "--evidence",
        metavar="FOLDER",
        help="where the evidence is written (default: evidence/ of the checkout)",
    )
    command.add_argument("--no-write", action="store_true", help="judge only, write no evidence")
    command.add_argument("--json", metavar="FILE", help="write all claims with their verdicts to one file")


def _named(arguments: Sequence[str]) -> Experiment | None:
    """The experiment that the arguments name, None if it cannot be found."""
    first = [argument for argument in arguments[:1] if not argument.startswith("-")]
    for name in [argument for argument in arguments if argument in SLUGS] or first:
        with suppress(ValueError):  # said when the arguments are checked
            return find_experiment(name)
    return None
