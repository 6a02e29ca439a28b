"""The command line: the experiments without a browser.

::

    normviz list                                            the pages and their papers
    normviz run normalization-statistics --steps 100        train, watch, judge the claims
    normviz sweep normalization-statistics --grid learning_rate=1e-3,1e-2 --grid norms=layer,power
    normviz reproduce all --seeds 5 --json ledger.json      all claims with default knobs
    normviz app                                             the pages in a browser

Flags come from the experiment's knobs, with the same bounds and the same check as everywhere else. Results go to
standard output, progress and errors to standard error. PyTorch is loaded when a run starts, not before.

Exit codes: 0 done; 1 a run failed, or its result could not be written; 2 bad arguments, nothing was started;
130 interrupted (Ctrl-C), what was measured until then is kept.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from normviz import __version__
from normviz._cli_app import start_app
from normviz._cli_flags import Parser, UsageError, add_knob_flags, combinations, given_knobs, parse_knobs
from normviz._cli_output import RunProgress, catalog_table, sweep_table, tally, verdict_table
from normviz.catalog import PAGES, PAPERS, papers_of_page
from normviz.claims import Claim, Verdict
from normviz.engine import RunStore, StoreError, default_store_path, find_experiment, run_inline
from normviz.experiments import SLUGS, Experiment, Run
from normviz.knobs import Knobs
from normviz.validation import nearest

__all__ = ["main"]

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

_EXIT_CODES = "exit codes: 0 done, 1 failed, 2 bad arguments, 130 interrupted"


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
    except UsageError as error:
        _complain(str(error))
        return USAGE
    except KeyboardInterrupt:
        _complain("Interrupted before anything was measured.")
        return INTERRUPTED
    except SystemExit as stop:  # --help, --version, a closed pipe
        return stop.code if isinstance(stop.code, int) else DONE


def _complain(sentence: str) -> None:
    Console(stderr=True).print(f"normviz: {sentence}", markup=False, highlight=False, soft_wrap=True)


# -- arguments -------------------------------------------------------------------------------------------------------


def _dispatch(arguments: list[str]) -> int:
    if arguments and not arguments[0].startswith("-") and arguments[0] not in _COMMANDS:
        hits = nearest(arguments[0], _COMMANDS) or list(_COMMANDS)
        raise UsageError(f"There is no command {arguments[0]!r}. Nearest: {', '.join(hits)}.")
    parser, commands = _parsers(arguments)
    parsed, unknown = parser.parse_known_args(arguments)
    if parsed.command is None:
        parser.refuse(unknown)
        parser.print_help()
        return DONE
    if hasattr(parsed, "slug"):  # named wrong, its flags cannot be known: say that first
        _experiments(parsed.slug, several=parsed.command == "reproduce")
    commands[parsed.command].refuse(unknown)
    return _COMMANDS[parsed.command](parsed)


def _parsers(arguments: Sequence[str]) -> tuple[Parser, dict[str, Parser]]:
    """The parser and those of the commands; ``run`` and ``sweep`` have the flags of the experiment that is named."""
    description = "See how normalization, optimizers, schedules, attention and reweighting shape training."
    parser = Parser(prog="normviz", description=description, epilog=_EXIT_CODES)
    parser.add_argument("--version", action="version", version=f"normviz {__version__}")
    sub = parser.add_subparsers(dest="command", metavar="command")
    helps = {
        "list": "the pages, their papers, and which can be run",
        "run": "run one experiment and judge its claims",
        "sweep": "run all combinations of some knobs",
        "reproduce": "run experiments with default knobs and list the verdict of every claim",
        "app": "open the pages in a browser",
    }
    usages = {
        "run": "normviz run <slug> [--knob value ...] [options]",
        "sweep": "normviz sweep <slug> --grid knob=a,b [--grid ...] [--knob value ...] [options]",
    }
    commands: dict[str, Parser] = {}
    for name, text in helps.items():
        about = f"{text[:1].upper()}{text[1:]}."
        commands[name] = sub.add_parser(
            name, help=text, description=about, epilog=_EXIT_CODES, usage=usages.get(name)
        )
    commands["list"].add_argument("--json", action="store_true", help="as JSON")
    slugs = f"one of {', '.join(SLUGS)}, or the package of an experiment of your own"
    for name in ("run", "sweep", "reproduce"):
        command = commands[name]
        if name == "reproduce":
            command.add_argument("slug", nargs="?", default="all", help=f"all (default), or {slugs}")
        else:
            command.add_argument("slug", nargs="?", help=f"{slugs}; name it before --help to see its knobs")
        command.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, mps")
        command.add_argument("--no-store", action="store_true", help="do not keep the runs")
        command.add_argument("--quiet", action="store_true", help="say nothing but errors")
        command.add_argument("--traceback", action="store_true", help="show where a run failed")
    commands["run"].add_argument(
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
    commands["reproduce"].add_argument(
        "--seeds", default="5", metavar="N", help="seeds of each experiment (default 5)"
    )
    commands["reproduce"].add_argument("--json", metavar="FILE", help="write the ledger of all claims")
    app = commands["app"]
    app.add_argument("--port", default="8501", help="port to listen on (default 8501)")
    app.add_argument(
        "--address", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine only)"
    )
    if arguments and arguments[0] in ("run", "sweep") and (named := _named(arguments[1:])) is not None:
        add_knob_flags(commands[arguments[0]], named.knobs)
    return parser, commands


def _named(arguments: Sequence[str]) -> Experiment | None:
    """The experiment that the arguments name, None if it cannot be found."""
    first = [argument for argument in arguments[:1] if not argument.startswith("-")]
    for name in [argument for argument in arguments if argument in SLUGS] or first:
        with suppress(ValueError):  # said when the arguments are checked
            return find_experiment(name)
    return None


def _experiments(name: str | None, *, several: bool) -> list[Experiment]:
    if name is None:
        raise UsageError(f"Name an experiment: {', '.join(SLUGS)}.")
    if several and name == "all":
        return [find_experiment(slug) for slug in SLUGS]
    if name in PAGES and name not in SLUGS:
        raise UsageError(f"The experiment {name!r} is planned, not built yet; `normviz list` shows what is.")
    try:
        return [find_experiment(name)]
    except ValueError as error:
        raise UsageError(str(error)) from error


def _check_device(name: str) -> None:
    if name not in ("auto", "cpu"):
        from normviz.training import resolve_device

        try:
            resolve_device(name)
        except ValueError as error:
            raise UsageError(str(error)) from error


def _check_target(name: str | None, *suffixes: str) -> Path | None:
    """The file to write, checked before anything runs."""
    if name is None:
        return None
    path = Path(name).expanduser()
    if path.suffix not in suffixes:
        raise UsageError(f"{name} must end in {' or '.join(suffixes)}.")
    if path.is_dir():
        raise UsageError(f"{name} is a folder.")
    if not path.parent.is_dir():
        raise UsageError(f"{name} cannot be written: there is no folder {str(path.parent)!r}.")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            return path
    except OSError as error:
        raise UsageError(f"{name} cannot be written: {error.strerror or error}.") from error


# -- runs ------------------------------------------------------------------------------------------------------------


@dataclass
class _Session:
    """Runs one after another, kept in the store, with what a command says about them."""

    device: str
    quiet: bool
    traceback: bool
    store: RunStore | None
    failed: bool = False
    interrupted: bool = False
    out: Console = field(default_factory=Console)
    err: Console = field(default_factory=lambda: Console(stderr=True))

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> _Session:
        _check_device(arguments.device)
        store = None if arguments.no_store else RunStore(default_store_path())
        return cls(arguments.device, arguments.quiet, arguments.traceback, store)

    def run(self, experiment: Experiment, knobs: Knobs, title: str) -> Run:
        """Run to the end, to an interruption or to a failure; says which, unless it is the end."""
        run = Run(experiment, knobs, device=self.device)
        progress = RunProgress(self.err, knobs, title, quiet=self.quiet)
        try:
            with progress:
                run = run_inline(
                    experiment, knobs, device=self.device, store=self.store, on_frame=progress.on_frame
                )
        except Exception as error:
            self.failed = True
            run.end("failed", " ".join(f"{type(error).__name__}: {error}".split()))
            hint = "" if self.traceback else " (--traceback shows where)"
            _complain(f"The run failed{hint}: {run.error}")
            if self.traceback:
                self.err.print(traceback.format_exc(), markup=False, highlight=False, soft_wrap=True)
        if run.status == "cancelled":
            self.interrupted = True
            _complain(f"Interrupted at step {run.log.last_step} of {knobs.total_steps()}. {self._where(run)}")
        elif run.status == "done" and self.store is not None and not self._kept(run):
            _complain(self._where(run))
        return run

    def show(self, thing: Any) -> None:
        if not self.quiet:
            self.out.print(thing, highlight=False, markup=False, soft_wrap=isinstance(thing, str))

    def write(self, path: Path | None, write: Callable[[Path], None]) -> None:
        """Write a result whole or not at all."""
        if path is None:
            return
        try:
            write(path)
        except OSError as error:
            self.failed = True
            _complain(f"{path} could not be written: {error.strerror or error}.")
        else:
            self.show(f"Written: {path}")

    def close(self) -> int:
        """End the session; returns the exit code."""
        if self.store is not None:
            self.store.close()
        return INTERRUPTED if self.interrupted else FAILED if self.failed else DONE

    def _where(self, run: Run) -> str:
        if self.store is None:
            return "The run is not kept (--no-store)."
        if self._kept(run):
            return f"Run {run.id} is kept in {self.store.path}."
        return f"Run {run.id} could not be kept in {self.store.path}."

    def _kept(self, run: Run) -> bool:
        assert self.store is not None
        try:
            stored = self.store.list(run.experiment.slug, limit=50)
        except StoreError:
            return False
        return any((s.id, s.status) == (run.id, run.status) for s in stored)


def _run(arguments: argparse.Namespace) -> int:
    (experiment,) = _experiments(arguments.slug, several=False)
    knobs = parse_knobs(experiment.knobs, given_knobs(arguments))
    target = _check_target(arguments.out, ".parquet", ".csv")
    session = _Session.of(arguments)
    run = session.run(experiment, knobs, experiment.title)
    if run.status == "done":
        _show_verdicts(session, run, run.title)
        where = f" {session._where(run)}" if session.store is not None else ""
        session.show(f"Done in {run.seconds:.1f} s.{where}")
    if run.status != "failed":
        session.write(target, run.to_parquet if target and target.suffix == ".parquet" else _csv_writer(run))
    return session.close()


def _csv_writer(run: Run) -> Callable[[Path], None]:
    return lambda path: _write_whole(path, run.to_dataframe().to_csv(index=False))


def _write_whole(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8", newline="")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _show_verdicts(session: _Session, run: Run, title: str) -> None:
    claims, verdicts = run.experiment.claims, run.verdicts()
    measured = [claim for claim in claims if verdicts[claim.id].per_seed]
    if measured:
        session.show(verdict_table(measured, verdicts, title))
        session.show(f"Claims: {tally(verdicts.values())}.")
    needs = list(dict.fromkeys(claim.needs for claim in claims if not verdicts[claim.id].per_seed))
    if needs:
        session.show("\n  - ".join((f"{len(claims) - len(measured)} more need another setting:", *needs)))


def _sweep(arguments: argparse.Namespace) -> int:
    (experiment,) = _experiments(arguments.slug, several=False)
    if not arguments.grid:
        raise UsageError("A sweep needs at least one --grid knob=value,value,….")
    given = given_knobs(arguments)
    points = list(combinations(experiment.knobs, arguments.grid))
    fixed = sorted(set(given) & set(points[0]))
    if fixed:
        raise UsageError(f"{fixed[0]} is given both as a flag and in --grid.")
    settings = [parse_knobs(experiment.knobs, {**given, **point}, _setting(point)) for point in points]
    session = _Session.of(arguments)
    runs: list[Run | None] = [None] * len(points)
    for index, (point, knobs) in enumerate(zip(points, settings, strict=True)):
        runs[index] = session.run(experiment, knobs, f"{index + 1}/{len(points)} {_setting(point)}")
        if session.interrupted:
            break
    session.show(sweep_table(points, runs))
    if session.store is not None:
        session.show(f"The runs are kept in {session.store.path}.")
    return session.close()


def _setting(point: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={'+'.join(v) if isinstance(v, list) else v}" for name, v in point.items())


def _reproduce(arguments: argparse.Namespace) -> int:
    planned = []
    for experiment in _experiments(arguments.slug, several=True):
        values = {"seeds": arguments.seeds} if "seeds" in experiment.knobs.controls() else {}
        planned.append((experiment, parse_knobs(experiment.knobs, values, experiment.slug)))
    target = _check_target(arguments.json, ".json")
    session = _Session.of(arguments)
    runs: list[Run] = []
    for experiment, knobs in planned:
        runs.append(session.run(experiment, knobs, experiment.title))
        if session.interrupted:
            break
        if runs[-1].status == "done":
            _show_verdicts(session, runs[-1], runs[-1].title)
    session.write(target, lambda path: _write_whole(path, _ledger(runs)))
    return session.close()


def _ledger(runs: Sequence[Run]) -> str:
    """All claims of the runs with their verdicts, as JSON; numbers that are not finite become null."""
    record = {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "runs": [
            {
                "experiment": run.experiment.slug,
                "run": run.id,
                "status": run.status,
                "error": run.error,
                "seconds": round(run.seconds, 2),
                "knobs": run.knobs.model_dump(mode="json"),
                "environment": run.environment,
                "claims": [
                    _claim_record(c, v)
                    for c, v in zip(run.experiment.claims, run.verdicts().values(), strict=True)
                ],
            }
            for run in runs
        ],
    }
    return json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _claim_record(claim: Claim, verdict: Verdict) -> dict[str, Any]:
    paper = PAPERS.get(claim.paper)
    return {
        "id": claim.id,
        "paper": claim.paper,
        "arxiv": paper.arxiv if paper else None,
        "statement": claim.statement,
        "paper_figure": claim.paper_figure,
        "measured": claim.measured,
        "unit": claim.unit,
        "rule": claim.rule,
        "outcome": verdict.outcome,
        "estimate": _finite(verdict.estimate),
        "low": _finite(verdict.low),
        "high": _finite(verdict.high),
        "per_seed": {str(seed): _finite(value) for seed, value in verdict.per_seed.items()},
        "reason": verdict.reason,
        "caveat": claim.caveat,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# -- other commands --------------------------------------------------------------------------------------------------


def _list(arguments: argparse.Namespace) -> int:
    console = Console()
    if not arguments.json:
        console.print(catalog_table())
        return DONE
    pages = [
        {
            "page": page.slug,
            "title": page.title,
            "topic": page.topic,
            "status": "built" if page.slug in SLUGS else "planned",
            "question": page.question,
            "papers": [
                {"slug": p.slug, "title": p.title, "authors": p.authors, "year": p.year, "arxiv": p.arxiv}
                for p in papers_of_page(page.slug)
            ],
        }
        for page in PAGES.values()
    ]
    console.out(json.dumps(pages, indent=2, ensure_ascii=False), highlight=False)
    return DONE


def _app(arguments: argparse.Namespace) -> int:
    if not arguments.port.isdecimal() or not 1 <= int(arguments.port) <= 65535:
        raise UsageError(f"--port takes 1 to 65535, got {arguments.port!r}.")
    return start_app(arguments.address, int(arguments.port))


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "list": _list,
    "run": _run,
    "sweep": _sweep,
    "reproduce": _reproduce,
    "app": _app,
}

if __name__ == "__main__":
    sys.exit(main())
