"""The command line: the experiments without a browser.

::

    normviz list                                            the pages, their presets and papers
    normviz run normalization-statistics --preset sorted    train, watch, judge the claims
    normviz run normalization-statistics --steps 100        any knob is a flag; it overrides a preset
    normviz more 3f2a9c --seeds 3                           three more seeds for a stored run
    normviz sweep normalization-statistics --grid learning_rate=1e-3,1e-2 --grid norms=layer,power
    normviz reproduce all                                   every claim at the preset that decides it
    normviz app                                             the pages in a browser
    normviz completion bash                                 what a shell needs to complete all of this

Flags come from the experiment's knobs, with the same bounds and the same check as everywhere else. A knob whose name is
an option of the command has the flag ``--knob-NAME``, which works for every knob. Results go to standard output,
progress and errors to standard error; with ``--json`` standard output has one JSON document and nothing else, whose
schema :mod:`normviz.cli.records` has. PyTorch is loaded when a run starts, not before.

Exit codes: 0 done; 1 a run failed, or its result could not be written; 2 bad arguments, nothing was started;
130 interrupted (Ctrl-C), what was measured until then is kept.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from normviz.cli.app import open_app
from normviz.cli.arguments import parsers
from normviz.cli.completion import completion
from normviz.cli.errors import DONE, INTERRUPTED, USAGE, UsageError, complain
from normviz.cli.listing import list_pages
from normviz.cli.reproduce import check_pages, reproduce_pages
from normviz.cli.run import more, run
from normviz.cli.settings import named_experiment
from normviz.cli.sweep import sweep
from normviz.validation import nearest
from normviz.variables import VariableError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: arguments without the program's name; None: those of the process.

    Returns:
        The exit code; see the module's text.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that has no "λ" shows "?"
    try:
        return _dispatch(arguments)
    except (UsageError, VariableError) as error:
        complain(str(error))
        return USAGE
    except KeyboardInterrupt:
        complain("Interrupted before anything was measured.")
        return INTERRUPTED
    except SystemExit as stop:  # --help, --version, a closed pipe
        return stop.code if isinstance(stop.code, int) else DONE


def _dispatch(arguments: list[str]) -> int:
    if arguments and not arguments[0].startswith("-") and arguments[0] not in _COMMANDS:
        hits = nearest(arguments[0], _COMMANDS) or list(_COMMANDS)
        raise UsageError(f"There is no command {arguments[0]!r}. Nearest: {', '.join(hits)}.")
    parser, commands = parsers(arguments)
    parsed, unknown = parser.parse_known_args(arguments)
    if parsed.command is None:
        parser.refuse(unknown)
        parser.print_help()
        return DONE
    if hasattr(parsed, "slug"):  # named wrong, its flags cannot be known: say that first
        (check_pages if parsed.command == "reproduce" else named_experiment)(parsed.slug)
    commands[parsed.command].refuse(unknown)
    return _COMMANDS[parsed.command](parsed)


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "list": list_pages,
    "run": run,
    "more": more,
    "sweep": sweep,
    "reproduce": reproduce_pages,
    "app": open_app,
    "completion": completion,
}
