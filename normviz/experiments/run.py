"""The run noun: knobs, environment, the frames so far, a status."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

from normviz.environment import environment
from normviz.experiments.experiment import Experiment
from normviz.frame import Frame, FrameLog
from normviz.knobs import KnobError, Knobs
from normviz.presets import Preset

if TYPE_CHECKING:
    import pandas as pd

    from normviz.claims import Verdict
    from normviz.figures.figure import Figure

__all__ = ["Run", "Status", "run_experiment"]

Status = Literal["queued", "running", "paused", "done", "cancelled", "failed"]


@dataclass(eq=False)
class Run:
    """One execution of an experiment, live or stored.

    A member that diverged is an event of the log; the run itself goes on with the others.

    Attributes:
        experiment: what is run.
        knobs: the validated setting.
        id: 12 hexadecimal digits, in links and in the store.
        device: the device asked for.
        name: a name the reader gave it ("" at first).
        log: the frames so far.
        status: ``queued, running, paused, done, cancelled, failed``.
        error: why it failed, in one readable message.
        created, started, finished: seconds since the epoch (None: not yet).
        environment: versions, device, git revision.
        visitor: who started it in the app, and may stop, rename or delete it ("": nobody in particular).
    """

    experiment: Experiment
    knobs: Knobs
    id: str = field(default_factory=lambda: uuid4().hex[:12])
    device: str = "auto"
    name: str = ""
    log: FrameLog = field(default_factory=FrameLog)
    status: Status = "queued"
    error: str | None = None
    created: float = field(default_factory=time.time)
    started: float | None = None
    finished: float | None = None
    environment: dict[str, str] = field(default_factory=dict)
    visitor: str = ""

    def __post_init__(self) -> None:
        if not self.environment:
            self.environment = environment(self.device)

    def begin(self) -> None:
        """Mark the run as running; the start of one that goes on moves, so that its seconds count no time between."""
        self.status, self.error = "running", None
        self.started, self.finished = time.time() - self.seconds, None

    def end(self, status: Literal["done", "cancelled", "failed"], error: str | None = None) -> None:
        """Mark the run as ended."""
        self.status, self.error, self.finished = status, error, time.time()

    @property
    def live(self) -> bool:
        """Whether more frames may come."""
        return self.status in ("queued", "running", "paused")

    @property
    def seconds(self) -> float:
        """Wall time since the start, up to the end if it has ended; 0 before the start."""
        return 0.0 if self.started is None else (self.finished or time.time()) - self.started

    @property
    def progress(self) -> float:
        """Share of the steps done, in [0, 1]; seeds that have not begun count."""
        if self.status == "done":
            return 1.0
        total = self.knobs.total_steps()
        begun = min(len(self.log.seeds) / len(self.knobs.seed_range()), 1.0)
        return begun * min(self.log.progress_step / total, 1.0) if total else 0.0

    @property
    def title(self) -> str:
        """The reader's name, or the experiment's title with the knobs that differ from the defaults."""
        if self.name:
            return self.name
        changed = ", ".join(f"{k} = {v}" for k, v in self.knobs.to_query().items())
        return f"{self.experiment.title} ({changed or 'defaults'})"

    def with_more_seeds(self, seeds: int) -> tuple[Knobs, Sequence[int]]:
        """The setting with so many seeds more, and the seeds that are new.

        Raises:
            KnobError: the experiment does not allow so many, or has one seed only.
            ValueError: the run has not ended as done, or its seeds cannot be trained apart.
        """
        if self.status != "done":
            raise ValueError(f"Only a run that is done takes more seeds; the run {self.id} is {self.status}.")
        if not self.experiment.divisible:
            raise ValueError(
                f"The seeds of {self.experiment.slug!r} are trained together: none can be added."
            )
        if not isinstance(seeds, int) or seeds < 1:
            raise KnobError(f"A run takes 1 or more further seeds, got {seeds!r}.")
        had = self.knobs.seed_range()
        knobs = self.knobs.parse({**self.knobs.model_dump(), "seeds": len(had) + seeds})
        return knobs, knobs.seed_range()[len(had) :]

    def extend(self, seeds: int, *, on_frame: Callable[[Frame], None] | None = None) -> Run:
        """Go on with a run that is done, here and now: train further seeds, whose frames are added to its log.

        The frames of the first seeds stay as they are; each new seed has the numbers of a run that had it from the
        beginning. An extension that is interrupted or fails leaves the run with the frames so far and that status.

        Args:
            seeds: how many more.
            on_frame: as for :func:`run_experiment`.

        Returns:
            The same run.

        Raises:
            KnobError: the experiment does not allow so many seeds; the message has the allowed range.
            ValueError: the run has not ended as done, or the seeds cannot be trained apart.
        """
        self.knobs, new = self.with_more_seeds(seeds)
        return _train(self, self.knobs.for_seeds(new), on_frame)

    def figures(self, step: int | None = None, names: Iterable[str] | None = None) -> dict[str, Figure]:
        """The experiment's charts, all or those of these names, at the newest or at a given step."""
        return self.experiment.figures(self.log, self.knobs, step, names)

    def verdicts(self) -> dict[str, Verdict]:
        """The verdict of each of the experiment's claims, by id."""
        return self.experiment.verdicts(self.log, self.knobs)

    def to_dataframe(self) -> pd.DataFrame:
        """All scalars, one row per step, arm and seed."""
        return self.log.to_dataframe()

    def to_parquet(self, path: str | Path) -> None:
        """Write all frames with knobs and environment as metadata; :func:`normviz.engine.store.read_parquet` reads it.

        The file appears whole or not at all.

        Raises:
            OSError: the folder is missing or not writable, or the disk is full.
        """
        import json

        import pyarrow.parquet as pq

        record = {
            "experiment": self.experiment.slug,
            "knobs": self.knobs.model_dump(mode="json"),
            "environment": self.environment,
            "status": self.status,
            "id": self.id,
            "name": self.name,
            "created": self.created,
            "started": self.started,
            "finished": self.finished,
            "error": self.error,
        }
        table = self.log.to_table().replace_schema_metadata({"normviz.run": json.dumps(record)})
        target = Path(path)
        part = target.with_name(target.name + ".part")
        try:
            pq.write_table(table, part, compression="zstd")
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)


def run_experiment(
    experiment: Experiment,
    knobs: Knobs | Preset | str | None = None,
    *,
    device: str = "auto",
    on_frame: Callable[[Frame], None] | None = None,
) -> Run:
    """Run an experiment to the end here and now, in this process, and return what was measured.

    Args:
        experiment: what to run.
        knobs: a setting, a preset or its slug; default: the experiment's defaults.
        device: see :meth:`normviz.experiments.Experiment.frames`.
        on_frame: called with each frame as it comes. A ``KeyboardInterrupt`` ends the run with the frames so far and
            the status ``"cancelled"``.
    """
    run = Run(experiment, experiment.setting(knobs), device=device)
    return _train(run, run.knobs, on_frame)


def _train(run: Run, knobs: Knobs, on_frame: Callable[[Frame], None] | None) -> Run:
    run.begin()
    try:
        for frame in run.experiment.frames(knobs, run.device):
            run.log.append(frame)
            if on_frame is not None:
                on_frame(frame)
    except KeyboardInterrupt:
        run.end("cancelled")
    except BaseException as error:
        run.end("failed", f"{type(error).__name__}: {error}")
        raise
    else:
        run.end("done")
    return run
