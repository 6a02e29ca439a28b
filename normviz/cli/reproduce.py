"""``normviz reproduce``: every claim of a page, or of all, at the preset that decides it; writes the evidence."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from normviz.catalog import PAPERS
from normviz.cli.engines import check_engine, opened_engine, positive
from normviz.cli.errors import UsageError, complain
from normviz.cli.progress import can_redraw, run_bars
from normviz.cli.records import as_json, document
from normviz.cli.session import Session
from normviz.cli.settings import named_experiment
from normviz.cli.tables import identity_table, tally, verdict_table
from normviz.cli.targets import check_target, given_path, write_whole
from normviz.evidence import Evidence, evidence_folder, read_evidence, write_evidence, write_recorded
from normviz.evidence.reproduce import Engine, Reproduction, Stage, deciding_presets, reproduce
from normviz.experiments import SLUGS, Experiment
from normviz.knobs import KnobError

__all__ = ["check_pages", "reproduce_pages"]

EVERY_LINE = 60.0
"""Seconds between two lines of progress where nothing can be redrawn."""


def check_pages(name: str) -> list[Experiment]:
    """The experiments that ``reproduce`` is asked for: one, or ``all``.

    Raises:
        UsageError: there is none of that name.
    """
    return [named_experiment(slug) for slug in (SLUGS if name == "all" else (name,))]


@dataclass(frozen=True)
class _Plan:
    """What is to be done, checked before anything runs."""

    experiments: list[Experiment]
    presets: tuple[str, ...] | None
    seeds: int
    folder: Path | None
    target: Path | None

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> _Plan:
        experiments = check_pages(arguments.slug)
        target = check_target(arguments.out, ".json")
        seeds = positive("--seeds", arguments.seeds)
        presets = tuple(part for part in (arguments.presets or "").split(",") if part) or None
        if presets is not None and len(experiments) > 1:
            raise UsageError("--presets are those of one page: name the page.")
        for experiment in experiments:
            _check_presets(experiment, presets, seeds)
        folder = None if arguments.no_write else _folder(arguments.evidence)
        return cls(experiments, presets, seeds, folder, target)


def _check_presets(experiment: Experiment, presets: tuple[str, ...] | None, seeds: int) -> None:
    """Refuse presets that are not there, and more seeds than the experiment allows."""
    try:
        chosen = deciding_presets(experiment) if presets is None else [experiment.presets[p] for p in presets]
        for preset in chosen:
            knobs = experiment.setting(preset)
            if "seeds" in type(knobs).model_fields:
                experiment.knobs.parse({**knobs.model_dump(), "seeds": seeds})
    except KeyError as error:
        raise UsageError(str(error.args[0])) from error
    except KnobError as error:
        raise UsageError(f"{experiment.slug}: {error}") from error


def _folder(given: str | None) -> Path:
    folder = given_path(given) if given else evidence_folder()
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is no folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".part"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror or error}.") from error
    return folder


def reproduce_pages(arguments: argparse.Namespace) -> int:
    """Reproduce the pages one after another; a page that fails is said, and the others go on."""
    workers = check_engine(arguments)
    plan = _Plan.of(arguments)
    session = Session.of(arguments)
    began = time.monotonic()
    pages: list[Evidence] = []
    failed: dict[str, str] = {}
    with opened_engine(arguments.ray, workers, session) as engine:
        try:
            for experiment in plan.experiments:
                try:
                    pages.append(_page(session, engine, experiment, plan).evidence)
                except RuntimeError as error:
                    failed[experiment.slug] = str(error)
                    complain(f"{experiment.title} could not be reproduced: {error}")
        except KeyboardInterrupt:
            session.interrupted = True
            kept = "" if session.store is None else " Started again it goes on with the runs that are done."
            complain(f"Interrupted after {len(pages)} of {len(plan.experiments)} pages.{kept}")
    session.failed = session.failed or bool(failed)
    ledger = _ledger(plan.experiments, pages, failed)
    session.write(plan.target, lambda path: write_whole(path, as_json(ledger)))
    session.print_json(lambda: ledger)
    session.show(f"{len(pages)} of {len(plan.experiments)} pages in {_minutes(time.monotonic() - began)}.")
    return session.close()


def _page(session: Session, engine: Engine, experiment: Experiment, plan: _Plan) -> Reproduction:
    former = None
    if plan.presets is not None:
        former = read_evidence(experiment.slug, plan.folder)
    progress = _PageProgress(session.err, experiment, quiet=session.quiet)
    with progress:
        made = reproduce(
            experiment,
            engine,
            seeds=plan.seeds,
            store=session.store,
            device=session.device,
            presets=plan.presets,
            former=former,
            report=progress.report,
        )
    verdicts = {record.id: record.verdict() for record in made.evidence.claims}
    corrected = {record.id: record.corrected for record in made.evidence.claims if record.corrected}
    if any(v.measured for v in verdicts.values()):
        session.show(verdict_table(experiment.claims, verdicts, experiment.title, corrected))
    if any(claim.identity for claim in experiment.claims):
        session.show(identity_table(experiment.claims, verdicts))
    session.show(f"{experiment.title}: {tally(experiment.claims, verdicts)}. {progress.took}")
    for record in made.evidence.claims:
        if not record.measured:
            session.show(f"  {record.id} at {record.preset}: {record.reason}")
    if plan.folder is not None:
        _write(session, experiment, made, plan.folder)
    return made


def _write(session: Session, experiment: Experiment, made: Reproduction, folder: Path) -> None:
    session.write(folder / f"{experiment.slug}.json", lambda _: write_evidence(made.evidence, folder))
    run = made.recorded
    if run is not None:
        try:
            session.write(folder / f"{experiment.slug}.parquet", lambda _: write_recorded(run, folder))
        except ValueError as error:
            session.failed = True
            complain(f"The recorded run was not written: {error}")


@dataclass
class _PageProgress:
    """Progress of every preset of a page: bars where they can be redrawn, else lines."""

    console: Console
    experiment: Experiment
    quiet: bool = False
    began: float = field(default_factory=time.monotonic)
    _said: dict[str, tuple[str, float]] = field(default_factory=dict)
    _bars: Progress | None = None
    _tasks: dict[str, Any] = field(default_factory=dict)

    def __enter__(self) -> _PageProgress:
        if not self.quiet and can_redraw(self.console):
            self._bars = run_bars(self.console)
            self._bars.start()
        elif not self.quiet:
            self._say(f"{self.experiment.title}: starting")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    @property
    def took(self) -> str:
        """How long the page took, in a sentence."""
        return f"Done in {_minutes(time.monotonic() - self.began)}."

    def report(self, stages: Sequence[Stage]) -> None:
        """Show where the presets stand."""
        if self.quiet:
            return
        now = time.monotonic()
        for stage in stages:
            name = self.experiment.presets[stage.preset].name
            if self._bars is not None:
                if stage.preset not in self._tasks:
                    label = f"{self.experiment.title}: {name}"
                    self._tasks[stage.preset] = self._bars.add_task(label, total=1.0, doing="")
                self._bars.update(self._tasks[stage.preset], completed=stage.share, doing=stage.doing)
                continue
            doing, when = self._said.get(stage.preset, ("", -math.inf))
            started = stage.share > 0 or stage.doing == "done"
            if started and (doing != stage.doing or (stage.doing != "done" and now - when > EVERY_LINE)):
                self._said[stage.preset] = (stage.doing, now)
                share = "" if stage.doing == "done" else f" {stage.share:.0%}"
                self._say(f"{self.experiment.title}, {name}: {stage.doing}{share}")

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _ledger(
    experiments: Sequence[Experiment], pages: Sequence[Evidence], failed: Mapping[str, str]
) -> dict[str, Any]:
    """All claims of the pages with their verdicts and texts; :mod:`normviz.cli.records` has the schema."""
    by_slug = {experiment.slug: experiment for experiment in experiments}
    return document(
        "reproduce",
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        pages=[_page_record(by_slug[evidence.slug], evidence) for evidence in pages],
        failed=dict(failed),
    )


def _page_record(experiment: Experiment, evidence: Evidence) -> dict[str, Any]:
    values: dict[str, Any] = evidence.model_dump(mode="json")
    texts = {claim.id: claim for claim in experiment.claims}
    for entry in values["claims"]:
        claim = texts[entry["id"]]
        paper = PAPERS.get(claim.paper)
        entry |= {
            "paper": claim.paper,
            "arxiv": paper.arxiv if paper else None,
            "statement": claim.statement,
            "paper_figure": claim.paper_figure,
            "measured_in_words": claim.measured,
            "identity": claim.identity,
            "unit": claim.unit,
            "rule": claim.rule_text,
            "caveat": claim.caveat,
        }
    return values
