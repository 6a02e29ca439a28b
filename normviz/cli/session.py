"""A session: runs one after another, kept in the store, with what a command says about them."""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from normviz.cli.errors import DONE, FAILED, INTERRUPTED, UsageError, complain
from normviz.cli.printing import print_document
from normviz.cli.progress import RunProgress
from normviz.cli.tables import identity_table, tally, verdict_table
from normviz.engine import RunStore, StoreError, default_store_path, extend_inline, run_inline
from normviz.experiments import Experiment, Run
from normviz.frame import Frame
from normviz.knobs import Knobs

__all__ = ["Session", "check_device"]

Train = Callable[[Callable[[Frame], None]], Run]
"""Trains and returns the run; is given what is to be called with every frame."""


def check_device(name: str) -> None:
    """Refuse a device that is unknown or not there.

    Raises:
        UsageError: with what there is.
    """
    if name not in ("auto", "cpu"):
        from normviz.training import resolve_device

        try:
            resolve_device(name)
        except ValueError as error:
            raise UsageError(str(error)) from error


@dataclass
class Session:
    """Runs one after another, kept in the store, with what a command says about them."""

    device: str
    quiet: bool
    traceback: bool
    store: RunStore | None
    json: bool = False
    failed: bool = False
    interrupted: bool = False
    out: Console = field(default_factory=Console)
    err: Console = field(default_factory=lambda: Console(stderr=True))

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Session:
        """The session that the arguments ask for."""
        device = getattr(arguments, "device", "auto")
        check_device(device)
        store = None if getattr(arguments, "no_store", False) else RunStore(default_store_path())
        return cls(device, arguments.quiet, arguments.traceback, store, arguments.json)

    def run(self, experiment: Experiment, knobs: Knobs, title: str) -> Run:
        """Run to the end, to an interruption or to a failure; says which, unless it is the end."""

        def train(on_frame: Callable[[Frame], None]) -> Run:
            return run_inline(experiment, knobs, device=self.device, store=self.store, on_frame=on_frame)

        if not self.quiet and knobs.work() > 0:
            self.err.print(f"{title} takes {knobs.estimate()}.", highlight=False, markup=False)
        return self._follow(train, Run(experiment, knobs, device=self.device), title)

    def extend(self, run: Run, seeds: int) -> Run:
        """Go on with a stored run, as :meth:`run` does with a new one."""

        def train(on_frame: Callable[[Frame], None]) -> Run:
            return extend_inline(run, seeds, store=self.store, on_frame=on_frame)

        return self._follow(train, run, f"{run.experiment.title}, {seeds} more")

    def _follow(self, train: Train, run: Run, title: str) -> Run:
        """Show a run while it trains.

        Args:
            train: trains it.
            run: what stands for it if training fails.
            title: before the progress bar.
        """
        progress = RunProgress(self.err, run.knobs, title, quiet=self.quiet)
        try:
            with progress:
                run = train(progress.on_frame)
        except Exception as error:
            self.failed = True
            if run.status != "failed":
                run.end("failed", " ".join(f"{type(error).__name__}: {error}".split()))
            hint = "" if self.traceback else " (--traceback shows where)"
            complain(f"The run failed{hint}: {run.error}")
            if self.traceback:
                self.err.print(traceback.format_exc(), markup=False, highlight=False, soft_wrap=True)
        if run.status == "cancelled":
            self.interrupted = True
            at = run.knobs.progress().at(run.log.last_step)
            complain(f"Interrupted at {at} of {run.knobs.total_steps()}. {self.where(run)}")
        elif run.status == "done" and self.store is not None and not self._kept(run):
            complain(self.where(run))
        return run

    def show(self, thing: Any) -> None:
        """Print a result for a reader; where a JSON document is asked for, that alone is printed."""
        if not self.quiet and not self.json:
            self.out.print(thing, highlight=False, markup=False, soft_wrap=isinstance(thing, str))

    def print_json(self, make: Callable[[], Any]) -> None:
        """Print the document that ``make`` returns, if one is asked for."""
        if self.json:
            print_document(make())

    def show_verdicts(self, run: Run, title: str) -> None:
        """Print the verdicts: evidence, identities, and how many claims need another setting."""
        claims, verdicts = run.experiment.claims, run.verdicts()
        measured = [claim for claim in claims if verdicts[claim.id].measured]
        self.show(title)
        if any(not claim.identity for claim in measured):
            self.show(verdict_table(claims, verdicts))
        if any(claim.identity for claim in measured):
            self.show(identity_table(claims, verdicts))
        if measured:
            self.show(f"Claims: {tally(claims, verdicts)}.")
        others: dict[str, int] = {}
        for claim in claims:
            if not verdicts[claim.id].measured:
                others[claim.preset] = others.get(claim.preset, 0) + 1
        if others:
            lines = (f"{count} at --preset {preset}" for preset, count in others.items())
            self.show(
                "\n  - ".join((f"{len(claims) - len(measured)} more are decided by another setting:", *lines))
            )

    def write(self, path: Path | None, write: Callable[[Path], object]) -> None:
        """Write a result whole or not at all."""
        if path is None:
            return
        try:
            write(path)
        except OSError as error:
            self.failed = True
            complain(f"{path} could not be written: {error.strerror or error}.")
        else:
            self.show(f"Written: {path}")

    def close(self) -> int:
        """End the session; returns the exit code."""
        if self.store is not None:
            self.store.close()
        return INTERRUPTED if self.interrupted else FAILED if self.failed else DONE

    def where(self, run: Run) -> str:
        """Where a run is kept, in a sentence."""
        if self.store is None:
            return "The run is not kept (--no-store)."
        if self._kept(run):
            return f"Run {run.id} is kept in {self.store.path}."
        return f"Run {run.id} could not be kept in {self.store.path}."

    def _kept(self, run: Run) -> bool:
        assert self.store is not None
        try:
            stored = self.store.list(run.experiment.slug)
        except StoreError:
            return False
        return any((s.id, s.status) == (run.id, run.status) for s in stored)
