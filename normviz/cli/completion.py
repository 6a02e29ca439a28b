"""``normviz completion``: the script with which bash or zsh completes commands, pages, presets, flags and choices.

bash: ``source <(normviz completion bash)`` in ``~/.bashrc``. zsh: ``normviz completion zsh > ~/.zfunc/_normviz``, with
``fpath+=~/.zfunc`` before ``compinit`` in ``~/.zshrc``. The script knows the experiments of this version; make it anew
after an update.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from normviz.cli.arguments import HELP, SHELLS, add_options
from normviz.cli.errors import DONE, UsageError
from normviz.cli.flags import add_knob_flags
from normviz.cli.parser import Parser
from normviz.cli.printing import print_text
from normviz.experiments import SLUGS, get_experiment

__all__ = ["completion", "completion_script", "completion_tree"]


def completion(arguments: argparse.Namespace) -> int:
    """Print the script of a shell."""
    print_text(completion_script(arguments.shell))
    return DONE


def completion_script(shell: str | None) -> str:
    """The script of a shell.

    Args:
        shell: ``"bash"`` or ``"zsh"``.

    Raises:
        UsageError: it is another shell, or shtab is not installed.
    """
    if shell not in SHELLS:
        got = "" if shell is None else f", got {shell!r}"
        raise UsageError(f"completion takes {' or '.join(SHELLS)}{got}.")
    try:
        import shtab
    except ImportError as error:
        raise UsageError("Completion needs shtab: pip install 'normviz[completion]'.") from error
    tree = completion_tree()
    for parser in _inner(tree):
        for flag, kind in (("--out", shtab.FILE), ("--evidence", shtab.DIRECTORY)):
            if (action := parser.option(flag)) is not None:
                action.complete = kind  # type: ignore[attr-defined]  # where shtab looks for it
    script: str = shtab.complete(tree, shell=shell)
    return script


def completion_tree() -> Parser:
    """All commands and experiments as nested commands with all their flags; made for completion, not for parsing."""
    tree = Parser(prog="normviz")
    tree.add_argument("--version", action="version", version="", help="show the version")
    commands = tree.add_subparsers()
    for name, text in HELP.items():
        command = commands.add_parser(name, help=text)
        if name in ("run", "sweep"):
            pages = command.add_subparsers()
            for slug in SLUGS:
                experiment = get_experiment(slug)
                page = pages.add_parser(slug, help=experiment.title)
                add_options(page, name)
                _choose(page, "--preset", list(experiment.presets))
                add_knob_flags(page, experiment.knobs)
                for control in experiment.knobs.controls().values():
                    if control.options:
                        _choose(page, f"--knob-{control.name.replace('_', '-')}", control.options)
        else:
            add_options(command, name)
        if name == "reproduce":
            command.add_argument("slug", choices=["all", *SLUGS])
        elif name == "completion":
            command.add_argument("shell", choices=SHELLS)
    for parser in _inner(tree):
        _choose(parser, "--device", ["auto", "cpu", "cuda", "mps"])
    return tree


def _choose(parser: Parser, flag: str, choices: Iterable[str]) -> None:
    if (action := parser.option(flag)) is not None:
        action.choices = list(choices)


def _inner(parser: Parser) -> list[Parser]:
    """The parsers of all commands below one."""
    return [p for inner in parser.commands().values() for p in (inner, *_inner(inner))]
