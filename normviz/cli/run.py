"""``normviz run`` and ``normviz more``: one experiment to its end, and further seeds for a run that is stored."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from normviz.cli.errors import UsageError
from normviz.cli.flags import given_knobs
from normviz.cli.records import document, run_record
from normviz.cli.session import Session
from normviz.cli.settings import named_experiment, parse_knobs, preset_values
from normviz.cli.targets import check_target, write_whole
from normviz.engine import RunStore, StoreError, default_store_path
from normviz.experiments import Run
from normviz.knobs import KnobError
from normviz.validation import nearest

__all__ = ["more", "run"]


def run(arguments: argparse.Namespace) -> int:
    """Run an experiment at a preset or at the defaults, with the knobs that were given, and judge its claims."""
    experiment = named_experiment(arguments.slug)
    values = {**preset_values(experiment, arguments.preset), **given_knobs(arguments)}
    knobs = parse_knobs(experiment.knobs, values)
    target = check_target(arguments.out, ".parquet", ".csv")
    session = Session.of(arguments)
    return _end("run", session, session.run(experiment, knobs, experiment.title), target)


def more(arguments: argparse.Namespace) -> int:
    """Train further seeds of a stored run and judge its claims again."""
    if not arguments.seeds.isdecimal() or int(arguments.seeds) < 1:
        raise UsageError(f"--seeds takes how many seeds are added, 1 or more, got {arguments.seeds!r}.")
    seeds = int(arguments.seeds)
    target = check_target(arguments.out, ".parquet", ".csv")
    store = RunStore(default_store_path())
    try:
        stored = store.load(_run_id(store, arguments.run_id))
        stored.with_more_seeds(seeds)
    except (StoreError, KnobError, ValueError) as error:
        raise UsageError(str(error)) from error
    finally:
        store.close()
    session = Session.of(arguments)
    return _end("more", session, session.extend(stored, seeds), target)


def _run_id(store: RunStore, given: str | None) -> str:
    """The id of the stored run whose id begins with what was given."""
    ids = [stored.id for stored in store.list()]
    if given is None:
        raise UsageError(f"Name a stored run: {', '.join(ids[:3])}." if ids else "No run is stored yet.")
    hits = [name for name in ids if name.startswith(given)] or [given]
    if len(hits) > 1:
        raise UsageError(f"{given!r} begins the ids of {len(hits)} runs: {', '.join(hits[:3])}.")
    if hits[0] not in ids and len(given) < 12:
        near = ", ".join(nearest(given, ids)) or ", ".join(ids[:3]) or "none"
        raise UsageError(f"There is no stored run {given!r}. Nearest: {near}.")
    return hits[0]


def _end(command: str, session: Session, finished: Run, target: Path | None) -> int:
    if finished.status == "done":
        session.show_verdicts(finished, finished.title)
        where = f" {session.where(finished)}" if session.store is not None else ""
        session.show(f"Done in {finished.seconds:.1f} s.{where}")
    if finished.status != "failed":
        write = finished.to_parquet if target and target.suffix == ".parquet" else _csv_writer(finished)
        session.write(target, write)
    session.print_json(lambda: document(command, run=run_record(finished)))
    return session.close()


def _csv_writer(finished: Run) -> Callable[[Path], None]:
    return lambda path: write_whole(path, finished.to_dataframe().to_csv(index=False))
